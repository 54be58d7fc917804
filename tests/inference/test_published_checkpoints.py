"""Generation and task heads with published checkpoints equal transformers and the numbers in transformers' tests.

`pytest -m network tests/inference/test_published_checkpoints.py` downloads about 10 GB. The expected numbers are those
in transformers' tests/models/bart/test_modeling_bart.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bart_inference import Prepared, classify, features, fill_mask, generate, load, prepare, zero_shot
from bart_inference.hub import find_folder
from bart_inference.tokenization import encode_text, pad
from transformers import BartForConditionalGeneration, pipeline

from tests.inference.folders import TEXTS
from tests.twins import assert_close

pytestmark = pytest.mark.network

GENERATING = (
    "facebook/bart-base",
    "facebook/bart-large",
    "facebook/bart-large-cnn",
    "facebook/bart-large-xsum",
    "sshleifer/distilbart-cnn-12-6",
)
HELLO = [0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2]
SHORTER = [0, 31414, 232, 328, 740, 1140, 69, 46078, 1588, 2]


def fetch(name: str) -> Prepared:
    """Downloads the checkpoint; skips the test if there is no network."""
    import socket

    try:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()
    except OSError as error:
        pytest.skip(f"the hub cannot be reached: {error}")
    return prepare(load(name))


@pytest.mark.parametrize("options", [{"num_beams": 1}, {}], ids=["greedy", "the checkpoint's options"])
@pytest.mark.parametrize("name", GENERATING)
@torch.no_grad()
def test_generations_equal_transformers(name: str, options: dict[str, Any]) -> None:
    prepared = fetch(name)
    ids, mask = pad([encode_text(prepared.tokenizer, text) for text in [*TEXTS, " ".join(TEXTS)]], 1)
    expected = (
        BartForConditionalGeneration.from_pretrained(find_folder(name), dtype=torch.float32)
        .generate(
            torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            max_length=60,
            **options,
        )
        .numpy()
    )
    sequences = generate(prepared, ids, mask, max_length=60, **options).sequences
    assert np.array_equal(sequences, expected), prepared.tokenizer.decode_batch(sequences.tolist())


def test_bart_larges_states_are_the_published_ones() -> None:
    prepared = fetch("facebook/bart-large")
    expected = [[0.7144, 0.8143, -1.2813], [0.7144, 0.8143, -1.2813], [-0.0467, 2.5911, -2.1845]]
    assert_close(features(prepared, [HELLO]).last_hidden_state[0, :3, :3], expected, tolerance=1e-3 / 2.5911)


def test_mnlis_logits_are_the_published_ones_and_padding_does_not_change_them() -> None:
    prepared = fetch("facebook/bart-large-mnli")
    logits = classify(prepared, *pad([HELLO, SHORTER], 1))
    assert_close(logits[0], [0.1907, 1.4342, -1.0289], tolerance=1e-3 / 1.4342)
    assert_close(logits[1:], classify(prepared, [SHORTER]))


def test_mnlis_zero_shot_scores_equal_the_pipeline() -> None:
    prepared, labels = fetch("facebook/bart-large-mnli"), ["weather", "software", "animals"]
    theirs = pipeline("zero-shot-classification", model="facebook/bart-large-mnli")
    for multi_label in (False, True):
        for text, ours in zip(TEXTS, zero_shot(prepared, TEXTS, labels, multi_label=multi_label), strict=True):
            expected = theirs(text, candidate_labels=labels, multi_label=multi_label)
            assert ours.labels == expected["labels"]
            assert_close(ours.scores, expected["scores"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/bart-base", {" bathroom"}),
        ("facebook/bart-large", {" bathroom", " gym", " wrong", " movies", " hospital"}),
    ],
)
def test_blanks_are_filled_with_the_published_words(name: str, expected: set[str]) -> None:
    [fillings] = fill_mask(fetch(name), " I went to the <mask>.")
    assert expected <= {filled.token_str for filled in fillings}
