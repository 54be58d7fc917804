"""Checkpoints: `load` reads a folder or a hub id in Hugging Face's format as a Model, `save` writes one."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from bart_inference.adapters import merge_adapter
from bart_inference.formats import (
    ADAPTER_CONFIG,
    WEIGHTS,
    CheckpointError,
    check_files,
    open_tensors,
    read_json,
    refuse_quantized,
)
from bart_inference.hub import find_folder
from bart_inference.tokenizer_files import load_tokenizer, save_tokenizer
from bart_oneliner import Config, Params, convert, revert

# The dtypes that a model can be computed in -> the dtype of its parameters. For "int8", `prepare` quantizes them.
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64, "int8": np.float32}
HEAD_CLASSES = {  # a head's name among the parameters -> the name of transformers' class for it, without "BartFor"
    "classification_head": "SequenceClassification",
    "qa_outputs": "QuestionAnswering",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A checkpoint. It unpacks as (params, config, generation, tokenizer, labels, config_json).

    A stacked leaf of a parameter tree holds the same parameter of all layers, with the layer as its first axis. In
    `tensors` of a loaded model it is a list with an array for each layer, because the files store each layer by itself.
    """

    tensors: Params  # bart_oneliner's parameter tree; if dtype is set, its leaves are views into the checkpoint's files
    config: Config
    generation: Mapping[str, Any]  # the checkpoint's generation defaults under Hugging Face's option names
    tokenizer: Tokenizer | None  # None if the checkpoint has no tokenizer files
    labels: tuple[str, ...] = ()  # the names of a classifier's classes, by id
    config_json: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # config.json with all of its fields
    dtype: Any = None  # the numpy dtype to which tensors are converted when they are read; None for that of `tensors`
    int8: bool = False  # whether `prepare` quantizes the matrices to int8

    @functools.cached_property
    def params(self) -> Params:
        """bart_oneliner's parameters, all of one dtype. Those of a loaded model are read from its files at first use.

        `prepare` reads the files by itself: a model whose `params` nobody asks for takes half the memory.
        """
        if self.dtype is None:
            return self.tensors

        def is_list(node: Any) -> bool:
            return isinstance(node, list)

        params: Params = jax.tree.map(self._read, self.tensors, is_leaf=is_list)
        return params

    def with_dtype(self, dtype: str) -> Model:
        """The same checkpoint, to be computed in another dtype, one of DTYPES. ValueError for an unknown one."""
        check_dtype(dtype)
        return dataclasses.replace(self, dtype=DTYPES[dtype], int8=dtype == "int8")

    def _read(self, leaf: np.ndarray | list[np.ndarray]) -> jax.Array:
        """A copy of a view, or of the views of all layers: an array must not change with its file."""
        if isinstance(leaf, list):
            leaf = np.stack([np.asarray(layer, self.dtype) for layer in leaf])
        return jnp.array(leaf, self.dtype)

    def __iter__(self) -> Iterator[Any]:
        yield from (self.params, self.config, self.generation, self.tokenizer, self.labels, self.config_json)


def embedded() -> Path:
    """The folder of the checkpoint that ships with the project: inside the installed package, or in the checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "debian-tiny", here.parents[2] / "models" / "debian-tiny"):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError("the embedded checkpoint models/debian-tiny is missing from this installation")


def load(path_or_hub_id: str | Path | None = None, dtype: str = "float32", adapter: str | Path | None = None) -> Model:
    """Load a checkpoint from a folder or a Hugging Face hub id; None loads the embedded checkpoint.

    adapter: the folder or hub id of a LoRA adapter, which is merged into the weights. Without it, an adapter in the
    checkpoint's own folder is merged. If the folder holds an adapter and no weights, the adapter's
    base_model_name_or_path is loaded first.

    dtype is what the parameters are converted to and computed in: "float32" (exact against PyTorch), "bfloat16" (for
    speed), "int8" (for speed; the parameters are float32, and `prepare` quantizes them) or "float64" (needs
    JAX_ENABLE_X64). Names, shapes and dtypes are checked here; the parameters themselves are read from the files by
    `prepare`, or when `params` is asked for.
    CheckpointError for a folder that is not a BART checkpoint; ValueError for an unknown dtype.
    """
    check_dtype(dtype)
    folder, adapter_folder = locate(path_or_hub_id, adapter)
    check_files(str(folder), [path.name for path in folder.iterdir()])
    fields = read_json(folder / "config.json")
    try:
        refuse_quantized(folder, fields)
        config = Config.from_json(fields)
        state_dict = open_tensors(folder)
        if adapter_folder:
            state_dict = merge_adapter(state_dict, adapter_folder)
        tensors = convert(state_dict, config, join=list)
        generation = generation_defaults(folder, fields)
        labels = class_labels(fields, tensors, strict=adapter_folder is None)
        tokenizer = load_tokenizer(adapter_folder) if adapter_folder else None
        if tokenizer is None:
            tokenizer = load_tokenizer(folder)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # fields of config.json with a wrong type
        raise CheckpointError(f"{folder}: {error}") from error
    return Model(tensors, config, generation, tokenizer, labels, fields).with_dtype(dtype)


def check_dtype(dtype: str) -> None:
    """ValueError if a model cannot be computed in this dtype."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {sorted(DTYPES)}")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("dtype 'float64' needs jax.config.update('jax_enable_x64', True)")


