"""Lookup decoding gives the tokens of greedy search with right and wrong drafts, every option, and real text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bart_inference import Generated, OptionError, Prepared, generate, load, prepare, summarize
from bart_inference.checkpoint import embedded
from bart_inference.generation.generate import (
    check_prompts,
    continue_decoding,
    draft_tokens,
    read_outputs,
    start_decoding,
)
from bart_inference.generation.lookup import Draft, find_draft, update_history, verify_draft
from bart_inference.generation.options import resolve
from bart_inference.generation.state import DraftHistory, State
from bart_inference.generation.stream import stream
from bart_inference.inputs import check_source
from bart_inference.tokenization import encode_text
from transformers import BartForConditionalGeneration

from support import oracle
from support.oracle import Case
from tests.inference.cases import alone, checkpoint, combined, draw_batch

TOLERANCE = 1e-5  # log-probabilities may differ by this: a step over several positions sums in another order
K = 4
DOCUMENTS = (
    "The GNU Aspell spell checker library. This package contains the GNU Aspell spell checker library for C programs.",
    "Python bindings for the Ice network framework. Ice is a network framework that helps you build network software.",
    "This package provides the documentation for the Perl module that parses the date strings of mail headers.",
)
jit_verify = jax.jit(verify_draft, static_argnames="config")


def state_of(prepared: Prepared, case: Case) -> tuple[State, Any]:
    """The state of a case before its first step, and the options of its rows."""
    ids, mask = check_source(case.input_ids, case.attention_mask, prepared.config)
    rows = resolve(prepared.generation, prepared.config, case.options, None, len(ids))
    prompts = check_prompts(case.decoder_input_ids, rows, prepared.config)
    return start_decoding(prepared, ids, mask, prompts, rows, [0] * len(ids)), rows


def draft_from(answers: np.ndarray, state: State, rng: np.random.Generator) -> Draft:
    """Drafts of up to K tokens that follow in `answers` (B,W), greedy search's sequences; one in five is replaced."""
    B = len(answers)
    length = np.asarray(state.length)
    padded = np.pad(answers, ((0, 0), (0, K + 64)), constant_values=3)
    tokens = np.stack([padded[i, length[i] : length[i] + K] for i in range(B)])
    tokens = np.where(rng.random((B, K)) < 0.2, 4, tokens)
    count = rng.integers(0, K + 1, B)
    count[np.asarray(state.done) | (length < np.asarray(state.options.prompt_length))] = 0
    tokens = np.where(np.arange(K) < count[:, None], tokens, -1)
    return Draft(jnp.asarray(tokens, jnp.int32), jnp.asarray(count, jnp.int32))


def with_random_drafts(prepared: Prepared, case: Case, expected: Generated, seed: int) -> tuple[Generated, int]:
    """Decodes a case by verifying a partly wrong draft in each step; returns the result and the number of steps."""
    rng = np.random.default_rng(seed)
    state, rows = state_of(prepared, case)
    B = state.tokens.shape[0]
    answers = np.pad(expected.sequences, ((0, B - len(rows)), (0, 0)))
    steps = 0
    while not state.done.all():
        draft = draft_from(answers, state, rng)
        state = jit_verify(prepared.weights, prepared.config, state, draft)
        steps += 1
    return read_outputs(state, rows), steps


def assert_greedy(lookup: Generated, expected: Generated, what: object) -> None:
    W = expected.sequences.shape[1]
    assert np.array_equal(lookup.lengths, expected.lengths), f"{what}: lengths {lookup.lengths}, not {expected.lengths}"
    assert np.array_equal(lookup.sequences[:, :W], expected.sequences), f"{what}: tokens differ"
    scale = TOLERANCE * np.maximum(1, np.abs(expected.log_probs))
    assert (np.abs(lookup.log_probs[:, :W] - expected.log_probs) <= scale).all(), f"{what}: log_probs differ"
    np.testing.assert_allclose(lookup.sequences_scores, expected.sequences_scores, rtol=1e-4, err_msg=str(what))


@pytest.mark.parametrize("name", ["uneven", "pad-is-0"])
def test_drafts_of_any_quality_give_the_tokens_of_greedy_search(name: str) -> None:
    """Some cases have one option, others several, and some have prompts."""
    prepared = checkpoint(name)[1]
    cases = [case for case in alone(name) if case.options["num_beams"] == 1] if name == "uneven" else []
    cases += combined(name, 6, beams=(1,))
    all_steps, all_tokens = 0, 0
    for seed, case in enumerate(cases):
        options: Mapping[str, Any] = {**case.options, "prompt_lookup_num_tokens": 0}
        expected = generate(prepared, case.input_ids, case.attention_mask, case.decoder_input_ids, **options)
        lookup, steps = with_random_drafts(prepared, case, expected, seed)
        assert_greedy(lookup, expected, case)
        all_steps += steps
        all_tokens += int(expected.lengths.max()) - 1
    assert all_steps < 0.7 * all_tokens, f"{all_steps} steps for {all_tokens} tokens: too few drafts were accepted"


