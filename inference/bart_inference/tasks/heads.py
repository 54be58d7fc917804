"""What users of BART checkpoints do besides generating: features, classification, zero-shot, spans, blanks, a plain LM.

Letters as in bart_oneliner; C is classes. Functions on ids return what transformers' class of the same purpose returns,
functions on texts what its pipeline returns. All take a Model or a Prepared one (which saves the conversion on every
call), run in the shape buckets of `generate`, and raise ValueError, naming the argument, for an empty batch, ids
outside the vocabulary or more positions than the model has, and CheckpointError where the checkpoint lacks the head.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.buckets import LENGTHS, bucket
from bart_inference.checkpoint import CheckpointError, Model
from bart_inference.devices import jit_on_rows, mesh_of, most_rows, rows_bucket
from bart_inference.generation.generate import check_source
from bart_inference.model import transformer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.summarize import require_tokenizer
from bart_inference.tokenization import pad, printable
from bart_oneliner import Array, Config, Params, shift_right

MASK = "<mask>"

# ── On ids ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Features(NamedTuple):
    """BartModel's outputs, float32 at least."""

    last_hidden_state: np.ndarray  # (B,T,D), the decoder's
    encoder_last_hidden_state: np.ndarray  # (B,S,D)


class Spans(NamedTuple):
    """BartForQuestionAnswering's outputs, float32 at least."""

    start_logits: np.ndarray  # (B,S)
    end_logits: np.ndarray  # (B,S)


def features(
    model: Model | Prepared,
    input_ids: Any,
    attention_mask: Any = None,
    decoder_input_ids: Any = None,
    decoder_attention_mask: Any = None,
) -> Features:
    """The hidden states of BartModel: ids and masks (B,S), (B,S), (B,T), (B,T) -> (B,T,D) and (B,S,D).

    Without decoder_input_ids the decoder reads the source, shifted right; a missing mask is all ones.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    target = (
        np.asarray(shift_right(jnp.asarray(ids), prepared.config)) if decoder_input_ids is None else decoder_input_ids
    )
    target, target_mask = check_source(target, decoder_attention_mask, prepared.config, "decoder_")
    if len(target) != len(ids):
        raise ValueError(f"decoder_input_ids has {len(target)} rows, input_ids {len(ids)}")
    decoded, encoded = in_buckets(run, prepared, ids, mask, target, target_mask)
    return Features(decoded[:, : target.shape[1]], encoded[:, : ids.shape[1]])


def classify(model: Model | Prepared, input_ids: Any, attention_mask: Any = None) -> np.ndarray:
    """BartForSequenceClassification: ids and mask (B,S) -> logits (B,C), in the order of the model's `labels`.

    Each row is judged by the decoder's state at its own last end-of-sequence token, so rows may hold different numbers
    of them (transformers refuses such a batch; its answer for the row alone is the same). ValueError for a row without.
    """
    prepared = with_head(model, "classification_head")
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    ends = ids == prepared.config.eos_token_id
    if not ends.any(1).all():
        row, end = int(ends.any(1).argmin()), prepared.config.eos_token_id
        raise ValueError(f"input_ids[{row}] has no end-of-sequence token {end}")
    last = np.where(ends, np.arange(ids.shape[1]), 0).max(1, keepdims=True)
    return in_buckets(run_classifier, prepared, ids, mask, last)[0]


def question_answering(model: Model | Prepared, input_ids: Any, attention_mask: Any = None) -> Spans:
    """BartForQuestionAnswering: ids and mask (B,S) -> logits of each position to begin or end the answer."""
    prepared = with_head(model, "qa_outputs")
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    [logits] = in_buckets(run_spans, prepared, ids, mask)
    return Spans(logits[:, : ids.shape[1], 0], logits[:, : ids.shape[1], 1])


def causal_lm(model: Model | Prepared, input_ids: Any, attention_mask: Any = None) -> np.ndarray:
    """BartForCausalLM: ids and mask (B,T) -> logits (B,T,V) of the token that follows each.

    The decoder by itself: no source, no cross-attention, no final_logits_bias.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    return in_buckets(run_alone, prepared, ids, mask)[0][:, : ids.shape[1]]


def with_head(model: Model | Prepared, name: str) -> Prepared:
    prepared = prepare(model)
    if name not in prepared.weights:
        raise CheckpointError(f"the checkpoint has no {name!r}: it was not trained for this task")
    return prepared


