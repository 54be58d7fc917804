"""Compares our `pipeline("summarization")` with that of transformers 4.57.6, for one text and for a list of 64.

transformers 4.57.6 needs an environment of its own, whose Python is given by `--theirs`. This script starts itself
there too, and then imports nothing of this project:

    python benchmarks/pipelines.py --theirs golden-env/bin/python [--model FOLDER] [--rounds 5] [--threads 1]

Both load the folder and answer each case once, which compiles our programs. Then they are timed in turns, so that other
load on the machine affects both, and each ratio is of two successive runs. Elapsed seconds and CPU seconds are printed.
On a machine that is not idle, compare CPU seconds with `--threads 1`: threads that wait for each other use CPU time
without doing work. The texts are the embedded checkpoint's examples, repeated, and the summaries of both are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES = {"one text": 1, "a list of 64": 64}


def texts(count: int) -> list[str]:
    lines = (ROOT / "models" / "debian-tiny" / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line)["document"] for line in lines]
    return [documents[i % len(documents)] for i in range(count)]


def work(whose: str, model: str) -> None:
    """Reads names of CASES from standard input; prints elapsed seconds, CPU seconds and a digest of the summaries."""
    if whose == "ours":
        sys.path[:0] = [str(ROOT), str(ROOT / "inference")]
        from bart_inference import pipeline
    else:
        from transformers import pipeline  # type: ignore[no-redef]
    summarizer: Any = pipeline("summarization", model=model, dtype="float32", truncation=True)
    print("ready", flush=True)
    for line in sys.stdin:
        inputs = texts(CASES[line.strip()])
        begun = time.perf_counter(), time.process_time()
        results = summarizer(inputs[0] if len(inputs) == 1 else inputs)
        seconds = time.perf_counter() - begun[0], time.process_time() - begun[1]
        words = "\n".join(result["summary_text"] for result in results)
        print(json.dumps([*seconds, hashlib.sha256(words.encode()).hexdigest()]), flush=True)


class Worker:
    """A process with one of the two pipelines loaded."""

    def __init__(self, python: str, whose: str, model: str, threads: int | None):
        command = [python, str(Path(__file__)), "--worker", whose, "--model", model]
        pipe, environment = subprocess.PIPE, dict(os.environ)
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
            if threads == 1:
                environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        return line

    def run(self, case: str) -> tuple[float, float, str]:
        """Runs a case: elapsed seconds, CPU seconds, and a digest of the summaries."""
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        elapsed, cpu, digest = json.loads(self.line())
        return elapsed, cpu, digest


def compare(case: str, workers: dict[str, Worker], rounds: int) -> None:
    """Prints the medians of a case, and the median, lowest and highest ratio of the two times of a round."""
    first_runs = {whose: worker.run(case) for whose, worker in workers.items()}
    timed: dict[str, list[tuple[float, float, str]]] = {whose: [] for whose in workers}
    for _ in range(rounds):
        for whose, worker in workers.items():
            timed[whose].append(worker.run(case))
    for column, name in enumerate(("elapsed", "CPU")):
        ours = [run[column] for run in timed["ours"]]
        theirs = [run[column] for run in timed["theirs"]]
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        print(
            f"{case}, {name}: ours {statistics.median(ours):.3f} s, transformers {statistics.median(theirs):.3f} s "
            f"(medians of {rounds}); ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        )
    same = first_runs["ours"][2] == first_runs["theirs"][2]
    print(
        f"{case}, first call: ours {first_runs['ours'][0]:.1f} s, transformers {first_runs['theirs'][0]:.1f} s; "
        f"equal summaries: {same}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", metavar="PYTHON", help="the Python of an environment with transformers 4.57.6")
    parser.add_argument(
        "--model", default=str(ROOT / "models" / "debian-tiny"), help="default: the embedded checkpoint"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of a case (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of each process (default: what the libraries choose)")
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.model)
    if not args.theirs:
        parser.error("--theirs is needed: the Python of an environment with transformers 4.57.6")
    pythons = {"ours": sys.executable, "theirs": args.theirs}
    workers = {whose: Worker(python, whose, args.model, args.threads) for whose, python in pythons.items()}
    for case in CASES:
        compare(case, workers, args.rounds)


if __name__ == "__main__":
    main()
