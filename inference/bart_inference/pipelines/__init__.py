"""transformers 4's pipelines for BART checkpoints, by name, argument and result, without PyTorch or transformers.

factory      the function pipeline, which loads model and tokenizer and makes the pipeline of a task
base         the base class of all pipelines: it takes one input, a list or lazy inputs, and runs them in batches
options      the merging of generation options from the call, the constructor and the checkpoint
generating, classification, question_answering, fill_mask, feature_extraction: the pipelines of the tasks
model, tokenizer, arguments: the classes of a pipeline's attributes model, tokenizer and device

Inputs are lazy if they are read one by one, when results are asked for, as from a generator.
"""

from bart_inference.pipelines.base import Pipeline, PipelineException, PipelineIterator, PositionTableError
from bart_inference.pipelines.classification import TextClassificationPipeline, ZeroShotClassificationPipeline
from bart_inference.pipelines.factory import TASKS, CheckpointNotFoundError, pipeline
from bart_inference.pipelines.feature_extraction import FeatureExtractionPipeline
from bart_inference.pipelines.fill_mask import FillMaskPipeline
from bart_inference.pipelines.generating import SummarizationPipeline, Text2TextGenerationPipeline, TranslationPipeline
from bart_inference.pipelines.question_answering import QuestionAnsweringPipeline

__all__ = [
    "TASKS",
    "CheckpointNotFoundError",
    "FeatureExtractionPipeline",
    "FillMaskPipeline",
    "Pipeline",
    "PipelineException",
    "PipelineIterator",
    "PositionTableError",
    "QuestionAnsweringPipeline",
    "SummarizationPipeline",
    "Text2TextGenerationPipeline",
    "TextClassificationPipeline",
    "TranslationPipeline",
    "ZeroShotClassificationPipeline",
    "pipeline",
]
