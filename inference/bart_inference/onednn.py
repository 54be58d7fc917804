"""Products by oneDNN, the kernel library that jaxlib's CPU backend carries: XLA's custom call, reached by its name.

XLA:CPU itself multiplies the few rows of a decoding step with a large matrix at a third of the speed at which memory
delivers the matrix. oneDNN keeps up if the matrix lies in panels of 64 columns, each of which a core reads from front
to back: (D,F) becomes (F/64,D,64), and the product one of batches, a panel being a batch. The layout is ours, not one
that oneDNN chose, so nothing depends on its choices. Where the call is missing (another processor, another jaxlib),
`available` is false and nothing here is used.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bart_oneliner import Array

PANEL = 64
WORTH = 2**21  # multiply-adds of attention below which waking the other cores costs more than they save
MUCH = 2**25  # scores of attention that are not computed at once
TARGET = "__onednn$matmul"
Settings = dict[str, Any]  # of XLA's OneDnnMatMulConfig
# The result is written as (rows, panels, 64): the dimensions, counted from 1, of what oneDNN calls (panels, rows, 64).
ROWS_FIRST: Settings = {"result": {"tensor": {"dimensions": [2, 1, 3]}}}


def call(settings: Settings, shape: tuple[int, ...], x: Array, y: Array) -> Array:
    """oneDNN's matmul of float32 arrays, whose leading axes are batches; shape: the result's."""
    product = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": settings}),
    )
    return product(x, y)


def pack(weight: Any) -> Any:
    """(D,F) -> (P,D,64), P panels of columns, the last one filled with zeros; numpy and jax arrays alike."""
    xp = weight.__array_namespace__()
    D, F = weight.shape
    if more := -F % PANEL:
        weight = xp.concat([weight, xp.zeros((D, more), weight.dtype)], axis=1)
    return weight.reshape(D, -1, PANEL).swapaxes(0, 1)


def multiply(x: Array, panels: Array, F: int) -> Array:
    """x (…,D) with the panels of a matrix (D,F) -> (…,F)."""
    rows = x.reshape(1, -1, x.shape[-1])
    product = call(ROWS_FIRST, (rows.shape[1], panels.shape[0], PANEL), rows, panels)
    return product.reshape(*x.shape[:-1], -1)[..., :F]


def multiply_heads(x: Array, y: Array) -> Array:
    """x (B,H,T,n) with y (B,H,n,m), one product for each head -> (B,H,T,m)."""
    return call({}, (*x.shape[:3], y.shape[3]), x, y)


@functools.cache
def available() -> bool:
    """Whether the CPU backend here has the call and it does what is asked: tried once, on products of whole numbers."""
    x, weight = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(300, dtype=np.float32).reshape(3, 100)
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            product = jax.jit(multiply, static_argnums=2)(x, pack(weight), 100)
            by_head = jax.jit(multiply_heads)(x[None, None], weight[None, None])
    except jax.errors.JaxRuntimeError:  # no such call
        return False
    return np.array_equal(product, x @ weight) and np.array_equal(by_head[0, 0], x @ weight)
