"""zero_shot: which of some labels a text is about, by a checkpoint trained on natural language inference (NLI)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.formats import CheckpointError
from bart_inference.inputs import check_texts, require_tokenizer
from bart_inference.model.layout import Prepared
from bart_inference.tasks.classify import classify
from bart_inference.tasks.common import softmax, with_head
from bart_inference.tokenization import TextEncoder, TextError, encode, pad


class Ranking(NamedTuple):
    """A text's candidate labels, the likeliest first."""

    sequence: str
    labels: list[str]
    scores: list[float]


@overload
def zero_shot(
    model: Model | Prepared, text: str, candidate_labels: str | Sequence[str], hypothesis_template: str = ...,
    multi_label: bool = ...,
) -> Ranking: ...  # fmt: skip
@overload
def zero_shot(
    model: Model | Prepared, text: list[str], candidate_labels: str | Sequence[str], hypothesis_template: str = ...,
    multi_label: bool = ...,
) -> list[Ranking]: ...  # fmt: skip
def zero_shot(
    model: Model | Prepared, text: str | list[str], candidate_labels: str | Sequence[str],
    hypothesis_template: str = "This example is {}.", multi_label: bool = False,
) -> Ranking | list[Ranking]:  # fmt: skip
    """The zero-shot-classification pipeline on an NLI checkpoint: one Ranking for a text, a list for a list.

    A label in hypothesis_template gives a hypothesis; each pair of a text and a hypothesis is a row of the batch. The
    scores of a text's labels add up to 1. With multi_label, or for a single label, a score is the probability of
    entailment if contradiction is the only alternative. candidate_labels may be one string, separated by commas. A text
    that is too long for the model beside a hypothesis is truncated with a warning.
    CheckpointError if none of the checkpoint's labels begins with "entail".
    """
    texts = check_texts(text)
    if isinstance(candidate_labels, str):
        labels = [label.strip() for label in candidate_labels.split(",")]
    else:
        labels = list(candidate_labels)
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError(f"candidate_labels must be one text or more, none of them empty, got {candidate_labels!r}")
    if hypothesis_template.format(labels[0]) == hypothesis_template:
        raise ValueError(f"hypothesis_template must have a {{}} for the label, got {hypothesis_template!r}")
    prepared = with_head(model, "classification_head")
    entailment = entailment_id(prepared.labels)
    pairs = []
    for i, premise in enumerate(texts):
        for label in labels:
            pairs.append(encode_pair(prepared, premise, hypothesis_template.format(label), f"texts[{i}]"))
    input_ids, attention_mask = pad(pairs, prepared.config.pad_token_id)
    logits = classify(prepared, input_ids, attention_mask).reshape(len(texts), len(labels), -1)
    if multi_label or len(labels) == 1:
        contradiction = -1 if entailment == 0 else 0
        scores = softmax(logits[..., [contradiction, entailment]])[..., 1]
    else:
        scores = softmax(logits[..., entailment])
    rankings = []
    for premise, row in zip(texts, scores, strict=True):
        order = np.argsort(row)[::-1]
        rankings.append(Ranking(premise, [labels[i] for i in order], row[order].tolist()))
    return rankings[0] if isinstance(text, str) else rankings


def entailment_id(labels: Sequence[str]) -> int:
    """The id of the first label that begins with "entail", which transformers' pipeline takes for entailment."""
    for i, label in enumerate(labels):
        if label.lower().startswith("entail"):
            return i
    raise CheckpointError(
        f"none of the checkpoint's labels {list(labels)} is an entailment: zero_shot needs an NLI model"
    )


def encode_pair(prepared: Prepared, premise: str, hypothesis: str, name: str) -> list[int]:
    """Ids of <s> premise </s></s> hypothesis </s>; if they do not fit, the premise is truncated with a warning.

    name: of the premise, for messages. ValueError if the hypothesis leaves no room for a token of the premise.
    """
    tokenizer, limit = require_tokenizer(prepared), prepared.config.max_position_embeddings
    try:
        window = TextEncoder(tokenizer, limit).truncated(premise, hypothesis)
    except TextError:
        raise ValueError(f"the hypothesis {hypothesis!r} leaves no room for {name} in {limit} positions") from None
    if window.truncated:
        excess = len(encode(tokenizer, premise, hypothesis).ids) - limit
        warnings.warn(f"{name} has {excess} tokens too many beside {hypothesis!r}: they are cut", stacklevel=4)
    return list(window.ids)
