"""Measures what lookup decoding gains in greedy search: tokens in each step, and times with and without drafts.

    python -m benchmarks.lookup --corpus runs/corpus/test.jsonl.gz --record benchmarks/records/<date>_lookup
    python -m benchmarks.lookup wide --record …          # the cases whose names contain "wide"
    python -m benchmarks.lookup --report --record …      # the table of what has been measured

Lookup decoding searches the source for the last generated tokens, takes what follows there as a draft of the next
tokens, and checks the draft in one decoder step.

There are four cases: real documents with the embedded checkpoint; the same documents, one at a time and in batches of
4, with that checkpoint widened to 80 million parameters (support/widen.py), so that a step costs as much as in
bart-base; and bart-base's shape with random weights and ids, whose answers copy nothing from the source. All documents
of a case are padded to the same length. Drafts of 0 (none), 2, 4 and 6 tokens take turns. A time is the median over
rounds of the seconds in which `generate` answers all batches. All lengths of drafts must give the same tokens.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from bart_inference import Prepared, generate, load, prepare
from bart_inference.buckets import source_bucket
from bart_inference.checkpoint import Model
from bart_inference.generation.generate import continue_decoding, start_decoding
from bart_inference.generation.options import resolve
from bart_inference.tokenization import encode_text, pad

from bart_oneliner import Config, init
from benchmarks.checkpoints import BASE, POSITION_SCALE, TINY
from benchmarks.machine import circumstances
from support.records import Command
from support.widen import widen

DRAFT_TOKENS = (0, 2, 4, 6)
BUCKET = 128  # only documents that are padded to this many source positions are used
CASES = {"embedded-text-b1": 1, "wide-text-b1": 1, "wide-text-b4": 4, "base-random-b1": 1}  # name -> batch size
RANDOM_SOURCE, RANDOM_TOKENS, SEED = 512, 64, 0


def model_of(case: str) -> Prepared:
    if case.startswith("embedded"):
        return prepare(load())
    if case.startswith("wide"):
        return prepare(widen(load()))
    config = Config(**BASE)
    params = init(config, jax.random.key(SEED))
    params["decoder"]["embed_positions"] *= POSITION_SCALE  # without this a random BART repeats one token
    return prepare(Model(params, config, {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}, None))


def batches_of(case: str, prepared: Prepared, corpus: pathlib.Path, documents: int) -> list[tuple[Any, Any]]:
    """Token ids (B,S) and attention mask (B,S) of each batch."""
    if case.startswith("base"):
        ids = np.random.default_rng(SEED).integers(4, prepared.config.vocab_size, (2, RANDOM_SOURCE))
        return [(row[None], np.ones((1, RANDOM_SOURCE), int)) for row in ids]
    assert prepared.tokenizer is not None
    content = corpus.read_bytes()
    if corpus.suffix == ".gz":
        content = gzip.decompress(content)
    texts = [json.loads(line)["document"] for line in content.decode().splitlines()]
    rows = [encode_text(prepared.tokenizer, text) for text in texts]
    limit = prepared.config.max_position_embeddings
    fitting = [row for row in rows if len(row) <= limit and source_bucket(len(row), limit) == BUCKET][:documents]
    size = CASES[case]
    return [pad(fitting[first : first + size], 1) for first in range(0, len(fitting), size)]


def count_steps(prepared: Prepared, ids: Any, mask: Any, options: dict[str, Any]) -> int:
    rows = resolve(prepared.generation, prepared.config, options, None, len(ids))
    prompts = [[row.start_id] for row in rows]
    state = start_decoding(prepared, ids.astype(np.int32), mask.astype(bool), prompts, rows, [0] * len(ids))
    steps = 0
    while not state.done.all():
        state = continue_decoding(prepared, state, 1, rows[0])
        steps += 1
    return steps


def measure(case: str, corpus: pathlib.Path, documents: int, rounds: int) -> dict[str, Any]:
    """Measures a case: {"drafts": {K: figures}, …} for drafts of K tokens.

    Gains and tokens_per_step are relative to decoding without drafts.
    """
    about = circumstances(("jax", "jaxlib", "numpy"))
    prepared = model_of(case)
    batches = batches_of(case, prepared, corpus, documents)
    length = {"min_new_tokens": RANDOM_TOKENS, "max_new_tokens": RANDOM_TOKENS} if case.startswith("base") else {}
    options = {K: {"num_beams": 1, "prompt_lookup_num_tokens": K, **length} for K in DRAFT_TOKENS}
    sequences: dict[int, list[list[int]]] = {K: [] for K in DRAFT_TOKENS}
    steps = dict.fromkeys(DRAFT_TOKENS, 0)
    plain_steps = 0
    for K in DRAFT_TOKENS:  # these calls compile, and their times are not measured
        for ids, mask in batches:
            generated = generate(prepared, ids, mask, **options[K])
            rows = zip(generated.sequences, generated.lengths, strict=True)
            sequences[K] += [sequence[:length].tolist() for sequence, length in rows]
            steps[K] += count_steps(prepared, ids, mask, options[K])
    plain_steps = steps[0]
    times: dict[int, list[float]] = {K: [] for K in DRAFT_TOKENS}
    cpu_times: dict[int, list[float]] = {K: [] for K in DRAFT_TOKENS}
    for turn in range(rounds):
        order = DRAFT_TOKENS if turn % 2 == 0 else DRAFT_TOKENS[::-1]
        for K in order:
            began, cpu_began = time.perf_counter(), time.process_time()
            for ids, mask in batches:
                generate(prepared, ids, mask, **options[K])
            times[K].append(time.perf_counter() - began)
            cpu_times[K].append(time.process_time() - cpu_began)
    cpu_seconds = {K: statistics.median(cpu_times[K]) for K in DRAFT_TOKENS}
    seconds = {K: statistics.median(times[K]) for K in DRAFT_TOKENS}
    drafts = {}
    for K in DRAFT_TOKENS:
        drafts[str(K)] = {
            "seconds": round(seconds[K], 4),
            "all_seconds": [round(each, 4) for each in times[K]],
            "gain": round(seconds[0] / seconds[K], 3),
            "cpu_seconds": round(cpu_seconds[K], 4),
            "cpu_gain": round(cpu_seconds[0] / cpu_seconds[K], 3),
            "tokens_per_step": round(plain_steps / steps[K], 3),
            "tokens_equal": sequences[K] == sequences[0],
        }
    return {"drafts": drafts, "sources": sum(len(ids) for ids, _ in batches), "circumstances": about}


def table(figures: dict[str, Any]) -> str:
    lines = [
        "| case | draft | tokens per step, ratio | seconds | speedup | CPU seconds | CPU speedup | tokens equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, of_case in figures.items():
        for K, d in of_case["drafts"].items():
            equal = "yes" if d["tokens_equal"] else "no"
            wall = f"{d['seconds']:.3f} | {d['gain']:.2f}"
            cpu = f"{d['cpu_seconds']:.3f} | {d['cpu_gain']:.2f}"
            lines.append(f"| {case} | {K} | {d['tokens_per_step']:.2f} | {wall} | {cpu} | {equal} |")
    return "\n".join(lines)


def main() -> None:
    command = Command(__doc__, list(CASES), "case")
    command.parser.add_argument("--corpus", type=pathlib.Path, default=TINY / "examples.jsonl", help="JSON lines")
    command.parser.add_argument("--documents", type=int, default=12, help="documents of the corpus (default: 12)")
    command.parser.add_argument("--rounds", type=int, default=5, help="rounds of a case (default: 5)")
    arguments = command.parse()
    for case in command.missing():
        command.record.add(case, measure(case, arguments.corpus, arguments.documents, arguments.rounds))
    print(table(command.figures()))


if __name__ == "__main__":
    main()