def in_buckets(f: Callable[..., Any], prepared: Prepared, *arrays: np.ndarray) -> list[np.ndarray]:
    """f(weights, config, …) on arrays (B,S) padded to the buckets' shapes -> its float arrays (B,…) for our rows."""
    limit, pieces, mesh = prepared.config.max_position_embeddings, [], mesh_of(prepared.weights)
    most = most_rows(mesh)
    for first in range(0, len(arrays[0]), most):
        piece = [a[first : first + most] for a in arrays]
        n = len(piece[0])
        more = [(rows_bucket(n, mesh) - n, bucket(a.shape[1], LENGTHS, limit) - a.shape[1]) for a in piece]
        padded = [np.pad(a, ((0, rows), (0, columns))) for a, (rows, columns) in zip(piece, more, strict=True)]
        outputs = jit_on_rows(mesh, f)(prepared.weights, prepared.config, *padded)
        pieces.append([np.asarray(x, np.promote_types(x.dtype, np.float32))[:n] for x in outputs])
    return [np.concatenate(column) for column in zip(*pieces, strict=True)]


@functools.partial(jax.jit, static_argnames="config")
def run(
    weights: Params, config: Config, ids: Array, mask: Array, target: Array, target_mask: Array
) -> tuple[Array, Array]:
    """The decoder's and the encoder's last hidden states."""
    encoded = transformer.encode(weights, config, ids, jnp.arange(ids.shape[1]), mask)
    cross = transformer.project(weights, config, encoded)
    return transformer.decode(weights, config, target, target_mask, cross, mask), encoded


def reread(weights: Params, config: Config, ids: Array, mask: Array) -> Array:
    """The decoder's hidden states (B,S,D) over the source, with the source as its input: what the heads look at."""
    return run(weights, config, ids, mask, shift_right(ids, config), jnp.ones_like(mask))[0]


@functools.partial(jax.jit, static_argnames="config")
def run_classifier(weights: Params, config: Config, ids: Array, mask: Array, last: Array) -> tuple[Array]:
    """Logits (B,C) from the states at the positions last (B,n), of which the first counts."""
    sentence = at_positions(reread(weights, config, ids, mask), last)[:, 0]
    head = weights["classification_head"]
    return (transformer.linear(jnp.tanh(transformer.linear(sentence, **head["dense"])), **head["out_proj"]),)


@functools.partial(jax.jit, static_argnames="config")
def run_spans(weights: Params, config: Config, ids: Array, mask: Array) -> tuple[Array]:
    return (transformer.linear(reread(weights, config, ids, mask), **weights["qa_outputs"]),)


@functools.partial(jax.jit, static_argnames="config")
def run_alone(weights: Params, config: Config, ids: Array, mask: Array) -> tuple[Array]:
    hidden = transformer.decode(weights, config, ids, mask, None, None)
    return (transformer.lm_head(weights, hidden) - weights["final_logits_bias"],)


@functools.partial(jax.jit, static_argnames="config")
def run_blanks(weights: Params, config: Config, ids: Array, mask: Array, at: Array) -> tuple[Array]:
    """Logits (B,n,V) at the positions at (B,n)."""
    return (transformer.lm_head(weights, at_positions(reread(weights, config, ids, mask), at)),)


def at_positions(hidden: Array, at: Array) -> Array:
    """hidden (B,S,D) at positions (B,n) -> (B,n,D)."""
    return jnp.take_along_axis(hidden, at[..., None], 1)


# ── On texts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Ranking(NamedTuple):
    """A text's candidate labels, the likeliest first."""

    sequence: str
    labels: list[str]
    scores: list[float]


