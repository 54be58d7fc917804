"""Summaries that are made by rules, without a model, as baselines for a model's summaries."""

import re

from bart_training.noise import SENTENCE

OPENING = re.compile(
    r"^.{0,60}?\b(?:is|are|provides?|contains?|implements?|offers?|allows?)\s+"
    r"(?:(?:you|users?)\s+to\s+)?(?:an?|the)?\s*",
    re.I,
)


def lead(document: str) -> str:
    """The first sentence."""
    return SENTENCE.split(document)[0]


def rule(document: str, words: int = 9) -> str:
    """The first sentence after "X is a", "this package provides", …, cut to nine words; our best baseline."""
    sentence = lead(document)
    rest = OPENING.sub("", sentence, count=1) or sentence
    return " ".join(rest.split()[:words])
