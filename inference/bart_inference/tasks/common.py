"""What several tasks share: running batches in shape buckets, and the hidden states that the task heads read.

Task functions on token ids return what transformers' model class for the task returns; those on texts return what its
pipeline returns. All take a Model or a Prepared; a Model is prepared at every call. They raise ValueError, naming the
argument, for an empty batch, ids outside the vocabulary or more positions than the model has, and CheckpointError if
the checkpoint lacks the head.

Shapes: B rows, S source positions, T target positions, D the model's width, V the vocabulary.
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
    """The prepared model; CheckpointError if it lacks the task head of that name."""
    prepared = prepare(model)
    if name not in prepared.weights:
        raise CheckpointError(f"the checkpoint has no {name!r}: it was not trained for this task")
    return prepared


def in_buckets(program: Callable[..., Any], prepared: Prepared, *arrays: np.ndarray) -> list[np.ndarray]:
    """Run program(weights, config, *arrays) on arrays (B,S), which are padded to the shapes of the buckets.

    Rows beyond the largest bucket are run in further batches. Returns the program's outputs (B,…) in at least float32,
    without the rows that were added; their other axes are still padded.
    """
    mesh = mesh_of(prepared.weights)
    devices = device_count(mesh)
    limit = prepared.config.max_position_embeddings
    rows_at_once = largest_batch(devices)
    run = jit_on_rows(mesh, program)
    outputs_by_batch: list[list[np.ndarray]] = []
    for first in range(0, len(arrays[0]), rows_at_once):
        batch = [array[first : first + rows_at_once] for array in arrays]
        rows = len(batch[0])
        padded = []
        for array in batch:
            padded.append(pad_to(array, batch_bucket(rows, devices), source_bucket(array.shape[1], limit)))
        outputs = []
        for output in run(prepared.weights, prepared.config, *padded):
            outputs.append(np.asarray(output, np.promote_types(output.dtype, np.float32))[:rows])
        outputs_by_batch.append(outputs)
    return [np.concatenate(output) for output in zip(*outputs_by_batch, strict=True)]


def pad_to(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A matrix with zeros below and on the right, up to that many rows and columns."""
    return np.pad(array, ((0, rows - array.shape[0]), (0, columns - array.shape[1])))


@functools.partial(jax.jit, static_argnames="config")
def hidden_states(
    weights: Params, config: Config, ids: Array, mask: Array, target: Array, target_mask: Array
) -> tuple[Array, Array]:
    """The last hidden states (B,T,D) of the decoder and (B,S,D) of the encoder.

    ids, mask: the source (B,S); target, target_mask: what the decoder reads (B,T).
    """
    encoded = transformer.encode(weights, config, ids, jnp.arange(ids.shape[1]), mask)
    cross = transformer.project_cross_kv(weights, config, encoded)
    return transformer.decode_target(weights, config, target, target_mask, cross, mask), encoded


def reread(weights: Params, config: Config, ids: Array, mask: Array) -> Array:
    """The decoder's hidden states (B,S,D) when it reads the source, shifted right, as the encoder does.

    The task heads read these states (section 3 of the BART paper, https://arxiv.org/abs/1910.13461: the input is fed
    into encoder and decoder).
    """
    decoded: Array
    decoded, _ = hidden_states(weights, config, ids, mask, shift_right(ids, config), jnp.ones_like(mask))
    return decoded


def at_positions(hidden: Array, positions: Array) -> Array:
    """The hidden states (B,n,D) at positions (B,n) out of all hidden states (B,S,D)."""
    return jnp.take_along_axis(hidden, positions[..., None], 1)


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(-1, keepdims=True)
    return probabilities
