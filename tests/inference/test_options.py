"""Options are resolved as by transformers' GenerationConfig, and refused with their name, limit and value."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bart_inference import OptionError, Options, generate
from bart_inference.checkpoint import generation_defaults
from bart_inference.generation.options import MAX_BIAS_LENGTH, MAX_BIASES, MAX_EOS, MAX_SUPPRESSED, NONE_MEANS, resolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from bart_oneliner import Config
from tests.inference.cases import checkpoint
from tests.twins import TINY

CONFIG = Config.from_json({"model_type": "bart", **TINY})
V, P = CONFIG.vocab_size, CONFIG.max_position_embeddings


def resolved(
    call: dict[str, Any], defaults: dict[str, Any] | None = None, row: dict[str, Any] | None = None
) -> Options:
    [options] = resolve(defaults or {}, CONFIG, call, None if row is None else [row], 1)
    return options


# ── Where values come from ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(set(NONE_MEANS) & set(GenerationConfig().to_dict()) - {"max_length"}))
def test_the_global_defaults_are_those_of_transformers(name: str) -> None:
    theirs = GenerationConfig._get_default_generation_params().get(name)
    neutral = {"renormalize_logits": False, "min_p": 0.0}  # these mean "off"; transformers has None
    assert getattr(Options(), name) == neutral.get(name, theirs)


@pytest.mark.parametrize("prompt", [1, 4])
def test_without_any_length_twenty_tokens_follow_the_prompt(prompt: int) -> None:
    assert Options().lengths(prompt, CONFIG) == (0, prompt + 20)
    short = Config.from_json({"model_type": "bart", **TINY, "max_position_embeddings": 10})
    assert Options().lengths(prompt, short) == (0, 10)  # limited by the position table


def test_a_row_overrides_the_call_the_call_the_checkpoint_and_that_the_defaults() -> None:
    defaults, call, row = (
        {"min_length": 3, "length_penalty": 2.0, "top_p": 0.5},
        {"length_penalty": 0.5, "top_p": 0.6},
        {"top_p": 0.7},
    )
    options = resolved(call, defaults, row)
    assert (options.top_p, options.length_penalty, options.min_length, options.num_beams) == (0.7, 0.5, 3, 1)


def test_an_explicit_none_switches_off_what_the_checkpoint_asks_for() -> None:
    defaults = {"no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "top_k": 10, "repetition_penalty": 1.5}
    assert resolved({}, defaults).no_repeat_ngram_size == 3
    off = resolved(dict.fromkeys(defaults), defaults)
    assert (off.no_repeat_ngram_size, off.forced_bos_token_id, off.top_k, off.repetition_penalty) == (0, None, 0, 1.0)


def test_lengths_in_new_tokens_win_and_do_not_count_the_prompt() -> None:
    options = resolved({"max_length": 9, "max_new_tokens": 12, "min_length": 2, "min_new_tokens": 5})
    assert options.lengths(3, CONFIG) == (8, 15)


GENERATION_FILES = {
    "cnn": {"early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0,
            "max_length": 40, "min_length": 6, "no_repeat_ngram_size": 3, "num_beams": 4, "bos_token_id": 0,
            "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2},
    "almost empty": {"eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2, "bos_token_id": 0},
    "lists and nulls": {"eos_token_id": [2, 5], "forced_eos_token_id": None, "decoder_start_token_id": 2,
                        "bos_token_id": 0, "pad_token_id": 1, "bad_words_ids": [[7], [8, 9]], "suppress_tokens": [4]},
}  # fmt: skip
LEGACY_FILES = {
    "bart-large-cnn of 2020": {"num_beams": 4, "length_penalty": 2.0, "max_length": 42, "min_length": 5,
                               "no_repeat_ngram_size": 3, "early_stopping": True, "decoder_start_token_id": 2,
                               "force_bos_token_to_be_generated": True, "bos_token_id": 0, "eos_token_id": 2,
                               "pad_token_id": 1, "task_specific_params": {"summarization": {"num_beams": 6}}},
    "forced twice": {"force_bos_token_to_be_generated": True, "forced_bos_token_id": 7, "bos_token_id": 0,
                     "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    "no forced end": {"forced_eos_token_id": None, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
                      "decoder_start_token_id": 2},
    "other ids": {"bos_token_id": 4, "eos_token_id": 6, "pad_token_id": 0, "decoder_start_token_id": 4},
}  # fmt: skip


def as_transformers_loads(folder: Path) -> dict[str, Any]:
    """The options with which transformers' generate runs: those of the checkpoint's files, else the global defaults."""
    model = BartForConditionalGeneration.from_pretrained(folder)
    prepared, _ = model._prepare_generation_config(None)
    return {name: value for name, value in prepared.to_dict().items() if name in NONE_MEANS}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny checkpoint whose config.json says nothing about generation."""
    folder = tmp_path_factory.mktemp("bare")
    BartForConditionalGeneration(BartConfig(**TINY)).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return folder


