"""The server beyond its capacity, and one caller beside others that flood it, with the embedded checkpoint.

    python -m benchmarks.overload --record benchmarks/records/<date>_overload

The server has one core to itself (`SERVER_CORE`) and all callers have the other one (`LOAD_CORE`), so that making the
load takes nothing from the server. XLA uses as many threads as it finds cores, and `--workers 1` fits to one. The load
begins when all of the server's programs are compiled. Linux only.

`overload`: in each round 32 callers find the peak, then requests arrive at random at ten times the rate that was
answered. `shares`: one caller sends a request a second. Its neighbors are two connections, and each either keeps a
third of the rows busy and no more, or keeps 300 requests outstanding and sends a refused one again after the pause
that the server asks for.
"""

import asyncio
import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc

from benchmarks.machine import circumstances
from benchmarks.serving import (
    PACKAGES,
    Outcome,
    Server,
    Work,
    closed_loop,
    fixed_lengths,
    measured,
    mixed_work,
    percentiles,
)
from support.records import Command

SERVER_CORE, LOAD_CORE = 0, 1
FACTOR = 10  # arrivals in overload, as a multiple of the rate of answers at the peak
OVERLOAD_SECONDS = 15
OUTSTANDING = 300  # requests that a flooding connection keeps outstanding
CALLS = 60  # of the careful caller, one a second
ROWS = 24  # of the server in `shares`; each of three clients has a third of them
FLAGS = ("--beams", "1", "--sampling-beams", "", "--sources", "128", "--workers", "1")
OPTIONS = fixed_lengths((8, 12, 16, 24), no_repeat_ngram_size=0, repetition_penalty=1.0)


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process, and every process that it starts meanwhile, runs on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned_server(*flags: str) -> Server:
    """The server, with all its programs compiled."""
    with on_core(SERVER_CORE):
        server = Server("embedded", *FLAGS, *flags)
    server.wait_for_all_programs()
    return server


def messages(work: Sequence[Work]) -> list[pb.GenerateRequest]:
    """Requests that are ready to be sent, so that making them takes no time while the load runs."""
    return [
        pb.GenerateRequest(token_ids=pb.TokenIds(ids=item.ids), options=pb.GenerationOptions(**item.options))
        for item in work
    ]


async def ask(stub: Any, message: pb.GenerateRequest) -> tuple[Outcome, float]:
    """Sends a request once: how it ended, and the seconds that the server asks to wait before another try."""
    sent = time.perf_counter()
    try:
        answer = await stub.Generate(message, timeout=600)
        return Outcome("OK", answer.usage.output_tokens, sent, time.perf_counter()), 0.0
    except grpc.aio.AioRpcError as error:
        ended = time.perf_counter()
        pause = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms", "0")
        return Outcome(error.code().name, 0, sent, ended), int(pause) / 1000


async def arrivals(address: str, requests: Sequence[pb.GenerateRequest], rate: float) -> list[Outcome]:
    """Sends the requests, `rate` a second at equal distances, whether earlier ones are answered or not."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        stub = bart_pb2_grpc.GenerationServiceStub(channel)
        tasks = []
        began = time.perf_counter()
        for index, request in enumerate(requests):
            await asyncio.sleep(max(0.0, began + index / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(stub, request)))
        return [outcome for outcome, _ in await asyncio.gather(*tasks)]


def overload(rounds: int) -> dict[str, Any]:
    """The peak and the overload of each round, and the medians of what the server's promise names."""
    work = mixed_work(600, 8000, 100, OPTIONS)
    requests = messages(work)
    result: dict[str, Any] = {"peak": [], "overload": []}
    with pinned_server() as server, on_core(LOAD_CORE):
        for _ in range(rounds):
            peak = measured(server, lambda: closed_loop(server.address, work, 32))
            rate = FACTOR * peak["codes"]["OK"] / peak["seconds"]
            flood = list(itertools.islice(itertools.cycle(requests), round(rate * OVERLOAD_SECONDS)))
            figures = measured(server, functools.partial(arrivals, server.address, flood, rate))
            figures["arrivals_per_second"] = round(rate, 1)
            figures["goodput_of_peak"] = round(figures["goodput_tokens_per_second"] / peak["tokens_per_second"], 3)
            result["peak"].append(peak)
            result["overload"].append(figures)
    result["goodput_of_peak"] = statistics.median(figures["goodput_of_peak"] for figures in result["overload"])
    result["refusal_p99_ms"] = statistics.median(figures["refusal_ms"]["p99"] for figures in result["overload"])
    return result


