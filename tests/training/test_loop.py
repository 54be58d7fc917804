"""The loop: resumes bit for bit, learns, accumulates, and shards without changing the result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from training import loop
from training.data import Batch, Batches
from training.loop import Options, schedule, train

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
    counted = np.broadcast_to(np.arange(whole.labels.shape[1]) < 4, whole.labels.shape)
    whole = whole._replace(labels=np.where(counted, np.abs(whole.labels), -100))  # as many labels in either half

    def halves(step):
        return Batch(*(a[4 * step : 4 * step + 4] for a in whole))

    once = train(params, config, lambda step: whole, Options(steps=1, warmup=0), tmp_path / "once")
    twice = train(params, config, halves, Options(steps=2, warmup=0, accumulate=2), tmp_path / "twice")
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(params, config, batches, tmp_path):
    trained = train(params, config, batches, Options(steps=2, bfloat16=True, log_every=1), tmp_path)
    assert {a.dtype for a in jax.tree.leaves(trained)} == {np.dtype("float32")}
    assert not same(trained, params)


def test_the_rate_warms_up_stays_and_falls_to_zero():
    rate = schedule(Options(steps=100, warmup=10, decay=20, learning_rate=1.0))
    assert [round(float(rate(i)), 2) for i in (0, 4, 9, 50, 80, 90, 100)] == [0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


SHARDED = """
import jax, numpy as np, sys
import bart_oneliner
from bart_oneliner import Config
from pathlib import Path
from training.data import Batch
from training.loop import Options, train
config = Config(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
                encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32, dropout=0.0)
rng = np.random.default_rng(0)
ids, labels = rng.integers(3, 40, (8, 16)), rng.integers(3, 40, (8, 8))
labels[3:, 4:] = -100  # devices that count different numbers of labels must still make one mean
batch = Batch(ids, np.ones_like(ids), labels)
params = bart_oneliner.init(config, jax.random.key(0))
trained = train(params, config, lambda step: batch, Options(steps=3, warmup=0, learning_rate=1e-2), Path(sys.argv[1]))
print(jax.device_count())
np.savez(sys.argv[2], *(np.asarray(a) for a in jax.tree.leaves(trained)))
"""


def test_four_devices_make_the_step_of_one(tmp_path):
    results = []
    for n in (1, 4):
        flags = f"--xla_force_host_platform_device_count={n}"
        path = os.pathsep.join([str(ROOT), str(ROOT / "inference")])
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
        arguments = [str(tmp_path / f"run{n}"), str(tmp_path / f"{n}.npz")]
        out = subprocess.run(
            [sys.executable, "-c", SHARDED, *arguments], env=environment, capture_output=True, text=True
        )
        assert out.stdout.split() == [str(n)], out.stderr
        results.append(np.load(arguments[1]))
    for name in results[0].files:
        np.testing.assert_allclose(results[0][name], results[1][name], atol=2e-5)
