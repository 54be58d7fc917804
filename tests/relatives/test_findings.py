"""Shows what docs/findings.md says about layer norms, overflow and positions of BERT, RoBERTa and T5.

Its findings about initialization are shown in test_init.py, those about padding in test_masked_lm.py.
"""

import dataclasses
from typing import Any

import bert_oneliner
import jax
import jax.numpy as jnp
import numpy as np
import t5_oneliner
import torch

from tests.relatives.twins import Twin, batch, float64, logits, ours, theirs, torch_logits, twin
from tests.twins import assert_close


def test_rms_norm_has_no_mean_and_no_bias() -> None:
    """A constant added to x changes the result of an RMS norm, but not that of a layer norm.

    Our rms_norm equals torch's except for rounding.
    """
    x = np.random.default_rng(0).normal(size=(4, 6, 64)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=64).astype(np.float32)
    for offset in (0.0, 3.0):
        reference = torch.nn.functional.rms_norm(torch.tensor(x + offset), (64,), torch.tensor(weight), 1e-6).numpy()
        assert_close(t5_oneliner.rms_norm(jnp.asarray(x + offset), weight, 1e-6), reference, 5e-7, f"offset {offset}")
    plain = np.asarray(t5_oneliner.rms_norm(jnp.asarray(x), weight, 1e-6))
    shifted = np.asarray(t5_oneliner.rms_norm(jnp.asarray(x + 3), weight, 1e-6))
    assert np.abs(shifted - plain).max() > 0.5
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    plain = bert_oneliner.layer_norm(jnp.asarray(x), ones, zeros, 1e-6)
    shifted = bert_oneliner.layer_norm(jnp.asarray(x + 3), ones, zeros, 1e-6)
    assert_close(shifted, plain, 5e-6, "layer norm of a shifted input")


def test_rms_norm_with_rsqrt_is_the_same_to_rounding() -> None:
    """transformers multiplies by rsqrt, we divide by the root: results differ by at most a unit in the last place."""
    x = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)

    def mean_square(x: jax.Array) -> jax.Array:
        return jnp.square(x).mean(-1, keepdims=True) + 1e-6

    division = np.asarray(jax.jit(lambda x: x / jnp.sqrt(mean_square(x)))(x))
    rsqrt = np.asarray(jax.jit(lambda x: x * jax.lax.rsqrt(mean_square(x)))(x))
    assert (np.abs(division - rsqrt) <= np.spacing(np.abs(division))).all()


def scaled(params: Any, factor: float) -> Any:
    """T5's parameters with those multiplied whose products are added to the residual stream."""

    def scale(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        return leaf * factor if any(part in name for part in ("shared", "out_proj", "fc2")) else leaf

    return jax.tree_util.tree_map_with_path(scale, params)


def cast(a: Twin, dtype: Any) -> Twin:
    return a._replace(params=jax.tree.map(lambda leaf: leaf.astype(dtype), a.params))


def test_t5_overflows_in_float16_and_its_function_does_not_notice_the_size() -> None:
    """A residual stream 30,000 times as large gives the same logits in float32, and NaN in float16.

    Each part of a layer, and the head, normalizes what it reads from the stream, but the stream is never normalized.
    So nothing in training keeps it small. float16's largest number is 65,504; bfloat16 has float32's range.
    """
    a = twin("t5-v1.1")
    x = batch(a)
    big = a._replace(params=scaled(a.params, 30_000.0))
    assert_close(logits(big, x), logits(a, x), 2e-5, "logits of the larger stream")
    assert np.isnan(logits(cast(big, jnp.float16), x)).any()
    assert np.isfinite(logits(cast(big, jnp.bfloat16), x)).all()
    assert np.isfinite(logits(cast(a, jnp.float16), x)).all(), "float16 overflows for small streams too"


def test_robertas_unused_positions() -> None:
    """Rows of the position table up to pad_token_id get no gradient.

    Those before pad_token_id are never looked up. Row pad_token_id is looked up for padding, but padding_idx stops its
    gradient.
    """
    with float64():
        a = twin("roberta", dtype="float64", pad_token_id=5)
        x = batch(a, B=4, S=12)
        assert (x["input_ids"] == 5).any()
        for who, (_, gradient) in (("ours", ours(a, x)), ("PyTorch's", theirs(a, x))):
            used = gradient["embed_positions"].any(-1).nonzero()[0].tolist()
            assert used == list(range(6, 6 + 12)), f"{who} gradient has values in rows {used}"


def test_berts_eps_has_no_effect_in_float32() -> None:
    """BERT's eps of 1e-12 changes no bit of a variance of 1e-4; BART's 1e-5 does.

    In float16 1e-12 is 0, so a row without variance would give 0/0. PyTorch's layer norm and ours compute in float32,
    whatever the dtype of their input is.
    """
    variance = np.float32(1e-4)
    assert variance + np.float32(1e-12) == variance and variance + np.float32(1e-5) != variance
    assert np.float16(1e-12) == 0
    row = np.full((1, 1, 24), 3.0, np.float16)
    ones = np.ones(24, np.float16)
    ours = np.asarray(bert_oneliner.layer_norm(jnp.asarray(row), ones, ones, 1e-12))
    reference = torch.nn.functional.layer_norm(torch.tensor(row), (24,), torch.tensor(ones), torch.tensor(ones), 1e-12)
    np.testing.assert_array_equal(ours, reference.numpy())
    with np.errstate(invalid="ignore"):
        assert np.isnan((row - row.mean(-1)) / np.sqrt(row.var(-1, dtype=np.float16) + np.float16(1e-12))).all()


def test_barts_eps_in_bert_would_show() -> None:
    """With BART's eps of 1e-5, BERT's logits would differ by more than the tests of the logits tolerate."""
    a = twin("bert")
    x = batch(a)
    other = a._replace(config=dataclasses.replace(a.config, layer_norm_eps=1e-5))
    difference = np.abs(logits(other, x) - torch_logits(a, x)).max() / np.abs(torch_logits(a, x)).max()
    assert difference > 5e-6, f"the logits differ by only {difference:.1e}"


def test_transformers_t5_rounds_to_float32_in_a_float64_model() -> None:
    """T5LayerNorm squares in float32, whatever its input is. Tests in float64 replace it: tests.relatives.twins."""
    with jax.enable_x64(True):
        a = twin("t5", dtype="float64")
        x = batch(a)
        difference = np.abs(logits(a, x) - torch_logits(a, x)).max()
    assert 1e-12 < difference < 1e-6, f"the logits differ by {difference:.1e}, not by rounding to float32"
