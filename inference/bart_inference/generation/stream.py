"""Streaming: yields text as soon as no further step can change it, in greedy search, sampling and beam search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.generation.generate import continue_decoding, start_decoding
from bart_inference.generation.options import resolve
from bart_inference.generation.state import DEAD_SCORE, State, hypotheses
from bart_inference.inputs import check_source, encode_within, require_tokenizer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tokenization import Detokenizer


def final_tokens(state: State, row: int) -> list[int]:
    """The tokens of a row that no further step can change, the start token included.

    With one beam, or once the row is done, these are all its tokens. With several beams it is the prefix that all
    running beams and finished sequences share.
    """
    if state.done[row] or state.tokens.shape[1] == 1:
        best = hypotheses(state)
        length = int(best.length[row, 0])
        tokens: list[int] = np.asarray(best.tokens)[row, 0, :length].tolist()
        return tokens
    is_alive = np.asarray(state.score)[row] > DEAD_SCORE / 2
    running = np.asarray(state.tokens)[row, is_alive, : int(state.length[row])]
    sequences = list(running)
    is_valid = np.asarray(state.finished.valid)[row]
    finished = np.asarray(state.finished.tokens)[row, is_valid]
    lengths = np.asarray(state.finished.length)[row, is_valid]
    for ids, length in zip(finished, lengths, strict=True):
        sequences.append(ids[:length])
    return common_prefix(sequences)


def common_prefix(sequences: list[np.ndarray]) -> list[int]:
    """The tokens with which all sequences begin."""
    prefix: list[int] = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        prefix.append(int(tokens[0]))
    return prefix


def stream(model: Model | Prepared, text: str, chunk: int = 1, **options: Any) -> Iterator[str]:
    """The summary of a text in parts, each as soon as it is final; joined, they are what `summarize` returns.

    chunk: text is yielded after every `chunk` decoding steps, if some has become final. Options, truncation and errors
    are those of `summarize`.
    """
    prepared = prepare(model)
    tokenizer = require_tokenizer(prepared)
    ids, mask = check_source([encode_within(prepared, text, "text")], None, prepared.config)
    rows = resolve(prepared.generation, prepared.config, options, None, 1)
    state = start_decoding(prepared, ids, mask, [[rows[0].start_id]], rows, [0])
    detokenizer = Detokenizer(tokenizer)
    sent = 0  # the number of tokens that were given to the detokenizer
    done = False
    while not done:
        state = continue_decoding(prepared, state, chunk, rows[0])
        done = bool(state.done[0])
        tokens = final_tokens(state, 0)
        new_text = detokenizer.push(tokens[sent:], last=done)
        sent = len(tokens)
        if new_text:
            yield new_text
