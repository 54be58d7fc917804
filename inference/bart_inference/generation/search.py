"""Greedy search, sampling and beam search: one step, and the loop that runs it for whole answers and in chunks.

Letters as in `state`. The steps of a request: `transformer.prefill` encodes its source, `state.init_state` makes a
state, `decode` runs steps until the row is done, `state.hypotheses` reads the answer.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from bart_inference.generation.beam_search import choose_beams
from bart_inference.generation.indexing import gather_beams, top_indices
from bart_inference.generation.lookup import lookup_step
from bart_inference.generation.processors import History, process
from bart_inference.generation.state import State, is_end, prng_keys, write_next
from bart_inference.model.transformer import decode_step
from bart_oneliner import Array, Config, Params

# The fields of a State that choose_token and choose_beams change.
CHOSEN_FIELDS = ("tokens", "log_probs", "score", "done", "can_improve", "finished")


@functools.partial(jax.jit, static_argnames=("config", "do_sample", "draft_tokens"), donate_argnames="state")
def decode(
    weights: Params, config: Config, state: State, steps: Array | int, do_sample: bool, draft_tokens: int = 0
) -> State:
    """Run at most `steps` steps, fewer if every row is done before. The state's buffers are donated.

    `steps` is not a static argument, so that one compiled program runs any number of steps. draft_tokens: in greedy
    search, the number of tokens in a draft of lookup decoding, below T; 0 for one token a step.
    """

    def is_unfinished(carry: tuple[State, Array]) -> Array:
        state, count = carry
        return (count < steps) & ~state.done.all()

    def run_step(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, count = carry
        if draft_tokens > 0:
            return lookup_step(weights, config, state, draft_tokens), count + 1
        return step(weights, config, state, do_sample), count + 1

    final_state, _ = jax.lax.while_loop(is_unfinished, run_step, (state, jnp.int32(0)))
    return final_state


def step(weights: Params, config: Config, state: State, do_sample: bool) -> State:
    """One more token for every beam of every row that is not done."""
    B, N, _ = state.tokens.shape
    position = state.length - 1
    latest = jnp.take_along_axis(state.tokens, position[:, None, None], 2)[..., 0]
    logits, cache = decode_step(weights, config, state.source, state.cache, latest, position)
    scores = logits.astype(jnp.float32)
    if N > 1:
        scores = jax.nn.log_softmax(scores)
    history = History(state.tokens, state.length, state.source.input_ids)
    scores = process(scores, history, state.options, do_sample)
    choose = choose_token if N == 1 else choose_beams
    chosen, parents = choose(state, scores, do_sample)

    # A finished row stays as it is. A row that is still reading its prompt only becomes longer.
    in_prompt = state.length < state.options.prompt_length
    is_kept = state.done | in_prompt

    def keep_rows(old: Array, new: Array) -> Array:
        trailing = [1] * (old.ndim - 1)
        return jnp.where(is_kept.reshape(B, *trailing), old, new)

    changed = {}
    for name in CHOSEN_FIELDS:
        changed[name] = jax.tree.map(keep_rows, getattr(state, name), getattr(chosen, name))
    parents = jnp.where(is_kept[:, None], jnp.arange(N), parents)
    cache = cache._replace(cache_indirection=gather_beams(cache.cache_indirection, parents))
    return state._replace(cache=cache, length=state.length + ~state.done, **changed)


def choose_token(state: State, scores: Array, do_sample: bool) -> tuple[State, Array]:
    """Greedy search or sampling (GenerationMixin._sample), for one beam a row.

    scores (B,1,V) -> the state with the next token, and the beam that each beam continues (B,1), which is 0.
    """
    if do_sample:
        token = jax.vmap(jax.random.categorical)(prng_keys(state), scores[:, 0])
    else:
        token = top_indices(scores[:, 0], 1)[:, 0]
    token = token[:, None].astype(jnp.int32)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(scores), token[..., None], -1)[..., 0]
    chosen = state._replace(
        tokens=write_next(state.tokens, state.length, token),
        log_probs=write_next(state.log_probs, state.length, log_prob),
        score=state.score + log_prob,
        done=is_end(token, state.length, state.options)[:, 0],
    )
    return chosen, jnp.zeros_like(token)
