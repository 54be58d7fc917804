"""Runs the code of docs/*.md and updates its printed output: `python docs/run.py` rewrites it, `--check` only compares.

Python blocks after a line `<!-- run -->` are run. The blocks of a page run in order and share their variables. A `text`
block that directly follows such a block contains what the block prints.
"""

import contextlib
import difflib
import io
import re
import sys
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"<!-- run -->\n```python\n(?P<code>.*?)\n```\n(?:\n```text\n(?P<output>.*?)\n```\n)?", flags=re.S)


def with_output(page: Path) -> str:
    """Runs the page's blocks and returns its text with what they print now."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(block: re.Match[str]) -> str:
        line = text.count("\n", 0, block.start("code")) + 1
        source = "\n" * (line - 1) + block["code"]  # the empty lines make tracebacks show the line of the page
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(page), "exec"), namespace)
        output = printed.getvalue().rstrip("\n")
        shown = f"<!-- run -->\n```python\n{block['code']}\n```\n"
        return shown + f"\n```text\n{output}\n```\n" if output else shown

    return BLOCK.sub(run, text)


def main(check: bool, docs: Path = DOCS) -> int:
    stale = 0
    for page in sorted(docs.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        if not BLOCK.search(before):
            continue
        begun = time.perf_counter()
        after = with_output(page)
        print(f"{page.name}: its code ran in {time.perf_counter() - begun:.0f} s")
        if after != before:
            stale += 1
            changes = difflib.unified_diff(before.splitlines(), after.splitlines(), "page", "run", lineterm="", n=1)
            print(*changes, sep="\n")
            if not check:
                page.write_text(after, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    folders = [Path(argument) for argument in arguments if argument != "--check"]
    sys.exit(main("--check" in arguments, *folders))
