"""Matrix products ask for full float32 on every device, and logits are float32 even with bfloat16 parameters."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import bart_oneliner
from bart_oneliner import forward, loss
from tests.twins import FORWARD, assert_close, batch, logits, torch_logits, twin


def products(jaxpr: Any) -> Iterator[Any]:
    """Yields every matrix product of a program, those inside its loops and calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


def test_every_matrix_product_asks_for_the_highest_precision() -> None:
    """This holds for the forward pass and the gradient.

    By default TPUs would multiply float32 as bfloat16, and recent GPUs as TF32.
    """
    a = twin()
    x = batch(a.config)
    arrays = x["input_ids"], x["attention_mask"], x["labels"]
    program = jax.make_jaxpr(jax.grad(lambda params: loss(params, a.config, *arrays)))(a.params).jaxpr
    precisions = [equation.params["precision"] for equation in products(program)]
    assert len(precisions) > 60, f"only {len(precisions)} products were found in the program"
    assert set(precisions) == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


def test_products_in_bfloat16_would_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a product's factors are rounded to bfloat16, as TPUs do by default, the error is thousands of tolerances."""

    def as_a_tpu(spec: str, *operands: jax.Array, preferred_element_type: Any = jnp.float32) -> jax.Array:
        return jnp.einsum(spec, *(x.astype(jnp.bfloat16) for x in operands), preferred_element_type=jnp.float32)

    a = twin(seed=1, encoder_layers=1)  # no other test uses these shapes, so the patched function is compiled
    x = batch(a.config)
    monkeypatch.setattr(bart_oneliner, "einsum", as_a_tpu)
    difference = np.abs(logits(a, x) - torch_logits(a, x)).max()
    assert difference > 1e-2, f"logits differ by only {difference:.1e}"


def test_bfloat16_parameters_give_float32_logits_as_near_as_pytorchs() -> None:
    """Our root mean square error against float32 is at most twice PyTorch's.

    When this was written, it was 1.1 % of the logits' standard deviation, and PyTorch's 0.9 %.
    """
    a = twin()
    x = batch(a.config)
    exact = torch_logits(a, x)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), a.params)
    ours = forward(params, a.config, **{name: x[name] for name in FORWARD})
    inputs = {name: torch.tensor(x[name]).long() for name in FORWARD}
    with torch.no_grad():
        theirs = a.torch.bfloat16()(**inputs, use_cache=False).logits.float().numpy()
    assert ours.dtype == jnp.float32
    error, allowed = (float(np.sqrt(np.square(y - exact).mean())) for y in (ours, theirs))
    assert error <= 2 * allowed, f"our error is {error:.3f}, PyTorch's {allowed:.3f}"


def test_rsqrt_is_one_over_sqrt() -> None:
    """XLA compiles both to the same instructions, so a layer norm may use either without changing any bit."""
    x = np.random.default_rng(0).uniform(1e-3, 10, 100_000).astype(np.float32)
    division, rsqrt = jax.jit(lambda x: 1 / jnp.sqrt(x))(x), jax.jit(jax.lax.rsqrt)(x)
    np.testing.assert_array_equal(division, rsqrt)
    assert_close(division * np.sqrt(x.astype(np.float64)), np.ones(x.shape), 2.5e-7, "1/sqrt")