class Filled(NamedTuple):
    """One way to fill a blank."""

    score: float  # its probability
    token: int
    token_str: str
    sequence: str  # the text with this blank filled


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

    Every pair of text and hypothesis is a row of one batch. Scores add up to one over the labels, or with multi_label
    (and for a single label) are each label's own probability of entailment against contradiction. Labels may be one
    string, separated by commas. A text too long for the model is cut with a warning, its hypothesis never.
    CheckpointError if none of the checkpoint's labels begins with "entail".
    """
    texts = check_texts(text)
    labels = candidate_labels.split(",") if isinstance(candidate_labels, str) else list(candidate_labels)
    labels = [label.strip() for label in labels] if isinstance(candidate_labels, str) else labels
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError(f"candidate_labels must be one text or more, none of them empty, got {candidate_labels!r}")
    if hypothesis_template.format(labels[0]) == hypothesis_template:
        raise ValueError(f"hypothesis_template must have a {{}} for the label, got {hypothesis_template!r}")
    prepared = with_head(model, "classification_head")
    entailment = entailment_id(prepared.labels)
    pairs = [
        encode_pair(prepared, one, hypothesis_template.format(label), f"texts[{i}]")
        for i, one in enumerate(texts)
        for label in labels
    ]
    logits = classify(prepared, *pad(pairs, prepared.config.pad_token_id)).reshape(len(texts), len(labels), -1)
    if multi_label or len(labels) == 1:
        contradiction = -1 if entailment == 0 else 0
        scores = softmax(logits[..., [contradiction, entailment]])[..., 1]
    else:
        scores = softmax(logits[..., entailment])
    rankings = []
    for one, row in zip(texts, scores, strict=True):
        order = np.argsort(row)[::-1]
        rankings.append(Ranking(one, [labels[i] for i in order], row[order].tolist()))
    return rankings[0] if isinstance(text, str) else rankings


@overload
def fill_mask(model: Model | Prepared, text: str, top_k: int = ...) -> list[list[Filled]]: ...
@overload
def fill_mask(model: Model | Prepared, text: list[str], top_k: int = ...) -> list[list[list[Filled]]]: ...
def fill_mask(
    model: Model | Prepared, text: str | list[str], top_k: int = 5
) -> list[list[Filled]] | list[list[list[Filled]]]:
    """The fill-mask pipeline: for each <mask> of a text (of each text in a list) the top_k tokens, the likeliest first.

    Every blank is filled by itself, the others stay in `sequence`. ValueError for a text without a <mask>, or one too
    long for the model.
    """
    prepared, texts = prepare(model), check_texts(text)
    tokenizer = require_tokenizer(prepared)
    mask_id, V = tokenizer.token_to_id(MASK), prepared.config.vocab_size
    if not isinstance(top_k, int) or not 1 <= top_k <= V:
        raise ValueError(f"top_k must be between 1 and the vocabulary's size {V}, got {top_k!r}")
    rows = [tokenizer.encode(printable(one)).ids for one in texts]
    blanks = [[i for i, token in enumerate(row) if token == mask_id] for row in rows]
    for i, at in enumerate(blanks):
        if not at:
            raise ValueError(f"texts[{i}] has no {MASK}")
    ids, mask = check_source(*pad(rows, prepared.config.pad_token_id), prepared.config)
    [logits] = in_buckets(run_blanks, prepared, ids, mask, pad(blanks, 0)[0])

    def fill(row: list[int], at: Sequence[int], logits: np.ndarray) -> Iterator[list[Filled]]:
        for position, scores in zip(at, softmax(logits), strict=False):  # behind a row's own blanks there is padding
            best = np.argsort(-scores, kind="stable")[:top_k].tolist()
            texts = ([*row[:position], token, *row[position + 1 :]] for token in best)
            yield [
                Filled(float(scores[token]), token, tokenizer.decode([token], skip_special_tokens=False), sequence)
                for token, sequence in zip(
                    best, (tokenizer.decode(ids, skip_special_tokens=len(at) == 1) for ids in texts), strict=True
                )
            ]

    filled = [list(fill(row, at, scores)) for row, at, scores in zip(rows, blanks, logits, strict=True)]
    return filled[0] if isinstance(text, str) else filled


def check_texts(text: str | list[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError("texts is empty")
    for i, one in enumerate(texts):
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"texts[{i}] must be a text with at least one word, got {one!r}")
    return texts


def entailment_id(labels: Sequence[str]) -> int:
    """The class that says "entailment": as the pipeline, the first label that begins so."""
    for i, label in enumerate(labels):
        if label.lower().startswith("entail"):
            return i
    raise CheckpointError(
        f"none of the checkpoint's labels {list(labels)} is an entailment: zero_shot needs an NLI model"
    )


def encode_pair(prepared: Prepared, premise: str, hypothesis: str, name: str) -> list[int]:
    """<s> premise </s></s> hypothesis </s>, the premise cut with a warning where both do not fit."""
    encoding = require_tokenizer(prepared).encode(printable(premise), printable(hypothesis))
    over = len(encoding.ids) - prepared.config.max_position_embeddings
    if over <= 0:
        return encoding.ids
    own = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 0]
    if over >= len(own):
        raise ValueError(
            f"the hypothesis {hypothesis!r} leaves no room for {name} in {len(encoding.ids) - over} positions"
        )
    cut = set(own[len(own) - over :])
    warnings.warn(f"{name} has {over} tokens too many beside {hypothesis!r}: they are cut", stacklevel=4)
    return [token for i, token in enumerate(encoding.ids) if i not in cut]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
