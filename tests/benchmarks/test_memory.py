"""benchmarks.memory measures the peak memory of loading and preparing a model, and bart-base stays within its limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.checkpoints import TINY
from benchmarks.memory import MAX_RATIO, measure


def test_the_peak_is_at_least_the_weights() -> None:
    """The embedded checkpoint has 64 MB of weights, so compiled programs and buffers are a large share of the peak."""
    figures = measure(TINY)
    assert 40 < figures["weights_mb"] < 100
    assert 1.0 <= figures["ratio"] < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cpu", None])
def test_preparing_bart_base_takes_little_more_than_its_weights(tmp_path: Path, layout: str | None) -> None:
    import jax
    from bart_inference import Model, save

    from bart_oneliner import Config, init
    from benchmarks.checkpoints import BASE

    config = Config(**BASE)
    save(Model(init(config, jax.random.key(0)), config, {}, None), tmp_path)
    figures = measure(tmp_path, layout)
    assert figures["ratio"] <= MAX_RATIO, figures
