"""Products and attention by oneDNN, the kernel library of jaxlib's CPU backend: XLA's custom call, reached by its name.

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

from bart_inference.model import attention
from bart_oneliner import Array

PANEL = 64  # columns
MIN_ATTENTION_MULTIPLY_ADDS = 2**21  # with fewer, waking the other cores costs more than they save
MIN_SCORES_BY_SOURCE = 2**25  # B·H·T·S; so many outgrow every cache unless they are computed source by source
MIN_POSITIONS_TO_HEADS = 16  # with fewer positions T, a product for each head's panel is slower than one for all
TARGET = "__onednn$matmul"
Settings = dict[str, Any]  # of XLA's OneDnnMatMulConfig
# The order in which a result's dimensions lie in memory, counted from 1.
ROWS_FIRST: Settings = {"result": {"tensor": {"dimensions": [2, 1, 3]}}}  # (panels,rows,64) as (rows,panels,64)
HEADS_LAST: Settings = {"result": {"tensor": {"dimensions": [1, 3, 2, 4]}}}  # (B,H,T,K) as (B,T,H,K)


def call(settings: Settings, shape: tuple[int, ...], x: Array, y: Array) -> Array:
    """oneDNN's matmul of float32 arrays, whose leading axes are batches; shape: the result's."""
    product = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": settings}),
    )
    return product(x, y)


def pack(weight: Any, width: int = PANEL) -> Any:
    """(D,F) -> (P,D,width), P panels of columns, the last one filled with zeros; numpy and jax arrays alike."""
    xp = weight.__array_namespace__()
    D, F = weight.shape
    if more := -F % width:
        weight = xp.concat([weight, xp.zeros((D, more), weight.dtype)], axis=1)
    return weight.reshape(D, -1, width).swapaxes(0, 1)


def multiply(x: Array, panels: Array, F: int) -> Array:
    """x (…,D) with the panels of a matrix (D,F) -> (…,F)."""
    rows = x.reshape(1, -1, x.shape[-1])
    product = call(ROWS_FIRST, (rows.shape[1], panels.shape[0], panels.shape[2]), rows, panels)
    return product.reshape(*x.shape[:-1], -1)[..., :F]


def to_heads(x: Array, panels: Array) -> Array:
    """x (B,T,D) with panels (P,D,K), each of which is a head's -> (B,P,T,K), without moving anything afterwards."""
    return call({}, (x.shape[0], panels.shape[0], x.shape[1], panels.shape[2]), x[:, None], panels[None])


def scores(q: Array, keys: Array) -> Array:
    """q (B,H,T,K) with keys (B,H,K,S) -> (B,H,T,S).

    Many queries come with keys that were transposed just for them (encode); transposed back, XLA drops both.
    """
    shape = (*q.shape[:3], keys.shape[3])
    if q.shape[2] >= MIN_POSITIONS_TO_HEADS:
        return call({"transpose_b": True}, shape, q, keys.mT)
    return call({}, shape, q, keys)


def mix(weights: Array, values: Array) -> Array:
    """Attention weights (B,H,T,S) with values (B,H,S,K) -> (B,T,H,K)."""
    B, H, T, _ = weights.shape
    return call(HEADS_LAST, (B, T, H, values.shape[3]), weights, values)


def attend(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """attention.attend by oneDNN's products where they are the faster ones."""
    (B, H, T, _), S = q.shape, keys.shape[3]
    if T * keys.size < MIN_ATTENTION_MULTIPLY_ADDS:
        return attention.attend(q, keys, values, mask)
    if B * H * T * S >= MIN_SCORES_BY_SOURCE:
        return attend_by_source(q, keys, values, mask)
    # XLA reads the keys of a single query at twice oneDNN's speed.
    return attention.attend(q, keys, values, mask, scores if T > 1 else attention.scores, mix)


def attend_by_source(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """attention.attend, one source after the other, so that the scores of one stay in the caches."""

    def attend_one(source: tuple[Array, Array, Array, Array]) -> Array:
        q, keys, values, mask = (x[None] for x in source)
        return attention.attend(q, keys.mT, values, mask, scores, mix)[0]

    # The keys enter the loop untransposed: XLA cancels a double transpose inside the loop, not across its boundary.
    return jax.lax.map(attend_one, (q, keys.mT, values, jnp.broadcast_to(mask, (len(q), *mask.shape[1:]))))


@functools.cache
def available() -> bool:
    """Whether the CPU backend here has the call and it does what is asked: tried once, on products of whole numbers."""
    chance, T = np.random.default_rng(0), MIN_POSITIONS_TO_HEADS
    x, weight = (chance.integers(-9, 9, shape).astype(np.float32) for shape in ((2, T, 3), (3, 100)))
    q, keys = (chance.integers(-9, 9, shape).astype(np.float32) for shape in ((1, 2, T, 3), (1, 2, 3, 5)))
    panels = pack(weight, 50)
    tried = (
        (functools.partial(multiply, F=100), (x, panels), x @ weight),
        (to_heads, (x, panels), x[:, None] @ panels),
        (scores, (q, keys), q @ keys),
        (scores, (q[:, :, :1], keys), q[:, :, :1] @ keys),
        (mix, (q, keys), (q @ keys).swapaxes(1, 2)),
    )
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return all(np.array_equal(jax.jit(function)(*given), expected) for function, given, expected in tried)
    except jax.errors.JaxRuntimeError:  # no such call
        return False
