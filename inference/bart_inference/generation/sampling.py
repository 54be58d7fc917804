"""Sampling: temperature, top_k, top_p and min_p, with every option per row. Letters as in processors.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bart_inference.generation.arrays import OptionArrays
from bart_oneliner import Array

SHORTLIST = 128  # candidates looked at when every row's top_k is at most this; otherwise the whole vocabulary is sorted


def warp(scores: Array, o: OptionArrays) -> Array:
    """Temperature-, TopK-, TopP- and MinPLogitsWarper: each is a floor under which scores become -inf."""
    scores = scores / o.temperature[:, None, None]
    shortlist = min(SHORTLIST, scores.shape[-1])
    short = (o.top_k > 0) & (o.top_k <= shortlist)

    def sort_all(s: Array) -> Array:
        best = -jnp.sort(-s)
        few, all_ = sampling_floor(best[..., :shortlist], o), sampling_floor(best, o)
        return jnp.where(short[:, None, None], few, all_)  # to the last bit what the row gets alone

    few_suffice = short.all()
    floor = jax.lax.cond(few_suffice, lambda s: sampling_floor(jax.lax.top_k(s, shortlist)[0], o), sort_all, scores)
    return jnp.where(scores < floor, -jnp.inf, scores)


def sampling_floor(best: Array, o: OptionArrays) -> Array:
    """The lowest score (B,N,1) that top_k, top_p and min_p let live; best (B,N,M) holds the top scores, descending."""
    M = best.shape[-1]
    keep, k, p, least = (x[:, None, None] for x in (o.keep, o.top_k, o.top_p, o.min_p))

    def score_of(rank: Array) -> Array:  # rank counted from 1
        ranks = jnp.broadcast_to(jnp.clip(rank - 1, 0, M - 1), (*best.shape[:2], 1))
        return jnp.take_along_axis(best, ranks, -1)

    kept = score_of(keep)
    floor_k = jnp.where(k > 0, score_of(jnp.maximum(k, keep)), -jnp.inf)
    best = jnp.where(best < floor_k, -jnp.inf, best)  # a tie with the k-th survives, as in transformers
    probabilities = jax.nn.softmax(best)
    below = jnp.cumsum(probabilities[..., ::-1], -1)[..., ::-1]  # the mass of a token and all less likely ones
    floor_p = jnp.where(p < 1, jnp.where(below > 1 - p, best, jnp.inf).min(-1, keepdims=True), -jnp.inf)
    best = jnp.where(best < jnp.minimum(floor_p, kept), -jnp.inf, best)
    probabilities = jax.nn.softmax(best)
    enough = probabilities >= least * probabilities[..., :1]
    floor_m = jnp.where(least > 0, jnp.where(enough, best, jnp.inf).min(-1, keepdims=True), -jnp.inf)
    floors = (jnp.minimum(floor, kept) for floor in (floor_k, floor_p, floor_m))
    return jnp.maximum(jnp.maximum(next(floors), next(floors)), next(floors))
