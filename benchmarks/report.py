"""The generation benchmark's table and its goals, from the figures of its cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Figures = Mapping[str, Any]
SHARE = 0.85  # of the machine's limit: a cell that reaches it is met whatever the ratio
DISTURBED = 0.1  # cores taken by other processes
COLUMNS = {  # rival -> heading; a ratio above 1 says that we are faster
    "pytorch": "PyTorch",
    "pytorch-compiled": "compiled",
    "ctranslate2": "CT2",
    "ctranslate2-int8": "CT2 int8",
}


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def ratio(figures: Figures, rival: str) -> float | None:
    """A rival's time over ours; for "pytorch" the faster of eager and compiled."""
    names = ("pytorch", "pytorch-compiled") if rival == "pytorch" else (rival,)
    found = [figures["rivals"][name]["ratio"] for name in names if name in figures["rivals"]]
    return min(found) if found else None


def share(figures: Figures) -> float:
    return figures.get("machine", {}).get("share", 0.0)


def tokens(figures: Figures) -> str:
    """What became of the comparison with PyTorch's tokens."""
    equal = figures["rivals"]["ours"].get("tokens_equal")
    if equal is None:
        return "–"
    if equal == 1:
        return "equal"
    margin = figures.get("first_difference", {}).get("margin")
    if margin is not None and margin < 1e-4:
        return f"near-tie ({margin:.0e})"
    return "DIFFERENT"


def table(cells: Mapping[str, Figures]) -> str:
    """Markdown: a row per cell, then geometric means and the goals."""
    lines = [
        f"| cell | ours, s | {' | '.join(COLUMNS.values())} | of the limit | tokens | CT2's equal | same steps |",
        "|---|" + "---:|" * (len(COLUMNS) + 2) + "---|---:|---|",
    ]
    for name, figures in cells.items():
        rivals = figures["rivals"]
        ratios = [f"{rivals[one]['ratio']:.2f}×" if one in rivals else "–" for one in COLUMNS]
        equal = rivals.get("ctranslate2", {}).get("tokens_equal")
        disturbed = " (disturbed)" if figures["others_cores"] > DISTURBED else ""
        lines.append(
            f"| {name}{disturbed} | {rivals['ours']['seconds']:.3f} | {' | '.join(ratios)} | {share(figures):.0%} | "
            f"{tokens(figures)} | {'–' if equal is None else f'{equal:.0%}'} | {figures['same_steps']} |"
        )
    means = []
    for one in COLUMNS:
        found = [f["rivals"][one]["ratio"] for f in cells.values() if one in f["rivals"]]
        means.append(f"{geometric_mean(found):.2f}×" if found else "–")
    lines.append(f"| geometric mean | | {' | '.join(means)} | | | | |")
    return "\n".join([*lines, "", *goals(cells)])


def goals(cells: Mapping[str, Figures]) -> list[str]:
    """One line per goal: met or not, by how much, and which cells miss it."""

    def every(rival: str, least: float, what: str) -> str:
        ratios = {name: found for name, f in cells.items() if (found := ratio(f, rival)) is not None}
        missing = {name: r for name, r in ratios.items() if r < least and share(cells[name]) < SHARE}
        shown = "; ".join(f"{name} {r:.2f}×" for name, r in missing.items())
        return f"- {mark(not missing)} {what} at least {least}× in every cell" + (f": not {shown}" if shown else "")

    def mean(rival: str, least: float, what: str, among: str = "") -> str:
        ratios = [r for name, f in cells.items() if among in name and (r := ratio(f, rival)) is not None]
        found = geometric_mean(ratios)
        kind = f", cells with {among}" if among else ""
        if not ratios:
            return f"- {what} in geometric mean{kind}: not measured"
        return f"- {mark(found >= least)} {what} at least {least}× in geometric mean{kind}: {found:.2f}×"

    slow = {name: share(f) for name, f in cells.items() if share(f) < SHARE}
    unequal = [name for name, f in cells.items() if tokens(f) == "DIFFERENT"]
    near = [name for name, f in cells.items() if tokens(f).startswith("near")]
    limit = f"- {mark(not slow)} {SHARE:.0%} of the machine's limit: {len(cells) - len(slow)} of {len(cells)} cells"
    equal = f"- {mark(not unequal)} tokens equal to PyTorch's; {len(near)} near-ties" + f" {near or ''}".rstrip()
    return [
        every("pytorch", 1.3, "PyTorch, the faster of eager and compiled,"),
        mean("pytorch", 2.0, "PyTorch"),
        mean("pytorch", 2.5, "PyTorch", among="beam4"),
        every("ctranslate2", 1.0, "CTranslate2 float32"),
        mean("ctranslate2", 1.3, "CTranslate2 float32"),
        limit,
        equal,
    ]


def mark(met: bool) -> str:
    return "✅" if met else "❌"
