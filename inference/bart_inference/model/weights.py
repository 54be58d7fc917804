"""Matrices as types, one for each form that a device reads fast, and the one product with them.

Letters as in bart_oneliner. A new form, such as int8, is one more type here and one more case in `matmul`.
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
    """A matrix as it is."""

    matrix: Array  # (D,F)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Panels:
    """A matrix (D,F) in panels of columns, for oneDNN (onednn.pack)."""

    panels: Array  # (P,D,width) float32, the last panel filled up with zeros
    columns: int = dataclasses.field(metadata={"static": True})  # F


Weight = Dense | Panels


@jax.tree_util.register_static
class Attention(enum.Enum):
    """What computes attention's products: a part of the weights without arrays, so that programs depend on it."""

    XLA = "xla"
    ONEDNN = "onednn"


def matmul(x: Array, weight: Weight, dtype: jnp.dtype | None = None) -> Array:
    """x (…,D) with a matrix (D,F) -> (…,F), accumulated and returned in dtype, x's own if None."""
    match weight:
        case Dense():
            return einsum("...d,df->...f", x, weight.matrix, preferred_element_type=dtype or x.dtype)
        case Panels():
            return onednn.multiply(x, weight.panels, weight.columns)


def linear(x: Array, weight: Weight, bias: Array) -> Array:
    """x (…,D), bias (F,) -> (…,F)."""
    return matmul(x, weight) + bias


def to_heads(x: Array, projection: Params, H: int) -> list[Array]:
    """x (B,T,D) by the projections whose weights and biases are fused in one -> (B,H,T,K) of each."""
    (B, T, D), weight, bias = x.shape, projection["weight"], projection["bias"]
    count = len(bias) // D
    if isinstance(weight, Panels) and T >= onednn.MIN_POSITIONS_TO_HEADS:
        return jnp.split(onednn.to_heads(x, weight.panels) + bias.reshape(-1, 1, D // H), count, axis=1)
    fused = jnp.split(linear(x, weight, bias), count, axis=-1)
    return [y.reshape(B, T, H, -1).swapaxes(1, 2) for y in fused]
