"""LoRA adapters of peft, merged into a checkpoint's tensors as peft's merge_and_unload does. Imports no jax.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685. The weight W of a
linear layer that the adapter changes (a target) becomes W + s B A, with B (out,r), A (r,in) and s = lora_alpha / r, or
lora_alpha / sqrt(r) with use_rslora (peft.tuners.lora.layer). fan_in_fan_out has no effect: peft itself sets it to
false for the Linear layers of BART.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bart_inference.formats import (
    ADAPTER_CONFIG,
    MERGE,
    CheckpointError,
    open_pytorch,
    open_safetensors,
    read_json,
)

PREFIX = "base_model.model."  # with which each tensor's name in peft's file begins
READ = {  # the fields of adapter_config.json that are followed
    "peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora", "rank_pattern",
    "alpha_pattern", "use_dora", "lora_bias", "init_lora_weights",
}  # fmt: skip
WITHOUT_EFFECT = {  # fields that need not be read: the names and shapes of the adapter's tensors say what was trained
    "task_type", "inference_mode", "auto_mapping", "peft_version", "target_modules", "exclude_modules", "lora_dropout",
    "fan_in_fan_out", "bias", "modules_to_save", "layers_to_transform", "layers_pattern", "runtime_config",
    "ensure_weight_tying", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "qalora_group_size",
}  # fmt: skip
# The values of init_lora_weights that leave the base model's weights as they are. Others, such as "pissa" and "loftq",
# replace them when the adapter is created.
INITIALIZATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
TIED = re.compile(r"\b(shared|embed_tokens|lm_head|lora_embedding_[AB])\b")  # parts of the names of embeddings
PARTS = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.(weight|bias))?")  # module, part, weight or bias


def merge_adapter(tensors: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint's tensors with the adapter of a folder merged. CheckpointError names what is not supported."""
    config = read_config(folder)
    if (folder / "adapter_model.safetensors").is_file():
        adapter = open_safetensors(folder / "adapter_model.safetensors")
    elif (folder / "adapter_model.bin").is_file():
        adapter = open_pytorch(folder / "adapter_model.bin")
    else:
        raise CheckpointError(f"{folder} has neither adapter_model.safetensors nor adapter_model.bin")
    try:
        return merge(tensors, adapter, config)
    except (ValueError, TypeError, AttributeError) as error:  # fields of adapter_config.json with a wrong type
        raise CheckpointError(f"{folder}: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of adapter_config.json; CheckpointError names the first one that is not supported."""
    config = read_json(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: peft_type {kind!r} is not supported: only 'LORA' is. {MERGE}"
        )
    initialization = config.get("init_lora_weights")
    if initialization not in INITIALIZATIONS:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: init_lora_weights {initialization!r} changes the base model's weights and is "
            f"not supported. {MERGE}"
        )
    for name in sorted(config.keys() - READ - WITHOUT_EFFECT):
        if config[name]:  # an option of peft that is off is null, false or empty
            raise CheckpointError(f"{folder / ADAPTER_CONFIG}: {name} is not supported. {MERGE}")
    return config


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """rank_pattern's or alpha_pattern's value for a module (peft.utils.other.get_pattern_key)."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def merge(
    tensors: Mapping[str, np.ndarray], adapter: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """A checkpoint's tensors with an adapter merged. Changed tensors are float32, or float64 if the checkpoint is.

    tensors: the checkpoint's, by PyTorch's names, with or without the prefix `model.`. adapter: the tensors of peft's
    file by their names there. ValueError for a tensor of the adapter whose module the checkpoint lacks, or whose shape
    is another.
    """
    name_of = {name.removeprefix("model."): name for name in tensors}  # in the checkpoint, by the name without prefix
    updates, replaced = split_adapter(adapter)
    merged = dict(tensors)
    for name, array in replaced.items():
        target = name_of.get(name.removeprefix("model."), name)
        if target in tensors and tensors[target].shape != array.shape:
            raise ValueError(f"the adapter's {name} has shape {array.shape}, the checkpoint's {tensors[target].shape}")
        merged[target] = array
    for module, parts in updates.items():
        prefix = module.removeprefix("model.")
        weight, bias = name_of.get(f"{prefix}.weight"), name_of.get(f"{prefix}.bias")
        if weight is None or bias is None:
            raise ValueError(f"the adapter changes {module}, which the checkpoint does not have")
        scale = check_target(module, parts, merged[weight].shape, config)
        merged[weight] = merged_weight(merged[weight], parts, scale)
        if "lora_bias" in parts:
            merged[bias] = merged[bias] + parts["lora_bias"] * scale
    return merged


def split_adapter(
    adapter: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The tensors of an adapter's file, divided: the parts of each module's update, and tensors that replace others.

    The second are those of modules_to_save, and biases that were trained. ValueError for a name that is not supported.
    """
    updates: dict[str, dict[str, np.ndarray]] = {}
    replaced: dict[str, np.ndarray] = {}
    for full_name, array in adapter.items():
        if not full_name.startswith(PREFIX):
            raise ValueError(f"the adapter's tensor {full_name!r} is not peft's: it does not begin with {PREFIX!r}")
        name = full_name.removeprefix(PREFIX)
        if TIED.search(name):
            raise ValueError(
                f"the adapter changes {name}, an embedding, which is not supported (BART ties three of them). {MERGE}"
            )
        if match := PARTS.fullmatch(name):
            module, part, suffix = match.groups()
            parts = updates.setdefault(module, {})
            parts["lora_bias" if suffix == "bias" else part] = array.astype(np.float32)
        else:
            # peft calls the bias of an updated layer NAME.base_layer.bias.
            replaced[name.replace(".base_layer.", ".")] = array
    return updates, replaced


def check_target(
    module: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], config: Mapping[str, Any]
) -> np.float32:
    """The scale s of a module's update; ValueError if the shapes of its parts are not those that config asks for.

    parts: the tensors of the update. shape: that of the module's weight, (out,in).
    """
    rank = pattern_value(config.get("rank_pattern"), module, config.get("r", 8))
    alpha = pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    expected: dict[str, tuple[int, ...]] = {"lora_A": (rank, shape[-1]), "lora_B": (shape[0], rank)}
    if config.get("use_dora"):
        expected["lora_magnitude_vector"] = shape[:1]
    if config.get("lora_bias"):
        expected["lora_bias"] = shape[:1]
    shapes = {part: array.shape for part, array in parts.items()}
    if shapes != expected:
        raise ValueError(
            f"the adapter's tensors of {module} have the shapes {shapes}, {ADAPTER_CONFIG} asks for {expected}"
        )
    return np.float32(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def merged_weight(weight: np.ndarray, parts: Mapping[str, np.ndarray], scale: np.float32) -> np.ndarray:
    """A module's weight (out,in) with its update added, and rescaled with DoRA."""
    update = (parts["lora_B"] @ parts["lora_A"]) * scale
    weight = weight.astype(np.promote_types(weight.dtype, np.float32)) + update
    if "lora_magnitude_vector" in parts:  # DoRA, https://arxiv.org/abs/2402.09353, trains the length of each row
        weight *= (parts["lora_magnitude_vector"] / np.linalg.norm(weight, axis=1))[:, None]
    return weight
