"""Provides the folders of the small checkpoints, each built when a test first needs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pipelines.checkpoints import CHECKPOINTS, build


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A function from a checkpoint's name to its folder, which does not exist for a name that is not in CHECKPOINTS."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> str:
        if name in CHECKPOINTS and not (root / name).exists():
            build(name, root / name)
        return str(root / name)

    return folder
