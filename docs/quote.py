"""Updates the code that docs/*.md quote: `python docs/quote.py` rewrites it, `--check` only compares.

A Python block after the line `<!-- FILE NAME -->` quotes the function, class or variable NAME of that file. A block
after `<!-- FILE NAME 3 from: TEXT -->` quotes three lines of it, beginning with the only line that contains TEXT.
docs/run.py runs blocks after `<!-- run -->`, and the named test runs blocks after `<!-- tests/FILE -->`.
"""

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUOTE = re.compile(r"(<!-- (\S+\.py) (\w+)(?: (\d+) from: ([^\n]+?))? -->)\n```python\n(.*?)\n```\n", flags=re.S)
RUN = re.compile(r"<!-- (?:run|tests/\S+\.py) -->\n```python\n")


def source_of(file: str, name: str) -> str:
    """The lines of a file's top-level definition `name`, decorators included."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if name in (getattr(node, "name", None), *names):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            lines = text.splitlines()[first - 1 : node.end_lineno]
            return "\n".join(line.partition("  # type: ignore")[0] for line in lines)
    raise SystemExit(f"{file} has no {name}")


def quoted(match: re.Match[str]) -> str:
    """The block with the present code of the quoted file."""
    mark, file, name, count, text, _ = match.groups()
    code = source_of(file, name)
    if count:
        lines = code.splitlines()
        places = [i for i, line in enumerate(lines) if text in line]
        if len(places) != 1:
            raise SystemExit(f"{text!r} is in {len(places)} lines of {name} in {file}, not in one")
        code = textwrap.dedent("\n".join(lines[places[0] : places[0] + int(count)]))
    return f"{mark}\n```python\n{code}\n```\n"


def main(check: bool) -> int:
    stale = 0
    for page in sorted(ROOT.glob("docs/*.md")):
        before = page.read_text(encoding="utf-8")
        after = QUOTE.sub(quoted, before)
        marked = len(QUOTE.findall(before)) + len(RUN.findall(before))
        if unmarked := before.count("```python\n") - marked:
            raise SystemExit(f"{page.name}: {unmarked} Python blocks are neither quoted nor run")
        if after != before:
            stale += 1
            print(f"{page.name} quotes code that has changed" + ("" if check else ": rewritten"))
            if not check:
                page.write_text(after, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
