"""Checks the arguments of `pipeline` that say where and how to compute; ValueError for a value without support."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

PLATFORM_NAMES = {"cuda": "gpu", "rocm": "gpu", "gpu": "gpu", "cpu": "cpu", "tpu": "tpu"}  # torch's and JAX's -> JAX's


@dataclasses.dataclass(frozen=True)
class Device:
    """Where a pipeline computes, with the attributes of torch.device."""

    type: str  # "cpu", "cuda" or "tpu"
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


def check_device(device: Any, platform: str) -> Device:
    """The device, which has to be on the platform that JAX runs on ("cpu", "gpu" or "tpu").

    As in transformers, -1 is the CPU, and 0 is the accelerator or, without one, the CPU. JAX has chosen one platform
    for the whole process; ValueError for a device on another one.
    """
    if platform == "cpu":
        default = Device("cpu")
    else:
        default = Device("cuda" if platform == "gpu" else platform, 0)
    if device is None or (is_integer(device) and device >= 0 and platform == "cpu"):
        return default
    if is_integer(device):
        name, index = ("cpu", 0) if device < 0 else (platform, int(device))
    else:
        name, _, number = str(device).partition(":")  # the text of a torch.device is "cuda:0"
        index = int(number) if number.isdigit() else 0
    if PLATFORM_NAMES.get(name) != platform:
        raise ValueError(f"device {device!r} is unavailable: JAX runs on {platform!r}; JAX_PLATFORMS selects another")
    if index != 0:
        raise ValueError(f"device {device!r}: give 0, and choose among accelerators with CUDA_VISIBLE_DEVICES")
    return default


def check_device_map(device_map: Any, platform: str) -> None:
    """device_map may be "auto" or name one device. ValueError if it spreads the model over devices."""
    if device_map in (None, "auto", "balanced", "sequential"):
        return
    values = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
    if len(values) != 1:
        raise ValueError(f"device_map must be 'auto' or name one device, got {device_map!r}")
    check_device(values.pop(), platform)


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_dtype(dtype: Any) -> str:
    """ "float32", "bfloat16" or "int8", from a name, a dtype of torch or numpy, or "auto", which is float32 here."""
    if dtype is None or dtype == "auto":
        return "float32"
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, str) and not str(dtype).startswith("torch."):
        try:
            name = np.dtype(dtype).name
        except TypeError as error:
            raise ValueError(f"dtype {dtype!r} is not the name of a dtype, nor a torch or numpy dtype") from error
    name = {"float": "float32", "bf16": "bfloat16", "fp32": "float32"}.get(name, name)
    if name not in ("float32", "bfloat16", "int8"):
        raise ValueError(f"dtype {name!r} is not supported: float32, bfloat16 or int8")
    return name


def check_framework(framework: Any) -> None:
    """ValueError unless the framework is None or "pt" (PyTorch), the values that scripts for PyTorch pass."""
    if framework not in (None, "pt"):
        raise ValueError(f"framework {framework!r} is not supported: leave it out, or pass 'pt'")