@pytest.mark.parametrize("max_length", [16, 32])
def test_drafts_at_the_last_positions_of_a_full_buffer_overwrite_nothing(max_length: int) -> None:
    """The token buffer has exactly max_length positions, and drafts reach beyond its end."""
    prepared = checkpoint("uneven")[1]
    ids, mask = draw_batch(np.random.default_rng(1), 99, 1, 4, 16)
    for forced in (None, 2):
        options = {"max_length": max_length, "eos_token_id": None, "forced_eos_token_id": forced, "num_beams": 1}
        case = Case("uneven", ids, mask, None, options)
        expected = generate(prepared, ids, mask, prompt_lookup_num_tokens=0, **options)
        assert (expected.lengths == max_length).all()
        for seed in range(4):
            assert_greedy(with_random_drafts(prepared, case, expected, seed)[0], expected, case)


def test_a_draft_of_one_token_is_verified() -> None:
    """No row has a longer draft. The step gives the token of the draft and the next one."""
    prepared = checkpoint("uneven")[1]
    ids, mask = draw_batch(np.random.default_rng(2), 99, 1, 4, 16)
    options = {"max_length": 16, "eos_token_id": None, "forced_eos_token_id": None, "num_beams": 1}
    expected = generate(prepared, ids, mask, prompt_lookup_num_tokens=0, **options)
    state, rows = state_of(prepared, Case("uneven", ids, mask, None, options))
    B = state.tokens.shape[0]
    count = np.arange(B) < len(rows)  # the rows behind these are padding
    tokens = np.full((B, K), -1, np.int32)
    tokens[: len(rows), 0] = expected.sequences[:, 1]
    draft = Draft(jnp.asarray(tokens), jnp.asarray(count, jnp.int32))
    state = jit_verify(prepared.weights, prepared.config, state, draft)
    assert np.asarray(state.length)[: len(rows)].tolist() == [3] * len(rows)
    assert np.array_equal(state.tokens[: len(rows), 0, :3], expected.sequences[:, :3])


def test_an_end_token_inside_a_draft_ends_the_sequence() -> None:
    prepared = checkpoint("uneven")[1]
    ids, mask = draw_batch(np.random.default_rng(2), 99, 1, 4, 16)
    free = generate(prepared, ids, mask, max_length=24, eos_token_id=None, forced_eos_token_id=None)
    ends = sorted({int(free.sequences[0, 5]), int(free.sequences[1, 7])})
    options = {"max_length": 24, "eos_token_id": ends, "forced_eos_token_id": None, "num_beams": 1}
    expected = generate(prepared, ids, mask, prompt_lookup_num_tokens=0, **options)
    assert (expected.lengths[:2] < 24).all()
    case = Case("uneven", ids, mask, None, options)
    rows = resolve(prepared.generation, prepared.config, options, None, 4)
    state, _ = state_of(prepared, case)
    while not state.done.all():  # each draft holds the next tokens of `free`, those after an end token too
        following = [free.sequences[i, n : n + K] for i, n in enumerate(np.asarray(state.length))]
        tokens = np.stack([np.pad(row, (0, K - len(row)), constant_values=-1) for row in following])
        tokens[np.asarray(state.done)] = -1
        draft = Draft(jnp.asarray(tokens, jnp.int32), jnp.asarray((tokens >= 0).sum(1), jnp.int32))
        state = jit_verify(prepared.weights, prepared.config, state, draft)
    assert_greedy(read_outputs(state, rows), expected, "an end inside a draft")


# ── Drafts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def expected_draft(source: list[int], tokens: list[int], K: int) -> list[int]:
    """The draft, computed in plain Python, of a row whose drafts have not been rejected before."""
    for n in (2, 1):
        if len(tokens) >= n:
            for i in range(len(source) - n):
                if source[i : i + n] == tokens[-n:]:
                    return source[i + n : i + n + K]
    return []


def test_a_draft_is_what_follows_the_latest_tokens_in_the_source() -> None:
    prepared = checkpoint("uneven")[1]
    rng = np.random.default_rng(0)
    draft_lengths = set()
    for _ in range(40):
        ids = rng.integers(3, 9, (4, 12))  # few different ids, so that most n-grams occur in the source
        state, _ = state_of(prepared, Case("uneven", ids, None, None, {"max_length": 16}))
        tokens = rng.integers(3, 11, state.tokens.shape)
        length = rng.integers(1, 15, 4)
        state = state._replace(tokens=jnp.asarray(tokens, jnp.int32), length=jnp.asarray(length, jnp.int32))
        draft = find_draft(state, K)
        for i in range(4):
            expected = expected_draft(ids[i].tolist(), tokens[i, 0, : length[i]].tolist(), K)
            assert draft.tokens[i].tolist() == expected + [-1] * (K - len(expected))
            assert int(draft.length[i]) == len(expected)
            draft_lengths.add(len(expected))
    assert draft_lengths == {0, 1, 2, 3, 4}


