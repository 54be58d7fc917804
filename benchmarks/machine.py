"""The machine under the measurements: what it can do at most, and how to name it."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 2  # of every rival
PACKAGES = ("jax", "jaxlib", "numpy", "torch", "transformers", "ctranslate2")


def circumstances(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Who measured: hardware, versions, load and command."""
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
    """A folder elsewhere on the machine by its name alone: a record speaks of the project."""
    return pathlib.Path(argument).name if os.path.isabs(argument) else argument


def version(package: str) -> str:
    """Rivals need not be installed: those that are not are left out of the cells."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def command_name() -> str:
    return "benchmarks." + pathlib.Path(sys.argv[0]).stem


def processor() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def busy_seconds() -> float:
    """CPU seconds of all processes since the machine started, and those that its host took away."""
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def quickest(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the quickest of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def bandwidth(size: int, repeats: int = 5) -> float:
    """Bytes read a second from an array of `size` bytes: the best of a sum, a product with a vector, and dot products.

    The size should be what a decoder step reads, so that a cache helps here as much as there.
    """
    import numpy as np
    import torch

    torch.set_num_threads(THREADS)
    array = torch.ones(max(1, size // (4 * 1024)), 1024)
    vector = torch.ones(1024)
    parts = np.array_split(array.view(-1).numpy(), THREADS)
    with ThreadPoolExecutor(THREADS) as pool:  # numpy lets go of the interpreter's lock
        ways: tuple[Callable[[], Any], ...] = (
            lambda: array.sum(),
            lambda: array @ vector,
            lambda: list(pool.map(lambda part: np.dot(part, part), parts)),
        )
        return array.numel() * 4 / min(quickest(way, repeats) for way in ways)


def throughput(products: Sequence[tuple[int, int, int]], repeats: int = 3) -> float:
    """float32 operations a second in the best of the products (rows, inner, columns), by PyTorch or by JAX."""
    import jax
    import jax.numpy as jnp
    import torch

    torch.set_num_threads(THREADS)
    found = 0.0
    for rows, inner, columns in products:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        x, y = jnp.asarray(a.numpy()), jnp.asarray(b.numpy())
        multiply = jax.jit(jnp.matmul)
        ways: tuple[Callable[[], Any], ...] = (lambda: a @ b, lambda: multiply(x, y).block_until_ready())  # noqa: B023
        found = max(found, 2 * rows * inner * columns / min(quickest(way, repeats) for way in ways))
    return found
