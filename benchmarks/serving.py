"""Measures the server: time added to a call, throughput beside offline and one-row generation, and overload.

    python -m benchmarks.serving embedded --record benchmarks/records/<date>_serving-embedded
    python -m benchmarks.serving base     --record benchmarks/records/<date>_serving-base

`embedded` is the embedded checkpoint with greedy search. It compares two servers, in turns: one with several rows and
workers, and one with a single row and worker. `base` is a BART of bart-base's size with random weights, whose text is
meaningless but costs as much as that of a trained model. It compares the server with batches in this process. The
server is a separate process, and this process makes the load. Both share the machine, so the record includes the CPU
time of this process. A run takes minutes and needs an idle machine. The record is `result.json`: figures, versions,
hardware and command.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import psutil
from bart_client import AsyncClient, BartError, Client

from benchmarks.checkpoints import SHAPES
from benchmarks.machine import circumstances

SEED = 0
ROUNDS = 3
WARM_UP = 10  # calls before those that are measured
PACKAGES = ("jax", "jaxlib", "numpy", "grpcio", "protobuf")


@dataclasses.dataclass(frozen=True)
class Work:
    """One request: token ids and options."""

    ids: tuple[int, ...]
    options: dict[str, Any]


@dataclasses.dataclass
class Outcome:
    """How one request ended."""

    code: str  # the name of its gRPC status
    tokens: int
    sent: float  # time in seconds, of time.perf_counter
    ended: float

    @property
    def latency(self) -> float:
        return self.ended - self.sent


# ── The requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


def mixed_work(
    count: int, vocabulary: int, longest: int, options: Sequence[dict[str, Any]], seed: int = SEED
) -> list[Work]:
    """Requests of mixed lengths (log-uniform between 16 and `longest` tokens) and options."""
    chance = random.Random(seed)
    work = []
    for index in range(count):
        length = round(16 * (longest / 16) ** chance.random())
        body = chance.choices(range(4, vocabulary), k=length - 2)
        work.append(Work((0, *body, 2), options[index % len(options)]))
    return work


def fixed_lengths(lengths: Sequence[int], **common: Any) -> list[dict[str, Any]]:
    """Options that fix the lengths of answers, so that all ways of computing them generate equally many tokens."""
    return [{"num_beams": 1, "min_new_tokens": n, "max_new_tokens": n, **common} for n in lengths]


# ── The server ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """Runs `python -m bart_server` on a free port. `without` is a fast path of benchmarks.without to switch off."""

    def __init__(self, model: str, *flags: str, without: str = "") -> None:
        switch = ("benchmarks.without", without) if without else ()
        command = [sys.executable, "-m", *switch, "bart_server", "--model", f"bench={model}", "--port", "0"]
        command += ["--metrics", "off"]
        began = time.perf_counter()
        self._logs = tempfile.TemporaryDirectory()
        self._log = pathlib.Path(self._logs.name) / "log"
        with self._log.open("w") as log:  # a pipe would have to be read during the measurement
            self._process = subprocess.Popen([*command, *flags], stderr=log)
        self.flags = flags
        address = self._until("listening")["address"]
        self.address = address.replace("localhost", "127.0.0.1")
        self._until("ready")
        self.ready_seconds = time.perf_counter() - began
        self.usage = psutil.Process(self._process.pid)

    def wait_for_all_programs(self) -> None:
        """Returns when the server has compiled the programs that it compiles in the background after it is ready."""
        self._until("compiled", background=True)

    def _until(self, message: str, **fields: Any) -> dict[str, Any]:
        while self._process.poll() is None:
            for line in self._log.read_text().splitlines(keepends=True):
                record = json.loads(line) if line.startswith("{") and line.endswith("\n") else {}
                if record.get("message") == message and fields.items() <= record.items():
                    return record
            time.sleep(0.05)
        raise SystemExit(f"the server ended before {message!r}")

    def rss(self) -> int:
        return self.usage.memory_info().rss

    def cpu(self) -> float:
        times = self.usage.cpu_times()
        return times.user + times.system

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._logs.cleanup()


# ── The load ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ask(client: AsyncClient, work: Work) -> Outcome:
    sent = time.perf_counter()
    try:
        answer = await client.generate(work.ids, **work.options)
        return Outcome("OK", answer.usage.output_tokens, sent, time.perf_counter())
    except BartError as error:
        return Outcome(error.code.name, 0, sent, time.perf_counter())


async def closed_loop(address: str, work: Sequence[Work], clients: int) -> list[Outcome]:
    """Sends the work from `clients` callers; each waits for its answer before it sends its next request."""
    queue = list(reversed(work))
    async with AsyncClient(address, timeout=600, retries=False) as client:

        async def caller() -> list[Outcome]:
            outcomes = []
            while queue:
                outcomes.append(await ask(client, queue.pop()))
            return outcomes

        by_caller = await asyncio.gather(*(caller() for _ in range(clients)))
        return list(itertools.chain.from_iterable(by_caller))


async def open_loop(address: str, work: Sequence[Work], rate: float) -> list[Outcome]:
    """Sends the work at random times, `rate` requests per second on average, without waiting for answers."""
    chance = random.Random(SEED)
    async with AsyncClient(address, timeout=600, retries=False) as client:
        tasks, due = [], time.perf_counter()
        for item in work:
            due += chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, item)))
        return list(await asyncio.gather(*tasks))


def measured(server: Server, load: Callable[[], Coroutine[Any, Any, list[Outcome]]]) -> dict[str, Any]:
    """Runs a load and returns its figures, with the CPU time and memory of the server."""
    memory, server_cpu, client_cpu = server.rss(), server.cpu(), time.process_time()
    began = time.perf_counter()
    outcomes = asyncio.run(load())
    seconds = time.perf_counter() - began
    answered = [outcome for outcome in outcomes if outcome.code == "OK"]
    refused = [outcome for outcome in outcomes if outcome.code == "RESOURCE_EXHAUSTED"]
    # Goodput counts answers that were complete when the last request was sent, while new load still arrived.
    first_sent = min((outcome.sent for outcome in outcomes), default=0.0)
    last_sent = max((outcome.sent for outcome in outcomes), default=0.0)
    good_tokens = sum(outcome.tokens for outcome in answered if outcome.ended <= last_sent)
    codes = [outcome.code for outcome in outcomes]
    return {
        "requests": len(outcomes),
        "seconds": round(seconds, 2),
        "codes": {code: codes.count(code) for code in sorted(set(codes))},
        "tokens_per_second": round(sum(outcome.tokens for outcome in answered) / seconds, 1),
        "goodput_tokens_per_second": round(good_tokens / max(1e-9, last_sent - first_sent), 1),
        "answer_ms": percentiles([outcome.latency for outcome in answered]),
        "refusal_ms": percentiles([outcome.latency for outcome in refused]),
        "server_cpu_cores": round((server.cpu() - server_cpu) / seconds, 2),
        "load_generator_cpu_cores": round((time.process_time() - client_cpu) / seconds, 2),
        "server_rss_mb": [round(memory / 2**20), round(server.rss() / 2**20)],
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median (p50), the 90th and 99th percentile and the maximum (p100), in milliseconds."""
    if not seconds:
        return {}
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1000, 2) for q in (50, 90, 99, 100)}


