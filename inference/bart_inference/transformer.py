"""The model on derived weights: prefill (the whole source at once), step (one target token, cached), decode (a known
target at once).

Letters as in bart_oneliner; in addition R is rows, B·beams. `bart_oneliner.forward` is the specification; both share
layer_norm, attend and the activation, so that what differs is only what is remembered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_oneliner import ACTIVATIONS, Array, Config, Params, attend, einsum, layer_norm

Cache = list[tuple[Array, Array]]  # a layer's keys and values


class Source(NamedTuple):
    """All that decoding needs of the sources: computed once, shared by a source's beams."""

    input_ids: Array  # (B,S) int32, -1 where the row was padded by us: what the encoder penalties read
    mask: Array  # (B,S) bool
    cross: Cache  # per decoder layer, keys and values (B,H,S,K)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    return einsum("...d,df->...f", x, weight) + bias


def heads(x: Array, H: int) -> Array:
    """(B,T,D) -> (B,H,T,K)."""
    return x.reshape(*x.shape[:2], H, -1).swapaxes(1, 2)


def flat(x: Array) -> Array:
    """(B,H,T,K) -> (B,T,D)."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def feed_forward(x: Array, p: Params, config: Config) -> Array:
    hidden = ACTIVATIONS[config.activation_function](linear(x, **p["fc1"]))
    return layer_norm(x + linear(hidden, **p["fc2"]), **p["final_norm"])


def embed(side: Params, shared: Array, ids: Array, positions: Array, config: Config) -> Array:
    """ids (B,T) at absolute positions (B,T) or (T,) -> (B,T,D); row = position + 2."""
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    return layer_norm(shared[ids] * scale + side["embed_positions"][positions + 2], **side["layernorm_embedding"])


def encode(weights: Params, config: Config, input_ids: Array, mask: Array) -> Array:
    """input_ids and mask (B,S) -> the encoder's last hidden states (B,S,D)."""
    side, H = weights["encoder"], config.encoder_attention_heads
    x = embed(side, weights["shared"], input_ids, jnp.arange(input_ids.shape[1]), config)
    for p in side["layers"]:
        q, k, v = (heads(y, H) for y in jnp.split(linear(x, **p["qkv"]), 3, axis=-1))
        attended = flat(attend(q, k, v, mask[:, None, None, :]))
        x = feed_forward(layer_norm(x + linear(attended, **p["out"]), **p["norm"]), p, config)
    return x


def prefill(weights: Params, config: Config, input_ids: Array, mask: Array) -> Source:
    """Run the encoder and project every decoder layer's cross-attention keys and values, once for all steps and beams.

    input_ids (B,S) int32 with -1 for our padding, mask (B,S) bool.
    """
    hidden = encode(weights, config, jnp.where(input_ids < 0, config.pad_token_id, input_ids), mask)
    return Source(input_ids, mask, project(weights, config, hidden))


def project(weights: Params, config: Config, hidden: Array) -> Cache:
    """The encoder's hidden states (B,S,D) -> every decoder layer's cross-attention keys and values."""
    pairs = (jnp.split(linear(hidden, **p["cross_kv"]), 2, axis=-1) for p in weights["decoder"]["layers"])
    return [(heads(k, config.decoder_attention_heads), heads(v, config.decoder_attention_heads)) for k, v in pairs]


