"""The state of a running batch: its tokens, KV cache, options and progress, and how answers are read from it.

Letters as in bart_oneliner; here B is rows, one for each source, N the beams of each row (1 for greedy search and
sampling), and T the positions of the token buffer. Every leaf of a State has a leading axis of B, and rows do not
depend on each other: each has its own length and options. So a row can be replaced between two calls of
`search.decode`, as the server does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.generation.arrays import OptionArrays
from bart_inference.generation.indexing import entry_at
from bart_inference.model.cache import KVCache, empty_cache
from bart_inference.model.transformer import Source
from bart_oneliner import Array, Config

DEAD_SCORE = -1.0e9  # the score of a beam that does not exist; transformers' value, so that sums with it round equally


class Finished(NamedTuple):
    """The N best complete sequences of each row, best first. An entry without a sequence yet has DEAD_SCORE."""

    tokens: Array  # (B,N,T) int32
    log_probs: Array  # (B,N,T) float32
    score: Array  # (B,N) float32: the sum of log-probabilities / (number of generated tokens ** length_penalty)
    length: Array  # (B,N) int32
    valid: Array  # (B,N) bool: false for an entry without a sequence


class DraftHistory(NamedTuple):
    """How the latest drafts of lookup decoding went (see `lookup`); unused by the other searches."""

    failures: Array  # (B,) int32: the number of consecutive drafts of which no token was accepted
    retry_length: Array  # (B,) int32: the number of tokens from which on the row drafts again


class State(NamedTuple):
    """A running batch."""

    source: Source
    cache: KVCache
    options: OptionArrays
    tokens: Array  # (B,N,T) int32: the prompt, the generated tokens, then padding
    log_probs: Array  # (B,N,T) float32: of each generated token, after the logits processors
    score: Array  # (B,N) float32: the sum of each beam's log_probs
    length: Array  # (B,) int32: the number of tokens so far, prompt included
    done: Array  # (B,) bool: no further step changes the row
    can_improve: Array  # (B,) bool: a running beam may still become better than a finished sequence
    finished: Finished  # of beam search
    drafts: DraftHistory  # of greedy search


def init_state(
    config: Config, source: Source, prompts: Array, options: OptionArrays, N: int, done: Array, dtype: jnp.dtype
) -> State:
    """A state before its first step.

    prompts (B,T) int32: each row's prompt with padding behind it. done (B,) bool: true for rows that only fill up the
    batch. dtype: of the KV cache.
    """
    B, T = prompts.shape
    tokens = jnp.broadcast_to(prompts[:, None], (B, N, T))
    log_probs = jnp.zeros((B, N, T), jnp.float32)
    # Only beam 0 is alive at first: N equal beams would all choose the same tokens.
    score = jnp.broadcast_to(jnp.where(jnp.arange(N) == 0, 0.0, DEAD_SCORE), (B, N))
    no_score = jnp.full((B, N), DEAD_SCORE)
    finished = Finished(tokens, log_probs, no_score, jnp.zeros((B, N), jnp.int32), jnp.zeros((B, N), bool))
    # Every row begins with its first token. The further tokens of a prompt are read one a step: they stand in `tokens`
    # already, and what the search chooses in these steps is dropped.
    return State(
        source=source,
        cache=empty_cache(config, B, N, T, dtype),
        options=options,
        tokens=tokens,
        log_probs=log_probs,
        score=score,
        length=jnp.ones(B, jnp.int32),
        done=done,
        can_improve=jnp.ones(B, bool),
        finished=finished,
        drafts=DraftHistory(jnp.zeros(B, jnp.int32), jnp.zeros(B, jnp.int32)),
    )


def prng_keys(state: State) -> Array:
    """One PRNG key for each row, which depends on the row's seed, sample_index and length only."""

    def key(seed: Array, sample_index: Array, length: Array) -> Array:
        row_key = jax.random.fold_in(jax.random.key(seed), sample_index)
        return jax.random.fold_in(row_key, length)

    return jax.vmap(key)(state.options.seed, state.options.sample_index, state.length)


def write_next(buffer: Array, length: Array, values: Array) -> Array:
    """Tokens or their log-probabilities (B,n,T), with values (B,n) written at each row's position `length` (B,)."""
    is_next = jnp.arange(buffer.shape[-1]) == length[:, None, None]
    return jnp.where(is_next, values[..., None], buffer)


def is_end(tokens: Array, length: Array, o: OptionArrays) -> Array:
    """Whether a next token ends its sequence, because it is an end-of-sequence token or max_length is reached.

    tokens (B,n): candidates for the next token; length (B,): the number of tokens before it. -> (B,n) bool
    """
    is_last = length + 1 >= o.max_length
    is_eos = (tokens[..., None] == o.eos[:, None]).any(-1)
    return is_eos | is_last[:, None]


def length_norm(o: OptionArrays, count: Array) -> Array:
    """count ** length_penalty for (B,) numbers of generated tokens."""
    return entry_at(o.length_norm, jnp.maximum(count, 0))


def hypotheses(state: State) -> Finished:
    """The answers so far, best first: beam search's finished sequences, or the other searches' one sequence."""
    if state.tokens.shape[1] > 1:
        return state.finished
    generated_count = jnp.maximum(state.length - state.options.prompt_length, 1)
    score = state.score / length_norm(state.options, generated_count)[:, None]
    return Finished(state.tokens, state.log_probs, score, state.length[:, None], state.done[:, None])
