"""generate: token ids in, token ids out, with the options and the results of transformers' generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bart_inference.buckets import batch_bucket, largest_batch, source_bucket, target_bucket
from bart_inference.checkpoint import Model
from bart_inference.devices import device_count, jit_on_rows, mesh_of
from bart_inference.generation.arrays import pack
from bart_inference.generation.options import Options, resolve
from bart_inference.generation.search import State, begin, decode, hypotheses
from bart_inference.inputs import as_array, check_ids, check_source
from bart_inference.model.layout import Prepared, prepare
from bart_inference.model.transformer import prefill
from bart_oneliner import Config


class Generated(NamedTuple):
    """What generate returns; R is rows × num_return_sequences, W the longest row."""

    sequences: np.ndarray  # (R,W) int32: the start token first, padding after the end, as transformers
    sequences_scores: np.ndarray  # (R,) float32: sum of log-probabilities / generated tokens ** length_penalty
    lengths: np.ndarray  # (R,) int32: real tokens of each row, start and end tokens included
    log_probs: np.ndarray  # (R,W) float32: of each token as its processed scores had it, 0 where nothing was generated


jit_prefill = jax.jit(prefill, static_argnames="config")
jit_begin = jax.jit(begin, static_argnames=("config", "N", "dtype"), donate_argnames="source")


def generate(
    model: Model | Prepared,
    input_ids: np.ndarray | Sequence[Sequence[int]],
    attention_mask: np.ndarray | Sequence[Sequence[int]] | None = None,
    decoder_input_ids: np.ndarray | Sequence[Sequence[int]] | None = None,
    options: Sequence[Mapping[str, Any]] | None = None,
    **call: Any,
) -> Generated:
    """Greedy search, sampling or beam search for source ids (B,S): GenerationMixin.generate.

    attention_mask (B,S): 1 for real tokens, all ones if None (nothing is inferred from padding, as in transformers 5).
    decoder_input_ids (B,P): prompts; the start token is put before them unless some row begins with it.
    Options of the call are keywords under transformers' names (see Options); `options` adds one mapping per row, whose
    entries win. A prepared model saves the conversion to the device's layout on every call.
    OptionError for an unknown option or a value out of its limits; ValueError for an empty batch, shapes that disagree,
    ids outside the vocabulary, or a source beyond the position table: nothing is clamped or cut silently.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    rows = resolve(prepared.generation, prepared.config, call, options, len(ids))
    prompts = check_prompts(decoder_input_ids, rows, prepared.config)
    copies = rows[0].num_return_sequences if rows[0].num_beams == 1 else 1  # samples are rows of their own
    jobs = [(i, copy) for i in range(len(ids)) for copy in range(copies)]
    pieces, most = [], largest_batch(device_count(mesh_of(prepared.weights)))
    for first in range(0, len(jobs), most):
        at, copy = (list(column) for column in zip(*jobs[first : first + most], strict=True))
        of = [rows[i] for i in at]
        state = start(prepared, ids[at], mask[at], [prompts[i] for i in at], of, copy)
        state = advance(prepared, state, state.tokens.shape[-1], rows[0].do_sample)
        pieces.append(answers(state, of))
    return join(pieces)


def check_prompts(decoder_input_ids: Any, rows: Sequence[Options], config: Config) -> list[list[int]]:
    """The decoder's first tokens per row (GenerationMixin._prepare_decoder_input_ids_for_generation)."""
    starts = [row.start_id for row in rows]
    if decoder_input_ids is None:
        return [[start] for start in starts]
    prompts = as_array("decoder_input_ids", decoder_input_ids)
    if prompts.ndim != 2 or len(prompts) != len(rows) or prompts.size == 0:
        raise ValueError(f"decoder_input_ids must be ({len(rows)}, prompt length), got shape {prompts.shape}")
    check_ids("decoder_input_ids", prompts, config)
    if (prompts[:, 0] != starts).all():
        prompts = np.concatenate([np.array(starts, prompts.dtype)[:, None], prompts], 1)
    return prompts.tolist()


def start(
    prepared: Prepared, ids: np.ndarray, mask: np.ndarray, prompts: Sequence[Sequence[int]], rows: Sequence[Options],
    copies: Sequence[int],
) -> State:  # fmt: skip
    """A state ready to decode, in the smallest buckets that hold it; rows behind the given ones are done dummies."""
    config, n = prepared.config, len(rows)
    mesh = mesh_of(prepared.weights)
    limit = config.max_position_embeddings
    B, S = batch_bucket(n, device_count(mesh)), source_bucket(ids.shape[1], limit)
    longest = max(row.lengths(len(prompt), config)[1] for row, prompt in zip(rows, prompts, strict=True))
    T = target_bucket(longest, limit)
    more = B - n
    padded_ids = np.pad(ids, ((0, more), (0, S - ids.shape[1])), constant_values=-1)
    padded_mask = np.pad(mask, ((0, more), (0, S - mask.shape[1])))
    rows, prompts, copies = [*rows, *[rows[0]] * more], [*prompts, *[prompts[0]] * more], [*copies, *[0] * more]
    buffer = np.array([[*prompt, *[row.pad_id] * (T - len(prompt))] for row, prompt in zip(rows, prompts, strict=True)])
    packed = pack(rows, config, T, [len(prompt) for prompt in prompts], copies)
    source = jit_on_rows(mesh, jit_prefill)(prepared.weights, config, padded_ids, padded_mask)
    done = np.arange(B) >= n
    dtype = prepared.weights["shared"].dtype
    starting = jit_on_rows(mesh, jit_begin, (), (0, 4, 6), (1,))
    return starting(config, source, buffer.astype(np.int32), packed, rows[0].num_beams, done, dtype)


def advance(prepared: Prepared, state: State, steps: int, do_sample: bool) -> State:
    """At most `steps` steps of `start`'s state, which is used up; see decoding.decode."""
    decoding = jit_on_rows(mesh_of(prepared.weights), decode, (0, 3), (1, 4), (2,))
    return decoding(prepared.weights, prepared.config, state, steps, do_sample)


def answers(state: State, rows: Sequence[Options]) -> Generated:
    """The answers of a finished state's first rows, num_return_sequences of each if it has beams."""
    beams, n = rows[0].num_beams > 1, rows[0].num_return_sequences if rows[0].num_beams > 1 else 1
    found = jax.tree.map(
        lambda x: np.asarray(x)[: len(rows), :n].reshape(len(rows) * n, *x.shape[2:]), hypotheses(state)
    )
    # Beam search in transformers fills with `pad or eos`, so a padding id of 0 gives way to the end token.
    fill = [row.eos_ids[0] if beams and row.pad_id == 0 and row.eos_ids else row.pad_id for row in rows]
    real = np.arange(found.tokens.shape[1]) < found.length[:, None]
    tokens = np.where(real, found.tokens, np.repeat(fill, n)[:, None]).astype(np.int32)
    return Generated(tokens, found.score, found.length, np.where(real, found.log_probs, 0.0).astype(np.float32))


def join(pieces: Sequence[Generated]) -> Generated:
    """Pieces of one call behind each other, cut to the longest row."""
    lengths = np.concatenate([piece.lengths for piece in pieces])
    W = int(lengths.max())

    def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
        width = max(W, *(a.shape[1] for a in arrays)) if len(arrays) > 1 else max(W, arrays[0].shape[1])
        return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1])), mode="edge") for a in arrays])[:, :W]

    sequences, log_probs = stack([p.sequences for p in pieces]), stack([p.log_probs for p in pieces])
    return Generated(sequences, np.concatenate([p.sequences_scores for p in pieces]), lengths, log_probs)
