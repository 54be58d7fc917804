"""Generation beside PyTorch and CTranslate2: the same weights, sources, options, steps and threads for all.

    python -m benchmarks.generation --record benchmarks/records/<date>_generation          # every cell
    python -m benchmarks.generation base-b1 tiny --record …     # the cells whose names contain one of these
    python -m benchmarks.generation --report --record …         # the table of what has been measured so far

Every rival is a process of its own that is idle while another runs; within a cell they take turns, each round in
another order, and a cell's figures are medians over its rounds. A cell is saved when it is finished and skipped when
the command is given again (`--again` measures it anew). Our tokens must be PyTorch's; a difference is exempt where
PyTorch itself was within 1e-4 of deciding otherwise. Beside the times stands the machine's limit: the analytic cost of
benchmarks/counts.py over the bandwidth and the throughput that the machine shows in between the same rounds.

A full run takes 20 to 25 minutes and wants an idle machine: the cores that other processes took in a cell are part of
its figures, and the table marks a cell where that was more than a tenth of one.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.cells import CELLS, Cell, limit_of, measures_of, work_of
from benchmarks.checkpoints import TINY, cache_of, folder_of
from benchmarks.counts import Machine
from benchmarks.machine import busy_seconds, circumstances
from benchmarks.report import table
from benchmarks.rivals import RIVALS, RivalFailed, Tokens, Work, Worker
from support.records import Command

PATIENCE = 180.0  # seconds for a rival's first run, compilation included
LEAST_ROUNDS = 3


def measure(cell: Cell, workers: dict[str, Worker], work: Work, rounds: int, seconds: float) -> dict[str, Any]:
    """Every rival's turns in a cell: {"rivals": {name: figures}, "tokens": …, "machine": …, …}.

    rounds: at most so many, and fewer (not below LEAST_ROUNDS) once they have taken `seconds`. A rival that fails is
    closed, taken out of `workers`, and its reason recorded.
    """
    turns: dict[str, list[dict[str, Any]]] = {}
    first: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}

    def attempt(name: str, request: Work | None = None) -> dict[str, Any] | None:
        try:
            return workers[name].prepare(request, PATIENCE) if request else workers[name].run(PATIENCE)
        except RivalFailed as error:
            failed[name] = str(error)
            del workers[name]
            return None

    for name in list(workers):
        if answer := attempt(name, measures_of(cell, work) if name == "machine" else work):
            first[name], turns[name] = answer, []
    began, busy, own = time.perf_counter(), busy_seconds(), {name: workers[name].cpu_seconds() for name in workers}
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and time.perf_counter() - began > seconds:
            break
        names = list(workers)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if answer := attempt(name):
                turns[name].append(answer)
    others = busy_seconds() - busy - sum(workers[name].cpu_seconds() - own[name] for name in workers)
    found: dict[str, Any] = {"rivals": {}, "failed": failed, "tokens": {}}
    found["others_cores"] = round(others / (time.perf_counter() - began), 2)
    for name in workers:
        if name == "machine":
            figures = {what: [one[what] for one in turns[name]] for what in Machine._fields}
            found["machine"] = {what: statistics.median(values) for what, values in figures.items()}
            continue
        times = [one["seconds"] for one in turns[name]]
        found["rivals"][name] = {
            "seconds": round(statistics.median(times), 4),
            "all_seconds": [round(one, 4) for one in times],
            "first_seconds": round(first[name]["seconds"], 2),
            "load_seconds": workers[name].load_seconds,
            "peak_mb": turns[name][-1]["peak_mb"],
            "longest": max(map(len, first[name]["tokens"])),
        }
        if "compile_seconds" in first[name]:
            found["rivals"][name]["compile_seconds"] = first[name]["compile_seconds"]
        found["tokens"][name] = first[name]["tokens"]
    return found


def judged(cell: Cell, work: Work, found: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """The figures with ratios, the share of the machine's limit, and what became of the tokens."""
    tokens: Mapping[str, Tokens] = found.pop("tokens")
    rivals = found["rivals"]
    ours = rivals["ours"]["seconds"]
    for name, figures in rivals.items():
        figures["ratio"] = round(figures["seconds"] / ours, 3)
        if "pytorch" in tokens:
            same = [a == b for a, b in zip(tokens[name], tokens["pytorch"], strict=True)]
            figures["tokens_equal"] = round(sum(same) / len(same), 4)
    if "machine" in found:
        found["machine"]["limit_seconds"] = limit_of(cell, work, tokens["ours"], Machine(**found["machine"]))
        found["machine"]["share"] = round(found["machine"]["limit_seconds"] / ours, 3)
    found["same_steps"] = len({figures["longest"] for name, figures in rivals.items() if "int8" not in name}) == 1
    if "pytorch" in tokens and tokens["ours"] != tokens["pytorch"]:
        found["first_difference"] = difference(folder, work)
    return found


def difference(folder: pathlib.Path, work: Work) -> dict[str, Any]:
    """How close PyTorch's decision was where our tokens first differ (benchmarks/difference.py, its own process)."""
    command = [sys.executable, "-m", "benchmarks.difference", str(folder)]
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-500:]}


def run(command: Command, cache: pathlib.Path) -> None:
    """Measures the cells that are missing; rivals live as long as the cells are of their model."""
    given, workers, model = command.given, dict[str, Worker](), ""
    cells = {cell.name: cell for cell in CELLS}
    try:
        for name in command.missing():
            cell = cells[name]
            folder = folder_of(cache, cell.model)
            if cell.model != model:
                for worker in workers.values():
                    worker.close()
                workers, model = {}, cell.model
            for rival in given.rivals.split(","):  # also those that failed in the cell before
                if rival not in workers:
                    workers[rival] = Worker(rival, folder)
            work = work_of(cell, given.corpus)
            about = circumstances()
            figures = judged(cell, work, measure(cell, workers, work, given.rounds, given.seconds), folder)
            command.record.add(name, {**figures, "circumstances": about})
            print(table({name: figures}).splitlines()[2], flush=True)
    finally:
        for worker in workers.values():
            worker.close()


def main() -> None:
    command = Command(__doc__, [cell.name for cell in CELLS], "cell")
    add = command.parser.add_argument
    add("--rounds", type=int, default=7, help="at most, per cell")
    add("--seconds", type=float, default=40, help="after which a cell gets no more than 3 rounds")
    add("--rivals", default=",".join(RIVALS), help="who takes part; ours always must")
    add("--corpus", type=pathlib.Path, default=TINY / "examples.jsonl", help="the real documents")
    add("--cache", type=pathlib.Path, help="folder for the model folders; else a temporary one")
    given = command.parse()
    with cache_of(given.cache) as cache:
        run(command, cache)
    print(table(command.figures()))


if __name__ == "__main__":
    main()
