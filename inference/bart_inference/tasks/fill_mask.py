"""fill_mask: the likeliest tokens for each <mask> of a text. Shapes: B rows, n masks, V the vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, overload

import jax
import numpy as np
from tokenizers import Tokenizer

from bart_inference.checkpoint import Model
from bart_inference.inputs import check_source, check_texts, require_tokenizer
from bart_inference.model import transformer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.common import at_positions, in_buckets, reread, softmax
from bart_inference.tokenization import encode_text, pad
from bart_oneliner import Array, Config, Params

MASK = "<mask>"


class Filled(NamedTuple):
    """A token that can replace a mask."""

    score: float  # the token's probability
    token: int  # its id
    token_str: str
    sequence: str  # the text with the token in place of the mask


@overload
def fill_mask(model: Model | Prepared, text: str, top_k: int = ...) -> list[list[Filled]]: ...
@overload
def fill_mask(model: Model | Prepared, text: list[str], top_k: int = ...) -> list[list[list[Filled]]]: ...
def fill_mask(
    model: Model | Prepared, text: str | list[str], top_k: int = 5
) -> list[list[Filled]] | list[list[list[Filled]]]:
    """The fill-mask pipeline: for each <mask> of a text (of each text in a list) the top_k tokens, the likeliest first.

    Each mask is filled by itself: `sequence` keeps the other masks of the text. ValueError for a text that has no
    <mask>, or that has more tokens than the model has positions.
    """
    prepared, texts = prepare(model), check_texts(text)
    config, tokenizer = prepared.config, require_tokenizer(prepared)
    mask_id = tokenizer.token_to_id(MASK)
    if not isinstance(top_k, int) or not 1 <= top_k <= config.vocab_size:
        raise ValueError(f"top_k must be between 1 and the vocabulary's size {config.vocab_size}, got {top_k!r}")
    rows = [encode_text(tokenizer, item) for item in texts]
    positions = [mask_positions(row, mask_id) for row in rows]
    for i, row_positions in enumerate(positions):
        if not row_positions:
            raise ValueError(f"texts[{i}] has no {MASK}")
    input_ids, attention_mask = check_source(*pad(rows, config.pad_token_id), config)
    padded_positions, _ = pad(positions, 0)
    [logits] = in_buckets(run_at_positions, prepared, input_ids, attention_mask, padded_positions)
    answers = []
    for row, row_positions, row_logits in zip(rows, positions, logits, strict=True):
        probabilities = softmax(row_logits[: len(row_positions)])
        fillings = []
        for position, candidates in zip(row_positions, probabilities, strict=True):
            fillings.append(fill(tokenizer, row, position, candidates, top_k))
        answers.append(fillings)
    return answers[0] if isinstance(text, str) else answers


def mask_positions(ids: Sequence[int], mask_id: int | None) -> list[int]:
    """The positions of the mask token in a row of ids."""
    return [i for i, token in enumerate(ids) if token == mask_id]


def fill(tokenizer: Tokenizer, ids: list[int], position: int, probabilities: np.ndarray, top_k: int) -> list[Filled]:
    """The top_k tokens for one mask of a text, the likeliest first. probabilities: of the vocabulary's tokens (V,).

    If the text has other masks, `sequence` keeps them and the other special tokens.
    """
    is_only_mask = ids.count(ids[position]) == 1
    answers = []
    for token in np.argsort(-probabilities, kind="stable")[:top_k].tolist():
        text = tokenizer.decode([*ids[:position], token, *ids[position + 1 :]], skip_special_tokens=is_only_mask)
        token_text = tokenizer.decode([token], skip_special_tokens=False)
        answers.append(Filled(float(probabilities[token]), token, token_text, text))
    return answers


@functools.partial(jax.jit, static_argnames="config")
def run_at_positions(weights: Params, config: Config, ids: Array, mask: Array, positions: Array) -> tuple[Array]:
    """Logits (B,n,V) at the positions (B,n)."""
    hidden = reread(weights, config, ids, mask)
    return (transformer.lm_head(weights, at_positions(hidden, positions)),)
