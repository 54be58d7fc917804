"""generate: token ids in, token ids out, with the options and the results of transformers' generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bart_inference.buckets import batch_bucket, largest_batch, source_bucket, target_bucket
from bart_inference.checkpoint import Model
from bart_inference.devices import device_count, jit_on_rows, mesh_of
from bart_inference.generation.arrays import pack_options
from bart_inference.generation.options import Options, resolve
from bart_inference.generation.search import decode
from bart_inference.generation.state import State, hypotheses, init_state
from bart_inference.inputs import as_array, check_ids, check_source
from bart_inference.model.layout import Prepared, prepare
from bart_inference.model.transformer import prefill
from bart_oneliner import Config


class Generated(NamedTuple):
    """What generate returns. R is rows × num_return_sequences, W the tokens of the longest sequence."""

    sequences: np.ndarray  # (R,W) int32: the start token first, padding behind the end, as in transformers
    sequences_scores: np.ndarray  # (R,) float32: sum of log-probabilities / generated tokens ** length_penalty
    lengths: np.ndarray  # (R,) int32: tokens of each sequence, start and end tokens included
    log_probs: np.ndarray  # (R,W) float32: of each generated token after the logits processors; 0 at prompt and padding


# Drafts of 3, 4 and 6 tokens gave 1.96, 2.07 and 2.22 tokens a step on summaries; a longer draft makes a step slower.
DEFAULT_DRAFT_TOKENS = 4
jit_prefill = jax.jit(prefill, static_argnames="config")
jit_init_state = jax.jit(init_state, static_argnames=("config", "N", "dtype"), donate_argnames="source")


def generate(
    model: Model | Prepared,
    input_ids: np.ndarray | Sequence[Sequence[int]],
    attention_mask: np.ndarray | Sequence[Sequence[int]] | None = None,
    decoder_input_ids: np.ndarray | Sequence[Sequence[int]] | None = None,
    options: Sequence[Mapping[str, Any]] | None = None,
    **call: Any,
) -> Generated:
    """Greedy search, sampling or beam search for source ids (B,S), as GenerationMixin.generate.

    attention_mask (B,S): 1 for real tokens; None for all ones (as in transformers 5, padding ids make no mask).
    decoder_input_ids (B,P): prompts. The start token is put before them unless every row begins with it.
    The options of the call are keywords under transformers' names (see Options). `options` adds one mapping for each
    row, whose entries take precedence. Greedy search of one source uses lookup decoding, which gives the same tokens in
    fewer steps (module lookup); prompt_lookup_num_tokens=0 switches it off. A Model is converted to the device's layout
    at every call, a Prepared is not.

    OptionError for an unknown option or a value out of its limits. ValueError for an empty batch, shapes that disagree,
    ids outside the vocabulary, or a source beyond the position table. No input is truncated.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    rows = resolve(prepared.generation, prepared.config, call, options, len(ids))
    prompts = check_prompts(decoder_input_ids, rows, prepared.config)
    # Each sample of a source is computed in a row of its own. Several sequences of beam search come from one row.
    samples = rows[0].num_return_sequences if rows[0].num_beams == 1 else 1
    row_index = np.repeat(np.arange(len(ids)), samples)
    sample_index = np.tile(np.arange(samples), len(ids))
    batch_size = largest_batch(device_count(mesh_of(prepared.weights)))
    outputs = []
    for first in range(0, len(row_index), batch_size):
        batch = row_index[first : first + batch_size]
        batch_samples = sample_index[first : first + batch_size].tolist()
        batch_rows = [rows[i] for i in batch]
        batch_prompts = [prompts[i] for i in batch]
        state = start_decoding(prepared, ids[batch], mask[batch], batch_prompts, batch_rows, batch_samples)
        state = continue_decoding(prepared, state, state.tokens.shape[-1], rows[0])
        outputs.append(read_outputs(state, batch_rows))
    return concat_outputs(outputs)


def check_prompts(decoder_input_ids: Any, rows: Sequence[Options], config: Config) -> list[list[int]]:
    """The decoder's first tokens of each row (GenerationMixin._prepare_decoder_input_ids_for_generation)."""
    starts = [row.start_id for row in rows]
    if decoder_input_ids is None:
        return [[start] for start in starts]
    prompts = as_array("decoder_input_ids", decoder_input_ids)
    if prompts.ndim != 2 or len(prompts) != len(rows) or prompts.size == 0:
        raise ValueError(f"decoder_input_ids must be ({len(rows)}, prompt length), got shape {prompts.shape}")
    check_ids("decoder_input_ids", prompts, config)
    if (prompts[:, 0] != starts).all():
        prompts = np.concatenate([np.array(starts, prompts.dtype)[:, None], prompts], 1)
    token_lists: list[list[int]] = prompts.tolist()
    return token_lists


