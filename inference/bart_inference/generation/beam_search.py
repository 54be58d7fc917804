"""Beam search's choice: which continuations of a row's beams become its next beams, and which are finished sequences.

Letters as in `state`; in addition M is the number of continuations that one step considers for a row. Sums are computed
in the order of transformers (GenerationMixin._beam_search), so that they round equally in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.generation.indexing import gather_beams, top_indices
from bart_inference.generation.options import MAX_EOS
from bart_inference.generation.state import DEAD_SCORE, Finished, State, is_end, length_norm, prng_keys, write_next
from bart_oneliner import Array


class Continuations(NamedTuple):
    """The M best continuations of a row's beams by one token, best first."""

    tokens: Array  # (B,M,T) int32
    log_probs: Array  # (B,M,T) float32
    score: Array  # (B,M) float32: the sum of log-probabilities; -inf where not considered
    parent: Array  # (B,M) int32: the beam that is continued
    ends: Array  # (B,M) bool: the sequence is complete
    is_considered: Array  # (B,M) bool: among the N·max(2, 1 + eos tokens) best, which are all that transformers keeps


def choose_beams(state: State, scores: Array, do_sample: bool) -> tuple[State, Array]:
    """Log-probabilities (B,N,V) -> the state with the next tokens, and the beam that each beam continues (B,N)."""
    N = scores.shape[1]
    o = state.options
    best = best_continuations(state, scores, do_sample)
    # The best continuations that do not end are the beams of the next step.
    score, chosen = jax.lax.top_k(best.score + best.ends * DEAD_SCORE, N)
    finished = add_finished(state, best)

    # The row goes on while its best running beam can still become better than its worst finished sequence.
    generated_count = state.length + 1 - o.prompt_length
    final_count = jnp.where(o.early_stopping_never, o.max_length - o.prompt_length, generated_count)
    worst_finished = jnp.where(finished.valid, finished.score.min(-1, keepdims=True), DEAD_SCORE)
    best_possible = score[:, :1] / length_norm(o, final_count)[:, None]
    can_improve = state.can_improve & (best_possible > worst_finished).any(-1)
    is_full = o.early_stopping_true & finished.valid.all(-1)
    all_end = (best.ends | ~best.is_considered).all(-1)
    done = ~can_improve | is_full | all_end

    running = state._replace(
        tokens=gather_beams(best.tokens, chosen),
        log_probs=gather_beams(best.log_probs, chosen),
        score=score,
        done=done,
        can_improve=can_improve,
        finished=finished,
    )
    return running, gather_beams(best.parent, chosen)


def best_continuations(state: State, scores: Array, do_sample: bool) -> Continuations:
    """The M best continuations over all beams; with do_sample, M that are drawn by their probabilities.

    M is N·(1 + MAX_EOS), since each of N beams can be continued by each of at most MAX_EOS end-of-sequence tokens: so
    at least N of them do not end with such a token.
    """
    B, N, V = scores.shape
    total = (scores + state.score[..., None]).reshape(B, N * V)
    ranked = total
    if do_sample:  # the highest sums with Gumbel noise are a draw without replacement

        def gumbel_noise(key: Array) -> Array:
            return jax.random.gumbel(key, (N * V,))

        ranked = total + jax.vmap(gumbel_noise)(prng_keys(state))
    M = N * (1 + MAX_EOS)
    index = top_indices(ranked, M)
    score = jnp.take_along_axis(total, index, 1)
    eos_count = (state.options.eos >= 0).sum(-1)
    is_considered = jnp.arange(M) < N * jnp.maximum(2, 1 + eos_count)[:, None]
    score = jnp.where(is_considered, score, -jnp.inf)
    parent, token = index // V, (index % V).astype(jnp.int32)
    log_prob = jnp.take_along_axis(scores.reshape(B, N * V), index, 1)
    tokens = write_next(gather_beams(state.tokens, parent), state.length, token)
    log_probs = write_next(gather_beams(state.log_probs, parent), state.length, log_prob)
    ends = is_end(token, state.length, state.options)
    return Continuations(tokens, log_probs, score, parent, ends, is_considered)


def add_finished(state: State, best: Continuations) -> Finished:
    """The N best among the finished sequences so far and those of the N best continuations that are complete."""
    B, M = best.score.shape
    N = state.tokens.shape[1]
    o, finished = state.options, state.finished
    generated_count = state.length + 1 - o.prompt_length
    score = best.score / length_norm(o, generated_count)[:, None]
    # transformers adds DEAD_SCORE once for each reason to leave a sequence out, and then sorts. Equal float32 sums give
    # an equal order, also among the sequences that are left out.
    is_full = finished.valid.all(-1) & o.early_stopping_true
    score += is_full[:, None] * DEAD_SCORE
    score += ~state.can_improve[:, None] * DEAD_SCORE
    newly_finished = best.ends & (jnp.arange(M) < N)
    score += ~newly_finished * DEAD_SCORE
    length = jnp.broadcast_to(state.length[:, None] + 1, (B, M))
    new = Finished(best.tokens, best.log_probs, score, length, newly_finished)

    def join(old: Array, new: Array) -> Array:
        return jnp.concatenate([old, new], 1)

    both = jax.tree.map(join, finished, new)
    order = jax.lax.top_k(both.score, N)[1]

    def best_of(x: Array) -> Array:
        return gather_beams(x, order)

    kept: Finished = jax.tree.map(best_of, both)
    return kept
