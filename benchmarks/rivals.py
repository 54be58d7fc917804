"""Runs rivals: implementations that do the same work, each in a process that is idle while another one runs.

`python -m benchmarks.rivals NAME FOLDER` reads requests from standard input and writes answers to standard output, one
JSON object on each line. {"prepare": Work} makes the inputs and runs them once, which includes compilation, and
{"run": true} runs them again. `Worker` starts such a process and talks to it.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.machine import THREADS, bandwidth, throughput

# {"batches": [[[token id, …], …], …], "options": {transformers' name of an option: value}, "pad_token_id": id}
Work = dict[str, Any]
Tokens = list[list[int]]  # for each source, the generated tokens without the start token and the end token


# ── In the worker's process ───────────────────────────────────────────────────────────────────────────────────────────


class Ours:
    def __init__(self, folder: pathlib.Path, layout: str | None = None, dtype: str = "float32") -> None:
        import jax
        from bart_inference import load, prepare

        self.compile_seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        self.model = prepare(load(folder, dtype), layout)

    def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compile_seconds += duration_secs

    def prepare(self, work: Work) -> None:
        self.compile_seconds = 0.0
        self.batches = padded(work)
        self.options = work["options"]
        self.end = self.model.generation["eos_token_id"]

    def figures(self) -> dict[str, float]:
        return {"compile_seconds": round(self.compile_seconds, 2)}

    def run(self) -> Tokens:
        from bart_inference import generate

        answers = []
        for ids, mask in self.batches:
            for row in generate(self.model, ids, mask, **self.options).sequences:
                answers.append(before(row[1:].tolist(), self.end))
        return answers


class PyTorch:
    """transformers without compilation, with its default attention (scaled_dot_product_attention)."""

    def __init__(self, folder: pathlib.Path) -> None:
        import torch
        from transformers import BartForConditionalGeneration

        torch.set_num_threads(THREADS)
        self.torch = torch
        self.model = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def settle(self) -> None:
        """Copies the weights to ordinary memory. A mapped file's small pages can take 1.5 times as long to read."""
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()

    def prepare(self, work: Work) -> None:
        self.batches = [[self.torch.tensor(rows) for rows in pair] for pair in padded(work)]
        self.options = work["options"]
        self.end = self.model.generation_config.eos_token_id

    def run(self) -> Tokens:
        answers = []
        with self.torch.inference_mode():
            for ids, mask in self.batches:
                for row in self.model.generate(ids, attention_mask=mask, **self.options):
                    answers.append(before(row[1:].tolist(), self.end))
        return answers


