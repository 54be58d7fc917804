"""Compares generation in three dtypes, PyTorch and CTranslate2: the same weights, sources, options, steps and threads.

    python -m benchmarks.generation --record benchmarks/records/<date>_generation          # every cell
    python -m benchmarks.generation base-b1 tiny --record …     # the cells whose names contain one of these
    python -m benchmarks.generation --report --record …         # the table of what has been measured so far

Each rival is a process that is idle while another one runs. Within a cell they take turns, in another order in each
round, and a cell's figures are medians over its rounds. A cell is saved when it is finished; a second run of the
command skips it unless `--again` is given. Our tokens must equal PyTorch's, except where PyTorch's decision had a
margin under 1e-4. The table also has the limit: the least time that the machine needs for what benchmarks/counts.py
counts, with the bandwidth and throughput that are measured between the same rounds.

A full run takes 20 to 25 minutes and needs an idle machine. Each cell records how many cores other processes used
meanwhile, and the table marks a cell where that was more than a tenth of a core.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.cells import CELLS, Cell, limit_of, measures_of, work_of
from benchmarks.checkpoints import TINY, cache_of, folder_of
from benchmarks.counts import Machine
from benchmarks.machine import busy_seconds, circumstances
from benchmarks.report import table
from benchmarks.rivals import RIVALS, RivalFailed, Tokens, Work, Worker
from support.records import Command

PATIENCE = 180.0  # seconds within which a rival must answer, compilation included
LEAST_ROUNDS = 3
FAST_MODES = ("-int8", "-bfloat16")  # the ends of the names of rivals whose answers may have other lengths
Answer = dict[str, Any]  # what a worker's process sends back


class Turns:
    """Collects the answers of a cell's rivals.

    `first` has the answers to `prepare`, `later` those to each `run`, and `failed` the reasons of rivals that failed.
    """

    def __init__(self, workers: dict[str, Worker]) -> None:
        self.workers = workers
        self.first: dict[str, Answer] = {}
        self.later: dict[str, list[Answer]] = {}
        self.failed: dict[str, str] = {}

    def prepare(self, name: str, work: Work) -> None:
        answer = self._attempt(name, lambda worker: worker.prepare(work, PATIENCE))
        if answer:
            self.first[name], self.later[name] = answer, []

    def run(self, name: str) -> None:
        answer = self._attempt(name, lambda worker: worker.run(PATIENCE))
        if answer:
            self.later[name].append(answer)

    def _attempt(self, name: str, ask: Callable[[Worker], Answer]) -> Answer | None:
        """The rival's answer, or None if it fails. Then the rival is left out for the rest of the cell."""
        try:
            return ask(self.workers[name])
        except RivalFailed as error:
            self.failed[name] = str(error)
            del self.workers[name]
            return None


def measure(cell: Cell, workers: dict[str, Worker], work: Work, rounds: int, seconds: float) -> dict[str, Any]:
    """The figures of every rival in a cell: {"rivals": {name: figures}, "tokens": …, "machine": …, …}.

    At most `rounds` rounds are made, and after `seconds` no more than LEAST_ROUNDS. A rival that fails is closed and
    removed from `workers`, and the reason is recorded.
    """
    turns = Turns(workers)
    for name in list(workers):
        turns.prepare(name, measures_of(cell, work) if name == "machine" else work)
    began, busy_before = time.perf_counter(), busy_seconds()
    cpu_before = {name: worker.cpu_seconds() for name, worker in workers.items()}
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and time.perf_counter() - began > seconds:
            break
        names = list(workers)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            turns.run(name)
    by_rivals = sum(worker.cpu_seconds() - cpu_before[name] for name, worker in workers.items())
    by_others = busy_seconds() - busy_before - by_rivals
    cell_figures: dict[str, Any] = {"rivals": {}, "failed": turns.failed, "tokens": {}}
    cell_figures["others_cores"] = round(by_others / (time.perf_counter() - began), 2)
    for name, worker in workers.items():
        if name == "machine":
            cell_figures["machine"] = machine_figures(turns.later[name])
        else:
            cell_figures["rivals"][name] = rival_figures(worker, turns.first[name], turns.later[name])
            cell_figures["tokens"][name] = turns.first[name]["tokens"]
    return cell_figures


