"""Tests hub ids with a local server as the hub: which files are downloaded, and that errors name the true cause.

huggingface_hub reads environment variables when it is imported, so `ask` starts a new process for each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.process import run
from tests.inference.folders import write_folder
from tests.inference.hub_server import serve

CONFIG = b'{"model_type": "bart"}'
REFUSED = {  # the only file beside config.json -> regular expression for the error message
    "flax_model.msgpack": "flax_model.msgpack is a file of Flax weights.*load_flax_checkpoint_in_pytorch_model",
    "tf_model.h5": "tf_model.h5 is a file of TensorFlow weights.*load_tf2_checkpoint_in_pytorch_model",
    "model.pt": "model.pt is a fairseq checkpoint.*convert_bart_original_pytorch_checkpoint_to_pytorch",
    "last.ckpt": "last.ckpt is a training checkpoint.*state_dict",
    "model.fp16.safetensors": "model.fp16.safetensors is a variant.*mv FOLDER/model.fp16.safetensors",
    "onnx/decoder_model.onnx": "onnx/decoder_model.onnx is an export for another program",
    "gptq_model-4bit.safetensors": "quantized by bitsandbytes, GPTQ, AWQ.*Load the checkpoint as it was before",
}
PROGRAM = """
import json
from bart_inference.formats import CheckpointError
from bart_inference.hub import find_folder
answers = []
for hub_id, keywords in json.loads({questions!r}):
    try:
        answers.append(sorted(path.name for path in find_folder(hub_id, **keywords).iterdir()))
    except CheckpointError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def ask(*questions: tuple[str, dict[str, Any]], home: Path, endpoint: str, **environment: str) -> list[Any]:
    """Calls find_folder in a new process for each question, which is a hub id and keyword arguments.

    An answer is the list of files in the folder that find_folder returns, or the message of the error that it raises.
    `home` is the folder of the hub's cache, `endpoint` the hub's address.
    """
    program = PROGRAM.format(questions=json.dumps(questions))
    done = run(program, HF_HOME=str(home), HF_ENDPOINT=endpoint, HF_TOKEN="", **environment)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint that `load` reads: name -> content."""
    folder = write_folder(tmp_path_factory.mktemp("whole"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def endpoint(whole: dict[str, bytes]) -> Iterator[str]:
    """Address of a hub whose repositories read/… have files that find_folder downloads, and refused/… do not."""
    shards = {"pytorch_model.bin.index.json": b"{}", "pytorch_model-00001-of-00001.bin": b"zip"}
    repositories = {
        "read/safetensors": whole | {"pytorch_model.bin": b"zip", "README.md": b"", "checkpoint-9/config.json": b"{}"},
        "read/bin": {"config.json": CONFIG, "pytorch_model.bin": b"zip", "model.fp16.safetensors": b""},
        "read/shards": {"config.json": CONFIG, **shards},
        "read/adapter": {"adapter_config.json": b"{}", "adapter_model.bin": b"zip"},
        "read/tokenizer": {"tokenizer.json": b"{}", "flax_model.msgpack": b""},
        "refused/gated": whole,
        "refused/nothing": {"config.json": CONFIG, "README.md": b""},
        "refused/weights-alone": {"model.safetensors": whole["model.safetensors"]},
        "refused/fairseq": {"model.pt": b"", "dict.txt": b""},
    }
    for name in REFUSED:
        repositories[f"refused/{name.replace('/', '-')}"] = {"config.json": CONFIG, name: b""}
    with serve(repositories, gated={"refused/gated"}) as address:
        yield address


def test_of_a_repository_what_is_read_is_downloaded_and_nothing_else(
    whole: dict[str, bytes], endpoint: str, tmp_path: Path
) -> None:
    names = ["read/safetensors", "read/bin", "read/shards", "read/adapter"]
    answers = ask(
        *((name, {}) for name in names), ("read/tokenizer", {"weights": False}), home=tmp_path, endpoint=endpoint
    )
    assert answers == [
        sorted(whole),
        ["config.json", "model.fp16.safetensors", "pytorch_model.bin"],
        ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ["adapter_config.json", "adapter_model.bin"],
        ["tokenizer.json"],
    ]
    again = ask(("read/safetensors", {}), ("read/bin", {}), home=tmp_path, endpoint=endpoint, HF_HUB_OFFLINE="1")
    assert again == answers[:2], "downloaded files are not used when the network is off"


def test_a_repository_of_other_files_is_refused_by_the_cause_with_the_command(endpoint: str, tmp_path: Path) -> None:
    hub_ids = [f"refused/{name.replace('/', '-')}" for name in REFUSED]
    answers = ask(*((hub_id, {}) for hub_id in hub_ids), home=tmp_path, endpoint=endpoint)
    for hub_id, pattern, message in zip(hub_ids, REFUSED.values(), answers, strict=True):
        first = f"First: hf download {hub_id} --local-dir FOLDER. "
        assert re.match(f"{hub_id} has neither model.safetensors nor pytorch_model.bin: .*{pattern}", message), message
        assert (first in message) == ("FOLDER" in message.replace(first, "")), message


def test_a_repository_that_lacks_a_file_is_refused_by_its_name(endpoint: str, tmp_path: Path) -> None:
    nothing, weights_alone, fairseq = ask(
        ("refused/nothing", {}),
        ("refused/weights-alone", {"revision": "main"}),
        ("refused/fairseq", {"revision": "main"}),
        home=tmp_path,
        endpoint=endpoint,
    )
    assert nothing == "refused/nothing has neither model.safetensors nor pytorch_model.bin"
    assert weights_alone == "refused/weights-alone has no config.json"
    assert fairseq.startswith(
        "refused/fairseq has no config.json: model.pt is a fairseq checkpoint, which is not read. "
    )
    assert "First: hf download refused/fairseq --local-dir FOLDER --revision main. Convert: pip install" in fairseq


def test_a_repository_that_cannot_be_had_is_refused_by_the_cause(endpoint: str, tmp_path: Path) -> None:
    invalid, missing, gated, revision = ask(
        ("no/hub?id", {}),
        ("nobody/nothing", {}),
        ("refused/gated", {}),
        ("read/bin", {"revision": "v9"}),
        home=tmp_path,
        endpoint=endpoint,
    )
    assert invalid.startswith("no/hub?id: no such folder, and it is no hub id: ")
    assert missing.startswith(
        f"nobody/nothing: no such folder, and the hub {endpoint} has no such model, or it is private"
    )
    assert f"grants access one by one: ask on {endpoint}/refused/gated" in gated
    assert revision == "read/bin: no such folder, and the model on the hub has no revision 'v9'"


def test_without_the_hub_the_message_says_whether_it_is_offline_or_cannot_be_reached(
    endpoint: str, tmp_path: Path
) -> None:
    [offline] = ask(("read/bin", {}), home=tmp_path, endpoint=endpoint, HF_HUB_OFFLINE="1")
    cache = tmp_path / "hub"
    assert offline == (
        f"read/bin: no such folder, and HF_HUB_OFFLINE forbids to download what the cache {cache} does not hold"
    )
    nobody = "http://127.0.0.1:9"  # port 9 is that of the discard protocol: nothing listens there
    [unreachable] = ask(("read/bin", {}), home=tmp_path, endpoint=nobody)
    assert f"it is not in the cache {cache}, and the hub {nobody} cannot be reached: " in unreachable


def test_a_cached_copy_without_weights_is_refused_by_the_cause_without_the_network(
    endpoint: str, tmp_path: Path
) -> None:
    ask(("read/bin", {"weights": False}), home=tmp_path, endpoint=endpoint)
    [message] = ask(("read/bin", {}), home=tmp_path, endpoint=endpoint, HF_HUB_OFFLINE="1")
    assert "read/bin: " in message and "HF_HUB_OFFLINE forbids to download" in message, message


def test_load_and_pipeline_take_a_hub_id(endpoint: str, tmp_path: Path) -> None:
    program = """
from bart_inference import load, pipeline
print(len(load("read/safetensors").params))
pipeline("summarization", "read/safetensors", tokenizer="read/safetensors")
try:
    pipeline("summarization", "refused/flax_model.msgpack")
except OSError as error:
    print(error)
"""
    done = run(program, HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint, HF_TOKEN="", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert "a file of Flax weights" in done.stdout.splitlines()[-1]
