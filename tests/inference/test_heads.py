"""The task heads equal transformers' classes and pipelines on the same checkpoints and texts."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from bart_inference import (
    CheckpointError,
    Model,
    causal_lm,
    classify,
    features,
    fill_mask,
    load,
    prepare,
    question_answering,
    zero_shot,
)
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartForQuestionAnswering,
    BartForSequenceClassification,
    BartTokenizer,
    PreTrainedModel,
    pipeline,
)

from tests.inference.folders import TEXTS, write_folder
from tests.twins import TINY, Twin, assert_close, batch, of, randomize

SHAPES: list[dict[str, Any]] = [{}, {"scale_embedding": True, "activation_function": "relu", "pad_token_id": 0}]


def with_class(kind: type[PreTrainedModel], **fields: Any) -> tuple[Twin, Model]:
    model = kind(BartConfig(**{**TINY, **fields}))
    randomize(model)
    twin = of(model)
    return twin, Model(twin.params, twin.config, {}, None)


def sources(twin: Twin, ends: int = 1, B: int = 5, S: int = 13) -> dict[str, np.ndarray]:
    """Padded sources (B,S), each with `ends` end-of-sequence tokens as its last tokens before the padding."""
    arrays = batch(twin.config, B, S)
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    mask[:, : ends + 1] = 1
    ids[:, : ends + 1] = 7
    for row, length in zip(ids, mask.sum(1), strict=True):
        row[length - ends : length] = twin.config.eos_token_id
    return {"input_ids": ids, "attention_mask": mask}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array).long() for name, array in arrays.items()}


@pytest.mark.parametrize("fields", SHAPES)
@torch.no_grad()
def test_features_equal_bart_model(fields: dict[str, Any]) -> None:
    twin, model = with_class(BartForConditionalGeneration, **fields)
    x = batch(twin.config, B=3, S=11, T=7)
    del x["labels"]
    theirs, ours = twin.torch.model(**tensors(x)), features(model, **x)
    assert_close(ours.last_hidden_state, theirs.last_hidden_state, what="decoder")
    real = x["attention_mask"][..., None] == 1
    assert_close(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state, what="encoder", where=real)


@torch.no_grad()
def test_features_without_a_target_read_the_source_shifted_right() -> None:
    twin, model = with_class(BartForConditionalGeneration)
    x = sources(twin)
    assert_close(features(model, **x).last_hidden_state, twin.torch.model(**tensors(x)).last_hidden_state)


@pytest.mark.parametrize("fields", SHAPES)
@pytest.mark.parametrize(("labels", "ends"), [(1, 1), (3, 3)])
@torch.no_grad()
def test_classification_equals_bart_for_sequence_classification(fields: dict[str, Any], labels: int, ends: int) -> None:
    twin, model = with_class(BartForSequenceClassification, num_labels=labels, **fields)
    x = sources(twin, ends)
    assert_close(classify(model, **x), twin.torch(**tensors(x)).logits)


@torch.no_grad()
def test_rows_with_different_numbers_of_ends_are_classified_as_alone() -> None:
    twin, model = with_class(BartForSequenceClassification, num_labels=3)
    x = sources(twin, ends=1)
    x["input_ids"][1::2, 0] = twin.config.eos_token_id  # these rows have two end-of-sequence tokens
    with pytest.raises(ValueError, match="same number of <eos>"):
        twin.torch(**tensors(x))
    alone = [twin.torch(**tensors({name: a[i : i + 1] for name, a in x.items()})).logits[0] for i in range(5)]
    assert_close(classify(model, **x), torch.stack(alone))


def test_padding_does_not_change_a_classification() -> None:
    twin, model = with_class(BartForSequenceClassification, num_labels=3)
    x = sources(twin, B=3, S=10)
    wider = {name: np.pad(a, ((0, 0), (0, 9)), constant_values=0) for name, a in x.items()}
    assert_close(classify(model, **wider), classify(model, **x), tolerance=1e-6)


@pytest.mark.parametrize("fields", SHAPES)
@torch.no_grad()
def test_spans_equal_bart_for_question_answering(fields: dict[str, Any]) -> None:
    twin, model = with_class(BartForQuestionAnswering, **fields)
    x = sources(twin, ends=3)
    theirs, ours = twin.torch(**tensors(x)), question_answering(model, **x)
    assert_close(ours.start_logits, theirs.start_logits, what="start")
    assert_close(ours.end_logits, theirs.end_logits, what="end")


@pytest.mark.parametrize("fields", SHAPES)
@torch.no_grad()
def test_the_language_model_equals_bart_for_causal_lm(fields: dict[str, Any]) -> None:
    twin, model = with_class(BartForConditionalGeneration, **fields)
    alone = BartForCausalLM(copy.deepcopy(twin.torch.config)).eval()
    alone.model.decoder.load_state_dict(twin.torch.model.decoder.state_dict())
    alone.tie_weights()
    x = sources(twin)
    real = x["attention_mask"][..., None] == 1
    theirs = functools.partial(alone, use_cache=False)  # its cache would have only as many layers as the encoder
    assert_close(causal_lm(model, **x), theirs(**tensors(x)).logits, where=real)
    assert_close(causal_lm(model, x["input_ids"]), theirs(tensors(x)["input_ids"]).logits, what="without a mask")


def test_heads_take_a_prepared_model_and_more_rows_than_a_bucket_holds() -> None:
    twin, model = with_class(BartForSequenceClassification, num_labels=3)
    x = sources(twin, B=70, S=6)
    whole = classify(prepare(model), **x)
    rows = np.concatenate(
        [classify(model, x["input_ids"][i : i + 1], x["attention_mask"][i : i + 1]) for i in (0, 65, 69)]
    )
    assert_close(whole[[0, 65, 69]], rows, tolerance=1e-6)


def test_answers_are_float32_when_the_model_computes_in_bfloat16() -> None:
    twin, model = with_class(BartForSequenceClassification, num_labels=3)
    half = Model(jax.tree.map(lambda a: a.astype("bfloat16"), twin.params), *list(model)[1:])
    logits = classify(half, **sources(twin))
    assert logits.dtype == np.float32
    assert_close(logits, classify(model, **sources(twin)), tolerance=0.1, what="bfloat16")


# ── Pipelines ─────────────────────────────────────────────────────────────────────────────────────────────────────────

NLI = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Any]]:
    """A model for natural language inference, loaded by us, and transformers' pipeline for the same folder."""
    labels = {"label2id": {name: i for i, name in NLI["id2label"].items()}, **NLI}
    folder = write_folder(tmp_path_factory.mktemp("nli"), BartForSequenceClassification, **labels)
    yield load(folder), zero_shot_pipeline(folder)


