"""The embedded checkpoint generates the token ids that transformers generated; the comparison needs no PyTorch."""

import json

import pytest
from bart_inference import generate, load, prepare

from tests.inference import golden

TOKENS = json.loads(golden.FILE.read_text(encoding="utf-8"))


def test_every_set_of_options_is_recorded() -> None:
    assert list(TOKENS) == list(golden.OPTIONS)


@pytest.mark.parametrize("name", golden.OPTIONS)
def test_tokens_are_those_that_transformers_generated(name: str) -> None:
    result = generate(prepare(load()), *golden.source(), **golden.OPTIONS[name])
    assert result.sequences.tolist() == TOKENS[name]


def test_transformers_generates_them_still() -> None:
    """The installed transformers generates the ids in golden.json. No other test of this file needs PyTorch."""
    assert dict(golden.transformers_tokens()) == TOKENS
