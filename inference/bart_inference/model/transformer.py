"""The model on derived weights: prefill (a whole source at once), step (one target token, cached), decode (a known
target at once).

Letters as in bart_oneliner; in addition N is a source's beams. `bart_oneliner.forward` is the specification; both share
layer_norm and the activation. Attention is written again, for keys that lie transposed.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.model import onednn
from bart_oneliner import ACTIVATIONS, Array, Config, Params, einsum, layer_norm

# Per layer, keys and values. Keys lie transposed: a few queries then multiply with rows that are long and whole.
Pairs = list[tuple[Array, Array]]


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


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """x (…,D), bias (F,) -> (…,F); weight (D,F), or its panels where the layout is oneDNN's."""
    return multiply(x, weight, len(bias), x.dtype) + bias


def multiply(x: Array, weight: Array, F: int, dtype: jnp.dtype) -> Array:
    """x (…,D) with weight (D,F) or its panels -> (…,F), in dtype; panels are always float32."""
    if weight.ndim == 3:
        return onednn.multiply(x, weight, F)
    return einsum("...d,df->...f", x, weight, preferred_element_type=dtype)


def heads(x: Array, H: int) -> Array:
    """(B,T,D) -> (B,H,T,K)."""
    return x.reshape(*x.shape[:2], H, -1).swapaxes(1, 2)


