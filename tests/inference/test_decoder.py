"""decode_step gives the same logits for single positions, for several positions at once, and for a whole target."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference.generation.indexing import gather_beams
from bart_inference.model.cache import KVCache, empty_cache, update_by_selection, update_slices
from bart_inference.model.transformer import decode_step, prefill

from bart_oneliner import Array
from tests.inference.cases import checkpoint
from tests.twins import assert_close, batch, torch_logits

B, T = 3, 16
jit_step = jax.jit(decode_step, static_argnums=1)


def as_written(pool: np.ndarray, new: np.ndarray, position: np.ndarray, N: int, axis: int) -> np.ndarray:
    """The cache `pool` after row i has written its entries `new` from its position on, computed entry by entry."""
    expected, entries = np.moveaxis(pool.copy(), axis, 1), np.moveaxis(new, axis, 1)
    for row in range(len(pool)):
        for i in range(entries.shape[1]):
            if (entry := position[row] * N + i) < expected.shape[1]:
                expected[row, entry] = entries[row, i]
    return np.moveaxis(expected, 1, axis)


@pytest.mark.parametrize("write", [update_slices, update_by_selection])
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize(("N", "n"), [(1, 1), (4, 1), (1, 4), (3, 4), (2, T)])
def test_entries_written_at_the_end_of_a_cache_overwrite_no_older_ones(
    write: Callable[..., Array], axis: int, N: int, n: int
) -> None:
    """Rows write at the start, in the middle and at the last three positions. Entries beyond the end are dropped."""
    rng = np.random.default_rng(n)
    position = np.array([0, 7, T - 3, T - 2, T - 1], np.int32)
    shape = [len(position), 2, 5, 5]
    shape[axis] = T * N
    pool = rng.standard_normal(shape, np.float32)
    shape[axis] = n * N
    new = rng.standard_normal(shape, np.float32)
    ours = jax.jit(write, static_argnames=("N", "axis"))(pool, new, position, N=N, axis=axis)
    np.testing.assert_array_equal(ours, as_written(pool, new, position, N, axis))


def one_by_one(
    prepared, source, tokens: np.ndarray, position: np.ndarray, cache: KVCache
) -> tuple[list[np.ndarray], KVCache]:
    """Decodes tokens (B,n,N) one position after the other; returns each position's logits (B,N,V) and the cache."""
    logits = []
    for t in range(tokens.shape[1]):
        step_logits, cache = jit_step(prepared.weights, prepared.config, source, cache, tokens[:, t], position + t)
        logits.append(np.asarray(step_logits))
    return logits, cache


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("start", [0, 5, T - 3, T - 2, T - 1])
def test_several_positions_at_once_are_those_one_by_one(N: int, start: int) -> None:
    """Rows are at different positions, up to the cache's last one, and their beams have swapped places before."""
    _, prepared = checkpoint("uneven")
    x, rng, n = batch(prepared.config, B=B, S=11), np.random.default_rng(start), 4
    source = prefill(prepared.weights, prepared.config, x["input_ids"], x["attention_mask"].astype(bool))
    cache = empty_cache(prepared.config, B, N, T, jnp.float32)
    position = np.maximum(start - np.arange(B), 0).astype(np.int32)
    tokens = rng.integers(4, 99, (B, T + n, N)).astype(np.int32)
    for t in range(start):  # a row with fewer than `start` positions writes its last position several times
        at = np.minimum(t, np.maximum(position - 1, 0)).astype(np.int32)
        _, cache = jit_step(prepared.weights, prepared.config, source, cache, tokens[np.arange(B), at], at)
        parents = jnp.asarray(rng.integers(0, N, (B, N)))
        written = np.arange(T) < position[:, None]
        cache_indirection = jnp.where(jnp.asarray(written)[:, None], gather_beams(cache.cache_indirection, parents), -1)
        cache = cache._replace(cache_indirection=cache_indirection)
    following = rng.integers(4, 99, (B, n, N)).astype(np.int32)
    together, after = jit_step(prepared.weights, prepared.config, source, cache, following.reshape(B, n * N), position)
    expected, cache = one_by_one(prepared, source, following, position, cache)
    for t, logits in enumerate(expected):
        fits = (position + t < T)[:, None, None]
        assert_close(np.asarray(together)[:, t * N : (t + 1) * N], logits, what=f"position {t}", where=fits)
    whole = start + n <= T
    assert np.array_equal(after.cache_indirection, cache.cache_indirection) or not whole
    for a, b in zip(jax.tree.leaves(after.self_kv), jax.tree.leaves(cache.self_kv), strict=True):
        assert_close(a, b, what="cache", where=whole)


def test_a_whole_target_in_one_step_has_the_logits_of_pytorch() -> None:
    twin, prepared = checkpoint("uneven")
    x = batch(twin.config, B=B, S=11, T=9)
    del x["decoder_attention_mask"]
    source = prefill(prepared.weights, twin.config, x["input_ids"], x["attention_mask"].astype(bool))
    cache = empty_cache(twin.config, B, 1, T, jnp.float32)
    logits, _ = jit_step(prepared.weights, twin.config, source, cache, x["decoder_input_ids"], np.zeros(B, np.int32))
    assert_close(logits, torch_logits(twin, x))
