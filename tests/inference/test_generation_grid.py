"""generate's tokens, scores and log-probabilities equal transformers', for every option alone and for many at once.

The ordinary tests run a sample of the cases. The whole grid, hundreds of cases with every checkpoint and several batch
sizes and lengths, is marked slow. A case is exempt if its tokens differ at a decision that rounding can change
(support/oracle.py); `pytest -s` shows how many are.
"""

from __future__ import annotations

from typing import Any

import pytest

from support import oracle
from tests.inference.cases import BEAM_OPTIONS, CHECKPOINTS, OPTIONS, alone, checkpoint, combined, compare, draw


def test_every_option_alone_equals_transformers() -> None:
    print(oracle.report([compare(case) for case in alone("uneven")]))


@pytest.mark.parametrize("name", ["uneven", "pad-is-0"])
def test_combined_options_equal_transformers(name: str) -> None:
    print(oracle.report([compare(case) for case in combined(name, 20, beams=(1, 3))]))


EDGES: list[dict[str, Any]] = [
    {"exponential_decay_length_penalty": (-2, 1.1)},  # the exponent is two more than the number of generated tokens
    {"exponential_decay_length_penalty": (1, 2.0)},  # the first token after `start` is penalized by 2.0**1 - 1 = 1
    {"encoder_repetition_penalty": 0.5},  # the processor uses its reciprocal, 2
    {"repetition_penalty": 2.0},
    {"no_repeat_ngram_size": 1},  # no token is repeated
    {"forced_bos_token_id": 7, "begin_suppress_tokens": list(range(10, 60))},
    {"min_length": 12, "begin_suppress_tokens": list(range(10, 60))},
]


@pytest.mark.parametrize("beams", [1, 3])
def test_values_at_which_a_processor_is_switched_on_or_off_equal_transformers(beams: int) -> None:
    cases = [draw("uneven", 500 + i, {"num_beams": beams, **options}, (4, 16)) for i, options in enumerate(EDGES)]
    print(oracle.report([compare(case) for case in cases]))


@pytest.mark.slow
@pytest.mark.usefixtures("without_programs")
@pytest.mark.parametrize("sizes", [(1, 9), (4, 16), (8, 40)], ids=str)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_whole_grid_equals_transformers(name: str, sizes: tuple[int, int]) -> None:
    print(oracle.report([compare(case) for case in [*alone(name, sizes), *combined(name, 30, sizes=sizes)]]))


# ── The grid itself ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_grid_has_every_option_and_something_to_compare() -> None:
    cases = [*alone("uneven"), *combined("uneven", 20, beams=(1, 3))]
    for option in (*OPTIONS, *BEAM_OPTIONS):
        assert sum(option in case.options for case in cases) >= 2, f"{option} occurs in fewer than two cases"
    assert {case.decoder_input_ids is None for case in cases} == {True, False}
    assert {case.attention_mask is None for case in cases} == {True, False}
    model = checkpoint("uneven")[0].torch
    answers = {tuple(row) for case in cases[::4] for row in oracle.reference(case, model).sequences.tolist()}
    assert len(answers) > len(cases[::4]), "the checkpoint gives the same answers to many different sources"


def test_a_wrong_answer_is_not_exempt() -> None:
    """The comparison with transformers fails if one of our weights is changed."""
    cases = [case for case in combined("uneven", 20, beams=(1, 3)) if case.decoder_input_ids is None][:6]
    twin, prepared = checkpoint("uneven")
    weights = {**prepared.weights, "final_logits_bias": prepared.weights["final_logits_bias"].at[7:40].add(1.0)}
    changed = prepared._replace(weights=weights)
    outcomes = [oracle.compare(case, twin.torch, changed) for case in cases]
    assert all(outcome.problem for outcome in outcomes)
    assert sum(outcome.exempt for outcome in outcomes) <= 1
    with pytest.raises(AssertionError, match="cases differ from transformers"):
        oracle.report(outcomes)
