"""The checkpoints' folders, built when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pipelines.checkpoints import CHECKPOINTS, build


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a checkpoint by its name; a name that is none of them has a folder that is not there."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> str:
        if name in CHECKPOINTS and not (root / name).exists():
            build(name, root / name)
        return str(root / name)

    return folder
