"""features: the hidden states of both sides."""

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
    decoded, encoded = in_buckets(hidden_states, prepared, ids, mask, target, target_mask)
    return Features(decoded[:, : target.shape[1]], encoded[:, : ids.shape[1]])
