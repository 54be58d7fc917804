"""What `pipe.model` is: a prepared checkpoint, with its config under the names that scripts read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from bart_inference.checkpoint import Model
from bart_inference.model.layout import Prepared, prepare
from bart_inference.pipelines.arguments import Device, check_device
from bart_inference.pipelines.options import GLOBAL_DEFAULTS


class ModelConfig:
    """config.json as attributes, with the defaults that transformers has for BART."""

    prefix: str | None = None
    task_specific_params: Mapping[str, Any] | None = None
    problem_type: str | None = None
    model_type = "bart"
    is_encoder_decoder = True

    def __init__(self, model: Model | Prepared, name: str):
        self._architecture = model.config
        self.__dict__.update(model.config_json)
        self.name_or_path = name
        by_id = model.config_json.get("id2label") or dict(enumerate(model.labels or default_labels(3)))
        self.id2label = {int(i): str(label) for i, label in by_id.items()}
        by_label = model.config_json.get("label2id") or {label: i for i, label in self.id2label.items()}
        self.label2id = {str(label): int(i) for label, i in by_label.items()}
        self.num_labels = len(self.id2label)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in GLOBAL_DEFAULTS and not hasattr(self._architecture, name):
            return GLOBAL_DEFAULTS[name]  # older code reads max_length and its like from the config
        return getattr(self._architecture, name)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


def default_labels(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))


class PipelineModel:
    """A checkpoint that pipelines share: pass it as `model` to make another pipeline without loading again."""

    base_model_prefix = "model"

    def __init__(self, model: Model | Prepared, name: str = ""):
        self.prepared = prepare(model)
        self.config = ModelConfig(model, name)
        self.name_or_path = name
        self.dtype = str(self.prepared.weights["shared"].dtype)

    @property
    def device(self) -> Device:
        return check_device(None, jax.default_backend())

    def num_parameters(self) -> int:
        """As the checkpoint counts them: copies that the device's layout makes are left out."""
        weights = {name: leaf for name, leaf in self.prepared.weights.items() if name != "head"}
        return sum(leaf.size for leaf in jax.tree.leaves(weights))
