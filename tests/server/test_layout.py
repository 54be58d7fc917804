"""The parts of the server import only what they may, and bart_server's docstring names files that exist."""

import ast
import pathlib
import re
import subprocess
import sys

import bart_server
import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "server" / "bart_server"
# The other parts of the server that a module or folder may import from.
ARROWS = {
    "__init__": {"runtime", "scheduling", "services", "settings"},
    "__main__": {"process", "settings"},
    "process": {"runtime", "settings", "telemetry", "transport"},
    "transport": {"runtime", "scheduling", "services", "settings"},
    "runtime": {"scheduling", "services", "settings", "telemetry"},
    "services": {"scheduling"},
    "scheduling": set(),
    "telemetry": {"scheduling"},
    "settings": set(),
    "engine": {"scheduling", "settings"},
}
# The two imports of the engine by parts that stand above it.
FROM_ABOVE = {("process", "bart_server.engine.platform"), ("runtime", "bart_server.engine.load.load")}
# The parts that may import a package. All parts may import packages that are not named here.
OUTSIDE = {
    "jax": {"engine"},
    "jaxlib": {"engine"},
    "bart_inference": {"engine"},
    "bart_oneliner": {"engine"},
    "grpc": {"transport"},
    "grpc_health": {"transport"},
    "grpc_reflection": {"transport"},
    "grpc_status": {"transport"},
    "bart_proto": {"runtime", "services", "transport"},
    "google": {"runtime", "services", "transport"},
    "prometheus_client": {"process", "telemetry"},
    "opentelemetry": {"telemetry"},
    "torch": set(),
    "transformers": set(),
    "bart_client": set(),
    "bart_training": set(),
    "support": set(),
    "tests": set(),
}
# The modules of bart_inference that import no jax, so that services may import them.
WITHOUT_JAX = ("bart_inference.tokenization", "bart_inference.generation.options")


def imports(path: pathlib.Path) -> set[str]:
    """The full names of everything that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def allowed(part: str, name: str) -> bool:
    """Whether a part of the server may import this full name."""
    root, _, module = name.partition(".")
    if root == "bart_server":
        target = module.partition(".")[0]
        return target in ARROWS[part] | {part} or (part, name) in FROM_ABOVE
    if part == "services" and any(f"{name}.".startswith(f"{allowed_module}.") for allowed_module in WITHOUT_JAX):
        return True
    return part in OUTSIDE.get(root, {part})


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_only(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    wrong = sorted(name for name in imports(path) if not allowed(part, name))
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


def test_the_two_imports_of_the_engine_from_above_are_there():
    for part, name in FROM_ABOVE:
        assert name in imports(PACKAGE / f"{part}.py")


def test_help_loads_neither_jax_nor_grpc():
    program = """if True:
        import runpy, sys
        sys.argv = ["bart_server", "--help"]
        try:
            runpy.run_module("bart_server", run_name="__main__")
        except SystemExit as end:
            assert end.code == 0
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"jax", "grpc", "numpy", "prometheus_client"}))
    """
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"


def test_each_file_on_the_path_of_a_parameter_is_named_once_and_exists():
    path = re.findall(r"^    (\w+(?:/\w+)?\.py)  ", bart_server.__doc__, flags=re.M)
    assert len(path) == len(set(path)) > 5
    for name in path:
        assert (PACKAGE / name).is_file(), f"the docstring names {name}, which does not exist"


def test_public_names_are_what_they_say():
    for name in bart_server.__all__:
        assert getattr(bart_server, name).__name__ == name
