"""Measures the peak memory of `prepare(load(folder))` and compares it with the size of the prepared weights.

    python -m benchmarks.memory base --record benchmarks/records/<date>_memory
    python -m benchmarks.memory tiny base --layout cpu

A new process imports bart_inference, and then loads and prepares a model. Every millisecond this process reads that
process's RssAnon from /proc: the memory that it has allocated and written to, without pages of mapped files, which the
kernel can drop at any time. The memory after the imports is subtracted from the peak. The exit status is 1 if a peak is
above `--max-ratio` times the prepared weights.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.checkpoints import folder_of
from benchmarks.machine import circumstances

MAX_RATIO = 1.15  # the largest allowed ratio of the peak to the prepared weights
INTERVAL = 0.001  # seconds between two readings of RssAnon
CHILD = """
import sys
import jax
import bart_inference.model.layout
from bart_inference import load, prepare
jax.devices()
print("imported", flush=True)
sys.stdin.readline()
prepared = prepare(load(sys.argv[1]), sys.argv[2] or None)
jax.block_until_ready(prepared.weights)
print(sum(leaf.nbytes for leaf in jax.tree.leaves(prepared.weights)), flush=True)
"""


def anonymous_bytes(process: int) -> int:
    """RssAnon of a process in bytes; 0 after it has ended."""
    for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(folder: pathlib.Path, layout: str | None = None) -> dict[str, float]:
    """Measures a model: weights_mb, peak_mb (without imports_mb) and ratio, of peak to weights. MB are 2**20 bytes."""
    command = [sys.executable, "-c", CHILD, str(folder), layout or ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        if child.stdout.readline() != "imported\n":
            raise SystemExit("the process that loads the model ended early")
        before = peak = anonymous_bytes(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(INTERVAL)
        if child.returncode:
            raise SystemExit(f"the process that loads the model ended with {child.returncode}")
        weights = int(child.stdout.readline())
    return {
        "weights_mb": round(weights / 2**20, 1),
        "peak_mb": round((peak - before) / 2**20, 1),
        "imports_mb": round(before / 2**20, 1),
        "ratio": round((peak - before) / weights, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="models to measure: tiny, base, distilbart, large")
    parser.add_argument("--layout", help="layout for bart_inference.prepare (default: chosen by the device)")
    parser.add_argument("--max-ratio", type=float, default=MAX_RATIO, help="highest allowed ratio of peak to weights")
    parser.add_argument("--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)")
    parser.add_argument("--record", type=pathlib.Path, help="folder of results.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"circumstances": circumstances(("jax", "jaxlib", "numpy", "safetensors")), "models": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.models:
            folder = folder_of(arguments.cache or pathlib.Path(temporary), name)
            figures = record["models"][name] = measure(folder, arguments.layout)
            print(
                f"{name:12} weights {figures['weights_mb']:.0f} MB, peak {figures['peak_mb']:.0f} MB over the imports"
            )
            print(f"{'':12} ratio {figures['ratio']:.3f}", flush=True)
    if arguments.record:
        arguments.record.mkdir(parents=True, exist_ok=True)
        (arguments.record / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    return int(any(figures["ratio"] > arguments.max_ratio for figures in record["models"].values()))


if __name__ == "__main__":
    sys.exit(main())
