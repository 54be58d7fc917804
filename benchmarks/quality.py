"""What the fast modes change on real text: the share of documents with another answer, and ROUGE.

    python -m benchmarks.quality --corpus CORPUS --record benchmarks/records/<date>_quality

The embedded checkpoint answers the documents of a split in float32, bfloat16 and int8, beside CTranslate2 in float32
and int8: greedy search and four beams, with the checkpoint's other options, and both without its repetition penalty.
Whole answers are compared with those of the same program in float32. bfloat16 on a TPU may change other documents than
on a CPU, which adds in another order and may keep in float32 what a TPU rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bart_inference.tokenization import decode_text, encode_text, truncate
from bart_inference.tokenizer_files import load_tokenizer
from bart_training.data import read_records
from bart_training.evaluate import rouge
from tokenizers import Tokenizer

from benchmarks.checkpoints import TINY, cache_of, fields_of, folder_of
from benchmarks.machine import circumstances
from benchmarks.rivals import Tokens, Work, Worker
from support.records import Command

BATCH = 32
PATIENCE = 1800.0  # seconds for all documents
# CTranslate2 gets no repetition penalty (see rivals). "plain" searches have none in any program.
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beam4": {"num_beams": 4},
    "plain greedy": {"num_beams": 1, "repetition_penalty": 1.0},
    "plain beam4": {"num_beams": 4, "repetition_penalty": 1.0},
}
# A program in a mode for speed -> the same program in float32; the programs are those of benchmarks.rivals.
EXACT = {"ours-bfloat16": "ours", "ours-int8": "ours", "ctranslate2-int8": "ctranslate2"}


def work_of(rows: Tokens, options: dict[str, Any]) -> tuple[Work, list[int]]:
    """Batches of rows of similar length, and the index in `rows` of each row of the batches."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = []
    for first in range(0, len(order), BATCH):
        batches.append([rows[i] for i in order[first : first + BATCH]])
    return {"batches": batches, "options": options, "pad_token_id": 1}, order


def answers(worker: Worker, rows: Tokens, options: dict[str, Any]) -> Tokens:
    """A program's answer to each row, in the order of the rows."""
    work, order = work_of(rows, options)
    tokens = worker.prepare(work, PATIENCE)["tokens"]
    in_order: Tokens = [[]] * len(rows)
    for i, answer in zip(order, tokens, strict=True):
        in_order[i] = answer
    return in_order


def shared(a: list[int], b: list[int]) -> int:
    """Tokens before the first difference."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def compare(exact: Tokens, fast: Tokens) -> dict[str, float]:
    """How much the answers of a fast mode differ from those in float32. Shares are in percent."""
    pairs = list(zip(exact, fast, strict=True))
    differing = sum(a != b for a, b in pairs)
    same_tokens = sum(shared(a, b) for a, b in pairs)
    tokens = sum(map(len, exact))
    return {
        "differing_percent": round(100 * differing / len(exact), 2),
        "tokens_before_the_first_difference_percent": round(100 * same_tokens / tokens, 2),
    }


def measure(
    rows: Tokens, references: list[str], tokenizer: Tokenizer, workers: Mapping[str, Worker], options: dict[str, Any]
) -> dict[str, Any]:
    """Each program's figures in a search with these options, by the program's name."""
    figures: dict[str, Any] = {}
    tokens = {name: answers(worker, rows, options) for name, worker in workers.items()}
    for name, answer in tokens.items():
        figures[name] = {"rouge": rouge(references, [decode_text(tokenizer, ids) for ids in answer])}
        if name in EXACT:
            figures[name] |= compare(tokens[EXACT[name]], answer)
    return figures


def report(searches: Mapping[str, Any]) -> str:
    lines = [
        "| search | program | ROUGE-1 | ROUGE-2 | ROUGE-L | documents that change |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for search, record in searches.items():
        for name, figures in record["programs"].items():
            scores = " | ".join(f"{score:.2f}" for score in figures["rouge"].values())
            change = f"{figures['differing_percent']:.1f} %" if name in EXACT else "–"
            lines.append(f"| {search} | {name} | {scores} | {change} |")
    return "\n".join(lines)


def run(command: Command) -> None:
    arguments: argparse.Namespace = command.arguments
    if not command.missing():
        return
    tokenizer = load_tokenizer(TINY)
    assert tokenizer is not None
    records = read_records(arguments.corpus / f"{arguments.split}.jsonl.gz")[: arguments.limit]
    limit = fields_of("tiny")["max_position_embeddings"]
    rows = [truncate(encode_text(tokenizer, record["document"]), limit) for record in records]
    references = [record["summary"] for record in records]
    with cache_of(arguments.cache) as cache:
        folder = folder_of(cache, "tiny")
        workers = {name: Worker(name, folder) for name in (*EXACT.values(), *EXACT)}
        try:
            for search in command.missing():
                programs = measure(rows, references, tokenizer, workers, SEARCHES[search])
                about = {"documents": len(rows), "split": arguments.split, "circumstances": circumstances()}
                command.record.add(search, {"programs": programs, **about})
        finally:
            for worker in workers.values():
                worker.close()


def main() -> None:
    command = Command(__doc__, list(SEARCHES), "search")
    add = command.parser.add_argument
    add("--corpus", type=Path, help="folder with test.jsonl.gz, as bart_training.corpus writes it")
    add("--split", default="test", choices=["train", "validation", "test"])
    add("--limit", type=int, default=500, help="compare only the first so many records")
    add("--cache", type=Path, help="folder for the model folders; a temporary one by default")
    command.parse()
    run(command)
    print(report(command.figures()))


if __name__ == "__main__":
    main()
