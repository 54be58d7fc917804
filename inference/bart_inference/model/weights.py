"""Weight matrices as types, one for each form that some device reads fast, and the products with them.

Letters as in bart_oneliner. A new form, such as int8, needs one more type and one more case in `matmul`.
"""

from __future__ import annotations

import dataclasses
import enum

import jax
import jax.numpy as jnp

from bart_inference.model import onednn
from bart_oneliner import Array, Params, einsum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """A matrix as one array."""

    matrix: Array  # (D,F)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Panels:
    """A matrix (D,F) cut into panels of columns, the form that oneDNN reads fast (onednn.to_panels)."""

    panels: Array  # (panels,D,width) float32; the last panel is filled up with zeros
    columns: int = dataclasses.field(metadata={"static": True})  # F


Weight = Dense | Panels


@jax.tree_util.register_static
class Attention(enum.Enum):
    """What computes the products of attention. It is stored among the weights, as a leaf without an array.

    JAX treats it as part of the tree's structure, so each of the two has programs of its own.
    """

    XLA = "xla"
    ONEDNN = "onednn"


def matmul(x: Array, weight: Weight, dtype: jnp.dtype | None = None) -> Array:
    """x (…,D) with a matrix (D,F) -> (…,F), accumulated and returned in dtype, or in x's dtype for None."""
    match weight:
        case Dense():
            return einsum("...d,df->...f", x, weight.matrix, preferred_element_type=dtype or x.dtype)
        case Panels():
            return onednn.multiply(x, weight.panels, weight.columns)


def linear(x: Array, weight: Weight, bias: Array) -> Array:
    """x (…,D) with a matrix (D,F), plus a bias (F,) -> (…,F)."""
    return matmul(x, weight) + bias


def to_heads(x: Array, projection: Params, H: int) -> list[Array]:
    """x (B,T,D) through projections that are fused side by side, such as queries, keys and values.

    -> (B,H,T,K) of each projection.
    """
    weight, bias = projection["weight"], projection["bias"]
    B, T, D = x.shape
    K = D // H
    count = len(bias) // D
    if isinstance(weight, Panels) and T >= onednn.MIN_POSITIONS_TO_HEADS:
        heads = onednn.to_heads(x, weight.panels) + bias.reshape(-1, 1, K)
        return jnp.split(heads, count, axis=1)
    fused = linear(x, weight, bias)
    return [y.reshape(B, T, H, -1).swapaxes(1, 2) for y in jnp.split(fused, count, axis=-1)]
