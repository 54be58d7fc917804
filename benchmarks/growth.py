"""Measures how the time of generation grows with the batch, the source's length, the beams and the new tokens.

    python -m benchmarks.growth --record benchmarks/records/<date>_growth         # every axis
    python -m benchmarks.growth batch source --again --record …                   # measures these two axes again
    python -m benchmarks.growth --report --record …                               # plot and table of the record

The model has bart-base's shape. Along each axis one size varies, and the others are those of CENTER. The theoretical
slope is that of the limit, the least time that the machine needs (benchmarks/counts.py), with the machine's speeds
measured between the rounds. A round measures all points of an axis, so that a slow minute of the machine affects all of
them; figures are medians. The record is results.json and growth.png.
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.cells import Cell, measures_of, random_batch
from benchmarks.checkpoints import cache_of, fields_of, folder_of
from benchmarks.counts import Machine, limit_seconds
from benchmarks.machine import circumstances
from benchmarks.rivals import Work, Worker
from support.records import Command

MODEL = "base"
CENTER = {"batch": 1, "beams": 4, "source": 256, "new": 64}
AXES = {  # axis -> sizes; those that are no bucket's size are padded to the next bucket
    "batch": (1, 2, 3, 4, 6, 8),
    "beams": (1, 2, 3, 4, 6, 8),
    "source": (64, 128, 192, 256, 384, 512, 768, 1024),
    "new": (15, 31, 48, 63, 96, 127, 192, 255),
}
TITLES = {"batch": "sources in a batch", "beams": "beams", "source": "source positions", "new": "new tokens"}


def work_of(point: Mapping[str, int]) -> Work:
    rows = random_batch(point["batch"], point["source"], fields_of(MODEL)["vocab_size"])
    options = {"num_beams": point["beams"], "min_new_tokens": point["new"], "max_new_tokens": point["new"]}
    return {"batches": [rows], "options": options, "pad_token_id": 1}


def measure(axis: str, folder: pathlib.Path, rounds: int) -> dict[str, Any]:
    """Measures an axis: {"points": [{axis: size, "seconds": …, "limit_seconds": …}, …], "machine": speeds, …}."""
    about = circumstances()
    points = [CENTER | {axis: value} for value in AXES[axis]]
    works = [work_of(point) for point in points]
    ours, machine = Worker("ours", folder), Worker("machine", folder)
    try:
        for work in works:
            ours.prepare(work)  # the first call compiles
        machine.prepare(measures_of(Cell(MODEL, CENTER["batch"], CENTER["beams"], CENTER["source"]), works[0]))
        times: list[list[float]] = [[] for _ in works]  # the seconds of each round, for each point
        speeds = []
        for _ in range(rounds):
            speeds.append(machine.run())
            for index, work in enumerate(works):
                times[index].append(ours.prepare(work)["seconds"])
    finally:
        ours.close()
        machine.close()
    bandwidth = statistics.median(speed["bandwidth"] for speed in speeds)
    throughput = statistics.median(speed["throughput"] for speed in speeds)
    figures = []
    for point, seconds in zip(points, times, strict=True):
        entry: dict[str, Any] = {axis: point[axis], "seconds": round(statistics.median(seconds), 4)}
        entry["all_seconds"] = [round(value, 4) for value in seconds]
        entry["limit_seconds"] = round(limit(point, Machine(bandwidth, throughput)), 4)
        figures.append(entry)
    return {"points": figures, "machine": Machine(bandwidth, throughput)._asdict(), "circumstances": about}


def limit(point: Mapping[str, int], machine: Machine) -> float:
    fields = fields_of(MODEL)
    return limit_seconds(fields, machine, point["batch"], point["beams"], point["source"], point["new"])


def slope(axis: str, points: list[dict[str, Any]], figure: str) -> float:
    """Seconds per unit of the axis: the slope of a least-squares line through all points."""
    sizes = [point[axis] for point in points]
    seconds = [point[figure] for point in points]
    return statistics.linear_regression(sizes, seconds).slope


def report(axes: Mapping[str, Any]) -> str:
    """Markdown tables: the measured and theoretical slopes of all axes, then the points of each axis."""
    lines = ["| axis | ms per unit | theoretical | ratio |", "|---|---:|---:|---:|"]
    for axis, record in axes.items():
        measured = 1000 * slope(axis, record["points"], "seconds")
        theoretical = 1000 * slope(axis, record["points"], "limit_seconds")
        lines.append(f"| {TITLES[axis]} | {measured:.2f} | {theoretical:.2f} | {measured / theoretical:.2f} |")
    for axis, record in axes.items():
        lines += ["", f"| {TITLES[axis]} | seconds | limit | limit / seconds |", "|---:|---:|---:|---:|"]
        for point in record["points"]:
            seconds, least = point["seconds"], point["limit_seconds"]
            lines.append(f"| {point[axis]} | {seconds:.3f} | {least:.3f} | {least / seconds:.0%} |")
    return "\n".join(lines)


def plot(axes: Mapping[str, Any], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, frames = pyplot.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for frame, (axis, record) in zip(frames.flat, axes.items(), strict=False):
        sizes = [point[axis] for point in record["points"]]
        seconds = [point["seconds"] for point in record["points"]]
        limits = [point["limit_seconds"] for point in record["points"]]
        frame.plot(sizes, seconds, "o-", color="#1f5fbf", label="measured")
        frame.plot(sizes, limits, "--", color="#666666", label="the machine's limit")
        frame.set(xlabel=TITLES[axis], ylabel="seconds", ylim=(0, None), xlim=(0, None))
        fixed = ", ".join(f"{TITLES[name]} {value}" for name, value in CENTER.items() if name != axis)
        frame.set_title(fixed, fontsize=9, color="#444444")
        frame.grid(color="#e5e5e5")
        frame.set_axisbelow(True)
        frame.spines[["top", "right"]].set_visible(False)
    frames.flat[0].legend(frameon=False)
    figure.suptitle("Time of one call of generate, bart-base's shape, float32")
    figure.savefig(path, dpi=110)


def main() -> None:
    command = Command(__doc__, list(AXES), "axis")
    command.parser.add_argument("--rounds", type=int, default=3, help="rounds for each axis (default: 3)")
    command.parser.add_argument(
        "--cache", type=pathlib.Path, help="folder for model folders (default: a temporary one)"
    )
    arguments = command.parse()
    with cache_of(arguments.cache) as cache:
        for axis in command.missing():
            command.record.add(axis, measure(axis, folder_of(cache, MODEL), arguments.rounds))
    plot(command.figures(), arguments.record / "growth.png")
    print(report(command.figures()))


if __name__ == "__main__":
    main()
