"""The decoder's KV cache: the keys and values of earlier positions, for self-attention, and how new ones are written.

Letters as in bart_oneliner; in addition N is the beams of a source, Q the positions that one call computes for a
source, and T the positions that the cache has room for. The N beams of a source share one pool of T·N entries: the
keys and values of position t of beam n are entry t·N + n, and `cache_indirection` says which entries a beam sees. A
beam that continues another beam therefore changes its row of `cache_indirection` and moves no keys or values.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_oneliner import Array, Config

# One layer's keys (B,H,K,entries) and values (B,H,entries,K). Keys are stored transposed, as products of queries take
# them.
LayerKV = tuple[Array, Array]
KEY_ENTRIES_AXIS = 3
VALUE_ENTRIES_AXIS = 2


class KVCache(NamedTuple):
    """What the decoder keeps of earlier target positions."""

    self_kv: list[LayerKV]  # for each decoder layer: keys (B,H,K,T·N) and values (B,H,T·N,K)
    cache_indirection: Array  # (B,N,T) int32: for each beam and position, the beam whose entry it sees; -1 for none


class LayerCache(NamedTuple):
    """One layer's part of a KV cache, and where a call writes into it."""

    keys: Array  # (B,H,K,T·N)
    values: Array  # (B,H,T·N,K)
    position: Array  # (B,) int32: the first position that is written
    N: int  # the beams of a source


def empty_cache(config: Config, B: int, N: int, T: int, dtype: jnp.dtype) -> KVCache:
    """A KV cache with room for T positions of N beams, in which no position has been written."""
    H = config.decoder_attention_heads
    K = config.d_model // H

    def empty_layer() -> LayerKV:
        return jnp.zeros((B, H, K, T * N), dtype), jnp.zeros((B, H, T * N, K), dtype)

    self_kv = [empty_layer() for _ in range(config.decoder_layers)]
    return KVCache(self_kv, jnp.full((B, N, T), -1, jnp.int32))


def visible_entries(cache_indirection: Array, position: Array, Q: int) -> tuple[Array, Array]:
    """The entries that Q new positions of a source see, and the cache_indirection that includes the new positions.

    cache_indirection (B,N,T): as before the call. position (B,): the first new position. Each of the N beams has Q/N
    new positions, and each of these sees the cache and the new positions of its beam up to itself.
    -> mask (B,1,Q,T·N) bool, cache_indirection (B,N,T)
    """
    B, N, T = cache_indirection.shape
    after_each_position = []
    for offset in range(Q // N):
        is_new = (jnp.arange(T) == position[:, None] + offset)[:, None]  # (B,1,T)
        cache_indirection = jnp.where(is_new, jnp.arange(N)[:, None], cache_indirection)
        after_each_position.append(cache_indirection)
    mask = jnp.concatenate(after_each_position, axis=1)[..., None] == jnp.arange(N)  # (B,Q,T,N)
    return mask.reshape(B, 1, Q, T * N), cache_indirection


def update_layer(cache: LayerCache, keys: Array, values: Array) -> LayerKV:
    """The layer's keys and values after the new positions' keys (B,H,K,Q) and values (B,H,Q,K) were written."""
    all_keys = update_cache(cache.keys, keys, cache.position, cache.N, KEY_ENTRIES_AXIS)
    all_values = update_cache(cache.values, values, cache.position, cache.N, VALUE_ENTRIES_AXIS)
    return all_keys, all_values


def update_cache(pool: Array, new: Array, position: Array, N: int, axis: int) -> Array:
    """A pool of keys (B,H,K,T·N) or values (B,H,T·N,K) with the entries of new positions written.

    new: keys (B,H,K,Q) or values (B,H,Q,K) of Q/N positions from position (B,) on, at most T of them. axis: the axis of
    the entries. Entries behind the pool's last position are dropped.
    """
    new = new.astype(pool.dtype)
    # On TPUs XLA compiles update_slices to a loop over rows and pads K to 128 in the pool's memory. Selecting over the
    # whole pool avoids both there; elsewhere it would rewrite the pool at every step.
    on_tpu = functools.partial(update_by_selection, N=N, axis=axis)
    elsewhere = functools.partial(update_slices, N=N, axis=axis)
    updated: Array = jax.lax.platform_dependent(pool, new, position, tpu=on_tpu, default=elsewhere)
    return updated


def update_slices(pool: Array, new: Array, position: Array, N: int, axis: int) -> Array:
    """`update_cache` by one dynamic_update_slice for each row."""
    Q, entries = new.shape[axis], pool.shape[axis]

    def update_row(pool: Array, new: Array, position: Array) -> Array:
        start = position * N
        if Q > N:
            # If Q entries do not fit behind `start`, dynamic_update_slice writes the slice further left, over older
            # entries. So the slice is made for that place: first the older entries that it covers, then the new ones.
            slice_start = jnp.minimum(start, entries - Q)
            old = jax.lax.dynamic_slice_in_dim(pool, slice_start, Q, axis - 1)
            is_old = (jnp.arange(Q) < start - slice_start).reshape(along(axis, Q)[1:])
            new = jnp.where(is_old, old, jnp.roll(new, start - slice_start, axis - 1))
        return jax.lax.dynamic_update_slice_in_dim(pool, new, start, axis - 1)

    return jax.vmap(update_row)(pool, new, position)


def update_by_selection(pool: Array, new: Array, position: Array, N: int, axis: int) -> Array:
    """`update_cache` by a jnp.where over the whole pool, which takes the new or the old value of each entry."""
    Q, entries = new.shape[axis], pool.shape[axis]
    entry = jnp.arange(entries)
    start = position[:, None] * N
    is_new = (entry >= start) & (entry < start + Q)
    is_new = is_new.reshape([-1, *along(axis, entries)[1:]])
    if Q > N:
        # The new entries are repeated over the whole pool below, each copy from a multiple of Q on. Rotating them puts
        # the first one at `start`, which is a multiple of N but not of Q.
        new = jax.vmap(functools.partial(jnp.roll, axis=axis - 1))(new, position * N % Q)
    copies = -(-entries // Q)
    repeated = jax.lax.slice_in_dim(jnp.concatenate([new] * copies, axis), 0, entries, axis=axis)
    return jnp.where(is_new, repeated, pool)


def along(axis: int, size: int) -> list[int]:
    """The shape of an array of four axes that has this size on one axis and 1 on the others, to broadcast with."""
    shape = [1, 1, 1, 1]
    shape[axis] = size
    return shape
