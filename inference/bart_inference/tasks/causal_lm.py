"""causal_lm: the decoder as a language model, without an encoder. Shapes: B rows, T positions, V the vocabulary."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.inputs import check_source
from bart_inference.model import transformer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.common import in_buckets
from bart_oneliner import Array, Config, Params


def causal_lm(model: Model | Prepared, input_ids: Any, attention_mask: Any = None) -> np.ndarray:
    """BartForCausalLM: ids and mask (B,T) -> logits (B,T,V) of the token that follows each position.

    There is no source, no cross-attention and no final_logits_bias.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    return in_buckets(run_decoder, prepared, ids, mask)[0][:, : ids.shape[1]]


@functools.partial(jax.jit, static_argnames="config")
def run_decoder(weights: Params, config: Config, ids: Array, mask: Array) -> tuple[Array]:
    """Logits (B,T,V). The head adds final_logits_bias, which BartForCausalLM does not have: it is subtracted again."""
    hidden = transformer.decode_target(weights, config, ids, mask, None, None)
    return (transformer.lm_head(weights, hidden) - weights["final_logits_bias"],)