def zero_shot_pipeline(folder: Path) -> Any:
    tokenizer = BartTokenizer.from_pretrained(folder, model_max_length=TINY["max_position_embeddings"])
    model = BartForSequenceClassification.from_pretrained(folder)
    return pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "labels", [["weather"], ["weather", "programs", "animals"], "weather, old programs , cats", ["a", "the</s> end"]]
)
def test_zero_shot_scores_equal_the_pipeline(nli: tuple[Model, Any], labels: Any, multi_label: bool) -> None:
    model, theirs = nli
    expected = theirs(TEXTS, candidate_labels=labels, multi_label=multi_label)
    for ours, reference in zip(zero_shot(model, TEXTS, labels, multi_label=multi_label), expected, strict=True):
        assert ours.sequence == reference["sequence"]
        assert ours.labels == reference["labels"]
        assert_close(ours.scores, reference["scores"], what=f"scores of {ours.sequence!r}")


def test_zero_shot_takes_one_text_and_another_template(nli: tuple[Model, Any]) -> None:
    model, theirs = nli
    template, labels = "It is about {}, I think.", ["weather", "cats"]
    ours, expected = (
        zero_shot(model, TEXTS[0], labels, template),
        theirs(TEXTS[0], labels, hypothesis_template=template),
    )
    assert ours.labels == expected["labels"]
    assert_close(ours.scores, expected["scores"])


def test_zero_shot_cuts_a_long_text_as_the_pipeline_does_and_says_so(nli: tuple[Model, Any]) -> None:
    model, theirs = nli
    text, labels = " ".join(TEXTS), ["weather", "cats"]
    with pytest.warns(UserWarning, match=r"texts\[0\] has \d+ tokens too many"):
        ours = zero_shot(model, text, labels)
    expected = theirs(text, candidate_labels=labels)
    assert ours.labels == expected["labels"]
    assert_close(ours.scores, expected["scores"])


@pytest.mark.parametrize("order", [("entailment", "neutral", "contradiction"), ("NEUTRAL", "Entails", "no")])
def test_entailment_is_found_by_its_label(tmp_path: Path, order: tuple[str, ...]) -> None:
    labels = {"id2label": dict(enumerate(order)), "label2id": {name: i for i, name in enumerate(order)}}
    folder = write_folder(tmp_path, BartForSequenceClassification, **labels)
    model, names = load(folder), ["weather", "cats"]
    assert model.labels == order
    for multi_label in (False, True):
        expected = zero_shot_pipeline(folder)(TEXTS[0], names, multi_label=multi_label)
        assert_close(zero_shot(model, TEXTS[0], names, multi_label=multi_label).scores, expected["scores"])