def to_heads(x: Array, p: Params, H: int) -> list[Array]:
    """x (B,T,D) by the projections that are fused in p -> (B,H,T,K) of each."""
    (_, T, D), weight, bias = x.shape, p["weight"], p["bias"]
    if weight.ndim == 3 and T >= onednn.MANY:
        return jnp.split(onednn.to_heads(x, weight) + bias.reshape(-1, 1, D // H), len(bias) // D, axis=1)
    return [heads(y, H) for y in jnp.split(linear(x, weight, bias), len(bias) // D, axis=-1)]


def attend(p: Params, q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """bart_oneliner.attend with the keys transposed: q (B,H,T,K), keys (B,H,K,S), values (B,H,S,K) -> (B,T,D).

    Its products are oneDNN's if layer p is in that layout and they are worth it (XLA reads the keys of one query at
    twice the speed); scores that outgrow every cache are then computed source by source.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    (B, H, T, _), S = q.shape, keys.shape[3]
    by_onednn = p["out"]["weight"].ndim == 3 and T * keys.size >= onednn.WORTH
    by_xla = functools.partial(einsum, "bhtn,bhnm->bhtm", preferred_element_type=wide)
    score = onednn.scores if by_onednn and T > 1 else by_xla
    mix = onednn.mix if by_onednn else lambda attention, values: by_xla(attention, values).swapaxes(1, 2)

    def attended(q: Array, keys: Array, values: Array, mask: Array) -> Array:
        scores = jnp.where(mask, score(q, keys) * q.shape[3] ** -0.5, jnp.finfo(wide).min)
        return mix(jax.nn.softmax(scores).astype(values.dtype), values).astype(values.dtype)

    if not by_onednn or B * H * T * S < onednn.MUCH:
        return attended(q, keys, values, mask).reshape(B, T, -1)

    def alone(source: tuple[Array, Array, Array, Array]) -> Array:
        q, keys, values, mask = (x[None] for x in source)
        return attended(q, keys.mT, values, mask)[0]

    # The keys enter the loop as a projection made them: XLA drops transposing twice on one side of its border only.
    mask = jnp.broadcast_to(mask, (B, *mask.shape[1:]))
    return jax.lax.map(alone, (q, keys.mT, values, mask)).reshape(B, T, -1)


def feed_forward(x: Array, p: Params, config: Config) -> Array:
    hidden = ACTIVATIONS[config.activation_function](linear(x, **p["fc1"]))
    return layer_norm(x + linear(hidden, **p["fc2"]), **p["final_norm"])


def embed(side: Params, shared: Array, ids: Array, positions: Array, config: Config) -> Array:
    """ids (B,T) at absolute positions (B,T) or (T,) -> (B,T,D); row = position + 2."""
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    return layer_norm(shared[ids] * scale + side["embed_positions"][positions + 2], **side["layernorm_embedding"])


def encode(weights: Params, config: Config, input_ids: Array, positions: Array, visible: Array) -> Array:
    """input_ids (B,S) at positions (B,S) or (S,) -> the encoder's last hidden states (B,S,D).

    visible: bool, (B,S) for the keys that every query sees, or (B,S,S) for those that each query sees.
    """
    side, H = weights["encoder"], config.encoder_attention_heads
    x = embed(side, weights["shared"], input_ids, positions, config)
    seen = visible.reshape(visible.shape[0], 1, -1, visible.shape[-1])
    for p in side["layers"]:
        q, k, v = to_heads(x, p["qkv"], H)
        attended = attend(p, q, k.mT, v, seen)
        x = feed_forward(layer_norm(x + linear(attended, **p["out"]), **p["norm"]), p, config)
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
    side, H, T = weights["decoder"], config.decoder_attention_heads, ids.shape[1]
    x = embed(side, weights["shared"], ids, jnp.arange(T), config)
    causal = jnp.tril(jnp.ones((T, T), bool)) & mask[:, None, None, :]
    for i, p in enumerate(side["layers"]):
        q, k, v = to_heads(x, p["qkv"], H)
        x = layer_norm(x + linear(attend(p, q, k.mT, v, causal), **p["out"]), **p["norm"])
        if cross is not None and cross_mask is not None:
            keys, values = cross[i]
            [q] = to_heads(x, p["cross_q"], H)
            attended = attend(p, q, keys, values, cross_mask[:, None, None, :])
            x = layer_norm(x + linear(attended, **p["cross_out"]), **p["cross_norm"])
        x = feed_forward(x, p, config)
    return x


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
    """One decoder position for every beam.

    tokens (B,N) at position (B,), which is each source's own; the cache holds the positions before.
    -> logits (B,N,V), at least float32, and the cache with this position written.
    """
    (B, N), T, H = tokens.shape, cache.lineage.shape[2], config.decoder_attention_heads
    side = weights["decoder"]
    x = embed(side, weights["shared"], tokens, jnp.broadcast_to(position[:, None], (B, N)), config)  # (B,N,D)
    here = (jnp.arange(T) == position[:, None])[:, None]  # (B,1,T)
    lineage = jnp.where(here, jnp.arange(N)[:, None], cache.lineage)
    seen = (lineage[..., None] == jnp.arange(N)).reshape(B, 1, N, T * N)
    own: Pairs = []
    for p, (keys, values), (cross_k, cross_v) in zip(side["layers"], cache.own, source.cross, strict=True):
        # A source's beams are queries side by side, (B,H,N,K), of its pool and of the source alike.
        q, k, v = to_heads(x, p["qkv"], H)
        keys, values = write(keys, k.mT, position, 3), write(values, v, position, 2)
        own.append((keys, values))
        x = layer_norm(x + linear(attend(p, q, keys, values, seen), **p["out"]), **p["norm"])
        [q] = to_heads(x, p["cross_q"], H)
        attended = attend(p, q, cross_k, cross_v, source.mask[:, None, None, :])
        x = layer_norm(x + linear(attended, **p["cross_out"]), **p["cross_norm"])
        x = feed_forward(x, p, config)
    return lm_head(weights, x), Cache(own, lineage)


def write(pool: Array, new: Array, position: Array, axis: int) -> Array:
    """Keys (B,H,K,T·N) or values (B,H,T·N,K), N new entries of each source, position (B,) -> the pool with them there.

    axis: the one of the entries, 3 for keys and 2 for values.
    """
    N, entries = new.shape[axis], pool.shape[axis]

    def update(pool: Array, new: Array, position: Array) -> Array:
        at = lambda row, entry, t: jax.lax.dynamic_update_slice_in_dim(row, entry, t * N, axis - 1)
        return jax.vmap(at)(pool, new, position)

    def select(pool: Array, new: Array, position: Array) -> Array:
        here = jnp.expand_dims(jnp.arange(entries) // N == position[:, None], {2: (1, 3), 3: (1, 2)}[axis])
        return jnp.where(here, jnp.concatenate([new] * (entries // N), axis), pool)

    # XLA:TPU turns the update into a loop over rows, and its pool into a layout that pads K to 128.
    return jax.lax.platform_dependent(pool, new.astype(pool.dtype), position, tpu=select, default=update)


def lm_head(weights: Params, x: Array) -> Array:
    """(B,T,D) -> (B,T,V), accumulated and returned in at least float32."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if "head" in weights:
        logits = multiply(x, weights["head"], len(weights["final_logits_bias"]), dtype)
    else:
        logits = einsum("btd,vd->btv", x, weights["shared"], preferred_element_type=dtype)
    return logits + weights["final_logits_bias"]