def check_against_transformers(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    ours = resolve(generation_defaults(folder, fields), Config.from_json(fields), {}, None, 1)[0]
    for name, theirs in as_transformers_loads(folder).items():
        mine = getattr(ours, name)
        if name == "max_length" and mine is None:
            theirs = None if theirs == 20 else theirs  # transformers sets a max_length that no file sets to 20
        assert mine == (NONE_MEANS[name] if theirs is None and name != "top_k" else theirs), name


@pytest.mark.parametrize("case", GENERATION_FILES)
def test_generation_config_json_is_read_as_transformers_reads_it(bare: Path, case: str) -> None:
    (bare / "generation_config.json").write_text(json.dumps(GENERATION_FILES[case]))
    try:
        check_against_transformers(bare)
    finally:
        (bare / "generation_config.json").unlink()


@pytest.mark.parametrize("case", LEGACY_FILES)
def test_a_legacy_config_json_is_read_as_transformers_reads_it(bare: Path, case: str) -> None:
    before = (bare / "config.json").read_text()
    fields = json.loads(before)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id"):
        fields.pop(name, None)
    (bare / "config.json").write_text(json.dumps(fields | LEGACY_FILES[case]))
    try:
        check_against_transformers(bare)
    finally:
        (bare / "config.json").write_text(before)


def test_a_legacy_config_json_that_is_silent_about_ids_means_those_of_bart(bare: Path) -> None:
    defaults = generation_defaults(bare, {"num_beams": 2, "eos_token_id": None})
    options = resolve(defaults, CONFIG, {}, None, 1)[0]
    assert (options.start_id, options.bos_token_id, options.pad_id) == (2, 0, 1)
    assert options.eos_ids == ()  # config.json says null, which means no end-of-sequence token


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_beems": 2}, "num_beems is not an option; the options are .*num_beams"),
    ({"num_beams": 0}, "num_beams must be an integer of at least 1, got 0"),
    ({"num_beams": 2.0}, "num_beams must be an integer of at least 1, got 2.0"),
    ({"num_beams": True}, "num_beams must be an integer of at least 1, got True"),
    ({"num_beams": 20}, f"num_beams must be at most 19 for {V} token ids, got 20"),
    ({"max_length": 0}, "max_length must be an integer of at least 1, or None, got 0"),
    ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, or None, got 0"),
    ({"min_length": -1}, "min_length must be an integer of at least 0, got -1"),
    ({"min_new_tokens": -1}, "min_new_tokens must be .*, got -1"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be .* at least 0, got -1"),
    ({"encoder_no_repeat_ngram_size": 1.5}, "encoder_no_repeat_ngram_size must be .* got 1.5"),
    ({"length_penalty": math.nan}, "length_penalty must be a number between -10 and 10, got nan"),
    ({"length_penalty": 11}, "length_penalty must be a number between -10 and 10, got 11"),
    ({"early_stopping": "always"}, "early_stopping must be True, False or 'never', got 'always'"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be a number between 1e-06 and 1e.06, got 0.0"),
    ({"encoder_repetition_penalty": -1.0}, "encoder_repetition_penalty must be .*, got -1.0"),
    ({"temperature": 0.0}, "temperature must be .*, got 0.0"),
    ({"top_k": -1}, "top_k must be an integer of at least 0, got -1"),
    ({"top_p": 1.5}, "top_p must be a number between 0 and 1, got 1.5"),
    ({"min_p": -0.1}, "min_p must be a number between 0 and 1, got -0.1"),
    ({"seed": 2**32}, r"seed must be an integer between 0 and 2\*\*32 - 1, got 4294967296"),
    ({"do_sample": 1}, "do_sample must be True or False, got 1"),
    ({"renormalize_logits": "yes"}, "renormalize_logits must be True or False, got 'yes'"),
    ({"eos_token_id": V}, f"eos_token_id must be token ids between 0 and {V - 1}, got {V}"),
    ({"eos_token_id": list(range(MAX_EOS + 1))}, f"eos_token_id must be at most {MAX_EOS} token ids"),
    ({"forced_eos_token_id": list(range(MAX_EOS + 1))}, f"forced_eos_token_id must be at most {MAX_EOS} token ids"),
    ({"forced_bos_token_id": -1}, f"forced_bos_token_id must be a token id between 0 and {V - 1}, got -1"),
    ({"pad_token_id": [1]}, "pad_token_id must be a token id between"),
    ({"suppress_tokens": [3] * (MAX_SUPPRESSED + 1)}, f"suppress_tokens must be at most {MAX_SUPPRESSED} token ids"),
    ({"begin_suppress_tokens": "abc"}, "begin_suppress_tokens must be a token id or a list of them, got 'abc'"),
    ({"bad_words_ids": [3]}, "bad_words_ids must be made of lists of token ids"),
    ({"bad_words_ids": [[]]}, "bad_words_ids must be made of lists of token ids"),
    ({"bad_words_ids": [[V]]}, f"bad_words_ids must be made of token ids between 0 and {V - 1}"),
    ({"bad_words_ids": [[3] * (MAX_BIAS_LENGTH + 1)]}, f"bad_words_ids .* at most {MAX_BIAS_LENGTH} tokens"),
    ({"bad_words_ids": [[i, j] for i in range(20) for j in range(20)]}, f"at most {MAX_BIASES} together, got 400"),
    ({"bad_words_ids": [[3]] * 300}, f"at most {MAX_BIASES} together, got 300"),
    ({"sequence_bias": {(3,): 1e308}}, r"sequence_bias must be made of numbers between -1e\+09 and 1e\+09"),
    ({"exponential_decay_length_penalty": (3, 1e308)}, r"a pair \(start, factor above 0, at most 1e\+06\)"),
    ({"sequence_bias": {(3,): math.inf}}, "sequence_bias must be made of numbers between"),
    ({"sequence_bias": [[3, 1.0]]}, "sequence_bias must be made of lists of token ids"),
    ({"sequence_bias": 5}, "sequence_bias must be a mapping"),
    ({"exponential_decay_length_penalty": 3}, r"exponential_decay_length_penalty must be a pair \(start, factor"),
    ({"exponential_decay_length_penalty": (3, -1.0)}, r"exponential_decay_length_penalty must be .* got \(3, -1.0\)"),
    ({"num_return_sequences": 2}, "num_return_sequences must be 1 in a greedy search, got 2"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences must be at most num_beams = 2, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda x: str(x)[:60])
def test_an_option_out_of_its_limits_is_refused_by_name_limit_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as refusal:
        resolved(options)
    assert refusal.value.option in {*options, "sequence_bias"}


FORCED_AND_SUPPRESSED = [
    ({"forced_eos_token_id": 2, "suppress_tokens": [5, 2]}, r"forced_eos_token_id = \[2\], got \[5, 2\]"),
    ({"forced_eos_token_id": [2, 6], "suppress_tokens": [2, 5, 6]}, r"forced_eos_token_id = \[2, 6\], got \[2, 5, 6\]"),
    ({"forced_bos_token_id": 0, "suppress_tokens": [0]}, r"forced_bos_token_id = \[0\], got \[0\]"),
]


@pytest.mark.parametrize(("options", "message"), FORCED_AND_SUPPRESSED)
def test_to_suppress_every_forced_token_is_refused_as_in_transformers(options: dict[str, Any], message: str) -> None:
    model = BartForConditionalGeneration(BartConfig(**TINY))
    with pytest.raises(ValueError, match="is also in `suppress_tokens`"):
        model.generate(torch.tensor([[0, 5, 2]]), max_length=6, **options)
    with pytest.raises(OptionError, match=f"suppress_tokens must leave out at least one token of {message}"):
        resolved(options)


def test_one_of_several_forced_tokens_may_be_suppressed_as_in_transformers() -> None:
    options = {"forced_eos_token_id": [2, 6], "suppress_tokens": [2], "max_length": 6}
    model = BartForConditionalGeneration(BartConfig(**TINY))
    assert model.generate(torch.tensor([[0, 5, 2]]), num_beams=1, **options).shape[0] == 1
    assert resolved(options).suppress_tokens == [2]


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.one_of(st.integers(-3, 200), st.none(), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.one_of(st.integers(), st.tuples(st.integers(-3, 200))), st.floats(), max_size=3),
    st.lists(st.lists(st.integers(-3, 200), max_size=3), max_size=3), st.just(np.array([3, 4])), st.just(object()),
)  # fmt: skip


def test_whatever_an_option_is_given_it_is_taken_or_refused_by_name() -> None:
    outcomes = []

    @settings(deadline=None)
    @example("begin_suppress_tokens", np.array([3, 4]))
    @given(st.sampled_from(sorted(NONE_MEANS)), JUNK)
    def check(name: str, value: Any) -> None:
        try:
            resolved({name: value})
            outcomes.append("taken")
        except OptionError as error:
            assert re.match(r"\w+", str(error))[0] in {name, "sequence_bias", "num_return_sequences"}  # type: ignore[index]
            outcomes.append("refused")

    check()
    assert min(outcomes.count("taken"), outcomes.count("refused")) >= 5, outcomes


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("length_penalty", -10.0, 10.0),
        ("repetition_penalty", 1e-6, 1e6),
        ("encoder_repetition_penalty", 1e-6, 1e6),
        ("temperature", 1e-6, 1e6),
        ("top_p", 0.0, 1.0),
        ("min_p", 0.0, 1.0),
    ],
)
def test_the_ends_of_a_range_are_taken_and_nothing_beyond_them(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(resolved({name: value}), name) == value
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf)):
        with pytest.raises(OptionError, match=f"{name} must be a number between"):
            resolved({name: value})


