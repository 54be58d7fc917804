"""classify: logits of a checkpoint's own classes. C is classes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.inputs import check_source
from bart_inference.model.layout import Prepared
from bart_inference.model.weights import linear
from bart_inference.tasks.common import at_positions, in_buckets, reread, with_head
from bart_oneliner import Array, Config, Params


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


@functools.partial(jax.jit, static_argnames="config")
def run_classifier(weights: Params, config: Config, ids: Array, mask: Array, last: Array) -> tuple[Array]:
    """Logits (B,C) from the states at the positions last (B,n), of which the first counts."""
    sentence = at_positions(reread(weights, config, ids, mask), last)[:, 0]
    head = weights["classification_head"]
    return (linear(jnp.tanh(linear(sentence, **head["dense"])), **head["out_proj"]),)
