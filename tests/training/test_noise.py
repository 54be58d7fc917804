"""Text infilling and sentence permutation have the statistics of BART's paper (Lewis et al., 2019, section 2.2)."""

import numpy as np
import pytest
from bart_training.noise import permute_sentences, text_infilling

MASK = -1


@pytest.mark.parametrize("length", [1, 7, 100])
def test_thirty_percent_of_the_tokens_disappear_and_the_rest_keep_their_order(length):
    ids = list(range(length))
    for seed in range(50):
        noised = text_infilling(ids, MASK, np.random.default_rng(seed))
        kept = [i for i in noised if i != MASK]
        assert len(kept) == length - round(0.3 * length)
        assert kept == sorted(kept)


def test_span_lengths_are_poisson_with_mean_three_and_zero_inserts_a_mask():
    rng = np.random.default_rng(0)
    masks = [text_infilling(list(range(1000)), MASK, rng).count(MASK) for _ in range(100)]
    # Each span, even one of length 0, becomes one mask. Without those of length 0 there would be 95.
    assert np.mean(masks) == pytest.approx(300 / 3, rel=0.02)


def test_spans_are_equally_likely_everywhere_but_at_the_ends():
    rng = np.random.default_rng(1)
    gone = np.zeros(50)
    for _ in range(4000):
        gone[list(set(range(50)) - set(text_infilling(list(range(50)), MASK, rng)))] += 1
    inner = gone[5:-5]  # a span lies inside the text, so fewer spans contain the outermost tokens
    assert inner.min() / inner.max() > 0.85


def test_sentences_are_shuffled_and_none_is_lost():
    text = "One is here. Two is there! Three is gone? Four: Five stays."
    shuffled = {permute_sentences(text, np.random.default_rng(seed)) for seed in range(40)}
    assert len(shuffled) > 10
    assert all(sorted(s.split()) == sorted(text.split()) for s in shuffled)
