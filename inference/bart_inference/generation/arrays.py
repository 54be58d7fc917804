"""Options as arrays with one row per source, which compiled programs read. Imports no jax."""

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
    biases,
)

if TYPE_CHECKING:
    from bart_oneliner import Array, Config


class OptionArrays(NamedTuple):
    """Options as data: every leaf has a leading row axis (B,…), so rows can be inserted into a running batch."""

    prompt_length: Array  # int32
    min_length: Array  # int32, prompt included
    max_length: Array  # int32, prompt included
    eos: Array  # int32 (B,MAX_EOS), -1 where unused
    pad: Array  # int32
    length_power: Array  # float32 (B,T+1): n ** length_penalty, in Python's float64 as transformers computes it
    patient: Array  # bool: early_stopping "never" with a positive length_penalty
    early: Array  # bool: early_stopping True
    no_repeat_ngram: Array  # int32, 0 is off, as below
    encoder_no_repeat_ngram: Array  # int32
    repetition_penalty: Array  # float32, 1 is off
    encoder_repetition_penalty: Array  # float32, the option's reciprocal, 1 is off
    forced_bos: Array  # int32, -1 is off
    forced_eos: Array  # int32 (B,MAX_EOS), -1 where unused
    decay: Array  # float32 (B,T+1): factor ** (n - start) - 1 for n generated tokens, 0 is off
    suppressed: Array  # int32 (B,MAX_SUPPRESSED), -1 where unused
    begin_suppressed: Array  # int32 (B,MAX_SUPPRESSED), -1 where unused
    begin: Array  # int32: the length at which begin_suppressed holds
    bias_tokens: Array  # int32 (B,MAX_BIASES,MAX_BIAS_LENGTH), to the right, -1 where unused
    bias: Array  # float32 (B,MAX_BIASES)
    renormalize: Array  # bool
    temperature: Array  # float32
    top_k: Array  # int32, 0 is off
    top_p: Array  # float32, 1 is off
    min_p: Array  # float32, 0 is off
    keep: Array  # int32: the warpers' min_tokens_to_keep
    seed: Array  # uint32
    copy: Array  # uint32: which of a source's num_return_sequences samples the row is


def pack(
    rows: Sequence[Options], config: Config, T: int, prompts: Sequence[int], copies: Sequence[int]
) -> OptionArrays:
    """Rows of options as numpy arrays, for buffers of T positions; prompts: tokens of each row's prompt."""

    def padded(values: Sequence[int] | None, width: int) -> np.ndarray:
        ids = as_ids(values)
        return np.array([*ids, *[-1] * (width - len(ids))], np.int32)

    def pack_row(o: Options, prompt: int, copy: int) -> list[Any]:
        shortest, longest = o.lengths(prompt, config)
        powers = [1.0] + [float(n) ** o.length_penalty for n in range(1, T + 1)]
        start, factor = o.exponential_decay_length_penalty or (0, 1.0)
        with np.errstate(over="ignore"):  # infinity, where it is ever reached
            decay = float(factor) ** np.maximum(np.arange(T + 1) - start, 0) - 1
        bias_tokens = np.full((MAX_BIASES, MAX_BIAS_LENGTH), -1, np.int32)
        bias = np.zeros(MAX_BIASES, np.float32)
        for i, (sequence, value) in enumerate(biases(o)):
            bias_tokens[i, MAX_BIAS_LENGTH - len(sequence) :], bias[i] = sequence, value
        return [
            prompt, shortest, longest, padded(o.eos_ids, MAX_EOS), o.pad_id, np.array(powers, np.float32),
            o.early_stopping == "never" and o.length_penalty > 0, o.early_stopping is True,
            o.no_repeat_ngram_size, o.encoder_no_repeat_ngram_size,
            o.repetition_penalty, 1 / o.encoder_repetition_penalty,
            -1 if o.forced_bos_token_id is None else o.forced_bos_token_id,
            padded(as_ids(o.forced_eos_token_id), MAX_EOS), decay,
            padded(o.suppress_tokens, MAX_SUPPRESSED), padded(o.begin_suppress_tokens, MAX_SUPPRESSED),
            prompt + (prompt == 1 and o.forced_bos_token_id is not None),
            bias_tokens, bias, o.renormalize_logits, o.temperature, o.top_k, o.top_p, o.min_p,
            1 if o.num_beams == 1 else len(o.eos_ids) + 1, o.seed, copy,
        ]  # fmt: skip

    columns = zip(*(pack_row(*row) for row in zip(rows, prompts, copies, strict=True)), strict=True)
    arrays: list[Any] = [np.array(c, dtype_of(name)) for name, c in zip(OptionArrays._fields, columns, strict=True)]
    return OptionArrays(*arrays)


UNSIGNED = ("seed", "copy")
BOOLS = ("patient", "early", "renormalize")
PENALTIES = ("repetition_penalty", "encoder_repetition_penalty")
FLOATS = (*PENALTIES, "length_power", "decay", "bias", "temperature", "top_p", "min_p")


def dtype_of(field: str) -> type:
    for dtype, fields in ((np.float32, FLOATS), (np.bool_, BOOLS), (np.uint32, UNSIGNED)):
        if field in fields:
            return dtype
    return np.int32
