"""Our `pipeline("summarization")` beside that of transformers 4.57.6, in turns: one text, and a list of 64.

transformers 4.57.6 needs an environment of its own, whose Python is named; this script runs there, too, and imports
nothing of ours then:

    python benchmarks/pipelines.py --theirs golden-env/bin/python [--model models/debian-tiny] [--rounds 5]

Both load the folder, answer each case once (ours compiles then) and are then timed in turns, so that other load on the
machine meets both; a round's ratio compares neighbors in time. Texts are the embedded checkpoint's examples, repeated.
Both print their summaries' digest: they are the same texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
    """Answer one case for each line of standard input: seconds and the digest of the summaries, as JSON."""
    if whose == "ours":
        sys.path[:0] = [str(ROOT), str(ROOT / "inference")]
        from bart_inference import pipeline
    else:
        from transformers import pipeline  # type: ignore[no-redef]
    summarizer: Any = pipeline("summarization", model=model, dtype="float32", truncation=True)
    print("ready", flush=True)
    for line in sys.stdin:
        inputs = texts(CASES[line.strip()])
        begun = time.perf_counter()
        results = summarizer(inputs[0] if len(inputs) == 1 else inputs)
        seconds = time.perf_counter() - begun
        words = "\n".join(result["summary_text"].strip() for result in results)
        print(json.dumps([seconds, hashlib.sha256(words.encode()).hexdigest()[:12]]), flush=True)


class Worker:
    """A process with one of the two pipelines loaded."""

    def __init__(self, python: str, whose: str, model: str):
        command = [python, str(Path(__file__)), "--worker", whose, "--model", model]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        return line

    def run(self, case: str) -> tuple[float, str]:
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        seconds, digest = json.loads(self.line())
        return seconds, digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", metavar="PYTHON", help="the Python of an environment with transformers 4.57.6")
    parser.add_argument("--model", default=str(ROOT / "models" / "debian-tiny"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.model)
    if not args.theirs:
        parser.error("--theirs is needed: the Python of an environment with transformers 4.57.6")
    workers = {"ours": Worker(sys.executable, "ours", args.model), "theirs": Worker(args.theirs, "theirs", args.model)}
    for case in CASES:
        firsts = {whose: worker.run(case) for whose, worker in workers.items()}
        digests = {digest for _, digest in firsts.values()}
        times: dict[str, list[float]] = {whose: [] for whose in workers}
        for _ in range(args.rounds):
            for whose, worker in workers.items():
                times[whose].append(worker.run(case)[0])
        ratios = [theirs / ours for ours, theirs in zip(times["ours"], times["theirs"], strict=True)]
        middle = {whose: statistics.median(values) for whose, values in times.items()}
        print(
            f"{case}: ours {middle['ours']:.3f} s, transformers {middle['theirs']:.3f} s (medians of {args.rounds}); "
            f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}); first call "
            f"{firsts['ours'][0]:.1f} s and {firsts['theirs'][0]:.1f} s; same texts: {len(digests) == 1}"
        )


if __name__ == "__main__":
    main()
