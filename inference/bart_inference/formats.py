"""The files of a checkpoint: which are read, which are refused and why, and how to convert a refused file.

Tensors are views of their files: arrays whose memory is mapped from the file. A view has its shape and dtype at once,
and its values are read from the disk when they are used. A file must not be changed in place while a view of it is in
use; replacing or deleting it is harmless. FORMATS is the table of docs/checkpoints.md.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

SAFETENSORS_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
}

UNQUANTIZED = "Load the checkpoint as it was before quantization"
DEQUANTIZE = (
    'Convert: pip install transformers bitsandbytes && python -c "from transformers import AutoModelForSeq2SeqLM as M; '
    "M.from_pretrained('FOLDER').dequantize().save_pretrained('OUT')\""
)
MERGE = (
    'Merge: pip install peft && python -c "from peft import AutoPeftModelForSeq2SeqLM as M; '
    "M.from_pretrained('FOLDER').merge_and_unload().save_pretrained('OUT')\""
)


def with_transformers_4(library: str, module: str, function: str, file: str) -> str:
    """The command that converts Flax or TensorFlow weights by transformers 4.57.6; version 5 lacks these functions."""
    return (
        f"Convert: pip install transformers==4.57.6 torch {library} && python -c "
        '"from transformers import BartConfig as C, BartForConditionalGeneration as M; '
        f"from transformers.{module} import {function} as read; "
        f"read(M(C.from_pretrained('FOLDER')), 'FOLDER/{file}').save_pretrained('FOLDER')\""
    )


class Format(NamedTuple):
    """A kind of files that checkpoints have."""

    patterns: tuple[str, ...]  # of the files' names, as fnmatch takes them
    kind: str  # what the files are, for messages and docs/checkpoints.md
    remedy: str | None = None  # for files that are refused, how to convert them; None for files that are read


FORMATS = (  # in the order of preference, if a folder has several
    Format(("model.safetensors", "model.safetensors.index.json"), "safetensors, whole or in shards"),
    Format(
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        "PyTorch state dicts of any version, whole or in shards; needs torch",
    ),
    Format(
        ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
        "LoRA adapters of peft, merged into the weights",
    ),
    Format(
        ("quantize_config.json", "quant_config.json", "gptq_model*"),
        "a file of a checkpoint that is quantized by bitsandbytes, GPTQ, AWQ or others",
        UNQUANTIZED,
    ),
    Format(
        ("flax_model*.msgpack",),
        "a file of Flax weights",
        with_transformers_4(
            "flax", "modeling_flax_pytorch_utils", "load_flax_checkpoint_in_pytorch_model", "flax_model.msgpack"
        ),
    ),
    Format(
        ("tf_model*.h5", "*.ckpt.index", "*.ckpt.meta", "*.ckpt.data-*"),
        "a file of TensorFlow weights",
        with_transformers_4(
            "tensorflow tf-keras", "modeling_tf_pytorch_utils", "load_tf2_checkpoint_in_pytorch_model", "tf_model.h5"
        ),
    ),
    Format(
        ("model.pt", "checkpoint*.pt", "dict.txt"),
        "a fairseq checkpoint",
        "Convert: pip install transformers==4.30.2 torch fairseq && python -m "
        "transformers.models.bart.convert_bart_original_pytorch_checkpoint_to_pytorch FOLDER/model.pt OUT "
        "--hf_config facebook/bart-large",
    ),
    Format(
        ("*.ckpt", "*.pt", "*.pth"),
        "a training checkpoint",
        "Convert: python -c \"import torch; d = torch.load('FILE', weights_only=True); "
        "torch.save(d.get('state_dict', d), 'FOLDER/pytorch_model.bin')\"",
    ),
    Format(
        ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin"),
        "a shard without its index",
        "Fetch model.safetensors.index.json or pytorch_model.bin.index.json, which names the shards",
    ),
    Format(
        ("model.*.safetensors*", "pytorch_model.*.bin*"),
        "a variant, such as model.fp16.safetensors",
        "Rename: mv FOLDER/model.fp16.safetensors FOLDER/model.safetensors",
    ),
    Format(
        ("model.bin", "*.onnx", "openvino_*", "*.gguf", "rust_model.ot", "*.mlpackage"),
        "an export for another program (CTranslate2, ONNX, OpenVINO, GGUF, rust-bert, Core ML)",
        "Load the checkpoint that the export was made from",
    ),
)
WEIGHTS = FORMATS[0].patterns + FORMATS[1].patterns
SAFETENSORS = (*FORMATS[0].patterns, "adapter_model.safetensors")
ADAPTER_CONFIG = "adapter_config.json"


class CheckpointError(ValueError):
    """A folder that is not a BART checkpoint, or a damaged one; the message names the file."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError if the file is missing or is not one."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds {type(fields).__name__}, not an object")
    return fields


def refuse_quantized(folder: Path, config_json: Mapping[str, Any]) -> None:
    """CheckpointError if config.json, or a file of GPTQ or AWQ, says that the weights are quantized."""
    quantization = config_json.get("quantization_config")
    files = [name for name in ("quantize_config.json", "quant_config.json") if (folder / name).is_file()]
    if quantization:
        # Before transformers 4.35 bitsandbytes was the only method, and the field did not name it.
        method = dict(quantization).get("quant_method") or "bitsandbytes"
    elif files:
        method = f"GPTQ or AWQ, as {files[0]} says"
    else:
        return
    remedy = DEQUANTIZE if method == "bitsandbytes" else UNQUANTIZED
    raise CheckpointError(f"{folder}: the weights are quantized by {method}, which is not read. {remedy}")


