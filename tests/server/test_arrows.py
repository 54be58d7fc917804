"""Who may import what: jax only in the engine and its modules, grpc only around the services, the scheduler neither."""

import ast
import pathlib

import pytest

ROOM = pathlib.Path(__file__).parents[2] / "server" / "bart_server"
GRPC = {"app", "guard", "health", "security", "service", "status", "wire", "models"}
JAX = {"engine", "programs", "rows"}


def imports(path: pathlib.Path) -> set[str]:
    """The top-level names of everything that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_arrows_point_down_only(path):
    found = imports(path)
    if path.stem not in JAX:
        assert not found & {"jax", "jaxlib", "bart_inference", "bart_oneliner"}
    if path.stem not in GRPC:
        assert not found & {"grpc", "grpc_health", "grpc_reflection", "google", "bart_proto"}
    assert not found & {"torch", "transformers", "bart_client", "training", "tests"}
