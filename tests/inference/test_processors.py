"""Logits processors by hand, where a whole generation would hardly show a difference."""

import jax.numpy as jnp
import numpy as np
from bart_inference.generation.processors import History, ngram_completions


def completions(n: int, text: list[int], length: int) -> list[int]:
    tokens = jnp.array([[text]], jnp.int32)
    real = jnp.where(jnp.arange(len(text)) < length, tokens, -1)
    history = History(tokens, jnp.array([length]), jnp.full((1, 1), -1))
    return np.asarray(ngram_completions(real, history, jnp.array([n])))[0, 0].tolist()


def test_the_tokens_that_complete_an_ngram_are_those_behind_its_earlier_occurrences() -> None:
    text = [2, 5, 6, 7, 5, 8, 6, 5, 0, 0]
    assert completions(2, text, 8) == [-1, -1, 6, -1, -1, 8, -1, -1, -1, -1], "what follows a 5"
    assert completions(3, text, 8) == [-1] * 10, "6 5 comes once"
    assert completions(1, text, 8) == [2, 5, 6, 7, 5, 8, 6, 5, -1, -1], "every token"
    assert completions(0, text, 8) == [-1] * 10, "off: no token, not even 0"
