"""Makes summaries by rules, without a model, as baselines for a model's summaries."""

import re

from bart_training.noise import SENTENCE

OPENING = re.compile(  # the opening of a sentence up to its first verb and article, such as "X is a"
    r"^.{0,60}?\b(?:is|are|provides?|contains?|implements?|offers?|allows?)\s+"
    r"(?:(?:you|users?)\s+to\s+)?(?:an?|the)?\s*",
    re.I,
)


def lead(document: str) -> str:
    """The first sentence."""
    return SENTENCE.split(document)[0]


def rule(document: str, words: int = 9) -> str:
    """The first sentence without an opening such as "X is a" or "this package provides", cut to `words` words."""
    sentence = lead(document)
    without_opening = OPENING.sub("", sentence, count=1) or sentence
    return " ".join(without_opening.split()[:words])