class CompiledPyTorch(PyTorch):
    """transformers with torch.compile and a static cache, as its documentation recommends for fast generation."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.model.forward = self.torch.compile(self.model.forward, dynamic=False)

    def prepare(self, work: Work) -> None:
        super().prepare(work)
        self.options = {**self.options, "cache_implementation": "static"}


class CTranslate2:
    compute, suffix = "float32", "ctranslate2"

    def __init__(self, folder: pathlib.Path) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        self.translator = ctranslate2.Translator(
            f"{folder}-{self.suffix}", compute_type=self.compute, inter_threads=1, intra_threads=THREADS
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vocabulary = self.tokenizer.get_vocab()
        self.defaults = json.loads((folder / "generation_config.json").read_text())

    def prepare(self, work: Work) -> None:
        self.batches = [[self.words(row) for row in batch] for batch in work["batches"]]
        options = {**self.defaults, **work["options"]}
        longest = options["max_new_tokens"] if "max_new_tokens" in options else options["max_length"] - 1
        self.options = {
            "beam_size": options.get("num_beams", 1),
            "max_decoding_length": longest,
            "min_decoding_length": options.get("min_new_tokens", 1),
            "length_penalty": options.get("length_penalty", 1.0),
            "no_repeat_ngram_size": options.get("no_repeat_ngram_size", 0),
            "max_input_length": 0,
        }

    def words(self, ids: list[int]) -> list[str]:
        return [self.tokenizer.id_to_token(i) for i in ids]

    def run(self) -> Tokens:
        answers = []
        for batch in self.batches:
            for result in self.translator.translate_batch(batch, **self.options):
                answers.append([self.vocabulary[word] for word in result.hypotheses[0]])
        return answers


class CTranslate2Int8(CTranslate2):
    compute, suffix = "int8", "ctranslate2-int8"


class Machine:
    """Runs no model: measures the machine's bandwidth and throughput with arrays of the work's sizes."""

    def __init__(self, folder: pathlib.Path) -> None:
        pass

    def prepare(self, work: Work) -> None:
        self.bytes, self.products = work["step_bytes"], work["products"]

    def run(self) -> Tokens:
        self.speeds = {"bandwidth": bandwidth(self.bytes), "throughput": throughput(self.products)}
        return []

    def figures(self) -> dict[str, float]:
        return self.speeds


RIVALS: dict[str, Callable[[pathlib.Path], Any]] = {
    "ours": Ours,
    "ours-bfloat16": functools.partial(Ours, dtype="bfloat16"),
    "ours-int8": functools.partial(Ours, dtype="int8"),
    "pytorch": PyTorch,
    "pytorch-compiled": CompiledPyTorch,
    "ctranslate2": CTranslate2,
    "ctranslate2-int8": CTranslate2Int8,
    "machine": Machine,
}


def padded(work: Work) -> list[tuple[Tokens, Tokens]]:
    """The ids and the mask of each batch, padded on the right to its longest row."""
    pairs = []
    for batch in work["batches"]:
        width = max(map(len, batch))
        ids = [row + [work["pad_token_id"]] * (width - len(row)) for row in batch]
        pairs.append((ids, [[1] * len(row) + [0] * (width - len(row)) for row in batch]))
    return pairs


def before(tokens: list[int], end: int) -> list[int]:
    """The tokens before the end token, or all of them if it is missing."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def timed(rival: Any) -> dict[str, Any]:
    """Runs a rival once: {"seconds": …, "tokens": …, "peak_mb": peak memory of the process in 2**20 bytes}."""
    began = time.perf_counter()
    tokens = rival.run()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "tokens": tokens, "peak_mb": round(peak)}


def serve(name: str, folder: pathlib.Path) -> None:
    """Makes a rival and answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # standard output becomes standard error, so that what libraries print is not read as an answer
    began = time.perf_counter()
    rival = RIVALS[name](folder)
    if hasattr(rival, "settle"):
        rival.settle()
    answers.write(json.dumps({"load_seconds": round(time.perf_counter() - began, 2)}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                rival.prepare(request["prepare"])
            answer = timed(rival)
            if hasattr(rival, "figures"):
                answer |= rival.figures()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")


# ── In the benchmark's process ────────────────────────────────────────────────────────────────────────────────────────


class RivalFailed(Exception):
    """A worker that raised, died or took too long."""


class Worker:
    """A rival's process, which the constructor starts and which is idle between two requests.

    Methods raise RivalFailed if the answer is an error or does not come within `patience` seconds.
    """

    def __init__(
        self, name: str, folder: pathlib.Path, patience: float = 300, checkout: pathlib.Path | None = None,
        python: str = sys.executable, without: str = "",
    ) -> None:  # fmt: skip
        """Starts the process, by default with this interpreter and the code in the working directory.

        `checkout` is another folder whose code it runs, `python` another interpreter, and `without` a fast path of
        benchmarks.without that it switches off.
        """
        self.name = name
        switch = ("benchmarks.without", without) if without else ()
        command = [python, "-m", *switch, "benchmarks.rivals", name, str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            cwd=checkout,
        )  # fmt: skip
        self.load_seconds = self._answer(patience)["load_seconds"]

    def prepare(self, work: Work, patience: float = 300) -> dict[str, Any]:
        return self._ask({"prepare": work}, patience)

    def run(self, patience: float = 300) -> dict[str, Any]:
        return self._ask({"run": True}, patience)

    def cpu_seconds(self) -> float:
        import psutil

        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def _ask(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer(patience)

    def _answer(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(patience):
                self.close()
                raise RivalFailed(f"no answer within {patience:.0f} s")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            self.close()
            raise RivalFailed(answer["error"])
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], pathlib.Path(sys.argv[2]))
