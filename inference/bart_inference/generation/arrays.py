"""Packs the generation options of all rows into arrays, which compiled programs read. Imports no jax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bart_inference.generation.options import (
    MAX_BIAS_LENGTH,
    MAX_BIASES,
    MAX_EOS,
    MAX_SUPPRESSED,
    Options,
    as_ids,
    biased_sequences,
)

if TYPE_CHECKING:
    from bart_oneliner import Array, Config


class OptionArrays(NamedTuple):
    """Generation options as arrays with a leading axis of B rows, so that one row can be replaced by another.

    T is the positions of the token buffer. A comment without a shape means (B,). Lengths are in tokens and include the
    prompt.
    """

    prompt_length: Array  # int32
    min_length: Array  # int32
    max_length: Array  # int32
    eos: Array  # int32 (B,MAX_EOS): end-of-sequence tokens, -1 where unused
    pad: Array  # int32
    length_norm: Array  # float32 (B,T+1): n ** length_penalty, computed in float64 as transformers does
    early_stopping_never: Array  # bool: early_stopping is "never", and length_penalty > 0, so a score can rise later
    early_stopping_true: Array  # bool
    no_repeat_ngram: Array  # int32, 0 for off
    encoder_no_repeat_ngram: Array  # int32, 0 for off
    repetition_penalty: Array  # float32, 1 for off
    encoder_repetition_penalty: Array  # float32: the option's reciprocal, 1 for off
    forced_bos: Array  # int32, -1 for off
    forced_eos: Array  # int32 (B,MAX_EOS), -1 where unused
    exponential_decay: Array  # float32 (B,T+1): factor ** (n - start) - 1 for n generated tokens, 0 for off
    suppressed: Array  # int32 (B,MAX_SUPPRESSED), -1 where unused
    begin_suppressed: Array  # int32 (B,MAX_SUPPRESSED), -1 where unused
    begin_index: Array  # int32: the number of tokens so far at which begin_suppressed applies to the next token
    bias_tokens: Array  # int32 (B,MAX_BIASES,MAX_BIAS_LENGTH): a sequence in each row, with -1 before it
    bias: Array  # float32 (B,MAX_BIASES): what is added to the score of a sequence's last token
    renormalize: Array  # bool
    temperature: Array  # float32
    top_k: Array  # int32, 0 for off
    top_p: Array  # float32, 1 for off
    min_p: Array  # float32, 0 for off
    min_tokens_to_keep: Array  # int32: the least number of tokens that a sampling filter keeps
    seed: Array  # uint32
    sample_index: Array  # uint32: which of a source's num_return_sequences samples the row is


# The largest exponential_decay. It makes the end-of-sequence token win, and a score times it is finite in float32.
MAX_DECAY = 1e30
FLOATS = (
    "length_norm",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "exponential_decay",
    "bias",
    "temperature",
    "top_p",
    "min_p",
)
BOOLS = ("early_stopping_never", "early_stopping_true", "renormalize")
UNSIGNED = ("seed", "sample_index")


def pack_options(
    rows: Sequence[Options], config: Config, T: int, prompt_lengths: Sequence[int], sample_indices: Sequence[int]
) -> OptionArrays:
    """The options of rows as numpy arrays, for token buffers of T positions.

    prompt_lengths: the number of tokens of each row's prompt; sample_indices: see OptionArrays.sample_index.
    """
    packed_rows = []
    for row, prompt_length, sample_index in zip(rows, prompt_lengths, sample_indices, strict=True):
        packed_rows.append(pack_row(row, config, T, prompt_length, sample_index))
    columns: list[Any] = []
    for name in OptionArrays._fields:
        columns.append(np.array([row[name] for row in packed_rows], dtype_of(name)))
    return OptionArrays(*columns)


def pack_row(o: Options, config: Config, T: int, prompt_length: int, sample_index: int) -> dict[str, Any]:
    """The values of one row, by the names of OptionArrays' fields.

    Lengths are cut to the buffer and top_k to the vocabulary, which does not change what they mean.
    """
    min_length, max_length = o.lengths(prompt_length, config)
    bias_tokens, bias = pack_biases(o)
    length_norm = [float(n) ** o.length_penalty for n in range(1, T + 1)]
    has_forced_bos = o.forced_bos_token_id is not None
    return {
        "prompt_length": prompt_length,
        "min_length": min(min_length, T),
        "max_length": max_length,
        "eos": pad_ids(o.eos_ids, MAX_EOS),
        "pad": o.pad_id,
        "length_norm": [1.0, *length_norm],
        "early_stopping_never": o.early_stopping == "never" and o.length_penalty > 0,
        "early_stopping_true": o.early_stopping is True,
        "no_repeat_ngram": min(o.no_repeat_ngram_size, T + 1),
        "encoder_no_repeat_ngram": min(o.encoder_no_repeat_ngram_size, T + 1),
        "repetition_penalty": o.repetition_penalty,
        "encoder_repetition_penalty": 1 / o.encoder_repetition_penalty,
        "forced_bos": o.forced_bos_token_id if has_forced_bos else -1,
        "forced_eos": pad_ids(as_ids(o.forced_eos_token_id), MAX_EOS),
        "exponential_decay": decay_by_count(o, T),
        "suppressed": pad_ids(as_ids(o.suppress_tokens), MAX_SUPPRESSED),
        "begin_suppressed": pad_ids(as_ids(o.begin_suppress_tokens), MAX_SUPPRESSED),
        # If the first generated token is forced, begin_suppress_tokens applies to the second one.
        "begin_index": prompt_length + 1 if prompt_length == 1 and has_forced_bos else prompt_length,
        "bias_tokens": bias_tokens,
        "bias": bias,
        "renormalize": o.renormalize_logits,
        "temperature": o.temperature,
        "top_k": min(o.top_k, config.vocab_size),
        "top_p": o.top_p,
        "min_p": o.min_p,
        # Beam search keeps one token more than the end-of-sequence tokens (GenerationMixin._get_logits_processor).
        "min_tokens_to_keep": 1 if o.num_beams == 1 else len(o.eos_ids) + 1,
        "seed": o.seed,
        "sample_index": sample_index,
    }


def pad_ids(ids: Sequence[int], width: int) -> list[int]:
    """Token ids, filled up with -1 to `width` entries."""
    return [*ids, *[-1] * (width - len(ids))]


def decay_by_count(o: Options, T: int) -> np.ndarray:
    """For n = 0 … T generated tokens: factor ** (n - start) - 1 of exponential_decay_length_penalty, 0 up to start."""
    start, factor = o.exponential_decay_length_penalty or (0, 1.0)
    start = max(-T, min(start, T))  # within the range of the counts, because a caller's number may be huge
    beyond_start = np.maximum(np.arange(T + 1) - start, 0)
    with np.errstate(over="ignore"):
        decay: np.ndarray = np.minimum(float(factor) ** beyond_start - 1, MAX_DECAY)
    return decay


def pack_biases(o: Options) -> tuple[np.ndarray, np.ndarray]:
    """OptionArrays.bias_tokens and .bias of one row."""
    tokens = np.full((MAX_BIASES, MAX_BIAS_LENGTH), -1, np.int32)
    bias = np.zeros(MAX_BIASES, np.float32)
    for i, (sequence, value) in enumerate(biased_sequences(o)):
        tokens[i, MAX_BIAS_LENGTH - len(sequence) :] = sequence
        bias[i] = value
    return tokens, bias


def dtype_of(field: str) -> type:
    """The dtype of a field of OptionArrays."""
    if field in FLOATS:
        return np.float32
    if field in BOOLS:
        return np.bool_
    return np.uint32 if field in UNSIGNED else np.int32
