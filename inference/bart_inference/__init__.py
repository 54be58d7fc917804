"""What makes BART fast and complete: checkpoints, generation with Hugging Face's options, summaries, heads."""

from bart_inference.checkpoint import CheckpointError, Model, load, save
from bart_inference.generation.generate import Generated, generate
from bart_inference.generation.options import OptionError, Options
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.heads import causal_lm, classify, features, fill_mask, question_answering, zero_shot
from bart_inference.tasks.score import score
from bart_inference.tasks.summarize import summarize

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
    "prepare",
    "question_answering",
    "save",
    "score",
    "summarize",
    "zero_shot",
]
