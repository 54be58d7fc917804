"""features: the hidden states of encoder and decoder. Shapes: B rows, S and T positions, D the model's width."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.inputs import check_source
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.common import hidden_states, in_buckets
from bart_oneliner import shift_right


class Features(NamedTuple):
    """BartModel's outputs, float32 at least."""

    last_hidden_state: np.ndarray  # (B,T,D), the decoder's
    encoder_last_hidden_state: np.ndarray  # (B,S,D)


def features(
    model: Model | Prepared,
    input_ids: Any,
    attention_mask: Any = None,
    decoder_input_ids: Any = None,
    decoder_attention_mask: Any = None,
) -> Features:
    """The hidden states of BartModel. Source ids and mask are (B,S), the decoder's (B,T); a missing mask is all ones.

    Without decoder_input_ids the decoder reads the source, shifted right.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    if decoder_input_ids is None:
        decoder_input_ids = np.asarray(shift_right(jnp.asarray(ids), prepared.config))
    target, target_mask = check_source(decoder_input_ids, decoder_attention_mask, prepared.config, "decoder_")
    if len(target) != len(ids):
        raise ValueError(f"decoder_input_ids has {len(target)} rows, input_ids {len(ids)}")
    decoded, encoded = in_buckets(hidden_states, prepared, ids, mask, target, target_mask)
    return Features(decoded[:, : target.shape[1]], encoded[:, : ids.shape[1]])
