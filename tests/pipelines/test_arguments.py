"""Tests the arguments of pipeline() and the attributes of a pipeline: models, tokenizers, devices, dtypes, options."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bart_inference import CheckpointError, OptionError, load, pipeline, prepare
from bart_inference.pipelines import (
    PipelineException,
    PipelineIterator,
    PositionTableError,
    SummarizationPipeline,
)
from transformers import BartForConditionalGeneration, BartTokenizer, BartTokenizerFast

from support.process import run
from tests.pipelines.calls import LONG, A, B, C
from tests.pipelines.test_golden import differences

Folder = Callable[[str], str]


@pytest.fixture(scope="module")
def summarizer(checkpoint: Folder) -> SummarizationPipeline:
    return pipeline("summarization", model=checkpoint("cnn"))


# ── Models, tokenizers, devices, dtypes ───────────────────────────────────────────────────────────────────────────────


def test_a_model_may_be_given_in_every_form(checkpoint: Folder, summarizer: Any) -> None:
    expected, folder = summarizer(A), checkpoint("cnn")
    model = load(folder)
    for form in (model, prepare(model), summarizer.model):
        assert pipeline("summarization", form)(A) == expected, type(form).__name__
    assert (
        pipeline(task="summarization", model=folder, tokenizer=folder, framework="pt", revision="main")(A) == expected
    )


def test_a_tokenizer_may_be_given_in_every_form(checkpoint: Folder, summarizer: Any) -> None:
    expected, folder = summarizer(A), checkpoint("cnn")
    theirs = BartTokenizer.from_pretrained(folder)
    theirs(A, padding="max_length", truncation=True, max_length=5)  # sets padding and truncation of its backend
    for form in (folder, (folder, {"use_fast": True}), theirs, load(folder).tokenizer, summarizer.tokenizer):
        assert pipeline("summarization", folder, tokenizer=form)(A) == expected, type(form).__name__
    assert theirs(A)["input_ids"] == summarizer.tokenizer(A)["input_ids"], "the tokenizer of transformers was changed"


def test_objects_of_other_libraries_are_refused_by_name(checkpoint: Folder) -> None:
    folder = checkpoint("cnn")
    with pytest.raises(ValueError, match=r"tokenizer must be a folder, .* got SimpleNamespace"):
        pipeline("summarization", folder, tokenizer=types.SimpleNamespace())
    theirs = BartForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"model must be .* got BartForConditionalGeneration: save it with save_pretrained"
    ):
        pipeline("summarization", theirs, tokenizer=BartTokenizerFast.from_pretrained(folder))


@pytest.mark.parametrize("device", [None, -1, 0, 3, "cpu", "cpu:0", torch.device("cpu"), np.int64(0)])
def test_a_device_that_is_here_is_accepted(device: Any, summarizer: Any) -> None:
    pipe = pipeline("summarization", summarizer.model, tokenizer=summarizer.tokenizer, device=device)
    assert str(pipe.device) == "cpu" and pipe.device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "cuda"),
        ("device", torch.device("cuda:1")),
        ("device_map", {"model.encoder": 0, "model.decoder": "cpu"}),
        ("dtype", "float16"),
        ("torch_dtype", torch.float16),
        ("dtype", "int7"),
        ("dtype", "bfloat16"),  # the fixture's model was loaded in float32
        ("framework", "tf"),
        ("model_kwargs", {"load_in_8bit": True}),
        ("config", {"d_model": 3}),
        ("processor", "x"),
        ("pipeline_class", dict),
    ],
)
def test_an_argument_without_effect_here_is_named(name: str, value: Any, summarizer: Any) -> None:
    with pytest.raises(ValueError, match=name.removeprefix("torch_")):
        pipeline("summarization", summarizer.model, tokenizer=summarizer.tokenizer, **{name: value})(A)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5])
def test_a_batch_size_of_several_inputs_is_at_least_one(batch_size: Any, summarizer: Any) -> None:
    """transformers 4.57.6 checks batch_size only if there are several inputs."""
    with pytest.raises(ValueError, match=f"batch_size must be an integer of at least 1, got {batch_size}"):
        summarizer([A, A], batch_size=batch_size)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, jnp.bfloat16])
def test_bfloat16_is_taken_in_every_form(dtype: Any, checkpoint: Folder) -> None:
    assert pipeline("feature-extraction", checkpoint("bare"), dtype=dtype).model.dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["int8", torch.int8, np.int8])
def test_int8_is_taken_in_every_form(dtype: Any, checkpoint: Folder) -> None:
    fast, exact = (pipeline("feature-extraction", checkpoint("bare"), dtype=name) for name in (dtype, "float32"))
    assert fast.model.dtype == "int8"
    assert fast.model.num_parameters() == exact.model.num_parameters()


@pytest.mark.parametrize("dtype", ["float32", torch.float32, np.float32, "auto", None])
def test_float32_is_taken_in_every_form(dtype: Any, checkpoint: Folder) -> None:
    assert pipeline("feature-extraction", checkpoint("bare"), torch_dtype=dtype).model.dtype == "float32"


def test_what_is_missing_has_the_error_of_transformers(checkpoint: Folder, tmp_path: Any) -> None:
    for model in (checkpoint("missing"), tmp_path):  # a folder that does not exist, and an empty one
        with pytest.raises(OSError):
            pipeline("summarization", model)
    with pytest.raises(RuntimeError, match="task"):
        pipeline(model=checkpoint("cnn"))
    with pytest.raises(RuntimeError):
        pipeline()
    with pytest.raises(RuntimeError, match="model"):
        pipeline("summarization", tokenizer=checkpoint("cnn"))
    with pytest.raises(CheckpointError, match="classification_head"):
        pipeline("text-classification", checkpoint("cnn"))(A)


def test_only_summarization_has_a_model_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bart_inference"):
        pipe = pipeline("summarization")
    assert "debian-tiny" in caplog.text and "facebook/bart-large-cnn" in caplog.text
    assert pipe.model.name_or_path == "debian-tiny"
    for task in ("fill-mask", "question-answering", "translation_en_to_fr", "zero-shot-classification"):
        with pytest.raises(ValueError, match="model must be given"):
            pipeline(task)


def test_attributes_are_those_that_scripts_read(checkpoint: Folder, summarizer: Any) -> None:
    assert (summarizer.task, summarizer.framework, summarizer.prefix, summarizer.return_name) == (
        "summarization", "pt", " ", "summary",
    )  # fmt: skip
    assert summarizer.generation_config.max_length == 24 and summarizer.generation_config.top_k == 50
    assert summarizer.model.config.max_position_embeddings == summarizer.tokenizer.model_max_length == 320
    assert summarizer.model.config.max_length == 20, "scripts for older versions read max_length from the config"
    classifier = pipeline("sentiment-analysis", checkpoint("sentiment"))
    assert classifier.task == "sentiment-analysis"
    assert str(classifier.model.device) == "cpu"
    assert classifier.model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert summarizer.predict(A) == summarizer.transform(A) == summarizer(A)


def test_the_tokenizer_answers_as_that_of_transformers(checkpoint: Folder, summarizer: Any) -> None:
    ours, theirs = summarizer.tokenizer, BartTokenizer.from_pretrained(checkpoint("cnn"))
    assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab()
    for name in ("mask_token", "mask_token_id", "pad_token_id", "eos_token", "cls_token_id", "sep_token"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for options in ({}, {"padding": True}, {"truncation": True, "max_length": 5}, {"add_special_tokens": False}):
        assert ours([A, "x"], **options) == dict(theirs([A, "x"], **options)), options
    ids = ours.encode(A, B)
    assert ids == theirs.encode(A, B) and ours.tokenize(A) == theirs.tokenize(A)
    assert ours.decode(ids) == theirs.decode(ids) and ours.batch_decode([ids]) == theirs.batch_decode([ids])
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_tokens_to_ids(["Ġthe", "zzzz"]) == theirs.convert_tokens_to_ids(["Ġthe", "zzzz"])


# ── Options ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("checkpoint_name", "task", "init", "call", "expected"),
    [
        ("bare", "summarization", {}, {}, {"num_beams": 4, "max_new_tokens": 256}),
        ("base", "text2text-generation", {}, {}, {"num_beams": 2, "max_new_tokens": 256, "forced_eos_token_id": 2}),
        ("base", "summarization", {}, {}, {"num_beams": 4, "max_length": 18, "min_length": 6}),
        ("base", "summarization", {"max_length": 30}, {}, {"max_length": 30, "min_length": 6}),
        ("base", "summarization", {"num_beams": 3}, {}, {"num_beams": 4}),
        ("base", "summarization", {"num_beams": 3}, {"num_beams": 1}, {"num_beams": 1}),
        ("base", "summarization", {"min_length": 2}, {"min_length": 3}, {"min_length": 3}),
        ("base", "text2text-generation", {}, {"max_length": 9}, {"max_length": 9, "max_new_tokens": None}),
        ("base", "text2text-generation", {"max_new_tokens": 5}, {"max_length": 9}, {"max_new_tokens": 5}),
        ("xsum", "summarization", {}, {}, {"num_beams": 6, "max_length": 22}),
        ("cnn", "text2text-generation", {"num_beams": 1}, {}, {"num_beams": 1, "max_length": 24}),
        ("cnn", "summarization", {}, {"max_length": None}, {"max_length": 24}),
    ],
)  # fmt: skip
def test_options_come_from_call_task_constructor_and_file_in_order_of_precedence(
    checkpoint_name: str, task: str, init: dict, call: dict, expected: dict, checkpoint: Folder
) -> None:
    options = pipeline(task, checkpoint(checkpoint_name), **init).options(call)
    assert {name: options.get(name) for name in expected} == expected


def test_the_pipelines_generation_config_can_be_changed(checkpoint: Folder) -> None:
    pipe = pipeline("summarization", checkpoint("bare"))
    pipe.generation_config.max_new_tokens = 7
    assert pipe.options({})["max_new_tokens"] == 7 == pipe.generation_config.to_dict()["max_new_tokens"]


@pytest.mark.parametrize("name", ["typical_p", "penalty_alpha", "num_beam_groups", "stop_strings"])
def test_an_option_that_we_lack_is_named(name: str, summarizer: Any) -> None:
    with pytest.raises(OptionError, match=name):
        summarizer(A, **{name: 3, "do_sample": True})


def test_what_changes_samples_alone_has_no_effect_without_them(summarizer: Any) -> None:
    assert summarizer(A, temperature=0, top_p=0.5, typical_p=0.2, do_sample=False) == summarizer(A)


def test_too_many_tokens_are_both_errors_and_name_both_lengths(summarizer: Any) -> None:
    with pytest.raises(PositionTableError, match=r"texts\[1\] has \d+ tokens, the model reads 320") as caught:
        summarizer([A, LONG])
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, IndexError)
    with pytest.raises(PositionTableError, match="max_length=400 goes beyond the model's 320 positions"):
        summarizer(A, max_length=400)
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        summarizer([A, " "])
    results = summarizer(text for text in (A, A, ""))
    with pytest.raises(ValueError, match=r"texts\[2\] is empty"):
        list(results)


def test_samples_are_repeated_by_the_seed_of_random(summarizer: Any) -> None:
    import random

    options = {"do_sample": True, "num_beams": 1, "temperature": 5.0}
    random.seed(3)
    first = summarizer(A, **options)
    assert summarizer(A, **options) != first
    random.seed(3)
    assert summarizer(A, **options) == first


# ── Laziness, warnings ────────────────────────────────────────────────────────────────────────────────────────────────


def texts(read: list[str]) -> Iterator[str]:
    for text in (A, B, C):
        read.append(text)
        yield text


@pytest.mark.parametrize(("batch_size", "expected"), [(None, [0, 1, 2, 3]), (2, [0, 2, 2, 3])])
def test_a_generator_is_read_no_further_than_its_results_need(
    batch_size: int | None, expected: list[int], checkpoint: Folder
) -> None:
    read: list[str] = []
    results = pipeline("text-classification", checkpoint("sentiment"))(texts(read), batch_size=batch_size)
    counts = [len(read)]
    for _ in results:
        counts.append(len(read))
    assert counts == expected


@pytest.mark.parametrize(
    "wrap", [iter, lambda items: map(str, items), lambda items: torch.utils.data.Subset(items, [0, 1])]
)
def test_what_iterates_lazily_is_answered_lazily(wrap: Any, checkpoint: Folder) -> None:
    pipe = pipeline("sentiment-analysis", checkpoint("sentiment"))
    results = pipe(wrap([A, B]))
    assert isinstance(results, PipelineIterator) and not list(differences(list(results), pipe([A, B])))


def test_a_dataset_has_a_length_and_can_be_read_twice(checkpoint: Folder) -> None:
    pipe = pipeline("sentiment-analysis", checkpoint("sentiment"))
    results = pipe(torch.utils.data.Subset([A, B], [0, 1]))
    assert len(results) == 2 and list(results) == list(results)


def test_warnings_come_once_a_call(summarizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bart_inference"):
        summarizer([A, B, C], max_length=30)
    [record] = caplog.records
    assert record.name == "bart_inference" and "Your max_length is set to 30, but your input_length is" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "bart_inference"):
        summarizer(A, min_length=40, max_length=20)
    assert "Your min_length=40 must be inferior than your max_length=20." in caplog.text


def test_a_mask_that_is_missing_is_a_pipeline_exception(checkpoint: Folder) -> None:
    with pytest.raises(PipelineException, match=r"No mask_token \(<mask>\) found") as caught:
        pipeline("fill-mask", checkpoint("base"))(A)
    assert caught.value.task == "fill-mask"


def test_an_example_may_be_made_before_it_is_asked(checkpoint: Folder) -> None:
    reader = pipeline("question-answering", checkpoint("squad"))
    sample = reader.create_sample(question="What runs?", context=A)
    assert reader(sample) == reader(question="What runs?", context=A)


def test_no_pipeline_imports_torch_or_transformers(checkpoint: Folder) -> None:
    done = run(
        "import sys\nfrom bart_inference import pipeline\n"
        f"pipeline('text-classification', {checkpoint('sentiment')!r})('a text')\n"
        "import bart_inference.pipelines\nprint([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
