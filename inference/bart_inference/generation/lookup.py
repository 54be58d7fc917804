"""Lookup decoding for greedy search: several tokens a step, with the tokens that one token a step would give.

Summaries copy phrases of their source. So the tokens that follow the latest generated tokens in the source are a good
guess of what comes next: a draft. One step of the decoder over the latest token and the K tokens of a draft costs
little more than a step over the latest token alone, because both read every weight once. The step gives the token that
greedy search chooses at each of these positions, after all logits processors. The draft is accepted up to the first
token that differs from that choice, and is followed by the choice at that position: each step gives at least one token.

This is "prompt lookup decoding" (https://github.com/apoorvumang/prompt-lookup-decoding; transformers'
PromptLookupCandidateGenerator), except that an encoder-decoder model looks the tokens up in its encoder's input.

Letters as in `state`, where N = 1; in addition K is the tokens of a draft, and Q = K + 1 the positions of a step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.generation.indexing import entry_at, top_indices
from bart_inference.generation.processors import History, process
from bart_inference.generation.state import DraftHistory, State, is_end
from bart_inference.model.cache import KVCache
from bart_inference.model.transformer import decode_step
from bart_oneliner import Array, Config, Params

# A row whose drafts are rejected has fewer drafts. Measured on 300 summaries with K = 4: 2.00 tokens a step instead of
# 2.07 without this rule; with the sources exchanged among the summaries, so that nothing is copied, 12 % of the steps
# have a draft instead of 20 %.
MAX_FAILURES_OF_ONE_TOKEN = 2  # after this many rejected drafts in a row, a match of one token starts no draft
MAX_PAUSE_DOUBLINGS = 5  # the longest pause after a rejected draft is 2**5 - 1 = 31 tokens


class Draft(NamedTuple):
    """The tokens that may come next."""

    tokens: Array  # (B,K) int32, -1 behind the draft's end
    length: Array  # (B,) int32: the number of tokens, 0 for no draft


def lookup_step(weights: Params, config: Config, state: State, K: int) -> State:
    """One step, which adds 1 to K + 1 tokens to every row that is not done. K is below T."""
    return verify_draft(weights, config, state, find_draft(state, K))


def find_draft(state: State, K: int) -> Draft:
    """A draft: up to K tokens that follow, in the source, the first occurrence of the latest two generated tokens.

    If the source does not have these two in succession, the first occurrence of the latest one alone is taken.

    A row has no draft if it is done, still reads its prompt, or pauses after rejected drafts.
    """
    source, length = state.source.input_ids, state.length
    S = source.shape[1]
    latest = token_at(state, length - 1)
    before_latest = token_at(state, length - 2)
    padded = jnp.pad(source, ((0, 0), (1, K)), constant_values=-1)
    previous = padded[:, :S]  # the token before each position
    has_next = padded[:, 2 : S + 2] >= 0
    matches_one = (source == latest[:, None]) & has_next
    matches_two = matches_one & (previous == before_latest[:, None]) & (length >= 2)[:, None]
    has_two = matches_two.any(1)
    has_one = matches_one.any(1) & (state.drafts.failures < MAX_FAILURES_OF_ONE_TOKEN)
    match = jnp.where(has_two, matches_two.argmax(1), matches_one.argmax(1))
    index = match[:, None] + 2 + jnp.arange(K)  # in `padded`: of the tokens behind the match
    tokens = jnp.take_along_axis(padded, index, 1)

    is_generating = ~state.done & (length >= state.options.prompt_length)
    has_draft = (has_two | has_one) & is_generating & (length >= state.drafts.retry_length)
    tokens = jnp.where(has_draft[:, None], tokens, -1)
    return Draft(tokens, (tokens >= 0).sum(1, dtype=jnp.int32))


def token_at(state: State, position: Array) -> Array:
    """The token (B,) at a position (B,) of each row; the first token for positions before it."""
    return entry_at(state.tokens[:, 0], jnp.maximum(position, 0))


def verify_draft(weights: Params, config: Config, state: State, draft: Draft) -> State:
    """One step of every row that is not done: the accepted tokens of its draft and one token more."""
    K = draft.tokens.shape[1]
    logits, cache = decode_draft(weights, config, state, draft)
    tokens, log_probs, ends = choose_tokens(state, draft, logits)

    # A draft's token is accepted if greedy search chooses it and all tokens before it are accepted. Nothing is accepted
    # from a token on that ends the sequence.
    is_accepted = (tokens[:, :K] == draft.tokens) & ~ends[:, :K]
    accepted = jnp.cumprod(is_accepted, axis=1).sum(1, dtype=jnp.int32)
    appended = append_tokens(state, tokens, log_probs, accepted)
    done = entry_at(ends, accepted)

    # A finished row stays as it is. A row that is still reading its prompt only becomes longer by one token.
    is_kept = state.done | (state.length < state.options.prompt_length)
    added = jnp.where(is_kept, ~state.done, accepted + 1)
    length = state.length + added

    # The cache holds entries of rejected tokens, which later steps overwrite. Until then cache_indirection hides them.
    T = state.tokens.shape[-1]
    is_past = jnp.arange(T) < (length - 1)[:, None, None]
    cache = cache._replace(cache_indirection=jnp.where(is_past, cache.cache_indirection, -1))
    return state._replace(
        cache=cache,
        tokens=jnp.where(is_kept[:, None, None], state.tokens, appended.tokens),
        log_probs=jnp.where(is_kept[:, None, None], state.log_probs, appended.log_probs),
        score=jnp.where(is_kept[:, None], state.score, appended.score),
        length=length,
        done=jnp.where(is_kept, state.done, done),
        drafts=update_history(state.drafts, draft, accepted, length),
    )


def decode_draft(weights: Params, config: Config, state: State, draft: Draft) -> tuple[Array, KVCache]:
    """The decoder over the latest token and the draft: logits (B,Q,V) float32, and the cache with Q positions written.

    If no row has a draft it runs over the latest token only, and the logits behind it are zero.
    """
    K = draft.tokens.shape[1]
    position = state.length - 1
    latest = token_at(state, position)[:, None]

    def over_draft(cache: KVCache) -> tuple[Array, KVCache]:
        inputs = jnp.concatenate([latest, jnp.maximum(draft.tokens, 0)], 1)
        logits, cache = decode_step(weights, config, state.source, cache, inputs, position)
        return logits.astype(jnp.float32), cache

    def over_latest_token(cache: KVCache) -> tuple[Array, KVCache]:
        logits, cache = decode_step(weights, config, state.source, cache, latest, position)
        return jnp.pad(logits.astype(jnp.float32), ((0, 0), (0, K), (0, 0))), cache

    has_draft = (draft.length > 0).any()
    decoded: tuple[Array, KVCache] = jax.lax.cond(has_draft, over_draft, over_latest_token, state.cache)
    return decoded


def choose_tokens(state: State, draft: Draft, logits: Array) -> tuple[Array, Array, Array]:
    """Greedy search's choice at each position: logits (B,Q,V) -> tokens, log-probabilities, whether they end (B,Q).

    A position's history is the tokens so far and the draft's tokens before the position. The logits processors get
    B·Q rows, one for each position. Under vmap over positions they would run even where no row sets their option.
    """
    B, Q, V = logits.shape
    T = state.tokens.shape[-1]
    offset = jnp.arange(T) - state.length[:, None]  # (B,T): 0 at the first position after the tokens so far
    drafted = jnp.take_along_axis(draft.tokens, jnp.clip(offset, 0, Q - 2), 1)[:, None]  # (B,1,T)
    is_drafted = (offset[:, None] >= 0) & (offset[:, None] < jnp.arange(Q)[:, None])  # (B,Q,T)
    history_tokens = jnp.where(is_drafted, drafted, state.tokens)
    # Tokens at positions behind the buffer are never accepted. Their length only has to be a valid index.
    lengths = jnp.minimum(state.length[:, None] + jnp.arange(Q), T - 1)

    def each_position(x: Array) -> Array:
        return jnp.repeat(x, Q, axis=0)

    options = jax.tree.map(each_position, state.options)
    history = History(
        tokens=history_tokens.reshape(B * Q, 1, T),
        length=lengths.reshape(B * Q),
        source=each_position(state.source.input_ids),
    )
    scores = process(logits.reshape(B * Q, 1, V), history, options, do_sample=False)[:, 0]
    tokens = top_indices(scores, 1).astype(jnp.int32)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(scores), tokens, -1)
    ends = is_end(tokens, history.length, options)
    return tokens.reshape(B, Q), log_probs.reshape(B, Q), ends.reshape(B, Q)


class Appended(NamedTuple):
    """Fields of State with a step's tokens appended."""

    tokens: Array
    log_probs: Array
    score: Array


