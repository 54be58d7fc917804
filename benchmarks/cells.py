"""Defines the cells of the generation benchmark: which model does which work, and its limit on a machine."""

from __future__ import annotations

import itertools
import json
import pathlib
import random
from typing import Any, NamedTuple

from benchmarks.checkpoints import TINY, fields_of
from benchmarks.counts import Machine, prefill_seconds, step_bytes, step_seconds
from benchmarks.rivals import Tokens, Work

NEW = 64  # tokens that models with random weights generate
DOCUMENTS = 16  # real documents in a cell
SEED = 0


class Cell(NamedTuple):
    """A model and the work that it does; one row of the benchmark's table."""

    model: str  # a name in benchmarks.checkpoints
    batch: int
    beams: int
    source: int  # positions; 0 for real text, with the checkpoint's other generation options

    @property
    def name(self) -> str:
        if not self.source:
            return f"{self.model}-text-b{self.batch}" + ("-greedy" if self.beams == 1 else "")
        search = "greedy" if self.beams == 1 else f"beam{self.beams}"
        return f"{self.model}-b{self.batch}-{search}-s{self.source}"


BASE_CELLS = [Cell("base", *shape) for shape in itertools.product((1, 8), (1, 4), (128, 512, 1024))]
CELLS = (
    *BASE_CELLS,
    Cell("distilbart", 1, 1, 512),
    Cell("distilbart", 1, 4, 1024),
    Cell("distilbart", 8, 4, 128),
    Cell("large", 1, 1, 512),
    Cell("large", 1, 4, 1024),
    Cell("large", 8, 4, 128),
    Cell("tiny", 1, 4, 0),
    Cell("tiny", DOCUMENTS, 4, 0),
    Cell("wide", 1, 1, 0),
    Cell("wide", 1, 4, 0),
    Cell("wide", 8, 4, 0),
)


def work_of(cell: Cell, corpus: pathlib.Path) -> Work:
    """Random ids and NEW tokens, or, for cells with source 0, real documents and the checkpoint's other options."""
    fields = fields_of(cell.model)
    if cell.source:
        options = {"num_beams": cell.beams, "min_new_tokens": NEW, "max_new_tokens": NEW}
        batches = [random_batch(cell.batch, cell.source, fields["vocab_size"])]
    else:
        options = {"num_beams": cell.beams}
        rows = real_rows(corpus, DOCUMENTS)
        batches = [rows[first : first + cell.batch] for first in range(0, len(rows), cell.batch)]
    return {"batches": batches, "options": options, "pad_token_id": 1}


def random_batch(batch: int, source: int, vocabulary: int) -> list[list[int]]:
    chance = random.Random(SEED)
    return [[0, *chance.choices(range(4, vocabulary), k=source - 2), 2] for _ in range(batch)]


def real_rows(corpus: pathlib.Path, count: int) -> list[list[int]]:
    """Token ids of `count` documents of a corpus (JSON lines with "document"), which is repeated if it has too few."""
    from bart_inference.tokenization import encode_text, truncate
    from bart_inference.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(TINY)
    assert tokenizer
    texts = [json.loads(line)["document"] for line in corpus.read_text().splitlines()]
    limit = fields_of("tiny")["max_position_embeddings"]
    return [truncate(encode_text(tokenizer, texts[i % len(texts)]), limit) for i in range(count)]


def measures_of(cell: Cell, work: Work) -> Work:
    """Sizes for measuring the machine's speeds: bytes that a step reads, and matrix products of the model's shapes."""
    fields = fields_of(cell.model)
    rows = min(2048, max(512, sum(len(row) for row in work["batches"][0])))
    source = sum(map(len, work["batches"][0])) // cell.batch
    width, hidden = fields["d_model"], fields["encoder_ffn_dim"]
    products = [(rows, width, hidden), (rows, hidden, width), (rows, width, 3 * width)]
    return {"step_bytes": round(step_bytes(fields, cell.batch, cell.beams, source, NEW // 2)), "products": products}


def limit_of(cell: Cell, work: Work, tokens: Tokens, machine: Machine) -> float:
    """The limit of a cell: the least seconds in which the machine can encode the sources and generate `tokens`."""
    fields: dict[str, Any] = fields_of(cell.model)
    seconds, first = 0.0, 0
    for batch in work["batches"]:
        answers = tokens[first : first + len(batch)]
        first += len(batch)
        # `tokens` lack end tokens. An answer that ended by itself took one step more than it has tokens.
        steps = NEW if cell.source else max(map(len, answers)) + 1
        mean_source = sum(map(len, batch)) / len(batch)  # a step's cost is linear in the source's length
        for row in batch:
            seconds += prefill_seconds(fields, machine, 1, len(row))
        for t in range(1, steps + 1):
            seconds += step_seconds(fields, machine, len(batch), cell.beams, mean_source, t)
    return seconds
