"""Where tokens differ, the margin is the one at PyTorch's first decision that differs."""

import math

import numpy as np
import pytest
from bart_inference import save

from benchmarks import difference
from tests.inference import referee
from tests.inference.cases import checkpoint

WORK = {"batches": [[[0, 9, 8, 7, 2], [0, 5, 2]]], "pad_token_id": 1}


@pytest.mark.parametrize("beams", [1, 3])
def test_margin_of_equal_tokens_and_of_other_weights(tmp_path, monkeypatch, beams):
    monkeypatch.setattr(referee, "checkpoint", referee.checkpoint)  # put back what the benchmark replaces
    monkeypatch.setattr(difference, "THREADS", 1)
    twin, _ = checkpoint("uneven")
    save(twin.model, tmp_path)
    options = {"num_beams": beams, "min_new_tokens": 9, "max_new_tokens": 9}
    assert difference.margin(tmp_path, {**WORK, "options": options}) == math.inf

    def other(path):
        params = {**twin.params, "final_logits_bias": np.linspace(0, 20, 99, dtype=np.float32)}
        return twin.model._replace(params=params)

    monkeypatch.setattr(difference, "load", other)
    assert 1e-4 < difference.margin(tmp_path, {**WORK, "options": options}) < 100
