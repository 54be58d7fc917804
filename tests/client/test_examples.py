"""The examples in clients/grpcurl and clients/node work with the real grpcurl and Node."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sysconfig

import pytest

from support.echo import FakeEngine
from tests.server.harness import PATIENCE, Running

CLIENTS = pathlib.Path(__file__).parents[2] / "clients"
GRPCURL = shutil.which("grpcurl", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
NODE = shutil.which("node") if (CLIENTS / "node" / "node_modules").is_dir() else None
IN_CI = bool(os.environ.get("CI"))  # in CI a missing tool fails these tests; elsewhere they are skipped

needs_grpcurl = pytest.mark.skipif(not GRPCURL and not IN_CI, reason="grpcurl is not installed")
needs_node = pytest.mark.skipif(not NODE and not IN_CI, reason="node or clients/node/node_modules is missing")


@pytest.fixture(scope="module")
def server():
    running = Running(FakeEngine()).ready()
    yield running
    running.close()


def commands(server):
    """The commands in clients/grpcurl/README.md, with the address of `server`."""
    blocks = re.findall(r"```sh\n(.*?)```", (CLIENTS / "grpcurl" / "README.md").read_text(), flags=re.S)
    lines = [line for block in blocks for line in block.strip().splitlines()]
    return [[GRPCURL, *shlex.split(line.replace("localhost:50051", server.address))[1:]] for line in lines]


@needs_grpcurl
def test_every_grpcurl_command_of_the_readme_works(server):
    outputs = []
    for command in commands(server):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode == 0, (command, ended.stderr)
        outputs.append(ended.stdout)
    listed, described, health, models, summary, stream, generated = outputs
    assert "bart.v1.SummarizationService" in listed and "num_beams" in described
    assert json.loads(health)["status"] == "SERVING"
    assert json.loads(models)["models"][0]["name"] == "echo"
    assert json.loads(summary)["text"] == "A long text."
    assert '"delta"' in stream
    assert json.loads(generated)["sequences"][0]["text"] == "A long text."


@needs_grpcurl
def test_grpcurl_shows_which_field_is_wrong(server):
    data = '{"text": "a", "options": {"num_beams": 2}}'
    command = [GRPCURL, "-plaintext", "-d", data, server.address, "bart.v1.SummarizationService/Summarize"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0
    assert "InvalidArgument" in ended.stderr and "options.num_beams" in ended.stderr


@needs_node
@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_the_node_example_summarizes_standard_input(server, flags):
    command = [NODE, str(CLIENTS / "node" / "summarize.mjs"), server.address, *flags]
    ended = subprocess.run(command, input="héllo 🙂", capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.stdout, ended.returncode) == ("héllo 🙂\n", 0), ended.stderr


@needs_node
def test_the_node_example_says_why_it_failed(server):
    command = [NODE, str(CLIENTS / "node" / "summarize.mjs"), "127.0.0.1:1"]
    ended = subprocess.run(command, input="a", capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1 and ended.stderr.startswith("UNAVAILABLE")