# ── One caller beside two others ──────────────────────────────────────────────────────────────────────────────────────


def keep_outstanding(address: str, count: int, ready: Any) -> None:
    """What a neighbor's process does: one connection on which `count` requests are always outstanding."""

    async def run() -> None:
        requests = itertools.cycle(messages(mixed_work(600, 8000, 100, OPTIONS)))
        async with grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
            stub = bart_pb2_grpc.GenerationServiceStub(channel)

            async def again_and_again() -> None:
                while True:
                    _, pause = await ask(stub, next(requests))
                    await asyncio.sleep(pause)

            ready.set()
            await asyncio.gather(*(again_and_again() for _ in range(count)))

    asyncio.run(run())


@contextlib.contextmanager
def neighbors(address: str, count: int) -> Iterator[None]:
    """Two processes with a connection each and `count` requests outstanding, on the core of this process."""
    context = multiprocessing.get_context("spawn")
    processes = []
    for _ in range(2):
        ready = context.Event()
        process = context.Process(target=keep_outstanding, args=(address, count, ready), daemon=True)
        process.start()
        ready.wait(60)
        processes.append(process)
    time.sleep(5)  # until the server's queue is full
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


async def careful(address: str) -> list[Outcome]:
    """One request a second, each beside nothing else of this caller's."""
    requests = messages(mixed_work(CALLS, 8000, 100, OPTIONS, seed=1))
    return await arrivals(address, requests, rate=1.0)


def shares(rounds: int) -> dict[str, Any]:
    """The careful caller's answers and waits, beside neighbors with a third of the rows each, and beside floods."""
    result: dict[str, Any] = {}
    with pinned_server("--rows", f"1,8,{ROWS}") as server, on_core(LOAD_CORE):
        for name, count in [("beside_their_thirds", ROWS // 3), ("beside_floods", OUTSTANDING)] * rounds:
            with neighbors(server.address, count):
                outcomes = asyncio.run(careful(server.address))
            answered = [outcome.latency for outcome in outcomes if outcome.code == "OK"]
            figures = {"calls": len(outcomes), "answered": len(answered), "answer_ms": percentiles(answered)}
            result.setdefault(name, []).append(figures)

    def median(name: str) -> float:
        return statistics.median(figures["answer_ms"]["p50"] for figures in result[name])

    floods = result["beside_floods"]
    result["answered"] = round(min(figures["answered"] / figures["calls"] for figures in floods), 3)
    result["median_wait_of_a_thirds"] = round(median("beside_floods") / median("beside_their_thirds"), 2)
    return result


PARTS = {"overload": overload, "shares": shares}


def report(parts: dict[str, Any]) -> str:
    """The figures that the server promises, a line each."""
    lines = []
    if "overload" in parts:
        part = parts["overload"]
        lines.append(f"goodput at {FACTOR} times the load: {part['goodput_of_peak']:.2f} of the peak")
        lines.append(f"refusals, 99th percentile: {part['refusal_p99_ms']:.1f} ms")
    if "shares" in parts:
        part = parts["shares"]
        lines.append(f"calls of the careful caller that were answered beside two floods: {part['answered']:.0%}")
        lines.append(f"its median wait over that with a third of the rows: {part['median_wait_of_a_thirds']:.2f}")
    return "\n".join(lines)


def main() -> None:
    command = Command(__doc__, list(PARTS), "part")
    command.parser.add_argument("--rounds", type=int, default=3)
    arguments = command.parse()
    for name in command.missing():
        about = circumstances(PACKAGES)
        command.record.add(name, {**PARTS[name](arguments.rounds), "circumstances": about})
    print(report(command.figures()))


if __name__ == "__main__":
    main()
