"""question_answering: where in a text the answer begins and ends. Shapes: B rows, S positions."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.inputs import check_source
from bart_inference.model.layout import Prepared
from bart_inference.model.weights import linear
from bart_inference.tasks.common import in_buckets, reread, with_head
from bart_oneliner import Array, Config, Params


class Spans(NamedTuple):
    """BartForQuestionAnswering's outputs, float32 at least."""

    start_logits: np.ndarray  # (B,S)
    end_logits: np.ndarray  # (B,S)


def question_answering(model: Model | Prepared, input_ids: Any, attention_mask: Any = None) -> Spans:
    """BartForQuestionAnswering: ids and mask (B,S) -> logits of each position to begin or end the answer."""
    prepared = with_head(model, "qa_outputs")
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    [logits] = in_buckets(run_spans, prepared, ids, mask)
    return Spans(logits[:, : ids.shape[1], 0], logits[:, : ids.shape[1], 1])


@functools.partial(jax.jit, static_argnames="config")
def run_spans(weights: Params, config: Config, ids: Array, mask: Array) -> tuple[Array]:
    """Logits (B,S,2): of each position to be the first, and the last, of the answer."""
    return (linear(reread(weights, config, ids, mask), **weights["qa_outputs"]),)
