"""Scaled dot-product attention for keys that lie transposed.

B rows, H heads, T queries, S keys, K the width of a head. The page's `attend` is the specification. A few queries
multiply with transposed keys (B,H,K,S) in long whole rows, which is why they are kept so.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bart_oneliner import Array, einsum

Product = Callable[[Array, Array], Array]


def scores(q: Array, keys: Array) -> Array:
    """q (B,H,T,K) with keys (B,H,K,S) -> (B,H,T,S), at least float32."""
    return einsum("bhtk,bhks->bhts", q, keys, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))


def mix(weights: Array, values: Array) -> Array:
    """Attention weights (B,H,T,S) with values (B,H,S,K) -> (B,T,H,K), at least float32."""
    wide = jnp.promote_types(values.dtype, jnp.float32)
    return einsum("bhts,bhsk->bhtk", weights, values, preferred_element_type=wide).swapaxes(1, 2)


def attention_weights(q: Array, keys: Array, mask: Array, scores: Product = scores) -> Array:
    """How much each query looks at each key: (B,H,T,S), at least float32, of sum 1 over the keys.

    mask, true where a query may look, is broadcast to that shape. A query that may look nowhere looks everywhere alike.
    """
    products = scores(q, keys) * q.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(mask, products, jnp.finfo(products.dtype).min))


def attend(q: Array, keys: Array, values: Array, mask: Array, scores: Product = scores, mix: Product = mix) -> Array:
    """q (B,H,T,K), keys (B,H,K,S), values (B,H,S,K) -> (B,T,D). scores and mix: what computes the two products."""
    weights = attention_weights(q, keys, mask, scores).astype(values.dtype)
    mixed = mix(weights, values).astype(values.dtype)
    return mixed.reshape(*mixed.shape[:2], -1)
