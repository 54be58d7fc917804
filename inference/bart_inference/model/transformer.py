"""The model on derived weights: prefill (a whole source at once), step (the next target tokens, with a cache), decode
(a known target at once).

Letters as in bart_oneliner; in addition N is a source's beams, and Q the query positions that a row's decoder computes
at once: its beams, its target's length, or several positions of each beam. `bart_oneliner.forward` is the
specification; both share layer_norm and the activation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.model import attention, onednn
from bart_inference.model.weights import Attention, linear, matmul, to_heads
from bart_oneliner import ACTIVATIONS, Array, Config, Params, einsum, layer_norm

Pair = tuple[Array, Array]  # a layer's keys, transposed as in attention, and values
Pairs = list[Pair]  # of every decoder layer
Attend = Callable[[Array, Array, Array, Array], Array]  # attention.attend or what computes the same


class Cache(NamedTuple):
    """The decoder's own past. A source's beams share one pool of keys and values, in which each sees its ancestors'.

    So a beam that takes over another's past changes its row of `lineage` and moves no keys or values.
    """

    own: Pairs  # per decoder layer, keys (B,H,K,T·N), values (B,H,T·N,K): position t of beam n is entry t·N + n
    lineage: Array  # (B,N,T) int32: the beam whose entry is this beam's past at each position, -1 where there is none


class Source(NamedTuple):
    """All that decoding needs of the sources: computed once, shared by a source's beams."""

    input_ids: Array  # (B,S) int32, -1 where the row was padded by us: what the encoder penalties read
    mask: Array  # (B,S) bool
    cross: Pairs  # per decoder layer, keys (B,H,K,S), values (B,H,S,K)


class Past(NamedTuple):
    """One layer's part of a cache, and where a call writes into it."""

    keys: Array  # (B,H,K,T·N)
    values: Array  # (B,H,T·N,K)
    position: Array  # (B,) int32: the first position that is written
    N: int  # entries of a position


def embed(side: Params, shared: Array, ids: Array, positions: Array, config: Config) -> Array:
    """ids (B,T) at absolute positions (B,T) or (T,) -> (B,T,D); row = position + 2."""
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    return layer_norm(shared[ids] * scale + side["embed_positions"][positions + 2], **side["layernorm_embedding"])


def layer(
    x: Array, seen: Array, p: Params, config: Config, H: int, attend: Attend,
    cross: tuple[Array, Array, Array] | None = None, past: Past | None = None,
) -> tuple[Array, Pair]:  # fmt: skip
    """An encoder's or a decoder's layer: x (B,Q,D) -> (B,Q,D), and the keys and values that its Q positions looked at.

    These are the Q positions' own or, with a past, its entries with theirs among them. seen is bool and broadcast to
    (B,1,Q,entries). cross is the source's keys and values and their mask, for a decoder's layer that looks at a source.
    """
    q, k, v = to_heads(x, p["qkv"], H)
    keys, values = k.mT, v
    if past is not None:
        keys = write(past.keys, keys, past.position, past.N, 3)
        values = write(past.values, values, past.position, past.N, 2)
    x = residual(x, attend(q, keys, values, seen), p["out"], p["norm"])
    if cross is not None:
        [q] = to_heads(x, p["cross_q"], H)
        x = residual(x, attend(q, *cross), p["cross_out"], p["cross_norm"])
    hidden = ACTIVATIONS[config.activation_function](linear(x, **p["fc1"]))
    return residual(x, hidden, p["fc2"], p["final_norm"]), (keys, values)


def residual(x: Array, y: Array, projection: Params, norm: Params) -> Array:
    """x plus the projection of y, normed: how every part of a layer ends."""
    return layer_norm(x + linear(y, **projection), **norm)


def attention_of(weights: Params) -> Attend:
    return onednn.attend if weights["attention"] is Attention.ONEDNN else attention.attend


def encode(weights: Params, config: Config, input_ids: Array, positions: Array, visible: Array) -> Array:
    """input_ids (B,S) at positions (B,S) or (S,) -> the encoder's last hidden states (B,S,D).

    visible: bool, (B,S) for the keys that every query sees, or (B,S,S) for those that each query sees.
    """
    side, H, attend = weights["encoder"], config.encoder_attention_heads, attention_of(weights)
    x = embed(side, weights["shared"], input_ids, positions, config)
    seen = visible.reshape(visible.shape[0], 1, -1, visible.shape[-1])
    for p in side["layers"]:
        x, _ = layer(x, seen, p, config, H, attend)
    return x