def start_decoding(
    prepared: Prepared,
    ids: np.ndarray,
    mask: np.ndarray,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Options],
    sample_indices: Sequence[int],
) -> State:
    """Encode sources (B,S) and make the state before the first step, in the smallest buckets that hold them.

    The rows that fill up the batch's bucket repeat the first row and are done from the beginning.
    sample_indices: see OptionArrays.sample_index.
    """
    config, mesh = prepared.config, mesh_of(prepared.weights)
    limit = config.max_position_embeddings
    count, S = ids.shape
    filler = batch_bucket(count, device_count(mesh)) - count
    positions = source_bucket(S, limit)
    longest = 0
    for row, prompt in zip(rows, prompts, strict=True):
        _, max_length = row.lengths(len(prompt), config)
        longest = max(longest, max_length)
    T = target_bucket(longest, limit)

    padding = ((0, filler), (0, positions - S))
    ids = np.pad(ids, padding, constant_values=-1)
    mask = np.pad(mask, padding)
    rows = [*rows, *[rows[0]] * filler]
    prompts = [*prompts, *[prompts[0]] * filler]
    sample_indices = [*sample_indices, *[0] * filler]
    done = np.arange(count + filler) >= count

    tokens = np.empty((len(rows), T), np.int32)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        tokens[i] = row.pad_id
        tokens[i, : len(prompt)] = prompt
    prompt_lengths = [len(prompt) for prompt in prompts]
    options = pack_options(rows, config, T, prompt_lengths, sample_indices)
    source = jit_on_rows(mesh, jit_prefill)(prepared.weights, config, ids, mask)
    init = jit_on_rows(mesh, jit_init_state, shared=(), static=(0, 4, 6), donated=(1,))
    dtype = prepared.weights["shared"].dtype
    state: State = init(config, source, tokens, options, rows[0].num_beams, done, dtype)
    return state


def continue_decoding(prepared: Prepared, state: State, steps: int, options: Options) -> State:
    """Run at most `steps` steps of a state, whose buffers are donated: it cannot be used afterwards.

    options: those of any row, because do_sample and prompt_lookup_num_tokens are the same in all of them.
    """
    run = jit_on_rows(mesh_of(prepared.weights), decode, shared=(0, 3), static=(1, 4, 5), donated=(2,))
    state = run(prepared.weights, prepared.config, state, steps, options.do_sample, draft_tokens(state, options))
    return state


def draft_tokens(state: State, options: Options) -> int:
    """The number of tokens in a draft of lookup decoding; 0 for no drafts.

    Greedy search alone has drafts: of prompt_lookup_num_tokens, or fewer if the token buffer is too short for these.
    Where that option is None, a batch of one row has drafts and a larger batch has none: with several rows a step over
    drafts costs more, and the rounding of a row's log-probabilities would depend on whether another row has a draft.
    """
    B, N, T = state.tokens.shape
    if options.do_sample or N > 1:
        return 0
    count = options.prompt_lookup_num_tokens
    if count is None:
        count = DEFAULT_DRAFT_TOKENS if B == 1 else 0
    return min(count, T - 1)


def read_outputs(state: State, rows: Sequence[Options]) -> Generated:
    """The outputs of a finished state's first len(rows) rows; with beams, num_return_sequences of each."""
    uses_beams = rows[0].num_beams > 1
    sequences = rows[0].num_return_sequences if uses_beams else 1

    def of_rows(x: jax.Array) -> np.ndarray:
        """(B,N,…) -> (R,…)."""
        selected = np.asarray(x)[: len(rows), :sequences]
        return selected.reshape(len(rows) * sequences, *x.shape[2:])

    best = hypotheses(state)
    lengths = of_rows(best.length)
    fill = []
    for row in rows:
        # transformers' beam search pads with `pad_token_id or eos_token_id`: with the latter if pad_token_id is 0.
        uses_eos = uses_beams and row.pad_id == 0 and row.eos_ids
        fill.append(row.eos_ids[0] if uses_eos else row.pad_id)
    is_real = np.arange(best.tokens.shape[-1]) < lengths[:, None]
    tokens = np.where(is_real, of_rows(best.tokens), np.repeat(fill, sequences)[:, None])
    log_probs = np.where(is_real, of_rows(best.log_probs), 0.0)
    return Generated(tokens.astype(np.int32), of_rows(best.score), lengths, log_probs.astype(np.float32))


def concat_outputs(outputs: Sequence[Generated]) -> Generated:
    """The outputs of a call's batches, one behind the other, cut to the longest sequence."""
    lengths = np.concatenate([output.lengths for output in outputs])
    width = int(lengths.max())

    def resize(array: np.ndarray) -> np.ndarray:
        """(R,any) -> (R,width). Columns are added by repeating the last one, which holds padding if any is missing."""
        missing = max(0, width - array.shape[1])
        return np.pad(array, ((0, 0), (0, missing)), mode="edge")[:, :width]

    return Generated(
        sequences=np.concatenate([resize(output.sequences) for output in outputs]),
        sequences_scores=np.concatenate([output.sequences_scores for output in outputs]),
        lengths=lengths,
        log_probs=np.concatenate([resize(output.log_probs) for output in outputs]),
    )
