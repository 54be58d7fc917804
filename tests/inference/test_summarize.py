"""summarize gives the same texts as transformers, with random checkpoints and with the embedded one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bart_inference import CheckpointError, Model, generate, load, prepare, summarize
from bart_inference.checkpoint import embedded
from bart_inference.generation.stream import stream
from bart_inference.tokenization import decode_text, encode_text, pad, truncate
from transformers import AutoTokenizer, BartForConditionalGeneration

from tests.inference.folders import TEXTS, write_folder
from tests.twins import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("summarizer"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


@torch.no_grad()
def transformers_summaries(folder: Path, texts: list[str], limit: int, **options: Any) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=limit)
    inputs.pop("token_type_ids", None)
    sequences = BartForConditionalGeneration.from_pretrained(folder).generate(**inputs, do_sample=False, **options)
    return [text.strip() for text in tokenizer.batch_decode(sequences, skip_special_tokens=True)]


@pytest.mark.parametrize("options", [{"max_length": 24}, {"max_length": 24, "num_beams": 3, "no_repeat_ngram_size": 2}])
def test_summaries_are_those_of_transformers(folder: Path, model: Model, options: dict[str, Any]) -> None:
    expected = transformers_summaries(folder, TEXTS, TINY["max_position_embeddings"], **options)
    assert summarize(model, TEXTS, **options) == expected
    assert summarize(prepare(model), TEXTS[0], **options) == expected[0]


def test_a_long_text_is_cut_with_a_warning_and_keeps_its_end_token(folder: Path, model: Model) -> None:
    text, limit = " ".join(TEXTS), TINY["max_position_embeddings"]
    count = len(encode_text(model.tokenizer, text))
    assert count > limit
    with pytest.warns(UserWarning, match=rf"texts\[1\] has {count} tokens, the model reads {limit}: the rest is cut"):
        summaries = summarize(model, [TEXTS[0], text], max_length=24)
    assert summaries == transformers_summaries(folder, [TEXTS[0], text], limit, max_length=24)
    assert truncate(encode_text(model.tokenizer, text), limit)[-1] == model.config.eos_token_id


def test_what_cannot_be_summarized_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="texts is empty"):
        summarize(model, [])
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        summarize(model, ["words", " \n"])
    with pytest.raises(ValueError, match="num_return_sequences must be 1 in summarize, got 2"):
        summarize(model, "words", num_beams=2, num_return_sequences=2)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        summarize(dataclasses.replace(model, tokenizer=None), "words")


# ── The embedded checkpoint ───────────────────────────────────────────────────────────────────────────────────────────


DOCUMENTS = [
    "This package provides a small program that shows the weather in a terminal. It reads the forecast from the network"
    " and draws it with colors. It is configured with a file in the home directory.",
    "Python library to read and write spreadsheets. The library supports formulas, styles and charts, and does not need"
    " an office suite. This package installs the library for Python 3.",
    "A game in which the player digs tunnels, collects stones and avoids monsters. There are a hundred levels, and an"
    " editor to make new ones. This package contains the data files.",
    "This is a tool for administrators of mail servers: it analyzes log files and reports delays, refused messages and"
    " the busiest senders.",
]


@torch.no_grad()
@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4}, {}], ids=str)
def test_the_shipped_checkpoint_generates_as_in_transformers(options: dict[str, Any]) -> None:
    folder = embedded()
    model, theirs = load(folder), BartForConditionalGeneration.from_pretrained(folder)
    ids, mask = pad([encode_text(model.tokenizer, text) for text in DOCUMENTS], model.config.pad_token_id)
    expected = theirs.generate(
        torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long(), do_sample=False, **options
    ).numpy()
    generated = generate(model, ids, mask, **options)
    assert np.array_equal(generated.sequences, expected)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text.strip() for text in tokenizer.batch_decode(torch.tensor(expected), skip_special_tokens=True)]
    assert summarize(model, DOCUMENTS, **options) == texts
    assert len(set(texts)) == len(texts), f"one summary for different documents: {texts}"


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4}], ids=str)
def test_a_streamed_summary_is_the_summary_in_pieces(options: dict[str, Any]) -> None:
    model = prepare(load(embedded()))
    parts = list(stream(model, DOCUMENTS[0], **options))
    assert "".join(parts) == summarize(model, DOCUMENTS[0], **options)
    assert (
        len(parts) > 1 or options["num_beams"] > 1
    )  # text is streamed once all beams agree on it, so maybe at the end
    assert "".join(stream(model, DOCUMENTS[0], chunk=7, **options)) == "".join(parts)


def test_the_shipped_tokenizer_gives_the_ids_of_transformers() -> None:
    folder = embedded()
    ours, theirs = load(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    for text in DOCUMENTS:
        ids = encode_text(ours, text)
        assert ids == theirs(text)["input_ids"]
        assert decode_text(ours, ids) == theirs.decode(ids, skip_special_tokens=True).strip()
