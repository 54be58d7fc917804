"""Logits processors, in transformers' order (GenerationMixin._get_logits_processor), with every option per row.

Letters as in bart_oneliner; here B is rows (sources), N the beams of each, T the token buffer. Scores are (B,N,V):
logits in greedy search and sampling, log-probabilities in beam search. Processed log-probabilities need not add up to
probability 1; only renormalize_logits normalizes them again. A processor whose option no row sets is skipped at run
time. If only some rows set it, the others have a neutral value (0, 1 or -1), which changes no bit of their scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.generation.arrays import OptionArrays
from bart_inference.generation.indexing import entry_at
from bart_inference.generation.sampling import apply_sampling_filters
from bart_oneliner import Array


class History(NamedTuple):
    """The tokens that the processors look at."""

    tokens: Array  # (B,N,T) int32
    length: Array  # (B,) int32: the number of tokens so far, the start token included; padding follows
    source: Array  # (B,S) int32, -1 at positions that fill up a bucket; the caller's padding keeps its ids


def process(scores: Array, history: History, o: OptionArrays, do_sample: bool) -> Array:
    """All processors on scores (B,N,V) float32 -> the same shape."""
    length = history.length
    is_real = jnp.arange(history.tokens.shape[-1]) < length[:, None, None]
    generated = jnp.where(is_real, history.tokens, -1)  # with the start token, as in transformers
    source = history.source[:, None]

    has_bias = o.bias_tokens[:, :, -1] >= 0
    scores = apply_if(has_bias.any(), add_sequence_bias, scores, history, o)
    penalty = o.encoder_repetition_penalty
    scores = apply_if((penalty != 1).any(), penalize_repetition, scores, source, penalty)
    penalty = o.repetition_penalty
    scores = apply_if((penalty != 1).any(), penalize_repetition, scores, generated, penalty)
    n = o.no_repeat_ngram
    scores = apply_if((n > 0).any(), ban_ngrams, scores, generated, history, n)
    n = o.encoder_no_repeat_ngram
    scores = apply_if((n > 0).any(), ban_ngrams, scores, source, history, n)

    too_short = (length < o.min_length)[:, None]
    scores = ban(scores, jnp.where(too_short, o.eos, -1))
    scores = force(scores, jnp.where(length == 1, o.forced_bos, -1)[:, None])
    is_last = (length == o.max_length - 1)[:, None]
    scores = force(scores, jnp.where(is_last, o.forced_eos, -1))

    generated_count = jnp.maximum(length - o.prompt_length, 0)
    decay = entry_at(o.exponential_decay, generated_count)
    scores = apply_if((decay != 0).any(), raise_eos_scores, scores, decay, o)

    is_first = (length == o.begin_index)[:, None]
    begin_suppressed = jnp.where(is_first, o.begin_suppressed, -1)
    suppressed = jnp.concatenate([o.suppressed, begin_suppressed], 1)
    scores = apply_if((suppressed >= 0).any(), ban, scores, suppressed)
    if do_sample:
        scores = apply_sampling_filters(scores, o)
    return apply_if(o.renormalize.any(), renormalize, scores, o.renormalize)


def apply_if(condition: Array, function: Callable[..., Array], scores: Array, *arguments: Any) -> Array:
    """function(scores, *arguments) if the condition, a bool scalar, is true at run time, else the scores."""

    def apply(scores: Array) -> Array:
        return function(scores, *arguments)

    def skip(scores: Array) -> Array:
        return scores

    processed: Array = jax.lax.cond(condition, apply, skip, scores)
    return processed


def at_ids(scores: Array, ids: Array) -> Any:
    """scores.at[…] at token ids (B,n) or (B,N,n). Negative ids become V, which updates with mode="drop" leave out."""
    B, N, V = scores.shape
    if ids.ndim == 2:
        ids = ids[:, None]
    ids = jnp.broadcast_to(ids, (B, N, ids.shape[-1]))
    rows, beams = jnp.arange(B)[:, None, None], jnp.arange(N)[None, :, None]
    return scores.at[rows, beams, jnp.where(ids < 0, V, ids)]


def scores_of(scores: Array, ids: Array) -> Array:
    """The scores (B,N,n) of token ids (B,N,n); the score of id 0 where an id is negative."""
    return jnp.take_along_axis(scores, jnp.maximum(ids, 0), -1)


def ban(scores: Array, ids: Array) -> Array:
    """MinLengthLogitsProcessor and SuppressTokensLogitsProcessor: the score of these ids, (B,n) or (B,N,n), is -inf."""
    banned: Array = at_ids(scores, ids).set(-jnp.inf, mode="drop")
    return banned


def force(scores: Array, ids: Array) -> Array:
    """ForcedBOSTokenLogitsProcessor and ForcedEOSTokenLogitsProcessor, for ids (B,n).

    Where a row has an id that is not negative, its ids score 0 and all other tokens -inf.
    """
    is_forced_row = (ids >= 0).any(-1)[:, None, None]
    equals = jnp.arange(scores.shape[-1]) == ids[..., None]  # (B,n,V)
    is_forced_token = equals.any(1)[:, None]  # (B,1,V)
    return jnp.where(is_forced_row, jnp.where(is_forced_token, 0.0, -jnp.inf), scores)


def add_sequence_bias(scores: Array, history: History, o: OptionArrays) -> Array:
    """SequenceBiasLogitsProcessor and NoBadWordsLogitsProcessor.

    A sequence's bias is added to the score of its last token where the tokens before it are the latest ones.
    """
    prefix_width = o.bias_tokens.shape[-1] - 1
    positions = history.length[:, None] + jnp.arange(-prefix_width, 0)  # of the latest tokens, oldest first
    latest = jnp.take_along_axis(history.tokens, jnp.maximum(positions, 0)[:, None], 2)
    # -2 where there is no such position: it equals no token, nor the -1 that fills a sequence.
    latest = jnp.where(positions[:, None] >= 0, latest, -2)[:, :, None]  # (B,N,1,prefix)
    prefix = o.bias_tokens[:, None, :, :-1]  # (B,1,biases,prefix)
    last = o.bias_tokens[:, None, :, -1]  # (B,1,biases)
    prefix_matches = ((prefix < 0) | (prefix == latest)).all(-1)
    bias = jnp.where(prefix_matches & (last >= 0), o.bias[:, None], 0.0)
    ids = jnp.broadcast_to(last, bias.shape)
    # The biases of one token are summed before they are added to its score, the order in which transformers rounds.
    total: Array = at_ids(jnp.zeros_like(scores), ids).add(bias, mode="drop")
    return scores + total


def penalize_repetition(scores: Array, ids: Array, penalty: Array) -> Array:
    """RepetitionPenalty- and EncoderRepetitionPenaltyLogitsProcessor.

    ids (B,N,n), or (B,1,n) for all beams: the tokens whose scores are penalized. penalty (B,).
    """
    B, N, _ = scores.shape
    ids = jnp.broadcast_to(ids, (B, N, ids.shape[-1]))
    score = scores_of(scores, ids)
    penalty = penalty[:, None, None]
    penalized = jnp.where(score < 0, score * penalty, score / penalty)
    with_penalties: Array = at_ids(scores, ids).set(penalized, mode="drop")
    return with_penalties


def ban_ngrams(scores: Array, text: Array, history: History, n: Array) -> Array:
    """NoRepeatNGramLogitsProcessor, or EncoderNoRepeatNGramLogitsProcessor if `text` is the source.

    The caller's padding of a source counts as tokens, as it does in transformers. For the shapes see ngram_completions.
    """
    return ban(scores, ngram_completions(text, history, n))


def ngram_completions(text: Array, history: History, n: Array) -> Array:
    """The next tokens that would repeat an n-gram of `text`: text (B,N,M), or (B,1,M) for all beams -> (B,N,M).

    The result has text[j] where the n - 1 tokens before it equal the latest n - 1 tokens of the history, else -1.
    n (B,): 0 for rows without this option.
    """
    position = jnp.arange(text.shape[-1])
    n = n[:, None, None]

    def compare(distance: Array, matches: Array) -> Array:
        """Keep the positions j where the token `distance` before j is the token `distance` before the history's end."""
        index = jnp.maximum(history.length - distance, 0)
        latest = jnp.take_along_axis(history.tokens, index[:, None, None], 2)
        both_exist = (position >= distance) & (history.length >= distance)[:, None, None]
        is_same = (jnp.roll(text, distance, -1) == latest) & both_exist
        return matches & (is_same | (distance >= n))

    B, N, _ = history.tokens.shape
    every_position = jnp.broadcast_to(n > 0, (B, N, text.shape[-1]))
    end = jnp.minimum(n.max(), history.length.max() + 2)  # an n-gram longer than the history matches nowhere
    matches = jax.lax.fori_loop(1, end, compare, every_position)
    return jnp.where(matches, text, -1)


def renormalize(scores: Array, rows: Array) -> Array:
    """LogitNormalization of the rows (B,) that are true."""
    return jnp.where(rows[:, None, None], jax.nn.log_softmax(scores), scores)


def raise_eos_scores(scores: Array, decay: Array, o: OptionArrays) -> Array:
    """ExponentialDecayLengthPenalty: score + |score|·decay at end-of-sequence tokens; decay (B,): factor^n - 1."""
    B, N, _ = scores.shape
    ids = jnp.broadcast_to(o.eos[:, None], (B, N, o.eos.shape[-1]))
    score = scores_of(scores, ids)
    raised = score + jnp.abs(score) * decay[:, None, None]
    # A token that an earlier processor excluded stays excluded: -inf + inf would be NaN.
    raised = jnp.where(jnp.isfinite(score), raised, score)
    with_raised: Array = at_ids(scores, ids).set(raised, mode="drop")
    return with_raised