def machine_figures(answers: list[Answer]) -> dict[str, float]:
    """The median bandwidth and throughput of the machine over the rounds."""
    return {field: statistics.median(answer[field] for answer in answers) for field in Machine._fields}


def rival_figures(worker: Worker, first: Answer, later: list[Answer]) -> dict[str, Any]:
    """A rival's times in seconds, its peak memory, and the length of its longest answer in tokens."""
    times = [answer["seconds"] for answer in later]
    figures = {
        "seconds": round(statistics.median(times), 4),
        "all_seconds": [round(time, 4) for time in times],
        "first_seconds": round(first["seconds"], 2),
        "load_seconds": worker.load_seconds,
        "peak_mb": later[-1]["peak_mb"],
        "longest": max(map(len, first["tokens"])),
    }
    if "compile_seconds" in first:
        figures["compile_seconds"] = first["compile_seconds"]
    return figures


def add_comparisons(cell: Cell, work: Work, figures: dict[str, Any], folder: pathlib.Path) -> None:
    """Replaces the tokens in `figures` by comparisons, and adds the ratios of times and the share of the limit."""
    tokens: Mapping[str, Tokens] = figures.pop("tokens")
    rivals = figures["rivals"]
    ours = rivals["ours"]["seconds"]
    for name, rival in rivals.items():
        rival["ratio"] = round(rival["seconds"] / ours, 3)
        if "pytorch" in tokens:
            same = [a == b for a, b in zip(tokens[name], tokens["pytorch"], strict=True)]
            rival["tokens_equal"] = round(sum(same) / len(same), 4)
    if machine := figures.get("machine"):
        machine["limit_seconds"] = limit_of(cell, work, tokens["ours"], Machine(**machine))
        machine["share"] = round(machine["limit_seconds"] / ours, 3)
    exact = [rival for name, rival in rivals.items() if not name.endswith(FAST_MODES)]
    figures["same_steps"] = len({rival["longest"] for rival in exact}) == 1
    if "pytorch" in tokens and tokens["ours"] != tokens["pytorch"]:
        figures["first_difference"] = difference(folder, work)


def difference(folder: pathlib.Path, work: Work) -> dict[str, Any]:
    """Runs benchmarks.difference: {"margin": PyTorch's where tokens first differ}, or {"error": message}."""
    command = [sys.executable, "-m", "benchmarks.difference", str(folder)]
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-500:]}


def run(command: Command, cache: pathlib.Path) -> None:
    """Measures the missing cells, and starts new processes for the rivals when the model changes."""
    arguments = command.arguments
    workers: dict[str, Worker] = {}
    model = ""
    cells = {cell.name: cell for cell in CELLS}
    try:
        for name in command.missing():
            cell = cells[name]
            folder = folder_of(cache, cell.model)
            if cell.model != model:
                for worker in workers.values():
                    worker.close()
                workers, model = {}, cell.model
            for rival in arguments.rivals.split(","):  # those that failed in the cell before start again
                if rival not in workers:
                    workers[rival] = Worker(rival, folder)
            work = work_of(cell, arguments.corpus)
            about = circumstances()
            figures = measure(cell, workers, work, arguments.rounds, arguments.seconds)
            add_comparisons(cell, work, figures, folder)
            command.record.add(name, {**figures, "circumstances": about})
            print(table({name: figures}).splitlines()[2], flush=True)
    finally:
        for worker in workers.values():
            worker.close()


def main() -> None:
    command = Command(__doc__, [cell.name for cell in CELLS], "cell")
    add = command.parser.add_argument
    add("--rounds", type=int, default=7, help="highest number of rounds of a cell (default: 7)")
    add("--seconds", type=float, default=40, help="time after which a cell has only 3 rounds (default: 40)")
    add("--rivals", default=",".join(RIVALS), help="rivals to measure, with ours among them (default: all)")
    add("--corpus", type=pathlib.Path, default=TINY / "examples.jsonl", help="JSON lines with real documents")
    add("--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)")
    arguments = command.parse()
    with cache_of(arguments.cache) as cache:
        run(command, cache)
    print(table(command.figures()))


if __name__ == "__main__":
    main()
