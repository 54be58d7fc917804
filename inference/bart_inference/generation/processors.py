"""Logits processors, in transformers' order (GenerationMixin._get_logits_processor), with every option per row.

Letters as in bart_oneliner; here B is sources, N beams of each, T the token buffer. Scores are (B,N,V): raw logits for
greedy search and sampling, log-probabilities that nobody renormalizes for beam search. What no row wants is skipped at
run time, and a row's neutral value (0, 1, -1) changes none of its scores by a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.generation.arrays import OptionArrays
from bart_inference.generation.sampling import warp
from bart_oneliner import Array


class History(NamedTuple):
    """What the processors look back on."""

    tokens: Array  # (B,N,T) int32
    length: Array  # (B,) int32: how many of them are real, the start token included
    source: Array  # (B,S) int32, -1 where padded by us


def process(scores: Array, history: History, o: OptionArrays, do_sample: bool) -> Array:
    """All processors on scores (B,N,V) float32 -> the same shape."""
    length = history.length
    own = jnp.where(jnp.arange(history.tokens.shape[-1]) < length[:, None, None], history.tokens, -1)
    source, penalty = history.source[:, None], o.encoder_repetition_penalty
    scores = when((o.bias_tokens[:, :, -1] >= 0).any(), lambda s: bias(s, history, o), scores)
    scores = when((penalty != 1).any(), lambda s: penalize(s, source, penalty), scores)
    scores = when((o.repetition_penalty != 1).any(), lambda s: penalize(s, own, o.repetition_penalty), scores)
    scores = when((o.no_repeat_ngram > 0).any(), lambda s: ban_own_ngrams(s, own, history, o), scores)
    scores = when((o.encoder_no_repeat_ngram > 0).any(), lambda s: ban_source_ngrams(s, history, o), scores)
    scores = ban(scores, jnp.where((length < o.min_length)[:, None], o.eos, -1))
    scores = force(scores, jnp.where(length == 1, o.forced_bos, -1)[:, None])
    scores = force(scores, jnp.where((length == o.max_length - 1)[:, None], o.forced_eos, -1))
    decay = jnp.take_along_axis(o.decay, jnp.maximum(length - o.prompt_length, 0)[:, None], 1)[:, 0]
    scores = when((decay != 0).any(), lambda s: encourage_end(s, decay, o), scores)
    starting = jnp.where((length == o.begin)[:, None], o.begin_suppressed, -1)
    suppressed = jnp.concatenate([o.suppressed, starting], 1)
    scores = when((suppressed >= 0).any(), lambda s: ban(s, suppressed), scores)
    if do_sample:
        scores = warp(scores, o)
    normalize = o.renormalize[:, None, None]
    return when(o.renormalize.any(), lambda s: jnp.where(normalize, jax.nn.log_softmax(s), s), scores)


def when(wanted: Array, f: Callable[[Array], Array], scores: Array) -> Array:
    return jax.lax.cond(wanted, f, lambda s: s, scores)


def scatter(scores: Array, ids: Array) -> Any:
    """scores.at[...] at token ids (B,n) or (B,N,n); a negative id points nowhere."""
    B, N, V = scores.shape
    ids = jnp.broadcast_to(ids if ids.ndim == 3 else ids[:, None], (B, N, ids.shape[-1]))
    return scores.at[jnp.arange(B)[:, None, None], jnp.arange(N)[None, :, None], jnp.where(ids < 0, V, ids)]


def ban(scores: Array, ids: Array) -> Array:
    """MinLength-, SuppressTokensLogitsProcessor: -inf at ids."""
    return scatter(scores, ids).set(-jnp.inf, mode="drop")


def force(scores: Array, ids: Array) -> Array:
    """ForcedBOS- and ForcedEOSTokenLogitsProcessor: where a row (B,n) has an id, its ids score 0 and all else -inf."""
    forced = (ids >= 0).any(-1)[:, None, None]
    chosen = (jnp.arange(scores.shape[-1]) == ids[..., None]).any(-2)[:, None]  # (B,1,V)
    return jnp.where(forced, jnp.where(chosen, 0.0, -jnp.inf), scores)


def bias(scores: Array, history: History, o: OptionArrays) -> Array:
    """SequenceBias- and NoBadWordsLogitsProcessor."""
    prefix_length = o.bias_tokens.shape[-1] - 1
    at = history.length[:, None] + jnp.arange(-prefix_length, 0)  # positions of the latest tokens, oldest first
    tail = jnp.take_along_axis(history.tokens, jnp.maximum(at, 0)[:, None], 2)
    tail = jnp.where(at[:, None] >= 0, tail, -2)[:, :, None]  # (B,N,1,prefix)
    prefix, last = o.bias_tokens[:, None, :, :-1], o.bias_tokens[:, None, :, -1]  # (B,1,biases,prefix), (B,1,biases)
    complete = ((prefix < 0) | (prefix == tail)).all(-1)
    added = jnp.where(complete & (last >= 0), o.bias[:, None], 0.0)
    ids = jnp.broadcast_to(last, added.shape)
    return scores + scatter(jnp.zeros_like(scores), ids).add(added, mode="drop")  # summed first, as there


def penalize(scores: Array, ids: Array, penalty: Array) -> Array:
    """RepetitionPenalty- and EncoderRepetitionPenaltyLogitsProcessor, for token ids (B,1 or N,n) and a penalty (B,)."""
    ids = jnp.broadcast_to(ids, (*scores.shape[:2], ids.shape[-1]))
    s, p = jnp.take_along_axis(scores, jnp.maximum(ids, 0), -1), penalty[:, None, None]
    return scatter(scores, ids).set(jnp.where(s < 0, s * p, s / p), mode="drop")


def ngram_ends(text: Array, history: History, n: Array) -> Array:
    """Tokens that would complete an n-gram of `text` (B,N or 1,M): (B,N,M), -1 where text[j] would not.

    text[j] completes one if the n-1 tokens before it are the latest n-1 tokens; n (B,) is 0 where switched off.
    """
    at = jnp.arange(text.shape[-1])
    n = n[:, None, None]

    def compare(back: Array, matches: Array) -> Array:
        latest = jnp.take_along_axis(history.tokens, jnp.maximum(history.length - back, 0)[:, None, None], 2)
        same = (jnp.roll(text, back, -1) == latest) & (at >= back) & (history.length >= back)[:, None, None]
        return matches & (same | (back >= n))

    shape = (*history.tokens.shape[:2], text.shape[-1])
    matches = jax.lax.fori_loop(1, n.max(), compare, jnp.broadcast_to(n > 0, shape))
    return jnp.where(matches, text, -1)


def ban_own_ngrams(scores: Array, own: Array, history: History, o: OptionArrays) -> Array:
    """NoRepeatNGramLogitsProcessor; the start token counts. own (B,N,T): the tokens so far, -1 beyond."""
    return ban(scores, ngram_ends(own, history, o.no_repeat_ngram))


def ban_source_ngrams(scores: Array, history: History, o: OptionArrays) -> Array:
    """EncoderNoRepeatNGramLogitsProcessor; the caller's padding counts, as there."""
    return ban(scores, ngram_ends(history.source[:, None], history, o.encoder_no_repeat_ngram))


def encourage_end(scores: Array, decay: Array, o: OptionArrays) -> Array:
    """ExponentialDecayLengthPenalty: s + |s|·(factor^n - 1) at the end-of-sequence tokens."""
    ids = jnp.broadcast_to(o.eos[:, None], (*scores.shape[:2], o.eos.shape[-1]))
    s = jnp.take_along_axis(scores, jnp.maximum(ids, 0), -1)
    raised = jnp.where(jnp.isfinite(s), s + jnp.abs(s) * decay[:, None, None], s)
    return scatter(scores, ids).set(raised, mode="drop")