def prefill(weights: Params, config: Config, input_ids: Array, mask: Array) -> Source:
    """Run the encoder and project every decoder layer's cross-attention keys and values, once for all steps and beams.

    input_ids (B,S) int32 with -1 for our padding, mask (B,S) bool.
    """
    ids = jnp.where(input_ids < 0, config.pad_token_id, input_ids)
    hidden = encode(weights, config, ids, jnp.arange(ids.shape[1]), mask)
    return Source(input_ids, mask, project(weights, config, hidden))


def prefill_packed(weights: Params, config: Config, input_ids: Array, positions: Array) -> Pairs:
    """prefill for several sources behind each other in a row; `unpack` takes them apart.

    input_ids and positions (B,L) int32: a source begins where the position is 0 and sees itself alone; what is left of
    a row has position 0 throughout. Of each source the same numbers come out wherever in the row it lies, to the bit as
    long as L is one block of the attention's sums: tested up to 128 on XLA:CPU, seen to end between 256 and 512.
    """
    source = jnp.cumsum(positions == 0, axis=1)
    hidden = encode(weights, config, input_ids, positions, source[:, :, None] == source[:, None, :])
    return project(weights, config, hidden)


def unpack(packed: Pairs, input_ids: Array, row: Array, start: Array, length: Array, S: int) -> Source:
    """One of prefill_packed's sources as a Source of one row, padded to S: its row, where it starts, its tokens."""
    real = jnp.arange(S) < length

    def cut(x: Array, axis: int, filler: int = 0) -> Array:
        alone = jax.lax.dynamic_index_in_dim(x, row, 0)
        padded = jnp.pad(alone, [(0, S if i == axis else 0) for i in range(x.ndim)])
        found = jax.lax.dynamic_slice_in_dim(padded, start, S, axis)
        return jnp.where(real.reshape([S if i == axis else 1 for i in range(x.ndim)]), found, filler)

    return Source(cut(input_ids, 1, -1), real[None], [(cut(k, 3), cut(v, 2)) for k, v in packed])


def project(weights: Params, config: Config, hidden: Array) -> Pairs:
    """The encoder's hidden states (B,S,D) -> every decoder layer's cross-attention keys and values."""
    H = config.decoder_attention_heads
    pairs = (to_heads(hidden, p["cross_kv"], H) for p in weights["decoder"]["layers"])
    return [(k.mT, v) for k, v in pairs]


def decode(
    weights: Params, config: Config, ids: Array, mask: Array, cross: Pairs | None, cross_mask: Array | None
) -> Array:
    """All positions of known target ids at once, for the task heads: (B,T) -> the last hidden states (B,T,D).

    mask (B,T) and cross_mask (B,S) bool, true for keys that may be looked at; cross is project's result. Without it
    the decoder is a language model by itself and its cross-attention is skipped.
    """
    T = ids.shape[1]
    causal = jnp.tril(jnp.ones((T, T), bool)) & mask[:, None, None, :]
    return decoder(weights, config, ids, jnp.arange(T), causal, cross, cross_mask)[0]


def decoder(
    weights: Params, config: Config, ids: Array, positions: Array, seen: Array,
    cross: Pairs | None, cross_mask: Array | None, pasts: list[Past] | None = None,
) -> tuple[Array, Pairs]:  # fmt: skip
    """All layers over ids (B,Q) at positions (B,Q) or (Q,) -> the last hidden states (B,Q,D); see `layer`."""
    side, H, attend = weights["decoder"], config.decoder_attention_heads, attention_of(weights)
    x = embed(side, weights["shared"], ids, positions, config)
    own: Pairs = []
    for i, p in enumerate(side["layers"]):
        source = None if cross is None or cross_mask is None else (*cross[i], cross_mask[:, None, None, :])
        x, pair = layer(x, seen, p, config, H, attend, source, None if pasts is None else pasts[i])
        own.append(pair)
    return x, own


def empty_cache(config: Config, B: int, N: int, T: int, dtype: jnp.dtype) -> Cache:
    """A cache with room for T positions of N beams."""
    H = config.decoder_attention_heads
    K = config.d_model // H
    own = [
        (jnp.zeros((B, H, K, T * N), dtype), jnp.zeros((B, H, T * N, K), dtype)) for _ in range(config.decoder_layers)
    ]
    return Cache(own, jnp.full((B, N, T), -1, jnp.int32))


