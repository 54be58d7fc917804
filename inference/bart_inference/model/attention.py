"""Scaled dot-product attention on transposed keys, computed by XLA's own products (module onednn has another form).

B sources, H heads, T queries, S keys, K the width of a head. Keys are stored as (B,H,K,S): a product with few queries,
as in a decoding step, then reads each of the K rows of S numbers from front to back.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bart_oneliner import Array, einsum

Product = Callable[[Array, Array], Array]


def scores(q: Array, keys: Array) -> Array:
    """q (B,H,T,K) with keys (B,H,K,S) -> (B,H,T,S), in at least float32."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    return einsum("bhtk,bhks->bhts", q, keys, preferred_element_type=dtype)


def mix_values(weights: Array, values: Array) -> Array:
    """Attention weights (B,H,T,S) with values (B,H,S,K) -> (B,T,H,K), in at least float32."""
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    mixed = einsum("bhts,bhsk->bhtk", weights, values, preferred_element_type=dtype)
    return mixed.swapaxes(1, 2)


def attention_weights(q: Array, keys: Array, mask: Array, scores: Product = scores) -> Array:
    """How much each query attends to each key: (B,H,T,S), in at least float32; the sum over the keys is 1.

    mask: bool, broadcast to (B,H,T,S), true where a query may attend. A query without any such key attends to all keys
    equally, as in transformers.
    """
    products = scores(q, keys) * q.shape[-1] ** -0.5
    lowest = jnp.finfo(products.dtype).min
    return jax.nn.softmax(jnp.where(mask, products, lowest))


def attend(
    q: Array, keys: Array, values: Array, mask: Array, scores: Product = scores, mix_values: Product = mix_values
) -> Array:
    """Attention: q (B,H,T,K), keys (B,H,K,S), values (B,H,S,K) -> (B,T,D), the heads side by side.

    scores and mix_values compute the two products; the defaults are the functions of this module.
    """
    weights = attention_weights(q, keys, mask, scores).astype(values.dtype)
    mixed = mix_values(weights, values).astype(values.dtype)
    B, T = mixed.shape[:2]
    return mixed.reshape(B, T, -1)
