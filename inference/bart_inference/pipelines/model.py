"""The class of a pipeline's attribute `model`: a prepared checkpoint, and its config with transformers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from bart_inference.checkpoint import Model
from bart_inference.model.layout import Prepared, prepare
from bart_inference.model.weights import Weight, elements
from bart_inference.pipelines.arguments import Device, check_device
from bart_inference.pipelines.options import GLOBAL_DEFAULTS

DEFAULT_LABELS = ("LABEL_0", "LABEL_1", "LABEL_2")  # transformers' default for BART


class ModelConfig:
    """The class of a pipeline's `model.config`: config.json's fields as attributes, with transformers' defaults."""

    prefix: str | None = None
    task_specific_params: Mapping[str, Any] | None = None
    problem_type: str | None = None
    model_type = "bart"
    is_encoder_decoder = True

    def __init__(self, model: Model | Prepared, name: str):
        self._architecture = model.config
        self.__dict__.update(model.config_json)
        self.name_or_path = name
        labels = model.labels or DEFAULT_LABELS
        id2label = model.config_json.get("id2label") or dict(enumerate(labels))
        self.id2label = {int(i): str(label) for i, label in id2label.items()}
        label2id = model.config_json.get("label2id") or {label: i for i, label in self.id2label.items()}
        self.label2id = {str(label): int(i) for label, i in label2id.items()}
        self.num_labels = len(self.id2label)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in GLOBAL_DEFAULTS and not hasattr(self._architecture, name):
            return GLOBAL_DEFAULTS[name]  # scripts for older transformers read generation options from the config
        return getattr(self._architecture, name)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


class PipelineModel:
    """A checkpoint that pipelines share: pass it as `model` to make another pipeline without loading again."""

    base_model_prefix = "model"

    def __init__(self, model: Model | Prepared, name: str = ""):
        self.prepared = prepare(model)
        self.config = ModelConfig(model, name)
        self.name_or_path = name
        self.dtype = self.prepared.dtype

    @property
    def device(self) -> Device:
        return check_device(None, jax.default_backend())

    def num_parameters(self) -> int:
        """The number of the checkpoint's parameters. The weight `head` is left out: it is a copy of the embedding."""
        weights = dict(self.prepared.weights)
        weights.pop("head", None)
        leaves = jax.tree.leaves(weights, is_leaf=is_matrix)
        return sum(elements(leaf) if is_matrix(leaf) else leaf.size for leaf in leaves)


def is_matrix(node: Any) -> bool:
    return isinstance(node, Weight)
