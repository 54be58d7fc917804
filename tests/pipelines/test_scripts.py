"""Three published scripts for transformers' pipeline run with ours if their import is changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from bart_inference import pipeline

ARTICLE = """
    America has changed dramatically during recent years. Not only has the number of graduates in traditional
    engineering disciplines declined, but in most of the premier universities engineering curricula now concentrate on
    and encourage largely the study of engineering science. As a result, there are declining offerings in engineering
    subjects dealing with infrastructure, the environment, and related issues.
"""


def test_the_courses_summarizer_without_a_model() -> None:
    """Chapter 1 of huggingface/course makes a summarizer without naming a model."""
    summarizer = pipeline("summarization")
    [result] = summarizer(ARTICLE)
    assert list(result) == ["summary_text"] and result["summary_text"].strip()


def test_the_card_of_bart_large_cnn(checkpoint: Callable[[str], str], capsys: Any) -> None:
    """Runs the example of facebook/bart-large-cnn's model card with a small checkpoint that has the same files."""
    summarizer = pipeline("summarization", model=checkpoint("cnn"))
    print(summarizer(ARTICLE, max_length=130, min_length=30, do_sample=False))
    printed = eval(capsys.readouterr().out)
    assert len(summarizer.tokenizer.encode(printed[0]["summary_text"])) >= 28


class Summary:
    """Makes the calls of transformers' pipeline that txtai's class Summary makes (issue 1085 of txtai)."""

    def __init__(self, path: Any, **arguments: Any):
        names = inspect.getfullargspec(pipeline).args
        model = {name: value for name, value in arguments.items() if name not in names}
        others = {name: value for name, value in arguments.items() if name in names}
        device = torch.device("cpu")
        self.pipeline = pipeline("summarization", model=path, device=device, model_kwargs=model, **others)
        if self.pipeline.tokenizer.model_max_length == int(1e30):
            self.pipeline.tokenizer.model_max_length = self.pipeline.model.config.max_position_embeddings

    def __call__(self, texts: list[str], length: int | None = None) -> list[str]:
        min_characters = length if length else self.pipeline.model.config.max_length
        inputs = [text for text in texts if len(text) >= min_characters]
        options = {"max_length": length, "min_length": length} if length else {}
        results = iter(self.pipeline(inputs, num_workers=0, truncation=True, **options))
        return [next(results)["summary_text"].strip() if len(text) >= min_characters else text for text in texts]


def test_the_class_summary_of_txtai(checkpoint: Callable[[str], str]) -> None:
    summary = Summary(checkpoint("cnn"), low_cpu_mem_usage=True)
    summarized, kept = summary([ARTICLE, "too short"], length=20)
    assert kept == "too short" and summarized != ARTICLE and summarized
    assert len(summary([ARTICLE * 20])) == 1, "a long text is not answered"