def append_tokens(state: State, tokens: Array, log_probs: Array, accepted: Array) -> Appended:
    """The state's tokens followed by the first accepted + 1 of a step's tokens.

    tokens and log_probs (B,Q): the choice at each position. accepted (B,): the number of accepted draft tokens.
    """
    T, Q = state.tokens.shape[-1], tokens.shape[1]
    offset = jnp.arange(T) - state.length[:, None]
    is_new = ((offset >= 0) & (offset <= accepted[:, None]))[:, None]
    index = jnp.clip(offset, 0, Q - 1)
    new_tokens = jnp.take_along_axis(tokens, index, 1)[:, None]
    new_log_probs = jnp.take_along_axis(log_probs, index, 1)[:, None]
    score = state.score[:, 0]
    for i in range(Q):  # added one by one, so that the sum rounds as in steps of one token
        score = jnp.where(i <= accepted, score + log_probs[:, i], score)
    return Appended(
        tokens=jnp.where(is_new, new_tokens, state.tokens),
        log_probs=jnp.where(is_new, new_log_probs, state.log_probs),
        score=score[:, None],
    )


def update_history(drafts: DraftHistory, draft: Draft, accepted: Array, length: Array) -> DraftHistory:
    """The history of drafts after a step. length (B,): the number of tokens after the step.

    Two rejected drafts in a row have no consequence here. After the third one the row has no draft for 1 token, after
    the next ones for 3, 7, 15 and then always 31 tokens.
    """
    is_rejected = (draft.length > 0) & (accepted == 0)
    failures = jnp.where(accepted > 0, 0, drafts.failures + is_rejected)
    doublings = jnp.clip(failures - MAX_FAILURES_OF_ONE_TOKEN, 0, MAX_PAUSE_DOUBLINGS)
    pause = 2**doublings - 1
    return DraftHistory(failures, jnp.where(is_rejected, length + pause, drafts.retry_length))