@pytest.fixture(scope="module")
def blanks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    folder = write_folder(tmp_path_factory.mktemp("blanks"))
    model = BartForConditionalGeneration.from_pretrained(folder)
    return load(folder), pipeline("fill-mask", model=model, tokenizer=BartTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("top_k", [1, 5])
@pytest.mark.parametrize("text", ["The <mask> sat on the mat.", "<mask> reads", "A<mask>text and a <mask> one<mask>"])
def test_filled_blanks_equal_the_pipeline(blanks: tuple[Model, Any], text: str, top_k: int) -> None:
    model, theirs = blanks
    expected = theirs(text, top_k=top_k)
    expected = expected if isinstance(expected[0], list) else [expected]  # one <mask> has no outer list
    ours = fill_mask(model, text, top_k)
    assert [[f._asdict() | {"score": 0} for f in blank] for blank in ours] == [
        [dict(f) | {"score": 0} for f in blank] for blank in expected
    ]
    for mine, reference in zip(ours, expected, strict=True):
        assert_close([f.score for f in mine], [f["score"] for f in reference])


def test_blanks_of_several_texts_are_filled_as_alone(blanks: tuple[Model, Any]) -> None:
    model, _ = blanks
    texts = ["The <mask> sat.", "A long <mask> and a <mask> with many more words in it"]
    for ours, text in zip(fill_mask(model, texts), texts, strict=True):
        alone = fill_mask(model, text)
        assert [[f.token for f in blank] for blank in ours] == [[f.token for f in blank] for blank in alone]


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_without_the_head_is_refused_by_name(blanks: tuple[Model, Any]) -> None:
    model, _ = blanks
    with pytest.raises(CheckpointError, match="'classification_head'"):
        classify(model, [[0, 5, 2]])
    with pytest.raises(CheckpointError, match="'qa_outputs'"):
        question_answering(model, [[0, 5, 2]])
    with pytest.raises(CheckpointError, match="'classification_head'"):
        zero_shot(model, "a", ["b"])


def test_bad_arguments_are_refused_by_name(nli: tuple[Model, Any], blanks: tuple[Model, Any]) -> None:
    model, _ = nli
    with pytest.raises(ValueError, match=r"input_ids\[1\] has no end-of-sequence token 2"):
        classify(model, [[0, 5, 2], [0, 5, 5]])
    with pytest.raises(ValueError, match="input_ids has the id 4000"):
        classify(model, [[0, 4000, 2]])
    with pytest.raises(ValueError, match="input_ids has 49 positions, the position table 48"):
        classify(model, np.full((1, 49), 2))
    with pytest.raises(ValueError, match="decoder_input_ids has 49 positions"):
        features(model, [[0, 2]], decoder_input_ids=np.full((1, 49), 2))
    with pytest.raises(ValueError, match="decoder_input_ids has 2 rows, input_ids 1"):
        features(model, [[0, 2]], decoder_input_ids=np.full((2, 3), 2))
    with pytest.raises(ValueError, match="candidate_labels"):
        zero_shot(model, "a text", [])
    with pytest.raises(ValueError, match="candidate_labels"):
        zero_shot(model, "a text", ["one", " "])
    with pytest.raises(ValueError, match="hypothesis_template"):
        zero_shot(model, "a text", ["one"], "no place")
    with pytest.raises(ValueError, match=r"texts\[1\]"):
        zero_shot(model, ["a text", " "], ["one"])
    with pytest.raises(ValueError, match="leaves no room"):
        zero_shot(model, "a text", [" ".join(TEXTS)])
    with pytest.raises(ValueError, match="texts is empty"):
        fill_mask(blanks[0], [])
    with pytest.raises(ValueError, match=r"texts\[0\] has no <mask>"):
        fill_mask(blanks[0], "nothing to fill")
    with pytest.raises(ValueError, match="top_k must be between 1 and"):
        fill_mask(blanks[0], "<mask>", top_k=0)


def test_labels_that_name_no_entailment_are_refused(tmp_path: Path) -> None:
    model = load(write_folder(tmp_path, BartForSequenceClassification, num_labels=2))
    assert model.labels == ("LABEL_0", "LABEL_1")
    with pytest.raises(CheckpointError, match="LABEL_0"):
        zero_shot(model, "a text", ["one"])
