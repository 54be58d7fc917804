"""Greedy search, sampling and beam search: one step, run by one loop, for whole answers and in chunks alike.

Letters as in bart_oneliner; here B is sources, N the beams of each (1 for greedy search and sampling), T the room for
tokens. Every leaf of a State has a leading axis of B, and rows are independent of each other, each at its own length
and with its own options: rows can leave and enter between two calls of `decode`, as in bart_server.

One request's life: `prefill` its source -> `begin` a state -> `decode` until `done` -> `hypotheses`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bart_inference.generation.arrays import OptionArrays
from bart_inference.generation.options import MAX_EOS
from bart_inference.generation.processors import History, process
from bart_inference.model import transformer
from bart_inference.model.transformer import Cache, Source
from bart_oneliner import Array, Config, Params

BLOCK = 128  # scores
IMPOSSIBLE = -1.0e9  # transformers' score of a dead beam; sums with it keep its float32 rounding


class Finished(NamedTuple):
    """Beam search's N best complete sequences, best first; placeholders score IMPOSSIBLE."""

    tokens: Array  # (B,N,T) int32
    log_probs: Array  # (B,N,T) float32
    score: Array  # (B,N) float32: sum of log-probabilities / generated tokens ** length_penalty
    length: Array  # (B,N) int32
    valid: Array  # (B,N) bool


class State(NamedTuple):
    """Everything a running batch is."""

    source: Source
    cache: Cache
    options: OptionArrays
    tokens: Array  # (B,N,T) int32: the prompt, what has been generated, then padding
    log_probs: Array  # (B,N,T) float32: of each generated token, as its processed scores had it
    score: Array  # (B,N) float32: their sums
    length: Array  # (B,) int32: tokens so far, the prompt included
    done: Array  # (B,) bool: nothing of the row changes any more
    hopeful: Array  # (B,) bool: a running beam may still beat a finished one
    finished: Finished


def begin(
    config: Config, source: Source, prompts: Array, options: OptionArrays, N: int, done: Array, dtype: jnp.dtype
) -> State:
    """A state before its first step; prompts (B,T) int32 with padding behind, done (B,) marks rows of mere padding."""
    B, T = prompts.shape
    tokens = jnp.broadcast_to(prompts[:, None], (B, N, T))
    nothing = jnp.zeros((B, N, T), jnp.float32)
    score = jnp.broadcast_to(jnp.where(jnp.arange(N) == 0, 0.0, IMPOSSIBLE), (B, N))  # else all beams would be alike
    none = Finished(
        tokens, nothing, jnp.full((B, N), IMPOSSIBLE), jnp.zeros((B, N), jnp.int32), jnp.zeros((B, N), bool)
    )
    cache = transformer.empty_cache(config, B, N, T, dtype)
    length = jnp.ones(B, jnp.int32)  # a longer prompt is fed token by token, its choices overruled
    return State(source, cache, options, tokens, nothing, score, length, done, jnp.ones(B, bool), none)


@functools.partial(jax.jit, static_argnames=("config", "do_sample"), donate_argnames="state")
def decode(weights: Params, config: Config, state: State, steps: Array | int, do_sample: bool) -> State:
    """At most `steps` steps (a value, not a shape: 1 or 1000 share the program), fewer if every row is done before."""

    def unfinished(carry: tuple[State, Array]) -> Array:
        state, n = carry
        return (n < steps) & ~state.done.all()

    def advance(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, n = carry
        return step(weights, config, state, do_sample), n + 1

    return jax.lax.while_loop(unfinished, advance, (state, jnp.int32(0)))[0]


def step(weights: Params, config: Config, state: State, do_sample: bool) -> State:
    """One token for every beam of every row that is not done."""
    B, N, _ = state.tokens.shape
    position = state.length - 1
    latest = jnp.take_along_axis(state.tokens, position[:, None, None], 2)[..., 0]
    logits, cache = transformer.step(weights, config, state.source, state.cache, latest, position)
    scores = logits.astype(jnp.float32)
    history = History(state.tokens, state.length, state.source.input_ids)
    scores = process(scores if N == 1 else jax.nn.log_softmax(scores), history, state.options, do_sample)
    chosen, parents = (choose_token if N == 1 else choose_beams)(state, scores, do_sample)

    # A finished row stays as it is; a row inside its prompt only moves on.
    in_prompt = state.length < state.options.prompt_length
    keep = state.done | in_prompt

    def merge(old: Array, new: Array) -> Array:
        return jnp.where(keep.reshape(B, *[1] * (old.ndim - 1)), old, new)

    moving = ("tokens", "log_probs", "score", "done", "hopeful", "finished")
    merged = {name: jax.tree.map(merge, getattr(state, name), getattr(chosen, name)) for name in moving}
    parents = jnp.where(keep[:, None], jnp.arange(N), parents)
    cache = cache._replace(lineage=gather(cache.lineage, parents))
    return state._replace(cache=cache, length=state.length + ~state.done, **merged)


def keys(state: State) -> Array:
    """One PRNG key per row, a function of its seed, its copy and its length alone."""

    def key(seed: Array, copy: Array, length: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), copy), length)

    return jax.vmap(key)(state.options.seed, state.options.copy, state.length)


def is_end(tokens: Array, state: State) -> Array:
    """tokens (B,n) -> whether each ends its sequence: an end-of-sequence token, or the last that max_length allows."""
    last = state.length + 1 >= state.options.max_length
    return (tokens[..., None] == state.options.eos[:, None]).any(-1) | last[:, None]


