"""Streaming: text as it becomes final, for greedy search, sampling and beams alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.generation.generate import advance, start
from bart_inference.generation.options import resolve
from bart_inference.generation.search import IMPOSSIBLE, State, hypotheses
from bart_inference.inputs import check_source, encode_within, require_tokenizer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tokenization import Detokenizer


def final_tokens(state: State, row: int) -> list[int]:
    """The tokens of a row that no further step can change: all of them once it is done, the start token included.

    Before that, with beams: the prefix on which all running and finished beams agree.
    """
    if state.done[row] or state.tokens.shape[1] == 1:
        best = hypotheses(state)
        return np.asarray(best.tokens)[row, 0, : int(best.length[row, 0])].tolist()
    tokens, finished = np.asarray(state.tokens)[row], np.asarray(state.finished.tokens)[row]
    alive = np.asarray(state.score)[row] > IMPOSSIBLE / 2
    beams = [*tokens[alive, : int(state.length[row])]]
    valid, lengths = np.asarray(state.finished.valid)[row], np.asarray(state.finished.length)[row]
    beams += [ids[:n] for ids, n in zip(finished[valid], lengths[valid], strict=True)]
    prefix = []
    for column in zip(*beams, strict=False):
        if len(set(column)) > 1:
            break
        prefix.append(int(column[0]))
    return prefix


def stream(model: Model | Prepared, text: str, chunk: int = 1, **options: Any) -> Iterator[str]:
    """Pieces of the summary of a text, each as soon as it is final; their concatenation is what `summarize` returns.

    chunk: decoder steps between two looks. Options, truncation and errors are summarize's.
    """
    prepared = prepare(model)
    tokenizer = require_tokenizer(prepared)
    ids, mask = check_source([encode_within(prepared, text, "text")], None, prepared.config)
    rows = resolve(prepared.generation, prepared.config, options, None, 1)
    state = start(prepared, ids, mask, [[rows[0].start_id]], rows, [0])
    detokenizer, sent = Detokenizer(tokenizer), 0
    while True:
        state = advance(prepared, state, chunk, rows[0].do_sample)
        tokens, done = final_tokens(state, 0), bool(state.done[0])
        if piece := detokenizer.push(tokens[sent:], last=done):
            yield piece
        if done:
            return
        sent = len(tokens)
