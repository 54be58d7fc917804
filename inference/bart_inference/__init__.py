"""What makes BART fast and complete: checkpoints, generation with Hugging Face's options, summaries, heads."""

from bart_inference.checkpoint import CheckpointError, Model, load, save
from bart_inference.generation.generate import Generated, generate
from bart_inference.generation.options import OptionError, Options
from bart_inference.model.layout import Prepared, prepare
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
    "prepare",
    "question_answering",
    "save",
    "score",
    "summarize",
    "zero_shot",
]
