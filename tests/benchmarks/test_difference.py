"""`margin` is infinite for equal tokens, and otherwise PyTorch's margin at the first decision that differs."""

import math

import numpy as np
import pytest
from bart_inference import Model, prepare

from benchmarks.difference import margin
from tests.inference.cases import checkpoint

BATCHES = [[[0, 9, 8, 7, 2], [0, 5, 2]]]


@pytest.mark.parametrize("beams", [1, 3])
def test_margin_of_equal_tokens_and_of_other_weights(beams):
    twin, same = checkpoint("uneven")
    options = {"num_beams": beams, "min_new_tokens": 9, "max_new_tokens": 9}
    work = {"batches": BATCHES, "pad_token_id": 1, "options": options}
    assert margin(twin.torch, same, work) == math.inf

    params = {**twin.params, "final_logits_bias": np.linspace(0, 20, 99, dtype=np.float32)}
    other = prepare(Model(params, *list(twin.model)[1:]))
    assert 1e-4 < margin(twin.torch, other, work) < 100
