"""Imports between folders point one way, and README.md states the files and sizes that exist.

tests/server/test_layout.py has the rules for the server's folders, tests/test_start.py what must start without jax.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import bart_inference
import pytest

from support import process

ROOT = Path(__file__).resolve().parents[1]
RELATIVES = {"bert_oneliner", "t5_oneliner"}
PACKAGES = {"bart_oneliner", "bart_inference", "bart_server", "bart_client", "bart_proto", "bart_training"}
OURS = PACKAGES | RELATIVES | {"benchmarks", "support", "tests"}
MAY_IMPORT = {  # folder -> the packages of ours that its modules may import, besides their own
    "bart_oneliner.py": {"bart_inference"},  # only the functions of its command line import it
    "relatives": {"bart_oneliner"},
    "inference/bart_inference": {"bart_oneliner"},
    "training/bart_training": {"bart_inference", "bart_oneliner"},
    "server/bart_server": {"bart_inference", "bart_oneliner", "bart_proto"},
    "clients/python/bart_client": {"bart_proto"},
    "support": PACKAGES,
    "benchmarks": PACKAGES | {"support"},
    "tests": OURS,
}
TEST_BENCHMARKS = ("tests/benchmarks", "tests/tpu")  # the only tests that import benchmarks
LAYERS = (  # bart_inference's modules, the lowest layer first: each imports from lower layers and its own folder
    (
        "buckets",
        "compile_cache",
        "formats",
        "tokenization",
        "tokenizer_files",
        "generation.options",
        "generation.arrays",
    ),
    ("adapters", "hub"),
    ("checkpoint", "devices"),
    ("model",),
    ("inputs",),
    ("generation",),
    ("tasks",),
    ("pipelines",),
    ("cli",),
)
INFERENCE = ROOT / "inference" / "bart_inference"


def python_files(folder: str) -> list[Path]:
    path = ROOT / folder
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files, f"{folder} has no Python files"
    return files


def imported_names(file: Path) -> Iterator[tuple[str, str]]:
    """Yields each import of a file, those inside functions too: the full imported name, and its name in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", alias.asname or alias.name


def imported(file: Path) -> set[str]:
    return {module.partition(".")[0] for module, _ in imported_names(file)}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_down_only(folder):
    for file in python_files(folder):
        wrong = (imported(file) & OURS) - MAY_IMPORT[folder] - {Path(folder).stem}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}, its folder may import {MAY_IMPORT[folder]}"


def test_only_the_tests_of_benchmarks_import_them():
    for file in python_files("tests"):
        path = file.relative_to(ROOT).as_posix()
        assert path.startswith(TEST_BENCHMARKS) or "benchmarks" not in imported(file), f"{path} imports a benchmark"


def layer_of(module: str) -> int | None:
    """The layer of a module of bart_inference: that of the longest name in LAYERS that is a prefix of the module's."""
    layers = {name: index for index, names in enumerate(LAYERS) for name in names}
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((layers[prefix] for prefix in prefixes if prefix in layers), None)


@pytest.mark.parametrize(
    "file", [f for f in sorted(INFERENCE.rglob("*.py")) if f.name != "__init__.py"], ids=lambda f: f.stem
)
def test_imports_inside_bart_inference_point_down_only(file):
    module = ".".join(file.relative_to(INFERENCE).with_suffix("").parts)
    importer_layer = layer_of(module)
    assert importer_layer is not None, f"bart_inference.{module} is in none of LAYERS"
    for name, _ in imported_names(file):
        package, _, other = name.partition(".")
        other = bart_inference.MODULES.get(other, other)  # for a public function, the module that defines it
        if package != "bart_inference" or (layer := layer_of(other)) is None:
            continue
        same_folder = "." in module and module.split(".")[0] == other.split(".")[0]
        wrong = f"bart_inference.{module} imports bart_inference.{other}, which is not in a lower layer"
        assert layer < importer_layer or same_folder, wrong


def test_no_module_assigns_into_another_of_ours():
    for folder in MAY_IMPORT:
        for file in python_files(folder):
            modules = {here for module, here in imported_names(file) if is_module(module)}
            for node in ast.walk(ast.parse(file.read_text())):
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                for target in targets:
                    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                        what = ast.unparse(target)
                        assert target.value.id not in modules, f"{file.relative_to(ROOT)} assigns to {what}"


def is_module(name: str) -> bool:
    """Whether a dotted name is one of our modules."""
    path = Path(*name.split("."))
    roots = (ROOT, *(ROOT / folder for folder in ("relatives", "inference", "server", "training", "clients/python")))
    return any((root / path).with_suffix(".py").is_file() or (root / path).is_dir() for root in roots)


def test_no_wheel_contains_the_relatives():
    """The relatives are for reading and training in a checkout, where `pip install -e .` makes them importable."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    packed = [*wheel["include"], *wheel["sources"], *wheel["force-include"]]
    assert not [path for path in packed if "relatives" in path] and "relatives" in wheel["dev-mode-dirs"]


@pytest.mark.parametrize("module", ["bart_oneliner", "bart_inference.generation.generate", "bart_inference.cli"])
def test_running_the_model_imports_neither_torch_nor_transformers(module):
    probe = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'bart_server') if m in sys.modules])"
    assert process.run(probe).stdout.strip() == "[]", f"{module} imports torch, transformers or bart_server"


def test_the_page_imports_nothing_of_ours_until_its_demo_runs():
    probe = "import sys, bart_oneliner; print([m for m in sys.modules if m.startswith('bart_')])"
    assert process.run(probe).stdout.strip() == "['bart_oneliner']"


def test_support_is_one_package_in_a_spawned_process_too():
    probe = "import support.echo, support.process; print(support.__file__)"
    assert process.run(probe).stdout.strip() == str(ROOT / "support" / "__init__.py")


def test_readme_quotes_the_one_line_and_counts_right():
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "bart_oneliner.py").read_text()
    line = next(line for line in page.splitlines() if line.startswith("bart = ")).split("  # ")[0]
    assert f"```python\n{line}\n```" in readme, "README's one line is not bart_oneliner.py's"
    assert f"one line ({len(line):,}\ncharacters" in readme, f"the one line has {len(line):,} characters"
    assert f"({len(page.splitlines())} lines, [`bart_oneliner.py`]" in readme, (
        f"the page has {len(page.splitlines())} lines"
    )


def test_every_file_and_folder_that_readme_lists_exists():
    readme = (ROOT / "README.md").read_text()
    paths = re.findall(r"^\| `([^`]+)` \|", readme, flags=re.M)
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), f"README lists {path}, which does not exist"


def test_the_page_has_at_most_450_lines():
    assert len((ROOT / "bart_oneliner.py").read_text().splitlines()) <= 450