def test_the_largest_factor_of_the_decay_is_taken_and_nothing_beyond_it() -> None:
    eos, name = {"eos_token_id": 2}, "exponential_decay_length_penalty"
    assert resolved(eos | {name: (0, 1e6)}).exponential_decay_length_penalty == (0, 1e6)
    with pytest.raises(OptionError, match=f"{name} must be a pair"):
        resolved(eos | {name: (0, math.nextafter(1e6, math.inf))})


def test_a_checkpoint_may_spell_out_transformers_own_defaults() -> None:
    older = {"guidance_scale": 1.0, "penalty_alpha": 0.0, "low_memory": False, "token_healing": False}
    defaults = GenerationConfig._get_default_generation_params() | older
    assert defaults["typical_p"] == 1.0 and defaults["num_beam_groups"] == 1
    assert resolved({}, defaults) == resolved({}, {"max_length": 20})


@pytest.mark.parametrize(("name", "value"), [("typical_p", 0.9), ("num_beam_groups", 2), ("penalty_alpha", 0.6)])
def test_an_option_of_the_checkpoint_that_we_lack_is_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} is set to {value} by the checkpoint, and is not supported"):
        resolved({}, {name: value})
    resolved({}, {"typical_p": 1.0, "num_beam_groups": 1, "transformers_version": "4.31.0", "use_cache": True})