# ── The cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def offline(model: str, work: Sequence[Work], rows: int) -> dict[str, Any]:
    """Times `generate` in this process on batches of `rows` requests, sorted by length, after a pass that compiles."""
    from bart_inference import generate, load, prepare
    from bart_inference.tokenization import pad

    prepared = prepare(load(None if model == "embedded" else model))
    ordered = sorted(work, key=lambda item: (len(item.ids), item.options["max_new_tokens"]))
    batches = [ordered[first : first + rows] for first in range(0, len(ordered), rows)]

    def one_pass() -> float:
        began = time.perf_counter()
        for batch in batches:
            ids, mask = pad([item.ids for item in batch], 1)
            generate(prepared, ids, mask, options=[item.options for item in batch])
        return time.perf_counter() - began

    one_pass()
    seconds = one_pass()
    tokens = sum(item.options["max_new_tokens"] for item in work)
    return {"batch": rows, "seconds": round(seconds, 2), "tokens_per_second": round(tokens / seconds, 1)}


def idle_overhead(model: str, address: str, work: Work, calls: int = 200) -> dict[str, Any]:
    """The median times of a call to the server and of `generate` in this process, which take turns."""
    from bart_inference import generate, load, prepare

    prepared = prepare(load(None if model == "embedded" else model))

    def timed(call: Callable[[], Any]) -> float:
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1000

    wire_times, inside_times = [], []
    with Client(address, timeout=600) as client:
        for _ in range(calls + WARM_UP):
            wire_times.append(timed(lambda: client.generate(work.ids, **work.options)))
            inside_times.append(timed(lambda: generate(prepared, [work.ids], **work.options)))
    wire = statistics.median(wire_times[WARM_UP:])
    inside = statistics.median(inside_times[WARM_UP:])
    return {
        "calls": calls,
        "wire_ms": round(wire, 2),
        "in_process_ms": round(inside, 2),
        "overhead_ms": round(wire - inside, 2),
    }