def step(
    weights: Params, config: Config, source: Source, cache: Cache, tokens: Array, position: Array
) -> tuple[Array, Cache]:
    """The next decoder positions of every beam: one with Q = N tokens, n with Q = n·N.

    tokens (B,Q), of which t·N + n is beam n's at position + t; position (B,) is each source's own. The cache holds the
    positions before and nothing behind them; of the new ones it keeps those for which it has room.
    -> logits (B,Q,V), at least float32, and the cache with these positions written.
    """
    (B, Q), (N, T) = tokens.shape, cache.lineage.shape[1:]
    positions = position[:, None] + np.arange(Q) // N  # (B,Q)
    lineage, lineages = cache.lineage, []
    for n in range(Q // N):  # each position sees what is written up to its own
        here = (jnp.arange(T) == position[:, None] + n)[:, None]  # (B,1,T)
        lineage = jnp.where(here, jnp.arange(N)[:, None], lineage)
        lineages.append(lineage)
    # A source's beams are queries side by side, (B,H,Q,K), of its one pool of entries.
    seen = jnp.concatenate(lineages, axis=1)[..., None] == jnp.arange(N)  # (B,Q,T,N)
    pasts = [Past(keys, values, position, N) for keys, values in cache.own]
    x, own = decoder(weights, config, tokens, positions, seen.reshape(B, 1, Q, T * N), source.cross, source.mask, pasts)
    return lm_head(weights, x), Cache(own, lineage)


def write(pool: Array, new: Array, position: Array, N: int, axis: int) -> Array:
    """A pool of keys (B,H,K,T·N) or values (B,H,T·N,K) with new entries of the positions from position (B,) on.

    axis: the one of the entries, 3 for keys and 2 for values. New are at most as many as the pool has, N for each
    position. Those behind the last position are dropped.
    """
    new = new.astype(pool.dtype)
    # XLA:TPU turns the update into a loop over rows, and its pool into a layout that pads K to 128.
    tpu, default = (functools.partial(f, N=N, axis=axis) for f in (write_everywhere, write_slices))
    return jax.lax.platform_dependent(pool, new, position, tpu=tpu, default=default)


def write_slices(pool: Array, new: Array, position: Array, N: int, axis: int) -> Array:
    """`write`, entry by entry."""
    Q, entries = new.shape[axis], pool.shape[axis]

    def write_row(pool: Array, new: Array, position: Array) -> Array:
        start = position * N
        if Q > N:  # one position always fits; where several do not, dynamic_update_slice would begin further left
            left = jnp.minimum(start, entries - Q)
            old = jax.lax.dynamic_slice_in_dim(pool, left, Q, axis - 1)
            kept = (jnp.arange(Q) < start - left).reshape([Q if i == axis else 1 for i in (1, 2, 3)])
            new = jnp.where(kept, old, jnp.roll(new, start - left, axis - 1))
        return jax.lax.dynamic_update_slice_in_dim(pool, new, start, axis - 1)

    return jax.vmap(write_row)(pool, new, position)


def write_everywhere(pool: Array, new: Array, position: Array, N: int, axis: int) -> Array:
    """`write`, as a choice between old and new for every entry of the pool."""
    Q, entries = new.shape[axis], pool.shape[axis]
    entry, start = jnp.arange(entries), position[:, None] * N
    here = (entry >= start) & (entry < start + Q)
    here = here.reshape([-1, *(entries if i == axis else 1 for i in (1, 2, 3))])
    if Q > N:  # the repeated entries below begin at a multiple of N, but not of Q
        new = jax.vmap(functools.partial(jnp.roll, axis=axis - 1))(new, position * N % Q)
    repeated = jax.lax.slice_in_dim(jnp.concatenate([new] * -(-entries // Q), axis), 0, entries, axis=axis)
    return jnp.where(here, repeated, pool)


def lm_head(weights: Params, x: Array) -> Array:
    """(B,T,D) -> (B,T,V), accumulated and returned in at least float32."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if "head" in weights:
        logits = matmul(x, weights["head"], dtype)
    else:
        logits = einsum("btd,vd->btv", x, weights["shared"], preferred_element_type=dtype)
    return logits + weights["final_logits_bias"]
