"""Measures the time from the start of a process to its first summary, and its memory, beside PyTorch and CTranslate2.

    python -m benchmarks.startup --record benchmarks/records/<date>_startup            # all parts
    python -m benchmarks.startup server demo --code FOLDER --record …                  # with another checkout's code
    python -m benchmarks.startup --report --record …                                   # the tables of the record

Parts `tiny` and `base`: every run is a new process that imports, loads the model, generates once and ends. The rivals
take turns, and figures are medians. `ours` starts with an empty compile cache and the layout that `prepare` chooses.
Its programs may call oneDNN, and such programs cannot be stored. `ours-xla` uses the layout `cpu`, which `prepare`
chooses for tiny anyway and whose programs can be stored; `ours-xla, warm cache` reads them from JAX's persistent cache.
Peak memory is the largest resident set of the process (ru_maxrss). The models' files are in the page cache in every
run. Part `compilation`: the seconds that JAX reports for compiling the programs of one bucket.

Parts `server-tiny` and `server-base` start `python -m bart_server` with its default settings (base with a longer
`--target`) and an empty compile cache, and a second time with the cache that the first start filled. They measure the
seconds until the port is open and until a gRPC client has the first summary. Part `demo` runs `python bart_oneliner.py`
twice in the same way. With --code, the servers and the demo run the code of another checkout.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import psutil
from bart_client import Client

from benchmarks.cells import real_rows
from benchmarks.checkpoints import TINY, cache_of, folder_of
from benchmarks.machine import THREADS, circumstances
from benchmarks.rivals import RIVALS, Ours, Worker
from support.records import Command

MODELS: dict[str, dict[str, Any]] = {  # model -> options of generate for its one source
    "tiny": {},  # the checkpoint's options, for a real document
    "base": {"num_beams": 4, "min_new_tokens": 32, "max_new_tokens": 32},
}
SOURCE = 128  # positions of the source of "base"
CONTENDERS = ("ours", "ours-xla", "ours-xla, warm cache", "pytorch", "ctranslate2", "ctranslate2-int8")
ROOT = pathlib.Path(__file__).resolve().parents[1]
SERVERS = {f"server-{model}": model for model in MODELS}
# The flags of each model's server. Without --target, base's server would allow fewer tokens than MODELS asks for.
FLAGS = {"tiny": (), "base": ("--target", "64")}
STARTS = ("empty cache", "warm cache")
LONGEST_START = 300.0  # seconds within which a server has to be ready and to answer
# The sources in a batch, beams, and source positions of each bucket.
BUCKETS = ((1, 1, 128), (1, 4, 128), (8, 1, 128), (8, 4, 128), (1, 4, 512), (1, 4, 1024), (8, 4, 1024))


def work_of(model: str) -> dict[str, Any]:
    """The Work of a model, for a rival's `prepare`: one source and the options of MODELS."""
    if model == "tiny":
        batch = real_rows(TINY / "examples.jsonl", 1)
    else:
        batch = [[0, *range(1000, 1000 + SOURCE - 2), 2]]
    return {"batches": [batch], "options": MODELS[model], "pad_token_id": 1}


def once(name: str, folder: pathlib.Path, work: dict[str, Any]) -> None:
    """Loads the model, generates, and prints the tokens: what a measured process does."""
    rival = Ours(folder, layout="cpu") if name == "ours-xla" else RIVALS[name](folder)
    rival.prepare(work)
    sys.stdout.write("\n" + json.dumps({"tokens": rival.run()}) + "\n")
    sys.stdout.flush()


def measured(contender: str, folder: pathlib.Path, work: dict[str, Any], cache: pathlib.Path) -> dict[str, Any]:
    """Runs a contender once in a new process. Returns {"seconds", "peak_mb", "cpu_seconds", "tokens"}.

    "seconds" is the time from the start of the new process until the process that started it has read the tokens.
    "peak_mb" and "cpu_seconds" are those of the new process.
    """
    name = contender.partition(",")[0]
    if contender.startswith("ours") and not contender.endswith("warm cache"):
        shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, **compile_cache(cache), "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-m", "benchmarks.startup", "--once", name, str(folder), json.dumps(work)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert child.stdout
    answers = (json.loads(line) for line in child.stdout if line.startswith(b'{"tokens"'))
    answer = next(answers, None)
    seconds = time.perf_counter() - began
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if answer is None:
        raise SystemExit(f"{contender} ended with {child.returncode} and without an answer")
    return {
        "seconds": seconds,
        "peak_mb": usage.ru_maxrss / 1024,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "tokens": answer["tokens"],
    }


