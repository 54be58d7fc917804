"""Measures the highest speeds of this machine, and describes its hardware and installed versions for records."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 2  # processor threads that each rival may use
PACKAGES = ("jax", "jaxlib", "numpy", "torch", "transformers", "ctranslate2")


def circumstances(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The circumstances of a measurement for its record: command, date, hardware, load and versions."""
    return {
        "command": "python -m " + " ".join([command_name(), *map(named, sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def named(argument: str) -> str:
    """An argument of a command; of an absolute path, only the last part, since folders differ between machines."""
    return pathlib.Path(argument).name if os.path.isabs(argument) else argument


def version(package: str) -> str:
    """A package's version, or "not installed": a benchmark runs without the rivals that are missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def command_name() -> str:
    return "benchmarks." + pathlib.Path(sys.argv[0]).stem


def processor() -> str:
    """The processor's model on Linux, its architecture on other systems."""
    path = pathlib.Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def busy_seconds() -> float:
    """CPU seconds used since the machine started, by all of its processes and by other virtual machines of its host."""
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def quickest(call: Callable[[], Any], repeats: int) -> float:
    """The seconds of the fastest of `repeats` calls, after one call that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def bandwidth(size: int, repeats: int = 5) -> float:
    """Bytes read per second from an array of `size` bytes, by the fastest of three operations.

    These are a sum, a product with a vector, and dot products. `size` should be the bytes that a decoder step reads, so
    that the processor's caches help as much as in a step.
    """
    import numpy as np
    import torch

    torch.set_num_threads(THREADS)
    array = torch.ones(max(1, size // (4 * 1024)), 1024)
    vector = torch.ones(1024)
    parts = np.array_split(array.view(-1).numpy(), THREADS)
    with ThreadPoolExecutor(THREADS) as pool:  # numpy releases the GIL, so these threads run at the same time
        ways: tuple[Callable[[], Any], ...] = (
            lambda: array.sum(),
            lambda: array @ vector,
            lambda: list(pool.map(lambda part: np.dot(part, part), parts)),
        )
        return array.numel() * 4 / min(quickest(way, repeats) for way in ways)


def throughput(products: Sequence[tuple[int, int, int]], repeats: int = 3) -> float:
    """float32 operations per second in the fastest of the products (rows, inner, columns), by PyTorch or by JAX."""
    import jax
    import jax.numpy as jnp
    import torch

    torch.set_num_threads(THREADS)
    multiply = jax.jit(jnp.matmul)
    speeds = []
    for rows, inner, columns in products:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        x, y = jnp.asarray(a.numpy()), jnp.asarray(b.numpy())
        by_torch = quickest(functools.partial(torch.matmul, a, b), repeats)
        by_jax = quickest(lambda x=x, y=y: multiply(x, y).block_until_ready(), repeats)
        speeds.append(2 * rows * inner * columns / min(by_torch, by_jax))
    return max(speeds)
