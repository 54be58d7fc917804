"""What the tasks share: programs run over batches in shape buckets, and the states that the heads look at.

Letters as in bart_oneliner. Functions on ids return what transformers' class of the same purpose returns, functions on
texts what its pipeline returns. All take a Model or a Prepared one (which saves the conversion on every call), run in
the shape buckets of `generate`, and raise ValueError, naming the argument, for an empty batch, ids outside the
vocabulary or more positions than the model has, and CheckpointError where the checkpoint lacks the head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.buckets import batch_bucket, largest_batch, source_bucket
from bart_inference.checkpoint import Model
from bart_inference.devices import device_count, jit_on_rows, mesh_of
from bart_inference.formats import CheckpointError
from bart_inference.model import transformer
from bart_inference.model.layout import Prepared, prepare
from bart_oneliner import Array, Config, Params, shift_right


def with_head(model: Model | Prepared, name: str) -> Prepared:
    prepared = prepare(model)
    if name not in prepared.weights:
        raise CheckpointError(f"the checkpoint has no {name!r}: it was not trained for this task")
    return prepared


def in_buckets(f: Callable[..., Any], prepared: Prepared, *arrays: np.ndarray) -> list[np.ndarray]:
    """f(weights, config, …) on arrays (B,S) padded to the buckets' shapes -> its float arrays (B,…) for our rows."""
    limit, pieces, mesh = prepared.config.max_position_embeddings, [], mesh_of(prepared.weights)
    devices = device_count(mesh)
    most = largest_batch(devices)
    for first in range(0, len(arrays[0]), most):
        piece = [a[first : first + most] for a in arrays]
        n = len(piece[0])
        more = [(batch_bucket(n, devices) - n, source_bucket(a.shape[1], limit) - a.shape[1]) for a in piece]
        padded = [np.pad(a, ((0, rows), (0, columns))) for a, (rows, columns) in zip(piece, more, strict=True)]
        outputs = jit_on_rows(mesh, f)(prepared.weights, prepared.config, *padded)
        pieces.append([np.asarray(x, np.promote_types(x.dtype, np.float32))[:n] for x in outputs])
    return [np.concatenate(column) for column in zip(*pieces, strict=True)]


@functools.partial(jax.jit, static_argnames="config")
def hidden_states(
    weights: Params, config: Config, ids: Array, mask: Array, target: Array, target_mask: Array
) -> tuple[Array, Array]:
    """The decoder's and the encoder's last hidden states."""
    encoded = transformer.encode(weights, config, ids, jnp.arange(ids.shape[1]), mask)
    cross = transformer.project_cross_kv(weights, config, encoded)
    return transformer.decode_target(weights, config, target, target_mask, cross, mask), encoded


def reread(weights: Params, config: Config, ids: Array, mask: Array) -> Array:
    """The decoder's hidden states (B,S,D) over the source, with the source as its input: what the heads look at."""
    return hidden_states(weights, config, ids, mask, shift_right(ids, config), jnp.ones_like(mask))[0]


def at_positions(hidden: Array, at: Array) -> Array:
    """hidden (B,S,D) at positions (B,n) -> (B,n,D)."""
    return jnp.take_along_axis(hidden, at[..., None], 1)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