def test_rows_must_agree_on_what_shapes_the_program() -> None:
    for name, values in (("num_beams", (1, 2)), ("do_sample", (False, True))):
        with pytest.raises(OptionError, match=f"{name} must be the same for all rows of a call"):
            resolve({}, CONFIG, {}, [{name: value} for value in values], 2)
    with pytest.raises(OptionError, match="options must have one entry per row: 3 rows, 2 entries"):
        resolve({}, CONFIG, {}, [{}, {}], 3)
    with pytest.raises(OptionError, match="options must be one mapping per row, got 5"):
        resolve({}, CONFIG, {}, [5], 1)  # type: ignore[list-item]


BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": []}, "input_ids must be .* not empty"),
    ({"input_ids": np.zeros((0, 4), int)}, "input_ids must be .* not empty"),
    ({"input_ids": [3, 4, 5]}, r"input_ids must be \(batch, length\)"),
    ({"input_ids": [[3, 4], [5]]}, "input_ids must be rows of one length"),
    ({"input_ids": [[3.5]]}, "input_ids must be integers, got float64"),
    ({"input_ids": [[3, V]]}, f"input_ids has the id {V}, the vocabulary goes from 0 to {V - 1}"),
    ({"input_ids": [[3, -1]]}, "input_ids has the id -1"),
    ({"input_ids": [[3] * (P + 1)]}, f"input_ids has {P + 1} positions, the position table {P}"),
    ({"input_ids": [[3]], "attention_mask": [[1, 1]]}, r"attention_mask has shape \(1, 2\), input_ids \(1, 1\)"),
    ({"input_ids": [[3]], "decoder_input_ids": [[2], [2]]}, r"decoder_input_ids must be \(1, prompt length\)"),
    ({"input_ids": [[3]], "decoder_input_ids": [[V]]}, f"decoder_input_ids has the id {V}"),
    ({"input_ids": [[3]], "max_length": P + 1}, f"max_length asks for {P + 1} tokens, the position table has {P}"),
    ({"input_ids": [[3]], "max_new_tokens": P}, f"max_new_tokens asks for {P + 1} tokens"),
    ({"input_ids": [[3]], "max_length": 1}, "max_length must leave room for a token after the prompt of 1, got 1"),
    ({"input_ids": [[3]], "decoder_input_ids": [[4, 5, 6]], "max_length": 4}, "max_length must leave room .* 4, got"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUTS, ids=lambda x: str(x)[:60])
def test_inputs_that_do_not_fit_are_refused_before_anything_runs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(checkpoint("uneven")[1], **arguments)
