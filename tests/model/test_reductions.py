"""Products followed by a reduction are computed correctly in every form that the model uses.

jaxlib 0.10.2 miscompiles one other form on a CPU (jax issue 39103): in a product with a matrix of width 3, mapped over
32,769 rows, followed by a sum of squares, the last row is wrong. The tests use that number of rows and others near it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from bart_oneliner import Array, attend, layer_norm, linear, lm_head

ROW_COUNTS = (32_767, 32_768, 32_769, 65_537)
WIDTHS = (3, 8, 24)


def wrong_rows(function: Callable[..., Array], *arguments: Any) -> list[int]:
    """Rows in which the compiled function differs by more than rounding from running its operations one by one."""
    compiled = np.asarray(jax.jit(function)(*arguments))
    with jax.disable_jit():
        expected = np.asarray(function(*arguments))
    near = np.isclose(compiled, expected, rtol=1e-4, atol=1e-5)
    return np.flatnonzero(~near.reshape(len(near), -1).all(1)).tolist()


def reported(matrix: Array, rows: Array) -> Array:
    return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


def norm_of_product(matrix: Array, x: Array) -> Array:
    bias = jnp.zeros(x.shape[-1])
    return layer_norm(x + linear(x[None], matrix, bias)[0], bias + 1, bias)


def norm_of_the_one_line(matrix: Array, x: Array) -> Array:
    y = x + x @ matrix
    return (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)


def attention_of_many_queries(matrix: Array, x: Array) -> Array:
    return attend(x[None, None], matrix[None, None], matrix[None, None], jnp.ones((1, 1), bool))[0, 0]


def attention_to_many_keys(matrix: Array, x: Array) -> Array:
    return attend(matrix[None, None], x[None, None], x[None, None], jnp.ones((1, 1), bool))[0, 0]


def log_probabilities(matrix: Array, x: Array) -> Array:
    params = {"shared": matrix, "final_logits_bias": jnp.zeros(len(matrix))}
    return jax.nn.log_softmax(lm_head(params, x[None])[0])


def probabilities_of_a_large_vocabulary(matrix: Array, x: Array) -> Array:
    params = {"shared": x, "final_logits_bias": jnp.zeros(len(x))}
    return jnp.exp(jax.nn.log_softmax(lm_head(params, matrix[None])[0])) * len(x)


def best_score(matrix: Array, x: Array) -> Array:
    return (x @ matrix).max(-1)


FORMS = [
    norm_of_product, norm_of_the_one_line, attention_of_many_queries, attention_to_many_keys, log_probabilities,
    probabilities_of_a_large_vocabulary, best_score,
]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_products_are_reduced_rightly(form: Callable[..., Array], width: int) -> None:
    rng = np.random.default_rng(width)
    matrix = jnp.asarray(rng.standard_normal((width, width), np.float32))
    wrong = {}
    for rows in ROW_COUNTS:
        x = jnp.asarray(rng.standard_normal((rows, width), np.float32))
        wrong[rows] = wrong_rows(form, matrix, x)
    assert not any(wrong.values()), f"wrong rows by number of rows, with jaxlib {jaxlib.__version__}: {wrong}"


def test_the_reported_form_is_wrong_in_jaxlib_0_10_2_alone() -> None:
    """`wrong_rows` finds the fault of jax issue 39103."""
    rows = jnp.zeros((32_769, 3)).at[:, 0].set(jnp.arange(32_769.0))
    assert wrong_rows(reported, jnp.eye(3), rows) == ([32_768] if jaxlib.__version__ == "0.10.2" else [])
