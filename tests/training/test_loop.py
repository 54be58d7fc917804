"""The training loop resumes bit for bit, learns, and gives the same result with accumulation and on several devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from bart_training import loop
from bart_training.data import Batch, Batches
from bart_training.loop import schedule, train
from bart_training.options import Options

from tests.training import sharded

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def batches(tokenizer, records):
    pairs = [(tokenizer.encode(r["document"]).ids, tokenizer.encode(r["summary"]).ids) for r in records]

    def make(indices, limit, rng):
        return [pairs[i] for i in indices]

    return Batches([(len(s), len(t)) for s, t in pairs], make, 8, {64: 1.0}, [32], 1, seed=0)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(params, config, batches, tmp_path):
    options = Options(steps=8, warmup=2, decay=4, save_every=3, log_every=1)
    whole = train(params, config, batches, options, tmp_path / "whole")

    class Killed(Exception):
        pass

    def dies(step):
        if step == 5 and not (tmp_path / "resumed").with_suffix(".died").exists():
            (tmp_path / "resumed").with_suffix(".died").touch()
            raise Killed
        return batches(step)

    with pytest.raises(Killed):
        train(params, config, dies, options, tmp_path / "resumed")
    resumed = train(params, config, dies, options, tmp_path / "resumed")
    assert same(whole, resumed)
    assert same(loop.load_params(tmp_path / "resumed" / "state.npz", config), whole)


def test_it_learns(params, config, batches, tmp_path):
    train(params, config, batches, Options(steps=60, learning_rate=5e-3, warmup=5, log_every=10), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


def test_accumulated_halves_make_the_update_of_the_whole(params, config, batches, tmp_path):
    config = type(config)(**{**vars(config), "dropout": 0.0})
    whole = batches(0)
    # Every row has four labels, so that both halves have equal weight in the mean.
    counted = np.broadcast_to(np.arange(whole.labels.shape[1]) < 4, whole.labels.shape)
    whole = whole._replace(labels=np.where(counted, np.abs(whole.labels), -100))

    def halves(step):
        return Batch(*(a[4 * step : 4 * step + 4] for a in whole))

    once = train(params, config, lambda step: whole, Options(steps=1, warmup=0), tmp_path / "once")
    twice = train(params, config, halves, Options(steps=2, warmup=0, accumulate=2), tmp_path / "twice")
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(params, config, batches, tmp_path):
    trained = train(params, config, batches, Options(steps=2, bfloat16=True, log_every=1), tmp_path / "bfloat16")
    in_float32 = train(params, config, batches, Options(steps=2, log_every=1), tmp_path / "float32")
    assert {a.dtype for a in jax.tree.leaves(trained)} == {np.dtype("float32")}
    assert not same(trained, in_float32), "the option bfloat16 changes no weight"


def test_the_rate_warms_up_stays_and_falls_to_zero():
    rate = schedule(Options(steps=100, warmup=10, decay=20, learning_rate=1.0))
    assert [round(float(rate(i)), 2) for i in (0, 4, 9, 50, 80, 90, 100)] == [0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_four_devices_make_the_step_of_one(tmp_path):
    flags = "--xla_force_host_platform_device_count=4"
    path = os.pathsep.join([str(ROOT), str(ROOT / "inference")])
    environment = {
        **os.environ,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": path,
    }
    command = [sys.executable, "-m", "tests.training.sharded", str(tmp_path / "four")]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert out.stdout.split() == ["4"], out.stderr
    one = sharded.run(tmp_path / "one")
    four = loop.load_params(tmp_path / "four" / "state.npz", sharded.CONFIG)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
