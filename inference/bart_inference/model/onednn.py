"""Matrix products and attention by oneDNN, the kernel library inside jaxlib's CPU backend.

XLA has a custom call for oneDNN's matmul, which this module calls by its name, TARGET. A decoding step multiplies a few
rows with each large matrix. XLA's own CPU product reads the matrix at a third of the memory's bandwidth. oneDNN reads
it at full bandwidth if it is stored as panels of 64 columns, so that each core reads a panel from front to back: (D,F)
becomes (F/64,D,64), and the product becomes a batched one, with one panel in each batch. Panels are ordinary arrays;
nothing depends on oneDNN's internal formats. Where the call is missing (another processor, another jaxlib), `available`
is false and no other function of this module is used.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.model import attention
from bart_oneliner import Array

PANEL = 64  # columns of a panel
MIN_ATTENTION_MULTIPLY_ADDS = 2**21  # for fewer, waking the other cores costs more time than they save
MIN_SCORES_BY_SOURCE = 2**25  # elements of a score array (B,H,T,S); a larger one is computed source by source
MIN_POSITIONS_TO_HEADS = 16  # for fewer, one product for each head's panel is slower than one product for all heads
TARGET = "__onednn$matmul"
Settings = dict[str, Any]  # the fields of XLA's OneDnnMatMulConfig
# "dimensions" is the order in which the axes of the result lie in memory, counted from 1.
ROWS_FIRST: Settings = {"result": {"tensor": {"dimensions": [2, 1, 3]}}}  # (panels,rows,64), stored as (rows,panels,64)
HEADS_LAST: Settings = {"result": {"tensor": {"dimensions": [1, 3, 2, 4]}}}  # (B,H,T,K), stored as (B,T,H,K)


def call(settings: Settings, shape: tuple[int, ...], x: Array, y: Array, dtype: Any = jnp.float32) -> Array:
    """oneDNN's batched matmul of two arrays of one dtype, whose axes before the last two are batches.

    float32 and bfloat16 are accumulated in float32, int8 in int32. shape and dtype: of the result.
    """
    product = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct(shape, dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": settings}),
    )
    return product(x, y)


def to_panels(weight: Any, width: int = PANEL) -> Any:
    """A matrix (D,F) -> its P panels of columns (P,D,width), the last one filled with zeros. numpy or jax arrays."""
    xp = weight.__array_namespace__()
    D, F = weight.shape
    missing = -F % width
    if missing:
        weight = xp.concat([weight, xp.zeros((D, missing), weight.dtype)], axis=1)
    return weight.reshape(D, -1, width).swapaxes(0, 1)


def multiply(x: Array, panels: Array, F: int, dtype: Any = jnp.float32) -> Array:
    """x (…,D) with the panels (P,D,width) of a matrix (D,F) -> (…,F) of a dtype."""
    rows = x.reshape(1, -1, x.shape[-1])
    shape = (rows.shape[1], panels.shape[0], panels.shape[2])
    product = call(ROWS_FIRST, shape, rows, panels, dtype)
    return product.reshape(*x.shape[:-1], -1)[..., :F]


def to_heads(x: Array, panels: Array, dtype: Any = jnp.float32) -> Array:
    """x (B,T,D) with panels (P,D,K) that hold one head each -> (B,P,T,K), which needs no transposition afterwards."""
    shape = (x.shape[0], panels.shape[0], x.shape[1], panels.shape[2])
    return call({}, shape, x[:, None], panels[None], dtype)


def scores(q: Array, keys: Array) -> Array:
    """q (B,H,T,K) with keys (B,H,K,S) -> (B,H,T,S)."""
    shape = (*q.shape[:3], keys.shape[3])
    if q.shape[2] >= MIN_POSITIONS_TO_HEADS:
        # The encoder transposes its keys just before this. XLA removes that transposition together with this one.
        return call({"transpose_b": True}, shape, q, keys.mT)
    return call({}, shape, q, keys)


def mix_values(weights: Array, values: Array) -> Array:
    """Attention weights (B,H,T,S) with values (B,H,S,K) -> (B,T,H,K)."""
    B, H, T, _ = weights.shape
    return call(HEADS_LAST, (B, T, H, values.shape[3]), weights, values)


def attend(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """attention.attend, with oneDNN's products where they are faster than XLA's."""
    B, H, T, _ = q.shape
    S = keys.shape[3]
    is_bfloat16 = keys.dtype == jnp.bfloat16
    if T * keys.size < MIN_ATTENTION_MULTIPLY_ADDS:
        if is_bfloat16 and T == 1:
            # XLA takes three times as long for a single query in bfloat16 as for two.
            return attention.attend(jnp.concatenate([q, q], axis=2), keys, values, mask)[:, :1]
        return attention.attend(q, keys, values, mask)
    if B * H * T * S >= MIN_SCORES_BY_SOURCE:
        return attend_by_source(q, keys, values, mask)
    # XLA reads the float32 keys of a single query at twice oneDNN's speed.
    scores_product = scores if T > 1 or is_bfloat16 else attention.scores
    return attention.attend(q, keys, values, mask, scores_product, mix_values)


def attend_by_source(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """attention.attend in a loop over sources, so that the scores of one source stay in the processor's caches."""

    def attend_one(source: tuple[Array, Array, Array, Array]) -> Array:
        q, keys, values, mask = (x[None] for x in source)
        return attention.attend(q, keys.mT, values, mask, scores, mix_values)[0]

    masks = jnp.broadcast_to(mask, (len(q), *mask.shape[1:]))
    # Keys enter the loop untransposed: XLA cancels a double transposition inside the loop, not across its boundary.
    attended: Array = jax.lax.map(attend_one, (q, keys.mT, values, masks))
    return attended


@functools.cache
def available(dtype: str = "float32") -> bool:
    """Whether the CPU backend of this process has oneDNN's custom call and computes right results with it.

    dtype: "float32", "bfloat16" or "int8", in which the products with panels are tried, and attention unless it is
    int8. The trials are products of small whole numbers, which are exact in each dtype; those of int8 have its largest
    numbers too, whose sums overflow in the int8 instructions of older processors.
    """
    rng = np.random.default_rng(0)
    operand, result = (jnp.int8, jnp.int32) if dtype == "int8" else (jnp.dtype(dtype), jnp.float32)
    limit = 127 if dtype == "int8" else 9
    T = MIN_POSITIONS_TO_HEADS

    def numbers(*shape: int) -> np.ndarray:
        return rng.integers(-limit, limit + 1, shape).astype(np.float32)

    x, weight = numbers(2, T, 48), numbers(48, 100)
    x[0, 0], weight[:, 0] = limit, limit
    q, keys = numbers(1, 2, T, 3), numbers(1, 2, 3, 5)
    first_query = q[:, :, :1]
    panels = to_panels(weight, 50)
    trials: list[tuple[Callable[..., Array], tuple[np.ndarray, np.ndarray], np.ndarray]] = [
        (functools.partial(multiply, F=100, dtype=result), (x, panels), x @ weight),
        (functools.partial(to_heads, dtype=result), (x, panels), x[:, None] @ panels),
    ]
    if dtype != "int8":
        trials += [
            (scores, (q, keys), q @ keys),
            (scores, (first_query, keys), first_query @ keys),
            (mix_values, (q, keys), (q @ keys).swapaxes(1, 2)),
        ]
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            for function, arguments, expected in trials:
                operands = [jnp.asarray(argument, operand) for argument in arguments]
                if not np.array_equal(jax.jit(function)(*operands), expected):
                    return False
    except jax.errors.JaxRuntimeError:  # this jaxlib has no such call
        return False
    return True
