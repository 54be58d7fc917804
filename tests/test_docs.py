"""Quotes, printed output, figures, links, named tests and versions in the documentation agree with the code."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("script", ["quote.py", "figures.py", "run.py"])
def test_quotes_figures_and_outputs_are_fresh(script: str) -> None:
    """The pages hold, byte for byte, what these scripts generate. Run without --check, each script updates them."""
    command = [sys.executable, str(ROOT / "docs" / script), "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_quote_is_noticed(tmp_path: Path) -> None:
    """docs/quote.py --check fails if the quoted file has changed."""
    (tmp_path / "docs").mkdir()
    for name in ("docs/quote.py", "docs/model.md", "bart_oneliner.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for name in re.findall(r"<!-- (\S+/\S+\.py)", (ROOT / "docs/model.md").read_text()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    page = tmp_path / "bart_oneliner.py"
    page.write_text(page.read_text().replace("+ 1e-5)", "+ 1e-6)"))
    command = [sys.executable, str(tmp_path / "docs/quote.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "model.md" in done.stdout


@pytest.mark.parametrize(("shown", "status"), [("3", 0), ("4", 1)])
def test_a_wrong_output_is_noticed(tmp_path: Path, shown: str, status: int) -> None:
    """docs/run.py runs the blocks of a page with common variables, and fails if the page shows another output."""
    blocks = ["number = 1 + 1", "print(number + 1)"]
    code = "\n".join(f"<!-- run -->\n```python\n{block}\n```\n" for block in blocks)
    (tmp_path / "page.md").write_text(f"{code}\n```text\n{shown}\n```\n")
    command = [sys.executable, str(ROOT / "docs/run.py"), "--check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_tests_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), (
            f"{page.name} links to {target}, which does not exist"
        )
    for file, test in re.findall(r"`(test_\w+)(?:\.py)?::(test_\w+)", text):
        sources = [source.read_text() for source in (ROOT / "tests").rglob(f"{file}.py")]
        assert any(f"def {test}(" in source for source in sources), (
            f"{page.name} names {file}::{test}, which does not exist"
        )


def upstream_rows() -> list[tuple[list[str], Path]]:
    """The rows of docs/upstream.md: the backquoted names of the first column, and the folder linked in the second."""
    rows = []
    for line in (ROOT / "docs/upstream.md").read_text().splitlines():
        cells = line.split(" | ")
        if folder := re.search(r"\]\(\.\./([^)]+)\)", cells[1]) if len(cells) > 1 else None:
            rows.append((re.findall(r"`([^`]+)`", cells[0]), ROOT / folder[1]))
    return rows


def test_private_interfaces_are_used_where_the_page_says() -> None:
    rows = upstream_rows()
    assert len(rows) > 10
    for names, folder in rows:
        code = "\n".join(file.read_text() for file in folder.rglob("*.py"))
        missing = [name for name in names if name not in code]
        assert not missing, f"docs/upstream.md says that {folder.relative_to(ROOT)} uses {missing}, which it does not"


def test_every_private_name_of_another_project_is_on_the_page() -> None:
    """An attribute that begins with an underscore and is defined nowhere in this project belongs to another one."""
    ours, used = {"_replace", "_asdict", "_fields", "_exit"}, {}  # the first four are documented by Python
    folders = (
        "relatives",
        "inference",
        "server",
        "training",
        "clients/python/bart_client",
        "support",
        "tests",
        "benchmarks",
    )
    for file in [ROOT / "bart_oneliner.py", *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
                if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self":
                    ours.add(node.attr)
                else:
                    used.setdefault(node.attr, file.relative_to(ROOT))
    listed = {name for names, _ in upstream_rows() for name in names}
    unlisted = {name: str(file) for name, file in used.items() if name not in ours | listed}
    assert "_cache_size" in used and not unlisted, f"not in docs/upstream.md: {unlisted}"


def test_installed_versions_are_those_promised() -> None:
    """The tests run with versions that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        requirement = Requirement(line)
        if line in project["dependencies"] or requirement.name in ("torch", "transformers"):
            installed = importlib.metadata.version(requirement.name)
            assert requirement.specifier.contains(installed, prereleases=True), f"{installed} is installed, not {line}"
