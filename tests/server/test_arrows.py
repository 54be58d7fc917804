"""Who may import what in the server: jax only in the engine, grpc only where calls arrive, neither in the scheduler."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "server" / "bart_server"
GRPC = {"transport"}
MESSAGES = {"app", "transport", "services"}
JAX = {"engine"}
WITHOUT_JAX = {"services": {"bart_inference.tokenization", "bart_inference.generation.options"}}


def imports(path: pathlib.Path) -> set[str]:
    """The names of all modules that a module imports from, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down_only(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    imported = {name.partition(".")[0] for name in imports(path) - WITHOUT_JAX.get(part, set())}
    if part not in JAX:
        assert not imported & {"jax", "jaxlib", "bart_inference", "bart_oneliner"}
    if part not in GRPC:
        assert not imported & {"grpc", "grpc_health", "grpc_reflection", "grpc_status"}
    if part not in MESSAGES:
        assert not imported & {"google", "bart_proto"}
    assert not imported & {"torch", "transformers", "bart_client", "bart_training", "support", "tests"}
