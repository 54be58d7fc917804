"""A few rows times a weight matrix on this CPU: XLA's own product beside oneDNN's on panels.

    JAX_PLATFORMS=cpu python -m benchmarks.products --record benchmarks/records/<date>_products

Each call multiplies with one matrix after the other, so many that none stays in the caches; both take turns, and times
are medians over rounds. GB/s counts the matrix alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from bart_inference.model import onednn

from benchmarks.machine import circumstances

SHAPES = ((768, 768), (768, 3072), (3072, 768), (768, 50265))
ROWS = (1, 4, 32, 512)
AT_ONCE = 400e6  # bytes of matrices, beyond any cache
ROUNDS = 7


def chain(product: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """All matrices in turn, each product waiting for the one before."""

    def run(x: jax.Array, matrices: list[jax.Array]) -> jax.Array:
        for matrix in matrices:
            x += product(x, matrix).mean(-1, keepdims=True)  # all of it is needed: nothing can be left out
        return x

    return jax.jit(run)


def measure(rows: int, D: int, F: int) -> dict[str, float]:
    """Median seconds of one product, by XLA and by oneDNN."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((D, F), np.float32) / D for _ in range(max(2, round(AT_ONCE / (4 * D * F))))]
    x = jnp.ones((rows, D))
    rivals = {
        "xla": (chain(lambda x, weight: x @ weight), [jnp.asarray(weight) for weight in weights]),
        "onednn": (
            chain(functools.partial(onednn.multiply, F=F)),
            [jnp.asarray(onednn.pack(weight)) for weight in weights],
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(ROUNDS + 1):  # the first compiles
        for name, (run, matrices) in rivals.items():
            began = time.perf_counter()
            run(x, matrices).block_until_ready()
            if round_:
                times[name].append((time.perf_counter() - began) / len(matrices))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def report(found: list[dict[str, float]]) -> str:
    lines = ["| rows | matrix | XLA, ms | oneDNN, ms | ratio | oneDNN, GB/s |", "|---:|---|---:|---:|---:|---:|"]
    for at in found:
        size = f"{at['D']:.0f} × {at['F']:.0f}"
        speed = 4e-9 * at["D"] * at["F"] / at["onednn"]
        lines.append(
            f"| {at['rows']:.0f} | {size} | {at['xla'] * 1e3:.2f} | {at['onednn'] * 1e3:.2f} "
            f"| {at['xla'] / at['onednn']:.2f}× | {speed:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=pathlib.Path, help="folder of results.json")
    given = parser.parse_args()
    if not onednn.available():
        raise SystemExit("this processor or jaxlib has no oneDNN")
    found = [{"rows": rows, "D": D, "F": F, **measure(rows, D, F)} for D, F in SHAPES for rows in ROWS]
    if given.record:
        given.record.mkdir(parents=True, exist_ok=True)
        result = {"circumstances": circumstances(), "products": found}
        (given.record / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(report(found))


if __name__ == "__main__":
    main()
