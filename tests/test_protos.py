"""The wire contract is compatible with clients of the last release, and buf's check detects incompatible changes."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

PROTOS = Path(__file__).resolve().parents[1] / "protos"
BUF = shutil.which("buf", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")

pytestmark = pytest.mark.skipif(not BUF and not os.environ.get("CI"), reason="buf is not installed")


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    """Compares the contract in a folder with released.binpb by `buf breaking`, as .ci/run does."""
    assert BUF, "buf is not installed: it comes with the extra `test`"
    command = [BUF, "breaking", "--against", "released.binpb"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(PROTOS, tmp_path / "protos")


def test_the_contract_breaks_no_client_of_the_last_release() -> None:
    done = breaking(PROTOS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_with_another_number_is_noticed(copy: Path) -> None:
    proto = copy / "bart/v1/bart.proto"
    changed, count = re.subn(r"string text = 1;", "string text = 99;", proto.read_text())
    assert count
    proto.write_text(changed)
    done = breaking(copy)
    assert done.returncode != 0 and 'field "1" with name "text"' in done.stdout, done.stdout + done.stderr


def test_a_missing_image_is_an_error(copy: Path) -> None:
    (copy / "released.binpb").unlink()
    done = breaking(copy)
    assert done.returncode != 0 and "released.binpb" in done.stderr, done.stdout + done.stderr
