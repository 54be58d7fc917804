"""Sampling filters: temperature, top_k, top_p and min_p, with every option per row.

Letters as in processors: B rows, N beams, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bart_inference.generation.arrays import OptionArrays
from bart_oneliner import Array

# If every row has a top_k of at most this number, only this many of the highest scores are sorted, else the whole
# vocabulary.
SHORTLIST = 128


def apply_sampling_filters(scores: Array, o: OptionArrays) -> Array:
    """TemperatureLogitsWarper, then TopK-, TopP- and MinPLogitsWarper, on scores (B,N,V).

    Each of the last three keeps the scores that are at least its floor, so together they have one floor for each beam.
    Scores below it become -inf.
    """
    scores = scores / o.temperature[:, None, None]
    shortlist = min(SHORTLIST, scores.shape[-1])
    fits_shortlist = (o.top_k > 0) & (o.top_k <= shortlist)

    def floor_of_shortlist(scores: Array) -> Array:
        return score_floor(jax.lax.top_k(scores, shortlist)[0], o)

    def floor_of_all(scores: Array) -> Array:
        best = -jnp.sort(-scores)
        # A row that fits the shortlist uses it here too: sums over another number of scores could round differently,
        # and a row's result would depend on the other rows of its batch.
        of_shortlist = score_floor(best[..., :shortlist], o)
        return jnp.where(fits_shortlist[:, None, None], of_shortlist, score_floor(best, o))

    all_fit = fits_shortlist.all()
    floor = jax.lax.cond(all_fit, floor_of_shortlist, floor_of_all, scores)
    return jnp.where(scores < floor, -jnp.inf, scores)


def score_floor(best: Array, o: OptionArrays) -> Array:
    """The lowest score (B,N,1) that top_k, top_p and min_p keep. best (B,N,M): the M highest scores, descending.

    The filters are applied one after another, as in transformers: top_p reads probabilities that are computed without
    the tokens that top_k has excluded. Each filter keeps at least `min_tokens_to_keep` scores.
    """
    B, N, M = best.shape
    min_tokens_to_keep = o.min_tokens_to_keep[:, None, None]
    top_k = o.top_k[:, None, None]
    top_p = o.top_p[:, None, None]
    min_p = o.min_p[:, None, None]

    def score_at(rank: Array) -> Array:
        """The score of a rank (B,1,1), counted from 1."""
        index = jnp.broadcast_to(jnp.clip(rank - 1, 0, M - 1), (B, N, 1))
        return jnp.take_along_axis(best, index, -1)

    highest_floor = score_at(min_tokens_to_keep)

    top_k_floor = jnp.where(top_k > 0, score_at(jnp.maximum(top_k, min_tokens_to_keep)), -jnp.inf)
    best = jnp.where(best < top_k_floor, -jnp.inf, best)  # keeps a tie with the k-th score, as transformers does

    probabilities = jax.nn.softmax(best)
    tail_mass = jnp.cumsum(probabilities[..., ::-1], -1)[..., ::-1]  # of each token and all less probable ones
    lowest_kept = jnp.where(tail_mass > 1 - top_p, best, jnp.inf).min(-1, keepdims=True)
    top_p_floor = jnp.where(top_p < 1, lowest_kept, -jnp.inf)
    best = jnp.where(best < jnp.minimum(top_p_floor, highest_floor), -jnp.inf, best)

    probabilities = jax.nn.softmax(best)
    is_probable = probabilities >= min_p * probabilities[..., :1]
    lowest_kept = jnp.where(is_probable, best, jnp.inf).min(-1, keepdims=True)
    min_p_floor = jnp.where(min_p > 0, lowest_kept, -jnp.inf)

    floor = jnp.minimum(top_k_floor, highest_floor)
    for filter_floor in (top_p_floor, min_p_floor):
        floor = jnp.maximum(floor, jnp.minimum(filter_floor, highest_floor))
    return floor
