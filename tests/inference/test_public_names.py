"""Every public name of bart_inference is the class or function that the module listed for it defines."""

import ast
import importlib
import inspect
from pathlib import Path

import bart_inference
import pytest

from support import process

PACKAGE = Path(bart_inference.__file__).parent
PROGRAM = """
import importlib, pkgutil, bart_inference
for module in pkgutil.walk_packages(bart_inference.__path__, "bart_inference."):
    importlib.import_module(module.name)
print({name: type(getattr(bart_inference, name)).__name__ for name in bart_inference.__all__})
"""


def test_every_public_name_is_what_it_says_after_all_submodules_were_imported() -> None:
    """Importing a submodule makes it an attribute of its package, which would hide a function of the same name."""
    done = process.run(PROGRAM)
    assert done.returncode == 0, done.stderr
    kinds = ast.literal_eval(done.stdout)
    assert kinds == {name: "type" if name[0].isupper() else "function" for name in bart_inference.__all__}


def test_no_module_of_the_package_has_the_name_of_a_public_function() -> None:
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(bart_inference.__all__)


def test_names_are_listed_once_each_and_imported_for_type_checkers_from_where_they_are_defined() -> None:
    assert sorted(bart_inference.MODULES) == sorted(bart_inference.__all__) == dir(bart_inference)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {
        alias.name: (node.module or "").removeprefix("bart_inference.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == bart_inference.MODULES
    for name, module in bart_inference.MODULES.items():
        value = getattr(importlib.import_module(f"bart_inference.{module}"), name)
        assert value is getattr(bart_inference, name)
        assert inspect.getmodule(value).__name__ == f"bart_inference.{module}", (
            f"{name} is not defined in bart_inference.{module}"
        )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'summaries'"):
        _ = bart_inference.summaries  # type: ignore[attr-defined]
