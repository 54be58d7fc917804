"""Generation options: Hugging Face's names and defaults, and their limits. Imports no jax.

Priority as in transformers' generate: a row's own options, then the call's, then the checkpoint's, then the global
defaults. Unset is not None: an explicit None switches an option off, whatever the checkpoint says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bart_oneliner import Config

# Capacities of the per-row lists: rows with different options share one compiled program, so lists are padded to these.
MAX_EOS = 4  # eos_token_id, forced_eos_token_id
MAX_SUPPRESSED = 256  # suppress_tokens, begin_suppress_tokens
MAX_BIASES = 256  # sequence_bias and bad_words_ids together
MAX_BIAS_LENGTH = 8  # tokens in one of their sequences

NEVER, EARLY, HEURISTIC = 2, 1, 0  # early_stopping "never", True, False
STATIC = ("num_beams", "do_sample", "num_return_sequences")  # the same for all rows of a call: they shape the program


class OptionError(ValueError):
    """An unknown option, or a value out of its limits; `option` is its name."""

    def __init__(self, option: str, message: str):
        super().__init__(f"{option} {message}")
        self.option = option


@dataclasses.dataclass(frozen=True)
class Options:
    """All options of one row, under transformers' names, with its global defaults (5.23, GenerationConfig).

    Lengths count the decoder's start token, `*_new_tokens` do not. seed is ours: the same seed and source give the same
    sample whatever the batch.
    """

    num_beams: int = 1
    do_sample: bool = False
    num_return_sequences: int = 1
    max_length: int | None = None  # None: the prompt and 20 tokens more
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    renormalize_logits: bool = False
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    decoder_start_token_id: int | None = None
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return as_ids(self.eos_token_id)

    @property
    def pad_id(self) -> int:
        """pad_token_id, else the first end-of-sequence token (GenerationMixin._prepare_special_tokens)."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos_ids[0] if self.eos_ids else 0

    @property
    def start_id(self) -> int:
        start = self.decoder_start_token_id if self.decoder_start_token_id is not None else self.bos_token_id
        if start is None:
            raise OptionError("decoder_start_token_id", "must be set: the checkpoint has neither it nor bos_token_id")
        return start

    def lengths(self, prompt: int, config: Config) -> tuple[int, int]:
        """(min_length, max_length), both including a prompt of that many tokens."""
        limit = config.max_position_embeddings
        if self.max_new_tokens is not None:
            name, longest = "max_new_tokens", self.max_new_tokens + prompt
        elif self.max_length is not None:
            name, longest = "max_length", self.max_length
        else:
            name, longest = "max_length", min(20 + prompt, limit)
        if longest > limit:
            raise OptionError(name, f"asks for {longest} tokens, the position table has {limit}")
        if longest <= prompt:
            raise OptionError(name, f"must leave room for a token after the prompt of {prompt}, got {longest} in all")
        shortest = self.min_length if self.min_new_tokens is None else self.min_new_tokens + prompt
        return shortest, longest


OFF = {f.name: f.default for f in dataclasses.fields(Options)} | {"top_k": 0}  # what an explicit None means
NEUTRAL = {  # options of transformers that we do not have, with the values that ask for nothing
    "typical_p": (1.0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "top_h": (), "num_beam_groups": (1,),
    "diversity_penalty": (0.0,), "guidance_scale": (1.0,), "penalty_alpha": (0.0,), "dola_layers": (),
    "remove_invalid_values": (False,), "low_memory": (False,), "token_healing": (False,), "max_time": (),
    "stop_strings": (), "watermarking_config": (), "constraints": (), "force_words_ids": (),
    "prompt_lookup_num_tokens": (),
}  # fmt: skip


def as_ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (int(value),) if isinstance(value, (int, np.integer)) else tuple(int(i) for i in value)


def resolve(
    defaults: Mapping[str, Any],
    config: Config,
    call: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] | None,
    B: int,
) -> list[Options]:
    """One checked Options for each of B rows. OptionError names what is unknown or out of its limits."""
    base: dict[str, Any] = {}
    for name, value in defaults.items():
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            raise OptionError(name, f"is set to {value!r} by the checkpoint, and is not supported")
        if name in OFF and value is not None:
            base[name] = value
    if rows is not None and len(rows) != B:
        raise OptionError("options", f"must have one entry per row: {B} rows, {len(rows)} entries")
    resolved = []
    for row in rows if rows is not None else [{}]:
        if not isinstance(row, Mapping):
            raise OptionError("options", f"must be one mapping per row, got {row!r}")
        merged = dict(base)
        for source in (call, row):
            for name, value in source.items():
                if name not in OFF:
                    raise OptionError(name, f"is not an option; the options are {', '.join(sorted(OFF))}")
                value = value.tolist() if isinstance(value, np.ndarray) else value
                merged[name] = OFF[name] if value is None else value
        resolved.append(check(Options(**merged), config))
    for name in STATIC:
        if len(values := {getattr(o, name) for o in resolved}) > 1:
            raise OptionError(name, f"must be the same for all rows of a call, got {sorted(values)}")
    return resolved if rows is not None else resolved * B


def whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def real(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def check(o: Options, config: Config) -> Options:
    """The options themselves, if every value is within its limits."""
    V = config.vocab_size

    def require(name: str, ok: bool, rule: str) -> None:
        if not ok:
            raise OptionError(name, f"must be {rule}, got {getattr(o, name)!r}")

    def integer(name: str, least: int) -> None:
        value, default = getattr(o, name), OFF[name]
        rule = f"an integer of at least {least}" + (", or None" if default is None else "")
        require(name, (value is None and default is None) or (whole(value) and value >= least), rule)

    def number(name: str, least: float, most: float) -> None:
        value = getattr(o, name)
        require(name, real(value) and least <= value <= most, f"a number between {least:g} and {most:g}")

    def token_ids(name: str, capacity: int) -> None:
        value = getattr(o, name)
        ids = [value] if whole(value) else value if is_list(value) else None
        require(name, ids is not None or value is None, "a token id or a list of them")
        require(name, all(whole(i) and 0 <= i < V for i in ids or ()), f"token ids between 0 and {V - 1}")
        require(name, len(ids or ()) <= capacity, f"at most {capacity} token ids")

    def sequences(name: str, found: Iterable[Any]) -> None:
        for sequence in found:
            require(name, is_list(sequence) and len(sequence) > 0, "made of lists of token ids")
            require(name, all(whole(i) and 0 <= i < V for i in sequence), f"made of token ids between 0 and {V - 1}")
            require(name, len(sequence) <= MAX_BIAS_LENGTH, f"made of sequences of at most {MAX_BIAS_LENGTH} tokens")

    for name, least in INTEGERS.items():
        integer(name, least)
    for name, (low, high) in NUMBERS.items():
        number(name, low, high)
    for name in ("do_sample", "renormalize_logits"):
        require(name, isinstance(getattr(o, name), (bool, np.bool_)), "True or False")
    stop = o.early_stopping
    require(
        "early_stopping",
        isinstance(stop, bool) or (isinstance(stop, str) and stop == "never"),
        "True, False or 'never'",
    )
    require("seed", whole(o.seed) and 0 <= o.seed < 2**32, "an integer between 0 and 2**32 - 1")
    for name, capacity in CAPACITIES.items():
        token_ids(name, capacity)
    for name in ("forced_bos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id"):
        value = getattr(o, name)
        require(name, value is None or (whole(value) and 0 <= value < V), f"a token id between 0 and {V - 1}")
    if (decay := o.exponential_decay_length_penalty) is not None:
        ok = is_list(decay) and len(decay) == 2 and whole(decay[0]) and real(decay[1]) and decay[1] > 0
        require("exponential_decay_length_penalty", ok, "a pair (start, factor above 0)")
        require("exponential_decay_length_penalty", bool(o.eos_ids), "None without an eos_token_id")
    if o.sequence_bias is not None:
        pairs = o.sequence_bias.items() if isinstance(o.sequence_bias, Mapping) else o.sequence_bias
        ok = isinstance(pairs, Iterable) and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs)
        require("sequence_bias", ok, "a mapping from sequences to numbers, or a list of such pairs")
        sequences("sequence_bias", (sequence for sequence, _ in pairs))
        require("sequence_bias", all(real(bias) for _, bias in pairs), "made of finite numbers")
    if o.bad_words_ids is not None:
        require("bad_words_ids", is_list(o.bad_words_ids), "a list of lists of token ids")
        sequences("bad_words_ids", o.bad_words_ids)
    if (count := len(biases(o))) > MAX_BIASES:
        raise OptionError("sequence_bias", f"and bad_words_ids must be at most {MAX_BIASES} together, got {count}")
    require("num_beams", o.num_beams * (1 + MAX_EOS) < V, f"at most {(V - 1) // (1 + MAX_EOS)} for {V} token ids")
    if o.num_beams == 1 and not o.do_sample:
        require("num_return_sequences", o.num_return_sequences == 1, "1 in a greedy search")
    if o.num_beams > 1:
        require("num_return_sequences", o.num_return_sequences <= o.num_beams, f"at most num_beams = {o.num_beams}")
    return o


INTEGERS = {
    "num_beams": 1, "num_return_sequences": 1, "max_length": 1, "max_new_tokens": 1, "min_length": 0,
    "min_new_tokens": 0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "top_k": 0,
}  # fmt: skip
NUMBERS = {  # wide enough for any use, narrow enough for float32
    "length_penalty": (-10, 10), "repetition_penalty": (1e-6, 1e6), "encoder_repetition_penalty": (1e-6, 1e6),
    "temperature": (1e-6, 1e6), "top_p": (0, 1), "min_p": (0, 1),
}  # fmt: skip
CAPACITIES = {
    "eos_token_id": MAX_EOS, "forced_eos_token_id": MAX_EOS, "suppress_tokens": MAX_SUPPRESSED,
    "begin_suppress_tokens": MAX_SUPPRESSED,
}  # fmt: skip


def is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def biases(o: Options) -> list[tuple[tuple[int, ...], float]]:
    """sequence_bias and bad_words_ids as one list; of identical sequences the last wins, [eos] is no bad word."""
    pairs = o.sequence_bias.items() if isinstance(o.sequence_bias, Mapping) else o.sequence_bias or ()
    biased = {tuple(sequence): float(bias) for sequence, bias in pairs}
    bad = {tuple(word): -math.inf for word in o.bad_words_ids or () if len(word) != 1 or word[0] not in o.eos_ids}
    return [*biased.items(), *bad.items()]