def choose_token(state: State, scores: Array, do_sample: bool) -> tuple[State, Array]:
    """Greedy search or sampling (GenerationMixin._sample): scores (B,1,V) -> the state one token on, parents (B,1)."""
    if do_sample:
        token = jax.vmap(jax.random.categorical)(keys(state), scores[:, 0])
    else:
        token = top(scores[:, 0], 1)[:, 0]
    token = token[:, None].astype(jnp.int32)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(scores), token[..., None], -1)[..., 0]
    here = jnp.arange(state.tokens.shape[-1]) == state.length[:, None, None]
    chosen = state._replace(
        tokens=jnp.where(here, token[..., None], state.tokens),
        log_probs=jnp.where(here, log_prob[..., None], state.log_probs),
        score=state.score + log_prob,
        done=is_end(token, state)[:, 0],
    )
    return chosen, jnp.zeros_like(token)


def choose_beams(state: State, scores: Array, do_sample: bool) -> tuple[State, Array]:
    """A step of GenerationMixin._beam_search, in its order: scores (B,N,V) -> the state one token on, parents (B,N)."""
    B, N, V = scores.shape
    o, finished = state.options, state.finished

    # b. The best continuations over all beams (or drawn ones), so many that N remain if all others end.
    total = (scores + state.score[..., None]).reshape(B, N * V)
    if do_sample:  # Gumbel top-k draws without replacement
        ranked = total + jax.vmap(lambda key: jax.random.gumbel(key, (N * V,)))(keys(state))
    else:
        ranked = total
    M = N * (1 + MAX_EOS)
    index = top(ranked, M)
    best = jnp.take_along_axis(total, index, 1)
    rank = jnp.arange(M)
    within = rank < N * jnp.maximum(2, 1 + (o.eos >= 0).sum(-1))[:, None]  # transformers looks at so many
    best = jnp.where(within, best, -jnp.inf)
    parent, token = index // V, (index % V).astype(jnp.int32)
    log_prob = jnp.take_along_axis(scores.reshape(B, N * V), index, 1)
    here = jnp.arange(state.tokens.shape[-1]) == state.length[:, None, None]
    tokens = jnp.where(here, token[..., None], gather(state.tokens, parent))
    log_probs = jnp.where(here, log_prob[..., None], gather(state.log_probs, parent))

    # d., e. Those that end, and the N best that do not: the next step's beams.
    ends = is_end(token, state)
    score, chosen = jax.lax.top_k(best + ends * IMPOSSIBLE, N)

    # f. Of the N best in rank, those that end join the finished; the N best of both stay.
    generated = state.length + 1 - o.prompt_length
    candidate = best / power(o, generated)[:, None]
    full = finished.valid.all(-1) & o.early
    candidate += full[:, None] * IMPOSSIBLE
    candidate += ~state.hopeful[:, None] * IMPOSSIBLE
    new = ends & (rank < N)
    candidate += ~new * IMPOSSIBLE
    length = jnp.broadcast_to(state.length[:, None] + 1, (B, M))
    both = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new], 1), finished, Finished(tokens, log_probs, candidate, length, new)
    )
    order = jax.lax.top_k(both.score, N)[1]
    finished = jax.tree.map(lambda x: gather(x, order), both)

    # g., h. Go on while the best running beam could still beat the worst finished one.
    reach = jnp.where(o.patient, o.max_length - o.prompt_length, generated)
    worst = jnp.where(finished.valid, finished.score.min(-1, keepdims=True), IMPOSSIBLE)
    hopeful = state.hopeful & ((score[:, :1] / power(o, reach)[:, None]) > worst).any(-1)
    done = ~hopeful | (o.early & finished.valid.all(-1)) | (ends | ~within).all(-1)

    running = state._replace(
        tokens=gather(tokens, chosen), log_probs=gather(log_probs, chosen), score=score,
        done=done, hopeful=hopeful, finished=finished,
    )  # fmt: skip
    return running, gather(parent, chosen)


def top(x: Array, n: int) -> Array:
    """The indices of jax.lax.top_k: x (B,M) -> (B,n), among equals the first.

    XLA:CPU sorts on one core. But only the n blocks with the highest maxima can hold them, and maxima are quick.
    """
    B, M = x.shape
    whole = M - M % BLOCK
    if whole <= n * BLOCK:
        return jax.lax.top_k(x, n)[1]
    highest = jax.lax.top_k(x[:, :whole].reshape(B, -1, BLOCK).max(-1), n)[1]
    within = (jnp.sort(highest)[..., None] * BLOCK + jnp.arange(BLOCK)).reshape(B, -1)
    index = jnp.concatenate([within, jnp.broadcast_to(jnp.arange(whole, M), (B, M - whole))], 1)
    return jnp.take_along_axis(index, jax.lax.top_k(jnp.take_along_axis(x, index, 1), n)[1], 1)


def gather(x: Array, index: Array) -> Array:
    """x (B,M,…) at index (B,n) of its second axis."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), 1)


def power(o: OptionArrays, n: Array) -> Array:
    """n ** length_penalty for n (B,) generated tokens."""
    return jnp.take_along_axis(o.length_power, jnp.maximum(n, 0)[:, None], 1)[:, 0]


def hypotheses(state: State) -> Finished:
    """The answers so far, best first: beam search's finished sequences, or the single running one."""
    if state.tokens.shape[1] > 1:
        return state.finished
    generated = jnp.maximum(state.length - state.options.prompt_length, 1)
    score = state.score / power(state.options, generated)[:, None]
    return Finished(state.tokens, state.log_probs, score, state.length[:, None], state.done[:, None])
