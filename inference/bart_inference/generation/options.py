"""Generation options under transformers' names, with its defaults and our limits. Imports no jax.

The order of priority is that of transformers' generate: a row's options, then the call's, then the checkpoint's, then
the defaults of Options. An option that is set to None is switched off, whatever the checkpoint says.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bart_oneliner import Config

# Rows with different options share one compiled program, so each row's lists are padded to these numbers of entries.
MAX_EOS = 4  # eos_token_id, forced_eos_token_id
MAX_SUPPRESSED = 256  # suppress_tokens, begin_suppress_tokens
MAX_BIASES = 256  # sequence_bias and bad_words_ids together
MAX_BIAS_LENGTH = 8  # tokens in a sequence of sequence_bias or bad_words_ids
MAX_BIAS = 1e9  # the largest bias of a sequence; a score to which 1,000 of them are added is finite in float32
MAX_FACTOR = 1e6  # of exponential_decay_length_penalty

# All rows of a call must have the same values of these options, because a program is compiled for each value.
STATIC = ("num_beams", "do_sample", "num_return_sequences", "prompt_lookup_num_tokens")


class OptionError(ValueError):
    """An unknown option, or a value out of its limits; `option` is its name."""

    def __init__(self, option: str, message: str):
        super().__init__(f"{option} {message}")
        self.option = option


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of one row, under transformers' names and with its defaults (GenerationConfig of transformers 5.23).

    max_length and min_length count the prompt with its start token; the options with `new_tokens` in their names do
    not. transformers has no `seed`: with the same seed and source a row gets the same sample in every batch.
    """

    num_beams: int = 1
    do_sample: bool = False
    num_return_sequences: int = 1
    max_length: int | None = None  # None: 20 tokens more than the prompt
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
    prompt_lookup_num_tokens: int | None = None  # tokens of a draft in greedy search; None: 4 in a batch of one row

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end-of-sequence tokens."""
        return as_ids(self.eos_token_id)

    @property
    def pad_id(self) -> int:
        """pad_token_id, else the first end-of-sequence token (GenerationMixin._prepare_special_tokens)."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos_ids[0] if self.eos_ids else 0

    @property
    def start_id(self) -> int:
        """The decoder's first token: decoder_start_token_id, else bos_token_id. OptionError if both are None."""
        if self.decoder_start_token_id is not None:
            return self.decoder_start_token_id
        if self.bos_token_id is not None:
            return self.bos_token_id
        raise OptionError("decoder_start_token_id", "must be set: the checkpoint has neither it nor bos_token_id")

    def lengths(self, prompt: int, config: Config) -> tuple[int, int]:
        """(min_length, max_length) in tokens, for a prompt of `prompt` tokens, which both include.

        OptionError if max_length is beyond the position table or leaves no room behind the prompt.
        """
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


def as_ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """One token id, a list of them or None, as a tuple."""
    if value is None:
        return ()
    if isinstance(value, (int, np.integer)):
        return (int(value),)
    return tuple(int(i) for i in value)


def biased_sequences(o: Options) -> list[tuple[tuple[int, ...], float]]:
    """The sequences of sequence_bias and bad_words_ids with their biases, -inf for bad words.

    As in transformers, the last of equal sequences counts, and a bad word that is one end-of-sequence token is ignored.
    """
    if isinstance(o.sequence_bias, Mapping):
        pairs: Iterable[Any] = o.sequence_bias.items()
    else:
        pairs = o.sequence_bias or ()
    biases = {tuple(sequence): float(bias) for sequence, bias in pairs}
    bad_words = {}
    for word in o.bad_words_ids or ():
        is_eos = len(word) == 1 and word[0] in o.eos_ids
        if not is_eos:
            bad_words[tuple(word)] = -math.inf
    return [*biases.items(), *bad_words.items()]


# ── Which options there are ───────────────────────────────────────────────────────────────────────────────────────────

# For every option the value that an explicit None stands for.
NONE_MEANS = {field.name: field.default for field in dataclasses.fields(Options)} | {"top_k": 0}
# Options of transformers that this package does not have, with the values that switch them off.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "top_h": (),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "remove_invalid_values": (False,),
    "low_memory": (False,),
    "token_healing": (False,),
    "max_time": (),
    "stop_strings": (),
    "watermarking_config": (),
    "constraints": (),
    "force_words_ids": (),
}


