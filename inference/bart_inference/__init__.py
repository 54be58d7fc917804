"""Fast inference for BART: checkpoints, generation with Hugging Face's options, summaries and other tasks.

Names are imported when they are first asked for, so that `import bart_inference` and its modules for texts and options
load no jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bart_inference.checkpoint import Model, load, save
    from bart_inference.formats import CheckpointError
    from bart_inference.generation.generate import Generated, generate
    from bart_inference.generation.options import OptionError, Options
    from bart_inference.model.layout import Prepared, prepare
    from bart_inference.pipelines.factory import pipeline
    from bart_inference.tasks.causal_lm import causal_lm
    from bart_inference.tasks.classify import classify
    from bart_inference.tasks.features import features
    from bart_inference.tasks.fill_mask import fill_mask
    from bart_inference.tasks.question_answering import question_answering
    from bart_inference.tasks.score import score
    from bart_inference.tasks.summarize import summarize
    from bart_inference.tasks.zero_shot import zero_shot

__all__ = [
    "CheckpointError",
    "Generated",
    "Model",
    "OptionError",
    "Options",
    "Prepared",
    "causal_lm",
    "classify",
    "features",
    "fill_mask",
    "generate",
    "load",
    "pipeline",
    "prepare",
    "question_answering",
    "save",
    "score",
    "summarize",
    "zero_shot",
]
MODULES = {  # where each public name is defined
    "CheckpointError": "formats",
    "Generated": "generation.generate",
    "Model": "checkpoint",
    "OptionError": "generation.options",
    "Options": "generation.options",
    "Prepared": "model.layout",
    "causal_lm": "tasks.causal_lm",
    "classify": "tasks.classify",
    "features": "tasks.features",
    "fill_mask": "tasks.fill_mask",
    "generate": "generation.generate",
    "load": "checkpoint",
    "pipeline": "pipelines.factory",
    "prepare": "model.layout",
    "question_answering": "tasks.question_answering",
    "save": "checkpoint",
    "score": "tasks.score",
    "summarize": "tasks.summarize",
    "zero_shot": "tasks.zero_shot",
}

if not TYPE_CHECKING:  # with __getattr__, a type checker would accept any attribute of this package

    def __getattr__(name: str) -> Any:
        """A public name, at its first use (PEP 562)."""
        if name not in MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
