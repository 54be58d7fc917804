"""Two checkouts are compared in turns, and the exit status is 1 if one is slower or generates other tokens."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import revisions
from benchmarks.cells import Cell

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Checkout:
    """Replaces the process of a checkout and reports the seconds and tokens that the test sets."""

    def __init__(self, seconds: list[float], tokens: list[list[int]]) -> None:
        self.seconds, self.tokens = iter(seconds), tokens

    def prepare(self, work, patience):
        return {"tokens": self.tokens}

    def run(self, patience):
        return {"seconds": next(self.seconds)}


def test_a_ratio_is_the_median_time_before_over_the_median_time_now():
    workers = {"before": Checkout([3.0, 9.0, 2.0], [[5]]), "now": Checkout([1.5, 1.0, 8.0], [[5]])}
    figures = revisions.compare(Cell("tiny", 1, 4, 0), workers, rounds=3)
    assert figures["ratio"] == 2.0 and figures["tokens_equal"]


def test_different_tokens_are_noticed():
    workers = {"before": Checkout([1.0], [[5]]), "now": Checkout([1.0], [[6]])}
    assert not revisions.compare(Cell("tiny", 1, 4, 0), workers, rounds=1)["tokens_equal"]


@pytest.mark.slow
def test_this_checkout_beside_itself_writes_the_same_tokens(tmp_path):
    pytest.importorskip("ctranslate2", reason="the model folders are converted for it")
    command = [sys.executable, "-m", "benchmarks.revisions", str(ROOT), "tiny-text-b1", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--least", "0.01", "--record", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "results.json").read_text())
    assert all(cell["tokens_equal"] for cell in record["cells"].values()), record