def resolve(
    defaults: Mapping[str, Any],
    config: Config,
    call: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] | None,
    B: int,
) -> list[Options]:
    """The checked Options of each of B rows.

    defaults: the checkpoint's options. call: options for all rows. rows: one mapping of options for each row, or None.
    OptionError for an option that does not exist, for a value out of its limits, and for rows that differ in an option
    of STATIC.
    """
    base = checkpoint_defaults(defaults)
    if rows is not None and len(rows) != B:
        raise OptionError("options", f"must have one entry per row: {B} rows, {len(rows)} entries")
    resolved = []
    for row in [{}] if rows is None else rows:
        if not isinstance(row, Mapping):
            raise OptionError("options", f"must be one mapping per row, got {row!r}")
        options = Options(**base | known_options(call) | known_options(row))
        check(options, config)
        resolved.append(options)
    for name in STATIC:
        values = {getattr(options, name) for options in resolved}
        if len(values) > 1:
            raise OptionError(name, f"must be the same for all rows of a call, got {sorted(values)}")
    return resolved if rows is not None else resolved * B


def checkpoint_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a checkpoint sets; OptionError where it asks for something that is not supported."""
    options = {}
    for name, value in defaults.items():
        if value is None:
            continue
        if name in UNSUPPORTED and value not in UNSUPPORTED[name]:
            raise OptionError(name, f"is set to {quoted(value)} by the checkpoint, and is not supported")
        if name in NONE_MEANS:
            options[name] = value
    return options


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A caller's options, with None replaced by what it stands for; OptionError for a name that is not an option."""
    known = {}
    for name, value in options.items():
        if name not in NONE_MEANS:
            raise OptionError(name, f"is not an option; the options are {', '.join(sorted(NONE_MEANS))}")
        if isinstance(value, np.ndarray):
            value = value.tolist()
        known[name] = NONE_MEANS[name] if value is None else value
    return known


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────

