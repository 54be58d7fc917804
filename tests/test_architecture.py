"""The rooms keep their promises: imports point down, the page stays a page, README says what is so."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"bart_oneliner", "bart_inference", "bart_server", "bart_client", "bart_proto", "bart_training"}
MAY_IMPORT = {  # room -> which of ours its modules may import besides their own room
    "bart_oneliner.py": {"bart_inference"},  # its demo only: see test_the_page_imports_nothing_of_ours
    "inference/bart_inference": {"bart_oneliner"},
    "training/bart_training": {"bart_inference", "bart_oneliner"},
    "server/bart_server": {"bart_inference", "bart_oneliner", "bart_proto"},
    "clients/python/bart_client": {"bart_proto"},
}


def python_files(room: str) -> list[Path]:
    path = ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down_only(room):
    own = Path(room).stem
    for file in python_files(room):
        wrong = (imported(file) & OURS) - MAY_IMPORT[room] - {own}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}, its room may import {MAY_IMPORT[room]}"


@pytest.mark.parametrize("module", ["bart_oneliner", "bart_inference", "bart_inference.cli"])
def test_running_the_model_imports_neither_torch_nor_transformers(module):
    probe = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'bart_server') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment())
    assert found.stdout.strip() == "[]", f"importing {module} imports {found.stdout}"


def test_the_page_imports_nothing_of_ours_until_its_demo_runs():
    probe = (
        "import sys, bart_oneliner; print([m for m in sys.modules if m.startswith('bart_') and m != 'bart_oneliner'])"
    )
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment())
    assert found.stdout.strip() == "[]"


def environment() -> dict[str, str]:
    import os

    paths = [str(ROOT), str(ROOT / "inference"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def test_readme_quotes_the_one_line_and_counts_right():
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "bart_oneliner.py").read_text()
    line = next(line for line in page.splitlines() if line.startswith("bart = ")).split("  # ")[0]
    assert f"```python\n{line}\n```" in readme, "README's one line is not bart_oneliner.py's"
    assert f"one line ({len(line):,}\ncharacters" in readme, f"the one line has {len(line):,} characters"
    assert f"({len(page.splitlines())} lines, [`bart_oneliner.py`]" in readme, (
        f"the page has {len(page.splitlines())} lines"
    )


def test_every_room_of_readme_exists():
    readme = (ROOT / "README.md").read_text()
    for room in re.findall(r"^\| `([^`]+)` \|", readme, flags=re.M):
        assert (ROOT / room).exists(), f"README lists {room}"


def test_the_page_is_short_enough_to_read_at_a_sitting():
    assert len((ROOT / "bart_oneliner.py").read_text().splitlines()) <= 450