def open_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Views of all tensors of a folder, by name: those of the safetensors files if there are any, else of PyTorch's."""
    for file_name, open_file in (("model.safetensors", open_safetensors), ("pytorch_model.bin", open_pytorch)):
        if (folder / file_name).is_file():
            return open_file(folder / file_name)
        index = folder / f"{file_name}.index.json"
        if index.is_file():
            return open_shards(index, open_file)
    raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def open_shards(index: Path, open_file: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Views of the tensors of all files that an index names. The index must not name files of other folders."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map from tensors to files beside it")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} has no weight_map from tensors to files beside it: it names {shard!r}")
        tensors |= open_file(index.with_name(shard))
    if missing := sorted(set(weight_map) - set(tensors)):
        raise CheckpointError(f"{index} lists tensors that its shards lack: {missing[:5]}")
    return tensors


def check_files(place: str, names: Iterable[str], before: str = "") -> None:
    """CheckpointError if files of these names are no checkpoint. It says what they are and how to convert them.

    place: the folder or hub id, for the message. before: a step for the message, such as a download, that comes before
    a conversion of files in a local folder.
    """
    names = sorted(names)
    if ADAPTER_CONFIG in names:
        return
    has_weights = any(name in names for name in WEIGHTS)
    instead = "" if has_weights else what_instead(names, before)
    if "config.json" not in names:
        raise CheckpointError(f"{place} has no config.json{instead}")
    if not has_weights:
        raise CheckpointError(f"{place} has neither model.safetensors nor pytorch_model.bin{instead}")


def what_instead(names: list[str], before: str) -> str:
    """The end of an error message: a file of a refused format and how to convert it; empty if there is no such file."""
    for form in FORMATS:
        if form.remedy is None:
            continue
        for pattern in form.patterns:
            if matches := fnmatch.filter(names, pattern):
                steps = f"{before}. {form.remedy}" if before and "FOLDER" in form.remedy else form.remedy
                return f": {matches[0]} is {form.kind}, which is not read. {steps}"
    return ""


def open_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Views of a safetensors file: eight bytes with the size of the header, the header in JSON, the tensors' bytes.

    The library refuses a header that contradicts itself or the file's size. It would copy the tensors that it reads, so
    the views are made here. https://huggingface.co/docs/safetensors
    """
    check_head(path)
    try:
        with safe_open(path, framework="numpy"):
            content = np.asarray(np.memmap(path, np.uint8, "r"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or missing: {error}") from error
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, field in header.items():
        if field["dtype"] not in SAFETENSORS_DTYPES:
            raise CheckpointError(f"{path} holds {name} in {field['dtype']}, which is none of {[*SAFETENSORS_DTYPES]}")
        first, end = field["data_offsets"]
        view = content[start + first : start + end].view(SAFETENSORS_DTYPES[field["dtype"]])
        tensors[name] = view.reshape(field["shape"])
    return tensors


def open_pytorch(path: Path) -> dict[str, np.ndarray]:
    """A state dict that any version of torch saved. Code that is in the pickle is not executed.

    Since torch 1.6 the file is a zip archive, which can be mapped into memory. Older files are a sequence of pickles
    followed by numbers, and are read whole.
    """
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"{path} needs PyTorch to be read: pip install torch") from error
    head = check_head(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(b"PK\x03\x04"))
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for a damaged file
        raise CheckpointError(f"{path} {why_not_loaded(error)}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} does not hold tensors by name, but {type(state).__name__}")

    return {str(name): view_of(path, name, tensor) for name, tensor in state.items()}


def view_of(path: Path, name: str, tensor: Any) -> np.ndarray:
    """The numpy view of one tensor of a state dict; CheckpointError for values that are not plain tensors."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        inside = f"; if that holds the weights, save {name!r} alone" if isinstance(tensor, Mapping) else ""
        raise CheckpointError(f"{path} does not hold tensors alone: {name!r} is {type(tensor).__name__}{inside}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise CheckpointError(f"{path}: the tensor {name!r} is sparse, quantized or without values")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # torch makes no numpy array of it, because numpy has no such dtype
        bits: np.ndarray = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array


def check_head(path: Path) -> bytes:
    """A file's first bytes; CheckpointError for one that cannot hold weights."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} is damaged or missing: {error}") from error
    if not head:
        raise CheckpointError(f"{path} is damaged: it is empty")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is only a pointer to the file: git lfs pull brings the file itself")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise CheckpointError(f"{path} is a web page: the download failed")
    return head


def why_not_loaded(error: Exception) -> str:
    """Why torch.load refused a file. torch's own message would advise weights_only=False, which executes code."""
    message = str(error)
    if code := re.search(r"GLOBAL ([\w.]+)", message):
        return f"holds the Python object {code[1]}, which is not executed: only files with tensors alone are read"
    if "TorchScript" in message:
        return "is a TorchScript archive, which is a program: save the model's state_dict() instead"
    if ".tar format" in message:
        return "was written before torch 0.2: if you trust it, torch.load it with weights_only=False and torch.save it"
    if isinstance(error, EOFError) or "zip archive" in message or "unexpected EOF" in message:
        return "is damaged: it is cut short"
    return "is damaged, or no file of PyTorch"
