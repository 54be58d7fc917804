"""score: the log-probability that a model gives to each token of a target text.

Shapes: B rows, S source positions, T target positions, D the model's width, V the vocabulary.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bart_inference.checkpoint import Model
from bart_inference.inputs import as_array, check_ids, check_source
from bart_inference.model import transformer
from bart_inference.model.layout import Prepared, prepare
from bart_inference.tasks.common import hidden_states, in_buckets
from bart_oneliner import Array, Config, Params, shift_right

IGNORED = -100  # a label that is not scored, as in torch.nn.CrossEntropyLoss
# Target positions whose logits are in memory at once. 512 rows of BART's 50,265 logits take 98 MiB; the logits of all
# positions of a batch of 64 targets with 1,024 tokens would take 12 GiB.
POSITIONS = 512


def score(model: Model | Prepared, input_ids: Any, attention_mask: Any, labels: Any) -> np.ndarray:
    """Log-probabilities (B,T) float32, in nats, of the target tokens `labels` (B,T) given the sources (B,S).

    Labels have the form of `bart_oneliner.loss` and of transformers: the decoder reads them shifted right, with the
    start token first and padding in place of -100. The result is 0 where a label is -100. Elsewhere it does not depend
    on later labels. attention_mask (B,S): 1 for real source tokens, all ones if None.
    ValueError for an empty batch, shapes that disagree, ids outside the vocabulary, or more positions than the model
    has.
    """
    prepared = prepare(model)
    ids, mask = check_source(input_ids, attention_mask, prepared.config)
    targets = check_labels(labels, len(ids), prepared.config)
    [log_probs] = in_buckets(run_score, prepared, ids, mask, targets)
    return log_probs[:, : targets.shape[1]]


def check_labels(labels: Any, rows: int, config: Config) -> np.ndarray:
    """Labels as int32 (B,T); ValueError says what is wrong with them."""
    targets = as_array("labels", labels)
    if targets.ndim != 2 or targets.size == 0:
        raise ValueError(f"labels must be (batch, length) and not empty, got shape {targets.shape}")
    if len(targets) != rows:
        raise ValueError(f"labels has {len(targets)} rows, input_ids {rows}")
    limit = config.max_position_embeddings
    if targets.shape[1] > limit:
        raise ValueError(f"labels has {targets.shape[1]} positions, the position table {limit}")
    check_ids("labels", np.where(targets == IGNORED, 0, targets), config)
    return targets.astype(np.int32)


@functools.partial(jax.jit, static_argnames="config")
def run_score(weights: Params, config: Config, ids: Array, mask: Array, labels: Array) -> tuple[Array]:
    """Log-probabilities (B,T), float32, of labels (B,T) int32; ids (B,S) int32 and mask (B,S) bool are the sources."""
    targets = shift_right(labels, config)
    hidden, _ = hidden_states(weights, config, ids, mask, targets, jnp.ones(targets.shape, bool))

    def log_prob(block: tuple[Array, Array]) -> Array:
        states, tokens = block  # (n,D), (n,)
        logits = transformer.lm_head(weights, states[None])[0].astype(jnp.float32)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, None], 1)[:, 0]

    n = math.gcd(labels.size, POSITIONS)  # positions in a block; the blocks have to be equal
    state_blocks = hidden.reshape(-1, n, hidden.shape[-1])
    token_blocks = jnp.maximum(labels, 0).reshape(-1, n)
    log_probs = jax.lax.map(log_prob, (state_blocks, token_blocks)).reshape(labels.shape)
    return (jnp.where(labels == IGNORED, 0.0, log_probs),)