def test_a_row_that_copies_nothing_drafts_ever_more_rarely() -> None:
    """All source and generated tokens are equal, so each step could have a draft, but this test rejects every one."""
    prepared = checkpoint("uneven")[1]
    state, _ = state_of(prepared, Case("uneven", np.full((1, 12), 5), None, None, {"max_length": 32}))
    state = state._replace(tokens=jnp.full_like(state.tokens, 5))
    lengths = []
    for length in range(2, 32):
        state = state._replace(length=jnp.array([length]))
        draft = find_draft(state, K)
        if int(draft.length[0]) > 0:
            lengths.append(length)
        drafts = update_history(state.drafts, draft, accepted=jnp.array([0]), length=jnp.array([length + 1]))
        state = state._replace(drafts=drafts)
    assert lengths == [2, 3, 4, 6, 10, 18]


def test_an_accepted_draft_ends_the_pause() -> None:
    history = DraftHistory(jnp.array([4, 4, 4, 0]), jnp.array([20, 20, 20, 0]))
    draft = Draft(jnp.full((4, K), 5), jnp.array([2, 2, 0, 3]))
    after = update_history(history, draft, accepted=jnp.array([1, 0, 0, 0]), length=jnp.array([30, 30, 30, 30]))
    assert after.failures.tolist() == [0, 5, 4, 1]
    assert after.retry_length.tolist() == [20, 37, 20, 30]


# ── Whole calls ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_real_text_has_the_tokens_of_transformers_in_fewer_steps() -> None:
    prepared = prepare(load())
    assert prepared.tokenizer is not None
    twin = BartForConditionalGeneration.from_pretrained(embedded(), dtype=torch.float32).eval()
    steps, tokens = 0, 0
    for document in DOCUMENTS:
        ids = np.array([encode_text(prepared.tokenizer, document)])
        case = Case("embedded", ids, np.ones_like(ids), None, {"num_beams": 1})
        outcome = oracle.compare(case, twin, prepared, prompt_lookup_num_tokens=K)
        assert not outcome.problem or outcome.exempt, f"{case}: {outcome.problem}"
        state, rows = state_of(prepared, case)
        options = dataclasses.replace(rows[0], prompt_lookup_num_tokens=K)
        while not state.done.all():
            state = continue_decoding(prepared, state, 1, options)
            steps += 1
        tokens += int(state.length[0]) - 1
    assert tokens > 1.3 * steps, f"{tokens} tokens in {steps} steps: too few drafts were accepted"


@pytest.mark.parametrize("count", [2, 1000])
def test_the_option_sets_the_length_of_drafts_for_a_batch(count: int) -> None:
    prepared = prepare(load())
    assert prepared.tokenizer is not None
    rows = [encode_text(prepared.tokenizer, document) for document in DOCUMENTS]
    width = max(len(row) for row in rows)
    ids = np.array([row + [1] * (width - len(row)) for row in rows])
    expected = generate(prepared, ids, ids != 1, num_beams=1, prompt_lookup_num_tokens=0)
    lookup = generate(prepared, ids, ids != 1, num_beams=1, prompt_lookup_num_tokens=count)
    assert_greedy(lookup, expected, count)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_stream_with_drafts_is_the_text_of_summarize(chunk: int) -> None:
    prepared = prepare(load())
    for document in DOCUMENTS:
        expected = summarize(prepared, document, num_beams=1, prompt_lookup_num_tokens=0)
        assert summarize(prepared, document, num_beams=1, prompt_lookup_num_tokens=K) == expected
        parts = list(stream(prepared, document, chunk, num_beams=1, prompt_lookup_num_tokens=K))
        assert "".join(parts) == expected


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "seed": 3}], ids=str)
def test_other_searches_have_no_drafts(options: dict[str, Any]) -> None:
    """In beam search and sampling, prompt_lookup_num_tokens is allowed and has no effect."""
    prepared = checkpoint("uneven")[1]
    state, rows = state_of(prepared, Case("uneven", np.full((1, 12), 5), None, None, {"max_length": 16, **options}))
    assert draft_tokens(state, dataclasses.replace(rows[0], prompt_lookup_num_tokens=K)) == 0


def test_a_number_of_draft_tokens_below_zero_is_refused() -> None:
    prepared = checkpoint("uneven")[1]
    with pytest.raises(OptionError, match="prompt_lookup_num_tokens must be an integer of at least 0, or None, got -1"):
        generate(prepared, [[5, 6]], prompt_lookup_num_tokens=-1)
