"""For the tasks that transformers 5 still has, our pipelines give its results with the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from bart_inference import pipeline

from tests.pipelines.calls import MASKED, TWO_MASKS, A, B, C
from tests.pipelines.test_golden import differences, plain

transformers.logging.set_verbosity_error()
PAIR = {"text": A, "text_pair": C}


@pytest.mark.parametrize(
    ("task", "name", "calls"),
    [
        (
            "text-classification",
            "topics",
            [
                (A, {}),
                ([A, B], {}),
                ([A, B], {"top_k": None}),
                (PAIR, {"top_k": 2}),
                (A, {"function_to_apply": "none"}),
            ],
        ),
        (
            "zero-shot-classification",
            "mnli",
            [
                (A, {"candidate_labels": "science, network"}),
                ([A, C], {"candidate_labels": ["a", "b", "c"], "multi_label": True}),
                (B, {"candidate_labels": ["one"], "hypothesis_template": "About {}."}),
            ],
        ),
        (
            "fill-mask",
            "bare",
            [
                (MASKED, {}),
                (TWO_MASKS, {"top_k": 2}),
                ([MASKED, MASKED], {}),
                (MASKED, {"targets": [" library", "Ġa"]}),
            ],
        ),
        ("feature-extraction", "bare", [(A, {}), ([A, "x"], {}), (B, {"return_tensors": True})]),
    ],
)
def test_answers_equal_those_of_transformers_5(
    task: str, name: str, calls: list[tuple[Any, dict[str, Any]]], checkpoint: Callable[[str], str]
) -> None:
    ours = pipeline(task, model=checkpoint(name))
    theirs = transformers.pipeline(task, model=checkpoint(name), device=-1)
    for inputs, options in calls:
        expected = theirs(inputs, **options)
        expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
        differing = list(differences(plain(ours(inputs, **options)), plain(expected)))
        assert not differing, f"{inputs} {options}: {differing[:3]}"


def test_tensors_are_numpy_arrays(checkpoint: Callable[[str], str]) -> None:
    hidden = pipeline("feature-extraction", checkpoint("bare"))(A, return_tensors=True)
    assert isinstance(hidden, np.ndarray) and hidden.shape[0] == 1 and hidden.shape[2] == 32
