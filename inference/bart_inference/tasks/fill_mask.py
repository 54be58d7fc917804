"""fill_mask: tokens for the blanks of a text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import jax
import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.inputs import check_source, check_texts, require_tokenizer
from bart_inference.model import transformer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.common import at_positions, in_buckets, reread, softmax
from bart_inference.tokenization import encode_text, pad
from bart_oneliner import Array, Config, Params

MASK = "<mask>"


class Filled(NamedTuple):
    """One way to fill a blank."""

    score: float  # its probability
    token: int
    token_str: str
    sequence: str  # the text with this blank filled


@overload
def fill_mask(model: Model | Prepared, text: str, top_k: int = ...) -> list[list[Filled]]: ...
@overload
def fill_mask(model: Model | Prepared, text: list[str], top_k: int = ...) -> list[list[list[Filled]]]: ...
def fill_mask(
    model: Model | Prepared, text: str | list[str], top_k: int = 5
) -> list[list[Filled]] | list[list[list[Filled]]]:
    """The fill-mask pipeline: for each <mask> of a text (of each text in a list) the top_k tokens, the likeliest first.

    Every blank is filled by itself, the others stay in `sequence`. ValueError for a text without a <mask>, or one too
    long for the model.
    """
    prepared, texts = prepare(model), check_texts(text)
    tokenizer = require_tokenizer(prepared)
    mask_id, V = tokenizer.token_to_id(MASK), prepared.config.vocab_size
    if not isinstance(top_k, int) or not 1 <= top_k <= V:
        raise ValueError(f"top_k must be between 1 and the vocabulary's size {V}, got {top_k!r}")
    rows = [encode_text(tokenizer, one) for one in texts]
    blanks = [[i for i, token in enumerate(row) if token == mask_id] for row in rows]
    for i, at in enumerate(blanks):
        if not at:
            raise ValueError(f"texts[{i}] has no {MASK}")
    ids, mask = check_source(*pad(rows, prepared.config.pad_token_id), prepared.config)
    [logits] = in_buckets(run_blanks, prepared, ids, mask, pad(blanks, 0)[0])

    def fill(row: list[int], at: Sequence[int], logits: np.ndarray) -> Iterator[list[Filled]]:
        for position, scores in zip(at, softmax(logits), strict=False):  # behind a row's own blanks there is padding
            best = np.argsort(-scores, kind="stable")[:top_k].tolist()
            texts = ([*row[:position], token, *row[position + 1 :]] for token in best)
            yield [
                Filled(float(scores[token]), token, tokenizer.decode([token], skip_special_tokens=False), sequence)
                for token, sequence in zip(
                    best, (tokenizer.decode(ids, skip_special_tokens=len(at) == 1) for ids in texts), strict=True
                )
            ]

    filled = [list(fill(row, at, scores)) for row, at, scores in zip(rows, blanks, logits, strict=True)]
    return filled[0] if isinstance(text, str) else filled


@functools.partial(jax.jit, static_argnames="config")
def run_blanks(weights: Params, config: Config, ids: Array, mask: Array, at: Array) -> tuple[Array]:
    """Logits (B,n,V) at the positions at (B,n)."""
    return (transformer.lm_head(weights, at_positions(reread(weights, config, ids, mask), at)),)
