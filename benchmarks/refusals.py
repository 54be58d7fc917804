"""Measures the server's CPU time for a refused call: `python -m benchmarks.refusals [--calls N] [--out FILE]`.

The server admits one request at a time (--max-requests 1). A first call never ends, because the echo engine blocks, so
the server refuses all others. These are sent in groups of 50. The CPU time is that of the server's process, user and
system, in microseconds for each call.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading

import grpc
import psutil
from bart_proto.v1 import bart_pb2 as pb
from bart_proto.v1 import bart_pb2_grpc

TOGETHER = 50  # calls that are sent at the same time
ENVIRONMENT = os.environ | {"ECHO_HOLDS": "encode", "PYTHONPATH": os.pathsep.join(sys.path)}
SERVER = [sys.executable, "-m", "tests.server.echo_server", "--port", "0", "--metrics", "off", "--max-requests", "1"]


def refused(target: str, calls: int, size: int) -> int:
    """Sends `calls` calls with a text of `size` bytes; returns how many were refused."""
    count = 0
    with grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        summarize = bart_pb2_grpc.SummarizationServiceStub(channel).Summarize
        request = pb.SummarizeRequest(text="x" * size)
        for begin in range(0, calls, TOGETHER):
            sent = [summarize.future(request, timeout=60) for _ in range(min(TOGETHER, calls - begin))]
            count += sum(call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for call in sent)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="calls in each round (default: 2000)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument("--bytes", type=int, default=1000, help="length of a call's text (default: 1000)")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the result")
    arguments = parser.parse_args()
    server = subprocess.Popen(SERVER, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert server.stderr is not None
    target = ""
    for text in server.stderr:
        line = json.loads(text)
        if line["message"] == "listening":
            target = f"127.0.0.1:{line['address'].rpartition(':')[2]}"
        if line["message"] == "ready":
            break
    threading.Thread(target=server.stderr.read, daemon=True).start()
    process = psutil.Process(server.pid)
    channel = grpc.insecure_channel(target)
    held = bart_pb2_grpc.SummarizationServiceStub(channel).Summarize.future(pb.SummarizeRequest(text="held"))
    while not refused(target, 1, 10):
        pass
    rounds = []
    for _ in range(arguments.rounds):
        before = process.cpu_times()
        assert refused(target, arguments.calls, arguments.bytes) == arguments.calls
        after = process.cpu_times()
        seconds = after.user - before.user + after.system - before.system
        rounds.append(round(1e6 * seconds / arguments.calls, 1))
    held.cancel()
    server.kill()
    result = {"microseconds": rounds, "minimum": min(rounds), "median": statistics.median(rounds)}
    text = json.dumps(result | {"calls": arguments.calls, "bytes": arguments.bytes}, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
