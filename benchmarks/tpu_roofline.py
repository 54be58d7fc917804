"""The roofline of a decoder step on TPUs, computed from the compiled program and published peaks; nothing is timed.

    JAX_PLATFORMS=cpu python -m benchmarks.tpu_roofline --record benchmarks/records/<date>_tpu-roofline

A step takes at least the longer of its arithmetic at the chip's peak and its HBM traffic at the chip's bandwidth. Both
are read off the step that XLA compiles for the chip, search and reorder of the beams included, with every position of
the token buffer read. A real chip adds launches and whatever does not overlap, so it is slower. Tokens are those of
answers: one a step for each source, however many its beams. Parity is float32 at highest precision: six bfloat16
passes on twice the bytes. "bytes / minimum" is beside what `counts.py` says that no implementation can do without.
Needs the `tpu-test` extra; some minutes on two cores.
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

LENGTHS = {"bart-base": (512, 128), "bart-large-cnn": (1024, 256)}  # source positions, token buffer
BATCHES = (1, 8, 64)
BEAMS = (1, 4)


def figures(model: str, chip: str, B: int, N: int) -> dict[str, Any]:
    """What one step of a batch costs, compiled and counted."""
    shape, config = Shape(B, N, *LENGTHS[model]), CONFIGS[model]
    program = compiled("step", f"{chip}-1", config, jnp.bfloat16, shape)
    return {
        "model": model, "chip": chip, **shape._asdict(),
        "flops": program.cost_analysis()["flops"],
        "flops_counted": counts.step_flops(vars(config), B, N, shape.S, shape.T),
        "bytes": traffic(program),
        "bytes_counted": counts.step_bytes(vars(config), B, N, shape.S, shape.T) // 2,  # counted in float32
        "peak_memory": program.memory_analysis().peak_memory_in_bytes,
        "encode_flops_counted": counts.prefill_flops(vars(config), B, shape.S),
    }  # fmt: skip


def tokens_per_second(row: dict[str, Any], parity: bool = False) -> float:
    chip = CHIPS[row["chip"]]
    arithmetic, moving = row["flops"] / chip.flops, row["bytes"] / chip.bandwidth
    return row["B"] / max(arithmetic * (PASSES if parity else 1), moving * (2 if parity else 1))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Computed, not measured.",
        "",
        "| model | chip | batch | beams | tokens/s, bfloat16 | bound by | tokens/s, parity | bytes / minimum | HBM, GB "
        "| encoding, ms |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        chip = CHIPS[row["chip"]]
        bound = "bytes" if row["bytes"] / chip.bandwidth > row["flops"] / chip.flops else "arithmetic"
        lines.append(
            f"| {row['model']} | {row['chip']} | {row['B']} | {row['N']} | {tokens_per_second(row):,.0f} | {bound} "
            f"| {tokens_per_second(row, parity=True):,.0f} | {row['bytes'] / row['bytes_counted']:.2f} "
            f"| {row['peak_memory'] / 1e9:.1f} | {1e3 * row['encode_flops_counted'] / chip.flops:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="folder for table.md and figures.json")
    args = parser.parse_args()
    rows = []
    for model, chip, N, B in itertools.product(CONFIGS, CHIPS, BEAMS, BATCHES):
        began = time.monotonic()
        rows.append(figures(model, chip, B, N))
        print(f"{model} {chip} {B} x {N}: {time.monotonic() - began:.0f} s", flush=True)
        if args.record:  # as it grows: minutes of compilation are not lost
            args.record.mkdir(parents=True, exist_ok=True)
            (args.record / "table.md").write_text(
                f"{table(rows)}\n\njax {jax.__version__}, libtpu's compiler, no TPU\n"
            )
            (args.record / "figures.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
