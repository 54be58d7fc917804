"""Prints the generation benchmark's table and goals from the figures of its cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Figures = Mapping[str, Any]
SHARE = 0.85  # a cell whose limit is at least this share of its time meets the goals, whatever the rivals' times
DISTURBED = 0.1  # the table marks a cell during which other processes used more cores than this
COLUMNS = {  # rival -> heading of its column, which shows the rival's time divided by ours in float32
    "ours-bfloat16": "ours bf16",
    "ours-int8": "ours int8",
    "pytorch": "PyTorch",
    "pytorch-compiled": "compiled",
    "ctranslate2": "CT2",
    "ctranslate2-int8": "CT2 int8",
}


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def ratio(figures: Figures, rival: str) -> float | None:
    """A rival's time divided by ours; for "pytorch" the time of the faster of eager and compiled."""
    names = ("pytorch", "pytorch-compiled") if rival == "pytorch" else (rival,)
    rivals = figures["rivals"]
    return min((rivals[name]["ratio"] for name in names if name in rivals), default=None)


def ratios(cells: Mapping[str, Figures], rival: str) -> dict[str, float]:
    """A rival's ratio in each cell in which it was measured."""
    by_cell = {name: ratio(figures, rival) for name, figures in cells.items()}
    return {name: value for name, value in by_cell.items() if value is not None}


def share(figures: Figures) -> float:
    """The machine's limit divided by our time; 0 if the limit was not measured."""
    return figures.get("machine", {}).get("share", 0.0)


def tokens(figures: Figures) -> str:
    """The result of the comparison with PyTorch's tokens, or "–" if there was none."""
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
    """Markdown: a table with a row for each cell and one of geometric means, and a list of the goals."""
    lines = [
        f"| cell | ours, s | {' | '.join(COLUMNS.values())} | limit / ours | tokens | CT2's tokens | same steps |",
        "|---|" + "---:|" * (len(COLUMNS) + 2) + "---|---:|---|",
    ]
    for name, figures in cells.items():
        rivals = figures["rivals"]
        shown = [f"{rivals[rival]['ratio']:.2f}×" if rival in rivals else "–" for rival in COLUMNS]
        equal = rivals.get("ctranslate2", {}).get("tokens_equal")
        equal_share = "–" if equal is None else f"{equal:.0%}"
        disturbed = " (disturbed)" if figures["others_cores"] > DISTURBED else ""
        lines.append(
            f"| {name}{disturbed} | {rivals['ours']['seconds']:.3f} | {' | '.join(shown)} | {share(figures):.0%} | "
            f"{tokens(figures)} | {equal_share} | {figures['same_steps']} |"
        )
    means = []
    for rival in COLUMNS:
        measured = [figures["rivals"][rival]["ratio"] for figures in cells.values() if rival in figures["rivals"]]
        means.append(f"{geometric_mean(measured):.2f}×" if measured else "–")
    lines.append(f"| geometric mean | | {' | '.join(means)} | | | | |")
    return "\n".join([*lines, "", *goals(cells)])


def goals(cells: Mapping[str, Figures]) -> list[str]:
    """One line per goal: whether it is met, by how much, and which cells miss it."""
    return [
        goal_of_every_cell(cells, "pytorch", 1.3, "PyTorch, the faster of eager and compiled,"),
        goal_of_the_mean(cells, "pytorch", 2.0, "PyTorch"),
        goal_of_the_mean(cells, "pytorch", 2.5, "PyTorch", among="beam4"),
        goal_of_every_cell(cells, "ctranslate2", 1.0, "CTranslate2 float32"),
        goal_of_the_mean(cells, "ctranslate2", 1.3, "CTranslate2 float32"),
        goal_of_the_limit(cells),
        goal_of_the_tokens(cells),
    ]


def goal_of_every_cell(cells: Mapping[str, Figures], rival: str, least: float, title: str) -> str:
    """The goal that each cell has a ratio of at least `least` or a time near the machine's limit."""
    missing = []
    for name, value in ratios(cells, rival).items():
        if value < least and share(cells[name]) < SHARE:
            missing.append(f"{name} {value:.2f}×")
    line = f"- {mark(not missing)} {title} at least {least}× in every cell"
    return f"{line}: not {'; '.join(missing)}" if missing else line


def goal_of_the_mean(cells: Mapping[str, Figures], rival: str, least: float, title: str, among: str = "") -> str:
    """The goal of a geometric mean of at least `least` over the cells whose names contain `among`."""
    measured = [value for name, value in ratios(cells, rival).items() if among in name]
    kind = f", cells with {among}" if among else ""
    if not measured:
        return f"- {title} in geometric mean{kind}: not measured"
    mean = geometric_mean(measured)
    return f"- {mark(mean >= least)} {title} at least {least}× in geometric mean{kind}: {mean:.2f}×"


def goal_of_the_limit(cells: Mapping[str, Figures]) -> str:
    near = sum(share(figures) >= SHARE for figures in cells.values())
    return f"- {mark(near == len(cells))} {SHARE:.0%} of the machine's limit: {near} of {len(cells)} cells"


def goal_of_the_tokens(cells: Mapping[str, Figures]) -> str:
    compared = {name: tokens(figures) for name, figures in cells.items()}
    near = [name for name, result in compared.items() if result.startswith("near")]
    line = f"- {mark('DIFFERENT' not in compared.values())} tokens equal to PyTorch's; {len(near)} near-ties"
    return f"{line} {near}" if near else line


def mark(met: bool) -> str:
    return "✅" if met else "❌"
