"""The Transformer: the encoder, the decoder with and without a KV cache, and the language-model head.

`prefill` runs the encoder once for each source. `decode_step` runs the decoder over the next target positions with the
KV cache, `decode_target` over a whole known target without one. All read the weights that `layout.derive` makes.

Letters as in bart_oneliner; in addition N is the beams of a source, and Q the positions that one call computes for a
source: one or several positions of each of its beams, or its whole target. `bart_oneliner.forward` computes the same
logits without a cache; layer_norm and the activation functions are imported from bart_oneliner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.model import attention, onednn
from bart_inference.model.cache import (
    KEY_ENTRIES_AXIS,
    VALUE_ENTRIES_AXIS,
    KVCache,
    LayerCache,
    LayerKV,
    update_layer,
    visible_entries,
)
from bart_inference.model.weights import Attention, linear, matmul, to_heads
from bart_oneliner import ACTIVATIONS, Array, Config, Params, einsum, layer_norm

Attend = Callable[[Array, Array, Array, Array], Array]  # attention.attend or onednn.attend


class Source(NamedTuple):
    """What decoding needs of the encoded sources. It is computed once, and all beams of a source share it."""

    input_ids: Array  # (B,S) int32, for logits processors and lookup decoding; -1 at positions that fill up a bucket
    mask: Array  # (B,S) bool, true for real tokens
    cross_kv: list[LayerKV]  # for each decoder layer: cross-attention keys (B,H,K,S) and values (B,H,S,K)


def embed(stack: Params, shared: Array, ids: Array, positions: Array, config: Config) -> Array:
    """Token and position embeddings, normed: ids (B,T) at positions (B,T) or (T,) -> (B,T,D).

    stack: the encoder's or the decoder's weights. BART's position table has two unused rows at its beginning.
    """
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    embedded = shared[ids] * scale + stack["embed_positions"][positions + 2]
    return layer_norm(embedded, **stack["layernorm_embedding"])


def transformer_layer(
    x: Array,
    mask: Array,
    weights: Params,
    config: Config,
    H: int,
    attend: Attend,
    source: tuple[Array, Array, Array] | None = None,
    cache: LayerCache | None = None,
) -> tuple[Array, LayerKV]:
    """One layer of the encoder or the decoder: x (B,Q,D) -> (B,Q,D), and its self-attention keys and values.

    Self-attention sees the Q positions. With a cache, their keys and values are written into it first; self-attention
    then sees all entries of the cache, and these are returned. mask: bool, broadcast to (B,1,Q,keys), true where a
    position may look. source: cross-attention's keys, values and mask, for a decoder layer that has a source.
    """
    q, k, values = to_heads(x, weights["qkv"], H)
    keys = k.mT
    if cache is not None:
        keys, values = update_layer(cache, keys, values)
    attended = attend(q, keys, values, mask)
    x = add_and_norm(x, attended, weights["out"], weights["norm"])
    if source is not None:
        [q] = to_heads(x, weights["cross_q"], H)
        x = add_and_norm(x, attend(q, *source), weights["cross_out"], weights["cross_norm"])
    hidden = ACTIVATIONS[config.activation_function](linear(x, **weights["fc1"]))
    return add_and_norm(x, hidden, weights["fc2"], weights["final_norm"]), (keys, values)


def add_and_norm(x: Array, y: Array, projection: Params, norm: Params) -> Array:
    """The end of attention and of the feed-forward part: x plus the projection of y, then layer norm (post-norm)."""
    return layer_norm(x + linear(y, **projection), **norm)


def attend_function(weights: Params) -> Attend:
    """The function that computes attention in the layout of these weights."""
    return onednn.attend if weights["attention"] is Attention.ONEDNN else attention.attend


def encode(weights: Params, config: Config, input_ids: Array, positions: Array, visible: Array) -> Array:
    """The encoder: input_ids (B,S) at positions (B,S) or (S,) -> its last hidden states (B,S,D).

    visible: bool; (B,S) says which keys all queries see, (B,S,S) which keys each query sees.
    """
    stack, H, attend = weights["encoder"], config.encoder_attention_heads, attend_function(weights)
    x = embed(stack, weights["shared"], input_ids, positions, config)
    B, S = visible.shape[0], visible.shape[-1]
    mask = visible.reshape(B, 1, -1, S)
    for layer in stack["layers"]:
        x, _ = transformer_layer(x, mask, layer, config, H, attend)
    return x


def project_cross_kv(weights: Params, config: Config, hidden: Array) -> list[LayerKV]:
    """The encoder's hidden states (B,S,D) -> every decoder layer's cross-attention keys (B,H,K,S), values (B,H,S,K)."""
    H = config.decoder_attention_heads
    cross_kv = []
    for layer in weights["decoder"]["layers"]:
        keys, values = to_heads(hidden, layer["cross_kv"], H)
        cross_kv.append((keys.mT, values))
    return cross_kv


def prefill(weights: Params, config: Config, input_ids: Array, mask: Array) -> Source:
    """Encode sources and compute the keys and values that cross-attention reads at every step.

    input_ids (B,S) int32, -1 at positions that fill up a bucket; mask (B,S) bool, true for real tokens.
    """
    ids = jnp.where(input_ids < 0, config.pad_token_id, input_ids)
    hidden = encode(weights, config, ids, jnp.arange(ids.shape[1]), mask)
    return Source(input_ids, mask, project_cross_kv(weights, config, hidden))


def prefill_packed(weights: Params, config: Config, input_ids: Array, positions: Array) -> list[LayerKV]:
    """Cross-attention's keys and values of rows that hold several sources each; `unpack_source` takes them apart.

    input_ids and positions (B,L) int32. A source begins where the position is 0, and its tokens see this source only.
    Unused positions at the end of a row have position 0. A source gets the same keys and values wherever in a row it
    lies. On XLA:CPU they are equal to the bit for L up to 128 (tested). In longer rows XLA adds up attention's sums in
    blocks of keys, so that rounding depends on the place; the first differences were seen between 256 and 512.
    """
    source_number = jnp.cumsum(positions == 0, axis=1)
    same_source = source_number[:, :, None] == source_number[:, None, :]
    hidden = encode(weights, config, input_ids, positions, same_source)
    return project_cross_kv(weights, config, hidden)


def unpack_source(packed: list[LayerKV], input_ids: Array, row: Array, start: Array, length: Array, S: int) -> Source:
    """One source out of the result of `prefill_packed`, as a Source with B = 1 that is padded to S positions.

    The source has `length` tokens, from position `start` of `row` on; all three are scalars.
    """
    is_real = jnp.arange(S) < length

    def cut(x: Array, axis: int, filler: int = 0) -> Array:
        """Row `row` of x, cut to the S positions from `start` on along an axis, with `filler` behind the source."""
        one_row = jax.lax.dynamic_index_in_dim(x, row, 0)
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, S)
        sliced = jax.lax.dynamic_slice_in_dim(jnp.pad(one_row, padding), start, S, axis)
        mask_shape = [1] * x.ndim
        mask_shape[axis] = S
        return jnp.where(is_real.reshape(mask_shape), sliced, filler)

    ids = cut(input_ids, 1, -1)
    mask = is_real[None]
    cross_kv = [(cut(keys, KEY_ENTRIES_AXIS), cut(values, VALUE_ENTRIES_AXIS)) for keys, values in packed]
    return Source(ids, mask, cross_kv)


def decode_target(
    weights: Params, config: Config, ids: Array, mask: Array, cross_kv: list[LayerKV] | None, cross_mask: Array | None
) -> Array:
    """The decoder over a whole known target: ids (B,T) -> its last hidden states (B,T,D).

    mask (B,T) and cross_mask (B,S): bool, true for keys that may be seen. cross_kv: the result of project_cross_kv;
    None skips cross-attention, which makes the decoder a language model without a source.
    """
    T = ids.shape[1]
    causal = jnp.tril(jnp.ones((T, T), bool)) & mask[:, None, None, :]
    hidden, _ = run_decoder(weights, config, ids, jnp.arange(T), causal, cross_kv, cross_mask)
    return hidden


def decode_step(
    weights: Params, config: Config, source: Source, cache: KVCache, tokens: Array, position: Array
) -> tuple[Array, KVCache]:
    """The decoder over the next Q/N positions of every beam, with the KV cache.

    tokens (B,Q): beam n's token at `position + t` is column t·N + n. position (B,): the first of these positions, for
    each source. The cache holds the positions before it and nothing behind them. New positions behind the end of the
    cache get logits, and are not written.
    -> logits (B,Q,V), at least float32, and the cache with the new positions written.
    """
    Q, N = tokens.shape[1], cache.cache_indirection.shape[1]
    positions = position[:, None] + np.arange(Q) // N  # (B,Q)
    mask, cache_indirection = visible_entries(cache.cache_indirection, position, Q)
    layer_caches = [LayerCache(keys, values, position, N) for keys, values in cache.self_kv]
    hidden, self_kv = run_decoder(weights, config, tokens, positions, mask, source.cross_kv, source.mask, layer_caches)
    return lm_head(weights, hidden), KVCache(self_kv, cache_indirection)


def run_decoder(
    weights: Params,
    config: Config,
    ids: Array,
    positions: Array,
    mask: Array,
    cross_kv: list[LayerKV] | None,
    cross_mask: Array | None,
    layer_caches: list[LayerCache] | None = None,
) -> tuple[Array, list[LayerKV]]:
    """All decoder layers: ids (B,Q) at positions (B,Q) or (Q,) -> hidden states (B,Q,D), and each layer's keys, values.

    mask, and what the keys and values are: see transformer_layer. cross_mask (B,S): bool, true for real tokens.
    """
    stack, H, attend = weights["decoder"], config.decoder_attention_heads, attend_function(weights)
    x = embed(stack, weights["shared"], ids, positions, config)
    self_kv: list[LayerKV] = []
    for i, layer in enumerate(stack["layers"]):
        source = None
        if cross_kv is not None and cross_mask is not None:
            source = (*cross_kv[i], cross_mask[:, None, None, :])
        layer_cache = None if layer_caches is None else layer_caches[i]
        x, layer_kv = transformer_layer(x, mask, layer, config, H, attend, source, layer_cache)
        self_kv.append(layer_kv)
    return x, self_kv


def lm_head(weights: Params, x: Array) -> Array:
    """The language-model head: hidden states (B,T,D) -> logits (B,T,V), computed and returned in at least float32."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if "head" in weights:
        logits = matmul(x, weights["head"], dtype)
    else:
        logits = einsum("btd,vd->btv", x, weights["shared"], preferred_element_type=dtype)
    with_bias: Array = logits + weights["final_logits_bias"]
    return with_bias
