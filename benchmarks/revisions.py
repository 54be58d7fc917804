"""Compares the speed and the tokens of generation in this checkout with those of an earlier one.

    git worktree add ../before REVISION
    python -m benchmarks.revisions ../before base-b1-greedy tiny-text --record benchmarks/records/<date>_revisions

Each checkout runs in a separate process, which is idle while the other one works. They take turns, and begin a round
alternately. A ratio is the earlier checkout's time divided by this one's: above 1, this one is faster. `--python` is
the interpreter for the earlier checkout if it needs an environment of its own. The exit status is 1 if a cell's ratio
is below `--least` or if the two generate different tokens.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.cells import CELLS, Cell, work_of
from benchmarks.checkpoints import TINY, cache_of, folder_of
from benchmarks.machine import circumstances
from benchmarks.rivals import Worker
from support.records import chosen

PATIENCE = 300.0  # seconds within which a run must end, compilation included
ROOT = pathlib.Path(__file__).resolve().parents[1]


def compare(cell: Cell, workers: dict[str, Worker], rounds: int) -> dict[str, Any]:
    """The medians of both checkouts in a cell, their ratio, and whether they generated the same tokens."""
    work = work_of(cell, TINY / "examples.jsonl")
    tokens = {name: worker.prepare(work, PATIENCE)["tokens"] for name, worker in workers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    order = list(workers)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(workers[name].run(PATIENCE)["seconds"])
        order.reverse()
    before, now = statistics.median(seconds["before"]), statistics.median(seconds["now"])
    return {
        "ratio": round(before / now, 3),
        "seconds": {"before": round(before, 4), "now": round(now, 4)},
        "all_seconds": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
        "tokens_equal": tokens["before"] == tokens["now"],
    }


def revision(checkout: pathlib.Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path, help="folder of the earlier checkout")
    parser.add_argument("cells", nargs="*", help="measure the cells whose names contain one of these (default: all)")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the earlier checkout")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of a cell (default: 9)")
    parser.add_argument("--least", type=float, default=0.97, help="lowest ratio that passes (default: 0.97)")
    parser.add_argument("--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)")
    parser.add_argument("--record", type=pathlib.Path, required=True, help="folder of results.json")
    arguments = parser.parse_args()
    sides = {"before": (arguments.before.resolve(), arguments.python), "now": (ROOT, sys.executable)}
    about = circumstances(("jax", "jaxlib", "numpy"))
    record: dict[str, Any] = {"revisions": {name: revision(folder) for name, (folder, _) in sides.items()}}
    record |= {"circumstances": about, "cells": {}}
    cells = {cell.name: cell for cell in CELLS}
    with cache_of(arguments.cache) as cache:
        for name in chosen(list(cells), arguments.cells):
            folder = folder_of(cache, cells[name].model).resolve()
            workers = {}
            for side, (checkout, python) in sides.items():
                workers[side] = Worker("ours", folder, checkout=checkout, python=python)
            try:
                figures = compare(cells[name], workers, arguments.rounds)
            finally:
                for worker in workers.values():
                    worker.close()
            record["cells"][name] = figures
            print(f"{name:28} {figures['ratio']:.3f}  tokens equal: {figures['tokens_equal']}", flush=True)
            arguments.record.mkdir(parents=True, exist_ok=True)
            (arguments.record / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    for figures in record["cells"].values():
        if figures["ratio"] < arguments.least or not figures["tokens_equal"]:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
