"""What files of a checkpoint are read, and what is refused: JSON objects, and tensors by name as views of their files.

A view is an array whose memory is the file's own pages: it has its shape and dtype at once, and is read from the disk
when it is used. A file must not be changed in place while a view of it is in use; replacing or deleting it is harmless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def open_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Views of all tensors of a folder: safetensors first (sharded or not), then a PyTorch .bin."""
    for index, single, open_file in (
        ("model.safetensors.index.json", "model.safetensors", open_safetensors),
        ("pytorch_model.bin.index.json", "pytorch_model.bin", open_pytorch),
    ):
        if (folder / single).is_file():
            return open_file(folder / single)
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            named = isinstance(weight_map, dict) and all(
                Path(str(shard)).name == shard for shard in weight_map.values()
            )
            if not weight_map or not named:
                raise CheckpointError(f"{folder / index} has no weight_map from tensors to files beside it")
            tensors: dict[str, np.ndarray] = {}
            for shard in sorted(set(weight_map.values())):
                tensors |= open_file(folder / shard)
            if missing := sorted(set(weight_map) - set(tensors)):
                raise CheckpointError(f"{folder / index} lists tensors that its shards lack: {missing[:5]}")
            return tensors
    raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def open_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The file is eight bytes with the size of its header, the header in JSON, and the tensors' bytes.

    The library refuses a header that contradicts itself or the file's size. It would copy what it reads, so the views
    are made here.
    """
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
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} needs PyTorch to be read: pip install torch, or use model.safetensors"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for a damaged file
        raise CheckpointError(f"{path} is damaged or missing: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} does not hold tensors by name")

    def view(tensor: Any) -> np.ndarray:
        if tensor.dtype == torch.bfloat16:  # which numpy knows by another package only
            bits: np.ndarray = tensor.view(torch.int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        array: np.ndarray = tensor.numpy()
        return array

    return {name: view(tensor) for name, tensor in state.items()}
