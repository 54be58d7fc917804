"""Selects entries of arrays: the indices of the highest scores, and the entries of chosen beams."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bart_oneliner import Array

BLOCK_SCORES = 128  # scores in one block of `top_indices`


def top_indices(x: Array, n: int) -> Array:
    """The indices of the n highest values of x (B,M), descending -> (B,n). Of equal values the first comes first.

    The same as jax.lax.top_k, which on XLA:CPU sorts all M values on one core. The n highest values can only be in the
    n blocks with the highest maxima, and maxima are fast to compute. So only these blocks are sorted.
    """
    B, M = x.shape
    in_blocks = M - M % BLOCK_SCORES
    if in_blocks <= n * BLOCK_SCORES:
        return jax.lax.top_k(x, n)[1]
    maxima = x[:, :in_blocks].reshape(B, -1, BLOCK_SCORES).max(-1)
    blocks = jax.lax.top_k(maxima, n)[1]
    # Blocks in ascending order keep the first of equal values first.
    index = (jnp.sort(blocks)[..., None] * BLOCK_SCORES + jnp.arange(BLOCK_SCORES)).reshape(B, -1)
    behind_blocks = jnp.broadcast_to(jnp.arange(in_blocks, M), (B, M - in_blocks))
    index = jnp.concatenate([index, behind_blocks], 1)
    best = jax.lax.top_k(jnp.take_along_axis(x, index, 1), n)[1]
    return jnp.take_along_axis(index, best, 1)


def entry_at(x: Array, index: Array) -> Array:
    """The entry of each row of x (B,M) at its index (B,) -> (B,)."""
    return jnp.take_along_axis(x, index[:, None], 1)[:, 0]


def gather_beams(x: Array, index: Array) -> Array:
    """x (B,M,…) at indices (B,n) of its second axis -> (B,n,…)."""
    trailing = [1] * (x.ndim - 2)
    return jnp.take_along_axis(x, index.reshape(*index.shape, *trailing), 1)