def compile_cache(folder: pathlib.Path) -> dict[str, str]:
    """The environment variables with which JAX stores compiled programs of every size in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start_up(model: str, folder: pathlib.Path, rounds: int, cache: pathlib.Path) -> dict[str, Any]:
    """Medians for every contender: {name: {"seconds", "all_seconds", "peak_mb", "cpu_seconds", "tokens_equal"}}."""
    work = work_of(model)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds + 1):  # the first round reads the files into the page cache and is not counted
        for name in CONTENDERS:  # "ours-xla" fills the compile cache that "ours-xla, warm cache" reads
            run = measured(name, folder, work, cache)
            if turn:
                runs[name].append(run)

    def median(name: str, figure: str, digits: int) -> float:
        return round(statistics.median(run[figure] for run in runs[name]), digits)

    expected = runs["pytorch"][0]["tokens"]
    return {
        name: {
            "seconds": median(name, "seconds", 2),
            "all_seconds": [round(run["seconds"], 2) for run in runs[name]],
            "peak_mb": median(name, "peak_mb", 0),
            "cpu_seconds": median(name, "cpu_seconds", 2),
            "tokens_equal": all(run["tokens"] == expected for run in runs[name]),
        }
        for name in CONTENDERS
    }


def compilation(folder: pathlib.Path) -> dict[str, Any]:
    """The seconds of compilation of each bucket, in one process without a compile cache."""
    worker = Worker("ours", folder)
    seconds = {}
    for batch, beams, source in BUCKETS:
        rows = [[0, *range(1000, 1000 + source - 2), 2]] * batch
        options = {"num_beams": beams, "max_new_tokens": 1}
        answer = worker.prepare({"batches": [rows], "options": options, "pad_token_id": 1})
        seconds[f"batch {batch}, {beams} beams, source {source}"] = answer["compile_seconds"]
    worker.close()
    return seconds


def environment_of(code: pathlib.Path) -> dict[str, str]:
    """The environment variables with which Python imports this project's packages from a checkout."""
    folders = [code / folder for folder in (".", "inference", "server", "clients/python")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": str(THREADS)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def first_answer(folder: pathlib.Path, model: str, cache: pathlib.Path, code: pathlib.Path) -> dict[str, Any]:
    """Starts the server, calls it once and kills it: {"listening", "seconds", "cpu_seconds", "peak_mb", "tokens"}.

    "listening" is the time in seconds from the start until the server's port is open, "seconds" that until a client has
    the first answer.
    """
    source = work_of(model)["batches"][0][0]
    port = free_port()
    command = [sys.executable, "-m", "bart_server", "--host", "127.0.0.1", "--port", str(port), "--metrics", "off"]
    command += ["--model", f"bench={folder}", "--compile-cache", str(cache), *FLAGS[model]]
    began = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment_of(code))
    try:
        wait_for_port(server, port)
        listening = time.perf_counter() - began
        with Client(f"127.0.0.1:{port}", timeout=LONGEST_START) as client:
            client.wait_ready(LONGEST_START)
            tokens = list(client.generate(source, **MODELS[model]).sequences[0].token_ids)
        seconds = time.perf_counter() - began
        process = psutil.Process(server.pid)
        times = process.cpu_times()
        return {
            "listening": listening,
            "seconds": seconds,
            "cpu_seconds": times.user + times.system,
            "peak_mb": process.memory_info().rss / 2**20,
            "tokens": tokens,
        }
    finally:
        server.kill()
        server.wait()


