"""The examples with `pipeline` in docs/pipelines.md and README.md run, with small checkpoints for published ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {  # a checkpoint's name in the examples -> the small checkpoint that replaces it
    "facebook/bart-large-cnn": "cnn",
    "facebook/bart-large-mnli": "mnli",
    "facebook/bart-base": "base",
    "a-squad-model": "squad",
    "a-sentiment-model": "sentiment",
}
ARTICLE = "The library compiles arrays into fast programs, and the programs run on any device."


def blocks(page: str) -> list[str]:
    """The blocks of Python code of a page that import `pipeline`."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    return [block for block in blocks if re.search(r"import .*\bpipeline\b", block)]


def test_both_pages_show_our_pipeline() -> None:
    assert len(blocks("docs/pipelines.md")) == 3 and len(blocks("README.md")) == 1


@pytest.mark.parametrize("page", ["docs/pipelines.md", "README.md"])
def test_what_a_page_shows_runs(page: str, checkpoint: Callable[[str], str]) -> None:
    for block in blocks(page):
        for name, shape in SHAPES.items():
            block = block.replace(f'"{name}"', repr(checkpoint(shape)))
        assert "facebook/" not in block, f"{page} names a checkpoint that is not in SHAPES"
        exec(compile(block, page, "exec"), {"article": ARTICLE, "print": lambda *_: None})
