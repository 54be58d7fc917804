"""Checkpoints: a folder or a hub id in Hugging Face's format <-> a Model of this project."""

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

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A checkpoint. It unpacks as (params, config, generation, tokenizer, labels, config_json)."""

    tensors: Params  # params; or, where dtype is set, the same tree still in the files, as `load` leaves it
    config: Config
    generation: Mapping[str, Any]  # the checkpoint's generation defaults under Hugging Face's option names
    tokenizer: Tokenizer | None  # None if the folder has none
    labels: tuple[str, ...] = ()  # a classifier's classes, by id
    # config.json as it is, with fields that Config does not know
    config_json: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: Any = None  # what the files' arrays become when they are read; a stacked leaf of theirs is a list of layers

    @functools.cached_property
    def params(self) -> Params:
        """bart_oneliner's format, arrays of one dtype throughout; of a loaded model read from its files at first use.

        `prepare` does not need them, and takes half the memory while nobody has asked for them.
        """
        if self.dtype is None:
            return self.tensors

        def read(leaf: np.ndarray | list[np.ndarray]) -> jax.Array:
            if isinstance(leaf, list):
                leaf = np.stack([np.asarray(layer, self.dtype) for layer in leaf])
            return jnp.array(leaf, self.dtype)  # a copy: an array must not change with the file

        return jax.tree.map(read, self.tensors, is_leaf=lambda node: isinstance(node, list))

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
    """A checkpoint folder, a Hugging Face hub id, or (None) the embedded checkpoint.

    adapter: the folder or hub id of a LoRA adapter, which is merged into the weights. Without one, an adapter that lies
    beside the weights is; of a folder that holds an adapter alone, base_model_name_or_path is loaded first.

    dtype is what the parameters are converted to and computed in: "float32" (exact against PyTorch), "bfloat16" (the
    speed mode of TPUs) or "float64" (needs JAX_ENABLE_X64). Names, shapes and dtypes are checked here; the parameters
    themselves are read from the files by `prepare`, or when `params` is asked for.
    CheckpointError for a folder that is not a BART checkpoint; ValueError for an unknown dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {sorted(DTYPES)}")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("dtype 'float64' needs jax.config.update('jax_enable_x64', True)")
    folder, adapter_folder = locate(path_or_hub_id, adapter)
    check_files(str(folder), [path.name for path in folder.iterdir()])
    fields = read_json(folder / "config.json")
    try:
        refuse_quantized(folder, fields)
        config = Config.from_json(fields)
        state = open_tensors(folder)
        if adapter_folder:
            state = merge_adapter(state, adapter_folder)
        tensors = convert(state, config, join=list)
        generation = generation_defaults(folder, fields)
        labels = class_labels(fields, tensors, strict=adapter_folder is None)
        tokenizer = (load_tokenizer(adapter_folder) if adapter_folder else None) or load_tokenizer(folder)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what files of the wrong types come to
        raise CheckpointError(f"{folder}: {error}") from error
    return Model(tensors, config, generation, tokenizer, labels, fields, DTYPES[dtype])


def locate(path_or_hub_id: str | Path | None, adapter: str | Path | None) -> tuple[Path, Path | None]:
    """The folder of the weights, and that of the adapter that is merged into them, if any."""
    folder = embedded() if path_or_hub_id is None else find_folder(path_or_hub_id)
    beside = (folder / ADAPTER_CONFIG).is_file()
    has_weights = any((folder / name).is_file() for name in WEIGHTS)
    if adapter is not None:
        if beside and not has_weights:
            raise CheckpointError(f"{folder} holds an adapter without weights, and another adapter is named beside it")
        return folder, find_folder(adapter)
    if not beside or has_weights:
        return folder, folder if beside else None
    fields = read_json(folder / ADAPTER_CONFIG)
    base = fields.get("base_model_name_or_path")
    if not base:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path: load(base, adapter=…)")
    try:
        return find_folder(base, revision=fields.get("revision")), folder
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: its base model: {error}") from error


def generation_defaults(folder: Path, config_fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint says about generation, as GenerationConfig.from_pretrained reads it.

    generation_config.json if there is one, else config.json. Where that is silent about the special ids BART's hold;
    transformers 5 has none then, and refuses to generate.
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

    strict: ValueError if id2label names other classes; an adapter's head may have others than its base's config.
    """
    if "classification_head" not in params:
        return ()
    count = params["classification_head"]["out_proj"]["bias"].shape[0]
    by_label = {int(i): str(label) for label, i in (config_fields.get("label2id") or {}).items()}
    by_id = {int(i): str(label) for i, label in (config_fields.get("id2label") or {}).items()}
    for names in (by_label, by_id):
        if set(names) == set(range(count)):
            return tuple(names[i] for i in range(count))
    if by_id and strict:
        raise ValueError(f"id2label names the classes {sorted(by_id)}, the classification head has {count}")
    return tuple(f"LABEL_{i}" for i in range(count))


def save(model: Model, path: str | Path, dtype: str | None = None) -> None:
    """Write a folder that transformers and `load` read: config, generation config, safetensors and tokenizer.

    config.json keeps the fields that the model does not use, as task_specific_params. ValueError for a folder that
    holds an adapter.

    dtype: of the stored tensors ("float16", "bfloat16", "float32", …); the params' own by default.
    """
    folder = Path(path)
    if (folder / ADAPTER_CONFIG).exists():
        raise ValueError(f"{folder} holds an adapter, which `load` would merge into what is saved there")
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"classification_head": "SequenceClassification", "qa_outputs": "QuestionAnswering"}
    [purpose] = [kinds[name] for name in kinds if name in model.tensors] or ["ConditionalGeneration"]
    tensors = revert(model.params, model.config)
    if dtype is not None:
        kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
        tensors = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    config = {**model.config_json, **dataclasses.asdict(model.config)}
    config |= {"model_type": "bart", "architectures": [f"BartFor{purpose}"], "is_encoder_decoder": True}
    config |= {"dtype": str(next(iter(tensors.values())).dtype)}
    config.pop("torch_dtype", None)  # its name before transformers 5
    if model.labels:
        config |= {"id2label": dict(enumerate(model.labels)), "label2id": {s: i for i, s in enumerate(model.labels)}}
    if "model_type" in model.generation:  # it is config.json's, for want of a generation_config.json
        config = {**model.generation, **config}
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        write_json(folder / "generation_config.json", dict(model.generation))
    write_json(folder / "config.json", config)
    # A new file in place of the old one: models that were loaded from the old one may not be read yet.
    save_file(tensors, folder / "model.safetensors.new", metadata={"format": "pt"})
    (folder / "model.safetensors.new").chmod((folder / "config.json").stat().st_mode)  # the library writes 0600
    (folder / "model.safetensors.new").replace(folder / "model.safetensors")
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder, model.config.max_position_embeddings)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