def locate(path_or_hub_id: str | Path | None, adapter: str | Path | None) -> tuple[Path, Path | None]:
    """The folder of the weights, and that of the adapter that is merged into them, if any."""
    folder = embedded() if path_or_hub_id is None else find_folder(path_or_hub_id)
    has_adapter = (folder / ADAPTER_CONFIG).is_file()
    has_weights = any((folder / name).is_file() for name in WEIGHTS)
    if adapter is not None:
        if has_adapter and not has_weights:
            raise CheckpointError(f"{folder} holds an adapter without weights, and adapter={str(adapter)!r} is another")
        return folder, find_folder(adapter)
    if not has_adapter:
        return folder, None
    if has_weights:
        return folder, folder
    fields = read_json(folder / ADAPTER_CONFIG)
    base = fields.get("base_model_name_or_path")
    if not base:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path: load(base, adapter=…)")
    try:
        return find_folder(base, revision=fields.get("revision")), folder
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: its base model: {error}") from error


def generation_defaults(folder: Path, config_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's generation options, as GenerationConfig.from_pretrained reads them.

    They are those of generation_config.json or, without such a file, of config.json. Special ids that config.json
    leaves out are BART's; transformers 5 has none in that case, and refuses to generate.
    """
    if (folder / "generation_config.json").is_file():
        fields = read_json(folder / "generation_config.json")
    else:
        special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
        fields = {**special, **config_fields}
        if fields.get("force_bos_token_to_be_generated"):
            fields["forced_bos_token_id"] = fields["bos_token_id"]
    return {name: value for name, value in fields.items() if value is not None}


def class_labels(config_fields: Mapping[str, Any], params: Params, strict: bool = True) -> tuple[str, ...]:
    """A classifier's labels by id: label2id's if it names every class, else id2label's, else LABEL_0, LABEL_1, …

    strict: ValueError if id2label names other classes than the head has. With an adapter strict is False: its head may
    have other classes than the base model's config.json.
    """
    if "classification_head" not in params:
        return ()
    count = params["classification_head"]["out_proj"]["bias"].shape[0]
    label2id = config_fields.get("label2id") or {}
    id2label = config_fields.get("id2label") or {}
    from_label2id = {int(i): str(label) for label, i in label2id.items()}
    from_id2label = {int(i): str(label) for i, label in id2label.items()}
    for names in (from_label2id, from_id2label):
        if set(names) == set(range(count)):
            return tuple(names[i] for i in range(count))
    if from_id2label and strict:
        raise ValueError(f"id2label names the classes {sorted(from_id2label)}, the classification head has {count}")
    return tuple(f"LABEL_{i}" for i in range(count))


def save(model: Model, path: str | Path, dtype: str | None = None) -> None:
    """Write a folder that transformers and `load` read: config, generation config, safetensors and tokenizer.

    config.json keeps the fields that the model does not use, such as task_specific_params. ValueError for a folder that
    holds an adapter.

    dtype: of the stored tensors ("float16", "bfloat16", "float32", …); that of the parameters by default.
    """
    folder = Path(path)
    if (folder / ADAPTER_CONFIG).exists():
        raise ValueError(f"{folder} holds an adapter, which `load` would merge into what is saved there")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = revert(model.params, model.config)
    if dtype is not None:
        stored = np.dtype(getattr(ml_dtypes, dtype, dtype))
        tensors = {name: tensor.astype(stored) for name, tensor in tensors.items()}
    fields = config_to_save(model, str(next(iter(tensors.values())).dtype))
    if generation_is_of_config_json(model.generation):
        fields = {**model.generation, **fields}
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        write_json(folder / "generation_config.json", dict(model.generation))
    write_json(folder / "config.json", fields)
    # A new file replaces the old one. To write into the old one would change models that were loaded from it, because
    # their tensors are views into it.
    new = folder / "model.safetensors.new"
    save_file(tensors, new, metadata={"format": "pt"})
    new.chmod((folder / "config.json").stat().st_mode)  # the library gives its files the mode 0600
    new.replace(folder / "model.safetensors")
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder, model.config.max_position_embeddings)


def generation_is_of_config_json(generation: Mapping[str, Any]) -> bool:
    """Whether a Model's generation defaults were read from config.json, because there was no generation_config.json."""
    return "model_type" in generation


def config_to_save(model: Model, dtype: str) -> dict[str, Any]:
    """config.json's fields, where those that describe the model's parameters are set again. dtype: that of the file."""
    purpose = "ConditionalGeneration"
    for head, name in HEAD_CLASSES.items():
        if head in model.tensors:
            purpose = name
    fields = {**model.config_json, **dataclasses.asdict(model.config)}
    fields |= {"model_type": "bart", "architectures": [f"BartFor{purpose}"], "is_encoder_decoder": True, "dtype": dtype}
    fields.pop("torch_dtype", None)  # the name of dtype before transformers 5
    if model.labels:
        fields["id2label"] = dict(enumerate(model.labels))
        fields["label2id"] = {label: i for i, label in enumerate(model.labels)}
    return fields


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
