"""classify: the logits of a classifier's classes. Shapes: B rows, S positions, C classes."""

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

    The head reads the decoder's state at a row's last end-of-sequence token; ValueError for a row without one. Rows may
    have different numbers of these tokens, which transformers allows only in batches of one row.
    """
    prepared = with_head(model, "classification_head")
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    eos = prepared.config.eos_token_id
    is_eos = ids == eos
    has_eos = is_eos.any(1)
    if not has_eos.all():
        raise ValueError(f"input_ids[{int(has_eos.argmin())}] has no end-of-sequence token {eos}")
    last = np.where(is_eos, np.arange(ids.shape[1]), 0).max(1, keepdims=True)
    return in_buckets(run_classifier, prepared, ids, mask, last)[0]


@functools.partial(jax.jit, static_argnames="config")
def run_classifier(weights: Params, config: Config, ids: Array, mask: Array, last: Array) -> tuple[Array]:
    """Logits (B,C) from the hidden states at the positions in the first column of `last` (B,n).

    in_buckets pads `last` (B,1) with further columns, which are not read.
    """
    sentence = at_positions(reread(weights, config, ids, mask), last)[:, 0]
    head = weights["classification_head"]
    hidden = jnp.tanh(linear(sentence, **head["dense"]))
    return (linear(hidden, **head["out_proj"]),)
