"""Logits processors and their arrays equal results by hand, for mistakes that generated tokens would hardly show."""

import jax.numpy as jnp
import numpy as np
import pytest
from bart_inference import Options
from bart_inference.generation.arrays import pack_options
from bart_inference.generation.processors import History, ngram_completions

from bart_oneliner import Config
from tests.twins import TINY


def completions(n: int, text: list[int], length: int) -> list[int]:
    """The tokens that would repeat an n-gram after the first `length` tokens of `text`.

    At position i this is the token text[i] if the last n - 1 tokens also occur just before it, and -1 otherwise.
    """
    tokens = jnp.array([[text]], jnp.int32)
    real = jnp.where(jnp.arange(len(text)) < length, tokens, -1)
    history = History(tokens, jnp.array([length]), jnp.full((1, 1), -1))
    return np.asarray(ngram_completions(real, history, jnp.array([n])))[0, 0].tolist()


def test_the_tokens_that_complete_an_ngram_are_those_behind_its_earlier_occurrences() -> None:
    text = [2, 5, 6, 7, 5, 8, 6, 5, 0, 0]
    assert completions(2, text, 8) == [-1, -1, 6, -1, -1, 8, -1, -1, -1, -1], "not 6 and 8, which follow a 5"
    assert completions(3, text, 8) == [-1] * 10, "a token although 6 5 occurs once only"
    assert completions(1, text, 8) == [2, 5, 6, 7, 5, 8, 6, 5, -1, -1], "not every generated token"
    assert completions(0, text, 8) == [-1] * 10, "a token although the processor is off"


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
def test_a_score_is_divided_by_the_number_of_tokens_to_the_power_of_the_length_penalty(penalty: float) -> None:
    options = Options(num_beams=3, length_penalty=penalty, max_length=8, eos_token_id=2)
    packed = pack_options([options], Config.from_json({"model_type": "bart", **TINY}), 8, [1], [0])
    expected = [1.0, *(count**penalty for count in range(1, 9))]
    np.testing.assert_allclose(packed.length_norm[0], np.array(expected, np.float32))
