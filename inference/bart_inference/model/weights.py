"""Weight matrices and the products with them. Each form in which a matrix can be stored is a type.

The choice between XLA and oneDNN for attention's products is stored among the weights too. Letters as in bart_oneliner.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

    panels: Array  # (panels,D,width); the last panel is filled up with zeros
    columns: int = dataclasses.field(metadata={"static": True})  # F


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix (D,F) as whole numbers and a scale for each column: about integers * scale (see `quantize`).

    `matmul` quantizes the other factor too, row by row, and multiplies int8 by int8. The sums, in int32, are exact.
    """

    integers: Dense | Panels  # of int8
    scale: Array  # (F,) float32


Weight = Dense | Panels | Int8
LARGEST_INT8 = 127  # -128 is not used, so that the range is symmetric


@jax.tree_util.register_static
class Attention(enum.Enum):
    """What computes the products of attention: XLA or oneDNN. It is stored among the weights.

    JAX treats it as a part of the tree's structure, not as an array, so programs are compiled separately for each.
    """

    XLA = "xla"
    ONEDNN = "onednn"


def quantize(x: Any, axis: int) -> tuple[Any, Any]:
    """x -> int8 whole numbers, and their float32 scale, which has the length 1 along the axis. numpy or jax arrays.

    x is about integers * scale. The scale is 1/127 of the largest absolute value along the axis, or 1 if that value is
    0; no element is off by more than half of the scale. Where x has an element that is not finite, the scale is not
    finite either, and so a product with the result is not.
    """
    xp = x.__array_namespace__()
    largest = xp.max(xp.abs(x), axis=axis, keepdims=True).astype(np.float32)
    scale = xp.where(largest == 0, np.float32(1), largest / np.float32(LARGEST_INT8))
    return xp.round(x / scale).astype(np.int8), scale


def matmul(x: Array, weight: Weight, dtype: jnp.dtype | None = None) -> Array:
    """x (…,D) with a matrix (D,F) -> (…,F), returned in dtype, or in x's dtype for None.

    The sums are accumulated in the dtype or a wider one.
    """
    match weight:
        case Dense():
            return einsum("...d,df->...f", x, weight.matrix, preferred_element_type=dtype or x.dtype)
        case Panels():
            return onednn.multiply(x, weight.panels, weight.columns, dtype or x.dtype)
        case Int8():
            integers, row_scale = quantize(x, axis=-1)
            product = matmul(integers, weight.integers, jnp.int32)
            scaled: Array = product * row_scale * weight.scale
            return scaled.astype(dtype or x.dtype)


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
    if has_panels(weight) and T >= onednn.MIN_POSITIONS_TO_HEADS:
        heads = panels_to_heads(x, weight) + bias.reshape(-1, 1, K)
        return jnp.split(heads, count, axis=1)
    fused = linear(x, weight, bias)
    return [y.reshape(B, T, H, -1).swapaxes(1, 2) for y in jnp.split(fused, count, axis=-1)]


def elements(weight: Weight) -> int:
    """The number of elements D·F of a matrix (D,F)."""
    match weight:
        case Dense():
            return weight.matrix.size
        case Panels():
            return weight.panels.shape[1] * weight.columns
        case Int8():
            return elements(weight.integers)


def has_panels(weight: Weight) -> bool:
    return isinstance(weight.integers if isinstance(weight, Int8) else weight, Panels)


def panels_to_heads(x: Array, weight: Weight, dtype: jnp.dtype | None = None) -> Array:
    """x (B,T,D) with a matrix in P panels that hold one head each -> (B,P,T,K), in dtype, or in x's dtype for None."""
    match weight:
        case Panels():
            return onednn.to_heads(x, weight.panels, dtype or x.dtype)
        case Int8():
            integers, row_scale = quantize(x, axis=-1)
            product = panels_to_heads(integers, weight.integers, jnp.int32)
            heads: Array = product * row_scale[:, None] * weight.scale.reshape(product.shape[1], 1, -1)
            return heads.astype(dtype or x.dtype)
        case Dense():
            raise TypeError("a matrix without panels")
