"""Scores and baselines are right for cases that a reader can compute by hand."""

import pytest
from bart_training import baselines
from bart_training.evaluate import degenerate, rouge

DOCUMENT = "Quux is a small and fast editor for the alpha file format used by nobody. It has menus."


def test_baselines():
    assert baselines.lead(DOCUMENT) == "Quux is a small and fast editor for the alpha file format used by nobody."
    assert baselines.rule(DOCUMENT) == "small and fast editor for the alpha file format"
    assert baselines.rule("Edits files. Twice.") == "Edits files."


def test_rouge_is_f1_with_stemming_in_percent():
    # "editors" and "editor" have one stem. So 2 of the reference's 3 and the candidate's 4 words match, and 1 bigram.
    scores = rouge(["fast editors for files"], ["fast editor today"])
    assert scores["rouge1"] == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), abs=0.01)
    assert scores["rouge2"] == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), abs=0.01)
    assert rouge(["a b", "c d"], ["a b", "x y"])["rougeL"] == 50.0


@pytest.mark.parametrize("summary", ["", "editor editor for files", "a b a b a b"])
def test_empty_and_repeating_summaries_are_degenerate(summary):
    assert degenerate(summary)


def test_good_summaries_are_not_degenerate():
    assert not degenerate("fast editor for the files of the alpha format")
