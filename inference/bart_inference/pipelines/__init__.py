"""transformers 4's pipelines for BART checkpoints, by name, argument and result, without PyTorch or transformers.

factory      pipeline(): the model, the tokenizer and the arguments that say where and how to compute
base         the class of all tasks: it takes one input, a list or lazy inputs, and runs them in batches
options      the merging of generation options from the call, the constructor and the checkpoint
generating, classification, question_answering, fill_mask, feature_extraction: the tasks
model, tokenizer, arguments: the classes of a pipeline's attributes model, tokenizer and device
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