def decode(
    weights: Params, config: Config, ids: Array, mask: Array, cross: Cache | None, cross_mask: Array | None
) -> Array:
    """All positions of known target ids at once, for the task heads: (B,T) -> the last hidden states (B,T,D).

    mask (B,T) and cross_mask (B,S) bool, true for keys that may be looked at; cross is project's result. Without it
    the decoder is a language model by itself and its cross-attention is skipped.
    """
    side, H, T = weights["decoder"], config.decoder_attention_heads, ids.shape[1]
    x = embed(side, weights["shared"], ids, jnp.arange(T), config)
    causal = jnp.tril(jnp.ones((T, T), bool)) & mask[:, None, None, :]
    for i, p in enumerate(side["layers"]):
        q, k, v = (heads(y, H) for y in jnp.split(linear(x, **p["qkv"]), 3, axis=-1))
        x = layer_norm(x + linear(flat(attend(q, k, v, causal)), **p["out"]), **p["norm"])
        if cross is not None and cross_mask is not None:
            attended = attend(heads(linear(x, **p["cross_q"]), H), *cross[i], cross_mask[:, None, None, :])
            x = layer_norm(x + linear(flat(attended), **p["cross_out"]), **p["cross_norm"])
        x = feed_forward(x, p, config)
    return x


def empty_cache(config: Config, R: int, T: int, dtype: jnp.dtype) -> Cache:
    """Self-attention keys and values (R,H,T,K) per decoder layer, T positions of room."""
    H = config.decoder_attention_heads
    shape = (R, H, T, config.d_model // H)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.decoder_layers)]


def step(
    weights: Params, config: Config, source: Source, cache: Cache, tokens: Array, position: Array
) -> tuple[Array, Cache]:
    """One decoder position for every row.

    tokens (B,beams) at position (B,), which is each source's own; cache (B·beams,H,T,K) holds the positions before.
    -> logits (B,beams,V), at least float32, and the cache with this position written.
    """
    B, beams = tokens.shape
    R, T, H = B * beams, cache[0][0].shape[2], config.decoder_attention_heads
    side = weights["decoder"]
    x = embed(side, weights["shared"], tokens, jnp.broadcast_to(position[:, None], (B, beams)), config)  # (B,beams,D)
    row_position = jnp.repeat(position, beams)
    seen = (jnp.arange(T) <= row_position[:, None])[:, None, None, :]  # (R,1,1,T)
    written: Cache = []
    for p, (keys, values), (cross_k, cross_v) in zip(side["layers"], cache, source.cross, strict=True):
        q, k, v = (y.reshape(R, H, 1, -1) for y in jnp.split(linear(x, **p["qkv"]), 3, axis=-1))
        keys, values = write(keys, k, row_position), write(values, v, row_position)
        written.append((keys, values))
        attended = attend(q, keys, values, seen).reshape(B, beams, -1)
        x = layer_norm(x + linear(attended, **p["out"]), **p["norm"])
        q = heads(linear(x, **p["cross_q"]), H)  # (B,H,beams,K): a source's beams are queries side by side
        attended = flat(attend(q, cross_k, cross_v, source.mask[:, None, None, :]))
        x = layer_norm(x + linear(attended, **p["cross_out"]), **p["cross_norm"])
        x = feed_forward(x, p, config)
    return lm_head(weights, x), written


def write(cache: Array, new: Array, position: Array) -> Array:
    """cache (R,H,T,K), new (R,H,1,K), position (R,) -> the cache with each row's new entry at its position."""

    def update(cache: Array, new: Array, position: Array) -> Array:
        return jax.vmap(lambda row, entry, at: jax.lax.dynamic_update_slice_in_dim(row, entry, at, 1))(
            cache, new, position
        )

    def select(cache: Array, new: Array, position: Array) -> Array:
        here = jnp.arange(cache.shape[2]) == position[:, None]
        return jnp.where(here[:, None, :, None], new, cache)

    # XLA:TPU turns the update into a loop over rows, and its cache into a layout that pads K to 128.
    return jax.lax.platform_dependent(cache, new.astype(cache.dtype), position, tpu=select, default=update)


def lm_head(weights: Params, x: Array) -> Array:
    """(B,T,D) -> (B,T,V), accumulated and returned in at least float32."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if "head" in weights:
        logits = einsum("btd,dv->btv", x, weights["head"], preferred_element_type=dtype)
    else:
        logits = einsum("btd,vd->btv", x, weights["shared"], preferred_element_type=dtype)
    return logits + weights["final_logits_bias"]
