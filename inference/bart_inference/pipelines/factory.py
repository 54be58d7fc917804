"""`pipeline`: makes the pipeline of a task, as transformers 4's function of that name does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from bart_inference.checkpoint import Model, embedded, load
from bart_inference.formats import ADAPTER_CONFIG, CheckpointError, check_files
from bart_inference.hub import find_folder
from bart_inference.model.layout import Prepared
from bart_inference.pipelines import tokenizer as tokenizers
from bart_inference.pipelines.arguments import check_device, check_device_map, check_dtype, check_framework
from bart_inference.pipelines.base import Pipeline, logger
from bart_inference.pipelines.classification import TextClassificationPipeline, ZeroShotClassificationPipeline
from bart_inference.pipelines.feature_extraction import FeatureExtractionPipeline
from bart_inference.pipelines.fill_mask import FillMaskPipeline
from bart_inference.pipelines.generating import (
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TranslationPipeline,
)
from bart_inference.pipelines.model import PipelineModel
from bart_inference.pipelines.question_answering import QuestionAnsweringPipeline
from bart_inference.pipelines.tokenizer import PipelineTokenizer

TASKS: dict[str, type[Pipeline]] = {
    "summarization": SummarizationPipeline,
    "text2text-generation": Text2TextGenerationPipeline,
    "translation": TranslationPipeline,
    "question-answering": QuestionAnsweringPipeline,
    "zero-shot-classification": ZeroShotClassificationPipeline,
    "text-classification": TextClassificationPipeline,
    "sentiment-analysis": TextClassificationPipeline,
    "fill-mask": FillMaskPipeline,
    "feature-extraction": FeatureExtractionPipeline,
}
# Entries of model_kwargs that change how transformers loads or computes, but not its results. They have no effect here.
ACCEPTED_MODEL_KWARGS = {"attn_implementation", "low_cpu_mem_usage", "use_safetensors", "use_cache"}
AUTO = "auto"


class CheckpointNotFoundError(CheckpointError, OSError):
    """No such folder or hub id: a CheckpointError as in this package, an OSError as in transformers."""


def pipeline(
    task: str | None = None,
    model: str | Path | Model | Prepared | PipelineModel | None = None,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    processor: Any = None,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = AUTO,
    trust_remote_code: bool | None = None,
    model_kwargs: dict[str, Any] | None = None,
    pipeline_class: Any = None,
    **kwargs: Any,
) -> Any:
    """transformers 4's pipeline for BART: the same names, arguments, results and errors, without PyTorch.

    task: one of TASKS, or translation_xx_to_yy.
    model: a folder, a hub id, or a loaded model; without one, summarization uses the embedded checkpoint.
    tokenizer: by default the model's; else a folder or a hub id, a tuple of one of these and a dict of keywords, a
    `tokenizers.Tokenizer`, or a fast tokenizer of transformers.
    dtype (torch_dtype before transformers 4.56): "float32", "bfloat16", "int8", or a dtype of torch or numpy with such
    a name; "auto" is float32.
    revision, token: for downloads from the hub. use_fast and trust_remote_code have no effect: tokenizers are always
    fast, and code in a checkpoint is never run. Other keywords are defaults for the pipeline's calls.

    KeyError for an unknown task; RuntimeError without a task; CheckpointNotFoundError, which is an OSError, for a
    folder or hub id that does not exist; CheckpointError for one that is not a BART checkpoint or lacks the head;
    ValueError, with the argument's name, for a value that is not supported.
    """
    if task is None:
        reason = ": it cannot be inferred from a model" if model else ""
        raise RuntimeError(f"task must be given{reason}")
    if model is None and (tokenizer is not None or feature_extractor is not None):
        raise RuntimeError("model must be given if a tokenizer is given")
    task_class = pipeline_class or class_of(task)
    if not (isinstance(task_class, type) and issubclass(task_class, Pipeline)):
        raise ValueError(f"pipeline_class must be a subclass of {Pipeline.__module__}.Pipeline, got {task_class!r}")
    check_framework(framework)
    for name, value in (("image_processor", image_processor), ("processor", processor)):
        if value is not None:
            raise ValueError(f"{name} must be None: BART reads text alone")
    if feature_extractor is not None:
        raise ValueError("feature_extractor must be None: BART reads text alone")
    dtype = stated_dtype(dtype, kwargs.pop("torch_dtype", None), dict(model_kwargs or {}))
    token = kwargs.pop("use_auth_token", None) if token is None else token
    check_device_map(device_map, jax.default_backend())
    checked_device = check_device(device, jax.default_backend())
    if config is not None and str(config) not in (str(model), str(tokenizer)):
        raise ValueError(f"config must be None or the model's own, got {config!r}: edit the folder's config.json")
    loaded, folder = load_model(task, model, dtype, revision, token)
    if task == "translation":
        task = specific_translation(loaded)
    loaded_tokenizer = load_tokenizer(tokenizer, loaded, folder, revision, token)
    return task_class(loaded, loaded_tokenizer, task, checked_device, **kwargs)


def class_of(task: str) -> type[Pipeline]:
    """The pipeline of a task; KeyError for an unknown task."""
    if task in TASKS:
        return TASKS[task]
    if task.startswith("translation"):
        parts = task.split("_")
        if len(parts) == 4 and parts[0] == "translation" and parts[2] == "to":
            return TranslationPipeline
        raise KeyError(f"Invalid translation task {task}, use 'translation_XX_to_YY' format")
    raise KeyError(f"Unknown task {task}, available tasks are {[*TASKS, 'translation_XX_to_YY']}")


def stated_dtype(dtype: Any, torch_dtype: Any, model_kwargs: dict[str, Any]) -> Any:
    """The dtype from dtype, torch_dtype or model_kwargs; ValueError for model_kwargs that have no effect here."""
    if torch_dtype is not None:
        logger.warning("`torch_dtype` is deprecated! Use `dtype` instead!")
        dtype = torch_dtype if dtype == AUTO else dtype
    for name in ("torch_dtype", "dtype"):
        if name in model_kwargs:
            if dtype not in (None, AUTO):
                raise ValueError("dtype is given twice, by itself and in model_kwargs")
            dtype = model_kwargs.pop(name)
    if unknown := sorted(set(model_kwargs) - ACCEPTED_MODEL_KWARGS):
        raise ValueError(f"model_kwargs[{unknown[0]!r}] has no effect here: leave it out")
    return dtype


def load_model(
    task: str, model: Any, dtype: Any, revision: str | None, token: str | bool | None
) -> tuple[PipelineModel, Path | None]:
    """The model, and its folder; None instead of the folder if `model` was loaded before."""
    name = check_dtype(dtype)
    if isinstance(model, PipelineModel):
        loaded, folder = model, None
    elif isinstance(model, (Model, Prepared)):
        loaded, folder = PipelineModel(model), None
    elif model is None:
        if task != "summarization":
            raise ValueError(f"model must be given for {task!r}: a folder, a hub id or a loaded model")
        folder = embedded()
        logger.warning(
            "No model was supplied: using the embedded checkpoint debian-tiny, which writes one-line synopses of "
            "software packages and knows nothing else. For articles: model='facebook/bart-large-cnn'."
        )
        loaded = PipelineModel(load(folder, name), "debian-tiny")
    elif isinstance(model, (str, Path)):
        folder = existing_folder(model, revision, token, weights=True)
        loaded = PipelineModel(load(folder, name), str(model))
    else:
        raise ValueError(
            f"model must be a folder, a hub id or a model of bart_inference, got {type(model).__name__}: save it with "
            "save_pretrained and give the folder"
        )
    if dtype not in (None, AUTO) and loaded.dtype != name:
        raise ValueError(f"dtype {name!r} is not that of the loaded model, {loaded.dtype!r}: load it with this dtype")
    return loaded, folder


def existing_folder(name: str | Path, revision: str | None, token: str | bool | None, weights: bool) -> Path:
    """The folder of that name, or of the hub id. CheckpointNotFoundError says what is missing.

    weights: whether the folder has to hold a checkpoint's weights; False for a tokenizer alone.
    """
    try:
        folder = find_folder(name, revision, token, weights)
        if weights:
            check_files(str(folder), [path.name for path in folder.iterdir()])
    except CheckpointError as error:
        raise CheckpointNotFoundError(str(error)) from error
    return folder


def load_tokenizer(
    tokenizer: Any, model: PipelineModel, folder: Path | None, revision: str | None, token: str | bool | None
) -> PipelineTokenizer:
    """The pipeline's tokenizer, which is the model's if `tokenizer` is None.

    folder: the model's folder; None if the model was loaded before.
    """
    overrides: dict[str, Any] = {}
    if isinstance(tokenizer, tuple):
        tokenizer, overrides = tokenizer[0], dict(tokenizer[1])
        overrides.pop("use_fast", None)
        if unknown := sorted(set(overrides) - {"model_max_length", "clean_up_tokenization_spaces"}):
            raise ValueError(f"tokenizer keyword {unknown[0]!r} has no effect here: leave it out")
    if isinstance(tokenizer, (str, Path)):
        if str(tokenizer) != model.name_or_path or folder is None:
            folder = existing_folder(tokenizer, revision, token, weights=False)
        return tokenizers.from_folder(folder, **overrides)
    if tokenizer is not None:
        return tokenizers.from_object(tokenizer)
    if folder is not None and not (folder / ADAPTER_CONFIG).is_file():
        return tokenizers.from_folder(folder, **overrides)
    if (backend := model.prepared.tokenizer) is None:
        raise ValueError("tokenizer must be given: the model has none")
    return PipelineTokenizer(backend, model.prepared.config.max_position_embeddings)


def specific_translation(model: PipelineModel) -> str:
    """The first translation task in the checkpoint's task_specific_params, which transformers takes too."""
    for name in model.config.task_specific_params or {}:
        if name.startswith("translation"):
            logger.warning('"translation" task was used, instead of "translation_XX_to_YY", defaulting to "%s"', name)
            return name
    return "translation"