MINIMA = {  # the smallest values of options that are integers
    "num_beams": 1,
    "num_return_sequences": 1,
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "top_k": 0,
    "prompt_lookup_num_tokens": 0,
}
RANGES = {  # the smallest and largest values: wider than any use needs, and computed without overflow in float32
    "length_penalty": (-10, 10),
    "repetition_penalty": (1e-6, 1e6),
    "encoder_repetition_penalty": (1e-6, 1e6),
    "temperature": (1e-6, 1e6),
    "top_p": (0, 1),
    "min_p": (0, 1),
}
CAPACITIES = {  # the largest numbers of entries in lists of token ids
    "eos_token_id": MAX_EOS,
    "forced_eos_token_id": MAX_EOS,
    "suppress_tokens": MAX_SUPPRESSED,
    "begin_suppress_tokens": MAX_SUPPRESSED,
}
TOKEN_IDS = ("forced_bos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
FLAGS = ("do_sample", "renormalize_logits")


def check(o: Options, config: Config) -> None:
    """OptionError for the first value that is not within its limits."""
    V = config.vocab_size
    check_numbers(o)
    for name in FLAGS:
        require(o, name, isinstance(getattr(o, name), (bool, np.bool_)), "True or False")
    is_never = isinstance(o.early_stopping, str) and o.early_stopping == "never"
    require(o, "early_stopping", isinstance(o.early_stopping, bool) or is_never, "True, False or 'never'")
    is_seed = is_integer(o.seed) and 0 <= o.seed < 2**32
    require(o, "seed", is_seed, "an integer between 0 and 2**32 - 1")
    check_token_ids(o, V)
    check_forced_tokens(o)
    check_decay(o)
    check_biases(o, V)
    require(o, "num_beams", o.num_beams * (1 + MAX_EOS) < V, f"at most {(V - 1) // (1 + MAX_EOS)} for {V} token ids")
    if o.num_beams == 1 and not o.do_sample:
        require(o, "num_return_sequences", o.num_return_sequences == 1, "1 in a greedy search")
    if o.num_beams > 1:
        fits = o.num_return_sequences <= o.num_beams
        require(o, "num_return_sequences", fits, f"at most num_beams = {o.num_beams}")


def require(o: Options, name: str, ok: bool, rule: str) -> None:
    """OptionError that names the option, its rule and its value, unless it is ok."""
    if not ok:
        raise OptionError(name, f"must be {rule}, got {quoted(getattr(o, name))}")


def check_numbers(o: Options) -> None:
    for name, least in MINIMA.items():
        value = getattr(o, name)
        rule = f"an integer of at least {least}"
        may_be_none = NONE_MEANS[name] is None
        if may_be_none:
            rule += ", or None"
        if not (value is None and may_be_none):
            require(o, name, is_integer(value) and value >= least, rule)
    for name, (low, high) in RANGES.items():
        value = getattr(o, name)
        require(o, name, is_number(value) and low <= value <= high, f"a number between {low:g} and {high:g}")


def check_token_ids(o: Options, V: int) -> None:
    for name, capacity in CAPACITIES.items():
        value = getattr(o, name)
        if is_integer(value):
            value = [value]
        require(o, name, value is None or is_list(value), "a token id or a list of them")
        ids = value if value is not None else []
        require(o, name, len(ids) <= capacity, f"at most {capacity} token ids")
        require(o, name, are_token_ids(ids, V), f"token ids between 0 and {V - 1}")
    for name in TOKEN_IDS:
        value = getattr(o, name)
        require(o, name, value is None or is_token_id(value, V), f"a token id between 0 and {V - 1}")


def check_forced_tokens(o: Options) -> None:
    """OptionError if every token that is forced at a position is suppressed, which leaves none (as transformers 5)."""
    suppressed = set(as_ids(o.suppress_tokens))
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = as_ids(getattr(o, name))
        if forced and suppressed.issuperset(forced):
            rule = f"must leave out at least one token of {name} = {quoted(list(forced))}"
            raise OptionError("suppress_tokens", f"{rule}, got {quoted(o.suppress_tokens)}")


def check_decay(o: Options) -> None:
    name, decay = "exponential_decay_length_penalty", o.exponential_decay_length_penalty
    if decay is None:
        return
    is_pair = is_list(decay) and len(decay) == 2
    is_decay = is_pair and is_integer(decay[0]) and is_number(decay[1]) and 0 < decay[1] <= MAX_FACTOR
    require(o, name, is_decay, f"a pair (start, factor above 0, at most {MAX_FACTOR:g})")
    require(o, name, bool(o.eos_ids), "None without an eos_token_id")


def check_biases(o: Options, V: int) -> None:
    if o.sequence_bias is not None:
        is_collection = isinstance(o.sequence_bias, Collection)
        require(o, "sequence_bias", is_collection, "a mapping from sequences to numbers, or a list of such pairs")
    if o.bad_words_ids is not None:
        require(o, "bad_words_ids", is_list(o.bad_words_ids), "a list of lists of token ids")
    # The number of sequences is checked first: a caller may send a million of them, and to check each takes time.
    count = len(o.sequence_bias or ()) + len(o.bad_words_ids or ())
    if count > MAX_BIASES:
        raise OptionError("sequence_bias", f"and bad_words_ids must be at most {MAX_BIASES} together, got {count}")
    if o.sequence_bias is not None:
        pairs: Any = o.sequence_bias
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        are_pairs = all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs)
        require(o, "sequence_bias", are_pairs, "a mapping from sequences to numbers, or a list of such pairs")
        check_sequences(o, "sequence_bias", [sequence for sequence, _ in pairs], V)
        are_finite = all(is_number(bias) and abs(bias) <= MAX_BIAS for _, bias in pairs)
        require(o, "sequence_bias", are_finite, f"made of numbers between {-MAX_BIAS:g} and {MAX_BIAS:g}")
    if o.bad_words_ids is not None:
        check_sequences(o, "bad_words_ids", o.bad_words_ids, V)


def check_sequences(o: Options, name: str, sequences: Iterable[Any], V: int) -> None:
    for sequence in sequences:
        require(o, name, is_list(sequence) and len(sequence) > 0, "made of lists of token ids")
        require(o, name, len(sequence) <= MAX_BIAS_LENGTH, f"made of sequences of at most {MAX_BIAS_LENGTH} tokens")
        require(o, name, are_token_ids(sequence, V), f"made of token ids between 0 and {V - 1}")


def quoted(value: Any) -> str:
    """A value as error messages quote it. Long lists and texts are cut, since an error may be sent over a network."""
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxarray = 8
    short.maxlevel = 3
    short.maxstring = short.maxlong = short.maxother = 80
    return short.repr(value)


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def is_token_id(value: Any, V: int) -> bool:
    return is_integer(value) and bool(0 <= value < V)


def are_token_ids(values: Iterable[Any], V: int) -> bool:
    return all(is_token_id(value, V) for value in values)


def is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))