def wait_for_port(server: subprocess.Popen[bytes], port: int) -> None:
    """Returns when the server's port is open. Raises SystemExit if the server ends before."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode}") from None
            time.sleep(0.01)


def servers(
    model: str, folder: pathlib.Path, rounds: int, cache: pathlib.Path, code: pathlib.Path
) -> dict[str, dict[str, Any]]:
    """Medians of `first_answer` over rounds of two starts: the first fills an empty compile cache for the second."""
    runs: dict[str, list[dict[str, Any]]] = {start: [] for start in STARTS}
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for start in STARTS:
            runs[start].append(first_answer(folder, model, cache, code))
    return {start: medians(runs[start], ("listening", "seconds", "cpu_seconds", "peak_mb")) for start in STARTS}


def demo(rounds: int, cache: pathlib.Path, code: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Medians of the seconds of `python bart_oneliner.py`, run twice in a round: first with an empty compile cache."""
    runs: dict[str, list[dict[str, Any]]] = {start: [] for start in STARTS}
    command = [sys.executable, "bart_oneliner.py"]
    environment = environment_of(code)
    help_text = subprocess.run([*command, "--help"], cwd=code, env=environment, capture_output=True, text=True)
    if "--compile-cache" in help_text.stdout:
        command += ["--compile-cache", str(cache)]
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for start in STARTS:
            began = time.perf_counter()
            subprocess.run(command, cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)
            runs[start].append({"seconds": time.perf_counter() - began})
    return {start: medians(runs[start], ("seconds",)) for start in STARTS}


def medians(runs: list[dict[str, Any]], figures: tuple[str, ...]) -> dict[str, Any]:
    """The median of each of `figures` over the runs, and the list of all runs' seconds."""
    result: dict[str, Any] = {name: round(statistics.median(run[name] for run in runs), 2) for name in figures}
    result["all_seconds"] = [round(run["seconds"], 2) for run in runs]
    return result


def report_starts(name: str, starts: Mapping[str, Any]) -> list[str]:
    """A table of a server's starts or of the demo's."""
    columns = [column for column in next(iter(starts.values())) if column != "all_seconds"]
    lines = [f"| {name} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for start, figures in starts.items():
        lines.append(f"| {start} | {' | '.join(f'{figures[column]:.2f}' for column in columns)} |")
    return [*lines, ""]


def report(parts: Mapping[str, Any]) -> str:
    lines = []
    for name in (*SERVERS, "demo"):
        if name in parts:
            lines += report_starts(name, parts[name]["starts"])
    for model in MODELS:
        if model not in parts:
            continue
        lines += [
            f"| {model} | first summary, s | peak memory, MB | CPU, s | tokens equal |",
            "|---|---:|---:|---:|---|",
        ]
        for name, f in parts[model]["contenders"].items():
            equal = "yes" if f["tokens_equal"] else "no"
            lines.append(f"| {name} | {f['seconds']:.2f} | {f['peak_mb']:.0f} | {f['cpu_seconds']:.1f} | {equal} |")
        lines.append("")
    if "compilation" in parts:
        lines += ["| bucket of base | compilation, s |", "|---|---:|"]
        lines += [f"| {name} | {seconds:.2f} |" for name, seconds in parts["compilation"]["seconds"].items()]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        once(sys.argv[2], pathlib.Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    command = Command(__doc__, [*MODELS, "compilation", *SERVERS, "demo"], "part")
    command.parser.add_argument("--rounds", type=int, default=3, help="counted rounds of a part (default: 3)")
    command.parser.add_argument(
        "--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)"
    )
    command.parser.add_argument("--code", type=pathlib.Path, default=ROOT, help="checkout whose server and demo run")
    arguments = command.parse()
    with cache_of(arguments.cache) as cache, tempfile.TemporaryDirectory() as programs:
        for name in command.missing():
            about = circumstances()
            stored, code = pathlib.Path(programs) / "cache", arguments.code.resolve()
            if name == "compilation":
                figures: dict[str, Any] = {"seconds": compilation(folder_of(cache, "base"))}
            elif name in SERVERS:
                model = SERVERS[name]
                figures = {"starts": servers(model, folder_of(cache, model), arguments.rounds, stored, code)}
            elif name == "demo":
                figures = {"starts": demo(arguments.rounds, stored, code)}
            else:
                folder = folder_of(cache, name)
                figures = {"contenders": start_up(name, folder, arguments.rounds, stored)}
            command.record.add(name, {**figures, "circumstances": about})
    print(report(command.figures()))


if __name__ == "__main__":
    main()
