"""BART's noise: text infilling and sentence permutation.

Lewis et al., https://arxiv.org/abs/1910.13461, section 2.2: spans whose lengths are drawn from Poisson(3) are each
replaced by one <mask>, until 30% of the tokens are replaced. A span of length 0 inserts a <mask>. Sentences are
shuffled.
"""

import re

import numpy as np

SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"'(*\-])")  # the white space between two sentences


def text_infilling(
    ids: list[int], mask: int, rng: np.random.Generator, ratio: float = 0.3, mean_span: float = 3.0
) -> list[int]:
    """`ids` (without special tokens) with spans replaced by `mask`; `ratio` is the share of tokens that disappear."""
    budget = round(ratio * len(ids))
    spans = []  # lengths of spans, drawn until their sum is the budget
    while budget > 0:
        spans.append(min(int(rng.poisson(mean_span)), budget))
        budget -= spans[-1]
    # The kept tokens, each written as -1, and the spans in random order: this places disjoint spans uniformly.
    kept = len(ids) - sum(spans)
    noised, i = [], 0
    for span in rng.permutation(np.array([-1] * kept + spans, int)):
        if span < 0:
            noised.append(ids[i])
            i += 1
        else:
            noised.append(mask)
            i += span
    return noised


def permute_sentences(text: str, rng: np.random.Generator) -> str:
    """The text with its sentences in random order."""
    sentences = SENTENCE.split(text)
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))
