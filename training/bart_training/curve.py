"""Draws the loss curves of runs: `python -m bart_training.curve --run R [--run R2 …] --out loss.png`."""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a backend that draws into files and opens no window
import matplotlib.pyplot as plt


def read_log(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses. If a run was killed and repeated steps, the later entry counts."""
    losses = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        losses[entry["step"]] = entry["loss"]
    steps = sorted(losses)
    return np.array(steps), np.array([losses[step] for step in steps])


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values, fewer at the start."""
    means = []
    for end in range(1, len(values) + 1):
        means.append(values[max(0, end - window) : end].mean())
    return np.array(means)


def draw(runs: list[Path], out: Path, window: int = 10) -> None:
    """Draws a panel for each run: the logged losses, and their mean over the last `window` entries."""
    figure, axes = plt.subplots(1, len(runs), figsize=(5 * len(runs), 3.5), squeeze=False, layout="constrained")
    for run, ax in zip(runs, axes[0], strict=True):
        steps, losses = read_log(run)
        ax.plot(steps, losses, linewidth=0.5, alpha=0.4)
        ax.plot(steps, smooth(losses, window), linewidth=1.5)
        ax.set(title=run.name, xlabel="step", ylabel="training loss (nats)")
        ax.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw(args.run, args.out)


if __name__ == "__main__":
    main()
