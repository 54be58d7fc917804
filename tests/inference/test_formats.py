"""For files that `load` does not read it raises an error with cause and remedy; docs/checkpoints.md lists them all."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bart_inference import CheckpointError, load
from bart_inference.formats import FORMATS

from tests.inference.folders import write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has a config and no weights."""
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    return tmp_path


REFUSED = {  # name of a file that is not read -> regular expression for the error message
    "flax_model.msgpack": "file of Flax weights.*load_flax_checkpoint_in_pytorch_model",
    "tf_model.h5": "file of TensorFlow weights.*load_tf2_checkpoint_in_pytorch_model",
    "model.ckpt.index": "file of TensorFlow weights",
    "model.pt": "a fairseq checkpoint.*convert_bart_original_pytorch_checkpoint_to_pytorch",
    "dict.txt": "a fairseq checkpoint",
    "last.ckpt": "a training checkpoint.*state_dict",
    "pytorch_model-00001-of-00002.bin": "a shard without its index.*pytorch_model.bin.index.json",
    "model.fp16.safetensors": "a variant.*mv FOLDER/model.fp16.safetensors",
    "model.bin": "CTranslate2",
    "decoder_model.onnx": "an export for another program",
    "quantize_config.json": "quantized by bitsandbytes, GPTQ, AWQ.*Load the checkpoint as it was before quantization",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_not_read_is_named_with_the_way_to_convert_it(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not looked at")
    with pytest.raises(CheckpointError, match=REFUSED[name]) as refusal:
        load(folder)
    assert name in str(refusal.value)
    assert str(folder) in str(refusal.value)


def test_a_folder_of_fairseq_has_no_config_and_is_refused_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    (tmp_path / "dict.txt").touch()
    with pytest.raises(CheckpointError, match=r"has no config\.json: model\.pt is a fairseq checkpoint.*Convert: pip"):
        load(tmp_path)


QUANTIZED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"by bitsandbytes.*dequantize\(\)"),
    "bitsandbytes of 2023": ({"load_in_4bit": True}, r"by bitsandbytes.*dequantize\(\)"),
    "GPTQ": ({"quant_method": "gptq", "bits": 4}, "by gptq.*Load the checkpoint as it was before quantization"),
    "AWQ": ({"quant_method": "awq"}, "by awq.*Load the checkpoint as it was before quantization"),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_quantized_weights_are_refused_by_the_method(tmp_path: Path, case: str) -> None:
    quantization, message = QUANTIZED[case]
    folder = write_folder(tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": quantization}))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


class Touch:
    """An object whose pickle creates the file `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def saved(what: Any, zipped: bool = True) -> Callable[[Path], None]:
    return lambda path: torch.save(what, path, _use_new_zipfile_serialization=zipped)


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def cut(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def half(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return half


def tar(path: Path) -> None:
    """Writes a tar archive with the members that torch wrote before version 0.2."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.add(__file__, name)


def script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


STATE = {"a": torch.ones(3)}
CAUSES: dict[str, tuple[Callable[[Path], None], str]] = {
    "an object": (
        saved({"args": argparse.Namespace(), **STATE}),
        "Python object argparse.Namespace, which is not exec",
    ),
    "an object before 1.6": (saved({"args": argparse.Namespace(), **STATE}, zipped=False), "object argparse.Namespace"),
    "a whole module": (saved(torch.nn.Linear(2, 2)), "Python object torch.nn.modules.linear.Linear"),
    "a program": (script, "is a TorchScript archive"),
    "before 0.2": (tar, "written before torch 0.2"),
    "cut": (cut(saved(STATE)), "is damaged: it is cut short"),
    "cut before 1.6": (cut(saved(STATE, zipped=False)), "is damaged: it is cut short"),
    "empty": (raw(b""), "is damaged: it is empty"),
    "a pointer": (raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "a web page": (raw(b"<!DOCTYPE html>"), "is a web page: the download failed"),
    "other bytes": (raw(b"\x00\x01hello" * 20), "is damaged, or no file of PyTorch"),
    "weights below a name": (saved({"state_dict": STATE}), "'state_dict' is dict; if that holds the weights"),
    "numbers": (saved({**STATE, "step": 3}), "does not hold tensors alone: 'step' is int"),
    "a list": (saved([1]), "does not hold tensors by name, but list"),
    "sparse": (saved({"a": torch.ones(3).to_sparse()}), "tensor 'a' is sparse"),
    "without values": (saved({"a": torch.ones(3, device="meta")}), "without values"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_bin_file_that_cannot_be_read_is_refused_with_the_true_cause(folder: Path, case: str) -> None:
    write, message = CAUSES[case]
    write(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message) as refusal:
        load(folder)
    assert str(folder / "pytorch_model.bin") in str(refusal.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_executed(folder: Path, zipped: bool) -> None:
    torch.save({"a": Touch(folder / "touched")}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="which is not executed"):
        load(folder)
    assert not (folder / "touched").exists()


def test_without_torch_a_bin_file_is_refused_with_the_command_that_installs_it(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model.bin")
    code = f"import sys; sys.modules['torch'] = None; import bart_inference; bart_inference.load({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pytorch_model.bin needs PyTorch to be read: pip install torch" in done.stderr


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b" <html>"])
def test_a_file_named_safetensors_that_is_not_one_is_refused_with_the_true_cause(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"it is empty|git lfs pull|is a web page"):
        load(folder)


def test_the_page_lists_every_format() -> None:
    page = " ".join((ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").split())
    commands = [form.remedy.removeprefix("Convert: ").removeprefix("Rename: ") for form in FORMATS if form.remedy]
    for text in (*commands, *(text for form in FORMATS for text in (*form.patterns, form.kind))):
        assert text in page, f"docs/checkpoints.md does not have {text!r}"
