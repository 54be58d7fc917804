"""The documentation says what the code says."""

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
    """To the byte; `python docs/quote.py`, `python docs/figures.py` and `python docs/run.py` make them so."""
    command = [sys.executable, str(ROOT / "docs" / script), "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_quote_is_noticed(tmp_path: Path) -> None:
    """The check itself can fail."""
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
    """Blocks share their variables, and what they print is compared with what the page shows."""
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
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"
    for file, test in re.findall(r"`(test_\w+)(?:\.py)?::(test_\w+)", text):
        (source,) = (ROOT / "tests").rglob(f"{file}.py")
        assert f"def {test}(" in source.read_text(), f"{page.name} names {file}::{test}"


def test_installed_versions_are_those_promised() -> None:
    """What the tests ran with is what pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        requirement = Requirement(line)
        if line in project["dependencies"] or requirement.name in ("torch", "transformers"):
            installed = importlib.metadata.version(requirement.name)
            assert requirement.specifier.contains(installed, prereleases=True), f"{installed} is installed, not {line}"