def overload(server: Server, work: Sequence[Work], peak: dict[str, Any], factor: float) -> dict[str, Any]:
    """Sends requests at random times, on average `factor` times as many per second as the server answered in `peak`."""
    rate = factor * peak["codes"]["OK"] / peak["seconds"]
    figures = measured(server, lambda: open_loop(server.address, work, rate))
    figures["arrivals_per_second"] = round(rate, 1)
    figures["goodput_of_peak"] = round(figures["goodput_tokens_per_second"] / peak["goodput_tokens_per_second"], 3)
    return figures


def embedded(scale: float) -> dict[str, Any]:
    """Measures the server beside one with a single row and worker, the time that it adds to a call, and an overload."""
    plain = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0}  # greedy search without logits processors
    work = mixed_work(round(600 * scale), 8000, 100, fixed_lengths((8, 12, 16, 24), **plain))
    result: dict[str, Any] = {"clients_32": [], "one_at_a_time": []}
    flags = ("--beams", "1", "--sampling-beams", "", "--sources", "128")
    single_row = ("--rows", "1", "--workers", "1")
    with Server("embedded", *flags) as server, Server("embedded", *flags, *single_row) as single:
        result["ready_seconds"] = [round(server.ready_seconds, 1), round(single.ready_seconds, 1)]
        result["idle"] = idle_overhead("embedded", server.address, work[0])
        for _ in range(ROUNDS):
            result["clients_32"].append(measured(server, lambda: closed_loop(server.address, work, 32)))
            result["one_at_a_time"].append(
                measured(single, lambda: closed_loop(single.address, work[: len(work) // 2], 32))
            )
        peak = result["clients_32"][-1]
        result["overload_10"] = overload(server, work * 4, peak, 10)
    shared = [figures["tokens_per_second"] for figures in result["clients_32"]]
    singly = [figures["tokens_per_second"] for figures in result["one_at_a_time"]]
    result["speedup_by_round"] = [round(a / b, 2) for a, b in zip(shared, singly, strict=True)]
    result["speedup"] = round(statistics.median(shared) / statistics.median(singly), 2)
    return result


def base(scale: float) -> dict[str, Any]:
    """Measures the server with 32 callers, an overload, and batches in this process for comparison."""
    work = mixed_work(round(64 * scale), 50000, 120, fixed_lengths((16, 24, 32)))
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_random_base(folder)
        flags = ("--beams", "1", "--sampling-beams", "", "--sources", "128", "--target", "64")
        with Server(folder, *flags, "--max-requests", "64") as server:
            result["ready_seconds"] = round(server.ready_seconds, 1)
            result["saturated"] = measured(server, lambda: closed_loop(server.address, work, 32))
            result["overload_10"] = overload(server, work * 10, result["saturated"], 10)
        result["offline"] = offline(folder, work, 8)
    result["of_offline"] = round(result["saturated"]["tokens_per_second"] / result["offline"]["tokens_per_second"], 3)
    return result


def write_random_base(folder: str) -> None:
    import jax
    from bart_inference import Model, save

    from bart_oneliner import Config, init

    config = Config(**SHAPES["base"])
    generation = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "max_length": 32,
    }
    save(Model(init(config, jax.random.key(SEED)), config, generation, None), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["embedded", "base"], help="what to measure")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of requests")
    parser.add_argument("--record", type=pathlib.Path, help="folder for result.json")
    arguments = parser.parse_args()
    case = {"embedded": embedded, "base": base}[arguments.case]
    result = {"circumstances": circumstances(PACKAGES), **case(arguments.scale)}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.record:
        arguments.record.mkdir(parents=True, exist_ok=True)
        (arguments.record / "result.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
