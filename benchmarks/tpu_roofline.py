"""Computes the roofline of a decoder step on TPUs from published peaks; nothing is timed.

    JAX_PLATFORMS=cpu python -m benchmarks.tpu_roofline --record benchmarks/records/<date>_tpu-roofline

A step takes at least as long as its arithmetic at the chip's peak, and at least as long as moving its bytes from HBM at
the chip's bandwidth. The limit uses the operations and bytes that every implementation needs (counts.py), for several
batches, with all positions of the token buffer in use. For one batch, the operations and bytes of the step that XLA
compiles for the chip are used too; they include the search. A real chip is slower than both, because it launches
programs and does not overlap all work. Tokens per second counts one token in each step for a source, whatever its
number of beams. Parity means float32 at highest precision: six bfloat16 passes on twice the bytes. It needs the
`tpu-test` extra and compiles eight programs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import counts
from benchmarks.tpu import CHIPS, CONFIGS, PASSES, Shape, compiled, traffic

POSITIONS = {"bart-base": (512, 128), "bart-large-cnn": (1024, 256)}  # source positions, token buffer
BATCHES = (1, 8, 64)
COMPILED = 8  # the batch that is compiled
BEAMS = (1, 4)


def tokens_per_second(chip: str, B: int, flops: float, moved: float, parity: bool = False) -> float:
    """Tokens per second of B sources, for a bfloat16 step with so many operations (`flops`) and bytes (`moved`)."""
    arithmetic, moving = flops / CHIPS[chip].flops, moved / CHIPS[chip].bandwidth  # seconds
    if parity:
        arithmetic, moving = PASSES * arithmetic, 2 * moving
    return B / max(arithmetic, moving)


def limit(model: str, chip: str, B: int, N: int, parity: bool = False) -> float:
    """Tokens per second that no implementation can exceed."""
    fields, (S, T) = vars(CONFIGS[model]), POSITIONS[model]
    moved = counts.step_bytes(fields, B, N, S, T) / 2  # step_bytes is for float32, the step has bfloat16
    return tokens_per_second(chip, B, counts.step_flops(fields, B, N, S, T), moved, parity)


def figures(model: str, chip: str, N: int) -> dict[str, Any]:
    """One row of the table: the limits, and the operations, bytes and memory of the compiled step."""
    shape = Shape(COMPILED, N, *POSITIONS[model])
    program = compiled("step", f"{chip}-1", CONFIGS[model], jnp.bfloat16, shape)
    flops, moved = program.cost_analysis()["flops"], traffic(program)
    return {
        "model": model, "chip": chip, **shape._asdict(), "flops": flops, "bytes": moved,
        "peak_memory": program.memory_analysis().peak_memory_in_bytes,
        "flops_over_minimum": flops / counts.step_flops(vars(CONFIGS[model]), *shape),
        "bytes_over_minimum": moved / (counts.step_bytes(vars(CONFIGS[model]), *shape) / 2),
        "limit": {B: limit(model, chip, B, N) for B in BATCHES},
        "limit_parity": {B: limit(model, chip, B, N, parity=True) for B in BATCHES},
        "as_compiled": tokens_per_second(chip, COMPILED, flops, moved),
        "as_compiled_parity": tokens_per_second(chip, COMPILED, flops, moved, parity=True),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    limits = " | ".join(f"batch {B}" for B in BATCHES)
    lines = [
        f"| tokens/s, computed, not measured | beams | chip | {limits} | batch {COMPILED} as compiled | parity "
        "| bytes / minimum |",
        f"|---|--:|---|{'--:|' * len(BATCHES)}--:|--:|--:|",
    ]
    for row in rows:
        limits = " | ".join(f"{row['limit'][B]:,.0f}" for B in BATCHES)
        lines.append(
            f"| {row['model']} | {row['N']} | {row['chip']} | {limits} | {row['as_compiled']:,.0f} "
            f"| {row['as_compiled_parity']:,.0f} | {row['bytes_over_minimum']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="folder for table.md and figures.json")
    args = parser.parse_args()
    rows = []
    for model, N, chip in itertools.product(CONFIGS, BEAMS, CHIPS):
        began = time.monotonic()
        rows.append(figures(model, chip, N))
        print(f"{model}, {N} beams, {chip}: compiled in {time.monotonic() - began:.0f} s", flush=True)
        if args.record:
            args.record.mkdir(parents=True, exist_ok=True)
            (args.record / "table.md").write_text(f"{table(rows)}\n\njax {jax.__version__}, no TPU\n")
            (args.record / "figures.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
