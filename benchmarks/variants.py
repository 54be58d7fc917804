"""Measures what each fast path of benchmarks.without gains, in whole generations or in the whole server.

    python -m benchmarks.variants --record benchmarks/records/<date>_variants           # all fast paths
    python -m benchmarks.variants top packed --record …       # those whose names contain one of these

Two processes, one with the fast path and one without it, take turns; each is idle while the other one works. A gain is
the time without the fast path divided by the time with it, or the tokens per second with it divided by those without
it: above 1, the fast path helps. In generations, the tokens of both are compared. All fast paths take about fifteen
minutes and need an idle machine. If only some are measured again, results.json keeps the figures of the others.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from benchmarks.cells import CELLS
from benchmarks.checkpoints import folder_of
from benchmarks.machine import circumstances
from benchmarks.revisions import compare
from benchmarks.rivals import Worker
from benchmarks.serving import Server, closed_loop, fixed_lengths, measured, mixed_work

GENERATION = {  # fast path -> cells that go through it
    "onednn": ("base-b1-greedy-s128", "base-b8-beam4-s512"),
    "onednn-attention": ("base-b1-beam4-s1024", "base-b8-greedy-s512"),
    "onednn-to-heads": ("base-b8-beam4-s128", "base-b8-greedy-s1024"),
    "scores-by-source": ("base-b8-greedy-s1024",),
    "one-query-by-xla": ("base-b8-greedy-s1024",),
    "huge-pages": ("base-b1-greedy-s128", "base-b1-beam4-s512", "tiny-text-b1"),
    "top-by-blocks": ("base-b1-beam4-s128", "base-b8-beam4-s128", "tiny-text-b1", "tiny-text-b16"),
}
SERVING = ("packed-sources", "several-rows")
FLAGS = ("--beams", "1", "--sampling-beams", "", "--sources", "128")
CLIENTS, REQUESTS = 32, 300


def generation(name: str, cache: pathlib.Path, rounds: int) -> dict[str, Any]:
    """Cell -> gain, times and whether tokens are equal, for the cells that go through the fast path."""
    gains = {}
    for cell in CELLS:
        if cell.name not in GENERATION[name]:
            continue
        folder = folder_of(cache, cell.model).resolve()
        workers = {"now": Worker("ours", folder), "before": Worker("ours", folder, without=name)}
        try:
            figures = compare(cell, workers, rounds)
        finally:
            for worker in workers.values():
                worker.close()
        gains[cell.name] = {
            "gain": figures["ratio"],
            "seconds_with": figures["seconds"]["now"],
            "seconds_without": figures["seconds"]["before"],
            "tokens_equal": figures["tokens_equal"],
        }
        print(f"{name:18} {cell.name:24} {figures['ratio']:.3f}", flush=True)
    return gains


def serving(name: str, rounds: int) -> dict[str, Any]:
    """Measures the server with the embedded checkpoint and the requests of `benchmarks.serving embedded`."""
    plain = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0}
    work = mixed_work(REQUESTS, 8000, 100, fixed_lengths((8, 12, 16, 24), **plain))
    speeds: dict[str, list[float]] = {"with": [], "without": []}
    with Server("embedded", *FLAGS) as one, Server("embedded", *FLAGS, without=name) as other:
        servers = {"with": one, "without": other}
        for turn in range(rounds + 1):  # the first turn is not counted
            for side in sorted(servers, reverse=turn % 2 == 1):
                address = servers[side].address
                figures = measured(servers[side], lambda address=address: closed_loop(address, work, CLIENTS))
                if turn:
                    speeds[side].append(figures["tokens_per_second"])
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    gain = round(medians["with"] / medians["without"], 3)
    print(f"{name:18} {'server, embedded':24} {gain:.3f}", flush=True)
    return {"server": {"gain": gain, "tokens_per_second": medians, "all_tokens_per_second": speeds}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="measure fast paths whose names contain one of these (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of a measurement (default: 7)")
    parser.add_argument("--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)")
    parser.add_argument("--record", type=pathlib.Path, required=True, help="folder of results.json")
    arguments = parser.parse_args()
    path = arguments.record / "results.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"variants": {}}
    record["circumstances"] = circumstances(("jax", "jaxlib", "numpy"))
    arguments.record.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or pathlib.Path(temporary)
        for name in (*GENERATION, *SERVING):
            if arguments.names and not any(part in name for part in arguments.names):
                continue
            if name in SERVING:
                record["variants"][name] = serving(name, arguments.rounds)
            else:
                record["variants"][name] = generation(name, cache, arguments.rounds)
            path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
