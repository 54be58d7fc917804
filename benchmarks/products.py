"""Compares XLA's product of a few rows and a weight matrix on this CPU with oneDNN's, which reads the matrix as panels.

    JAX_PLATFORMS=cpu python -m benchmarks.products --record benchmarks/records/<date>_products

Each call multiplies by many matrices in succession, more than the processor's caches hold. XLA and oneDNN take turns,
and times are medians over rounds. GB/s counts the bytes of the matrix only.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bart_inference.model import onednn

from benchmarks.machine import circumstances
from support.records import Command

SHAPES = ((768, 768), (768, 3072), (3072, 768), (768, 50265))
ROW_COUNTS = (1, 4, 32, 512)
AT_ONCE = 400e6  # bytes of all matrices of one call, more than a processor's caches hold
ROUNDS = 7


def chain(product: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A jitted function that multiplies by all matrices in succession; each product needs the one before."""

    def run(x: jax.Array, matrices: list[jax.Array]) -> jax.Array:
        for matrix in matrices:
            x += product(x, matrix).mean(-1, keepdims=True)  # the mean needs all columns, so XLA cannot skip any
        return x

    return jax.jit(run)


def measure(rows: int, D: int, F: int) -> dict[str, float]:
    """Median seconds of one product, by XLA and by oneDNN."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((D, F), np.float32) / D for _ in range(max(2, round(AT_ONCE / (4 * D * F))))]
    x = jnp.ones((rows, D))
    runs = {"xla": chain(jnp.matmul), "onednn": chain(functools.partial(onednn.multiply, F=F))}
    matrices = {
        "xla": [jnp.asarray(weight) for weight in weights],
        "onednn": [jnp.asarray(onednn.to_panels(weight)) for weight in weights],
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):  # the first round compiles the programs and is not counted
        for name, run in runs.items():
            began = time.perf_counter()
            run(x, matrices[name]).block_until_ready()
            if turn:
                times[name].append((time.perf_counter() - began) / len(weights))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def report(matrices: Mapping[str, Any]) -> str:
    lines = ["| rows | matrix | XLA, ms | oneDNN, ms | ratio | oneDNN, GB/s |", "|---:|---|---:|---:|---:|---:|"]
    for name, record in matrices.items():
        for product in record["products"]:
            xla, by_onednn = product["xla"], product["onednn"]
            speed = 4e-9 * record["D"] * record["F"] / by_onednn
            times = f"{xla * 1e3:.2f} | {by_onednn * 1e3:.2f} | {xla / by_onednn:.2f}×"
            lines.append(f"| {product['rows']} | {name} | {times} | {speed:.0f} |")
    return "\n".join(lines)


def main() -> None:
    matrices = {f"{D} × {F}": (D, F) for D, F in SHAPES}
    command = Command(__doc__, list(matrices), "matrix")
    command.parse()
    if command.missing() and not onednn.available():
        raise SystemExit("this processor or jaxlib has no oneDNN")
    for name in command.missing():
        D, F = matrices[name]
        about = circumstances()
        products = [{"rows": rows, **measure(rows, D, F)} for rows in ROW_COUNTS]
        command.record.add(name, {"D": D, "F": F, "products": products, "circumstances": about})
    print(report(command.figures()))


if __name__ == "__main__":
    main()
