"""What callers give, checked before it is computed with: ids and masks, texts, and that a model has a tokenizer."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bart_inference.checkpoint import Model
from bart_inference.formats import CheckpointError
from bart_inference.model.layout import Prepared
from bart_inference.tokenization import encode_text, truncate
from bart_oneliner import Config


def check_source(input_ids: Any, attention_mask: Any, config: Config, side: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask as int32 and bool (B,S), or a ValueError that says what is wrong with them.

    side: "decoder_" if that is what their names begin with.
    """
    ids = as_array(f"{side}input_ids", input_ids)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"{side}input_ids must be (batch, length) and not empty, got shape {ids.shape}")
    check_ids(f"{side}input_ids", ids, config)
    if ids.shape[1] > (limit := config.max_position_embeddings):
        raise ValueError(f"{side}input_ids has {ids.shape[1]} positions, the position table {limit}")
    mask = np.ones(ids.shape, bool) if attention_mask is None else as_array(f"{side}attention_mask", attention_mask)
    if mask.shape != ids.shape:
        raise ValueError(f"{side}attention_mask has shape {mask.shape}, {side}input_ids {ids.shape}")
    return ids.astype(np.int32), mask.astype(bool)


def as_array(name: str, values: Any) -> np.ndarray:
    """numpy's array of the values; ValueError names them if their rows differ in length."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be rows of one length: {error}") from error


def check_ids(name: str, ids: np.ndarray, config: Config) -> None:
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"{name} has the id {wrong}, the vocabulary goes from 0 to {config.vocab_size - 1}")


def check_texts(text: str | list[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError("texts is empty")
    for i, one in enumerate(texts):
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"texts[{i}] must be a text with at least one word, got {one!r}")
    return texts


def encode_within(model: Model | Prepared, text: str, name: str) -> list[int]:
    """Token ids of a text, cut with a warning where the position table ends; ValueError if it is blank."""
    if not text.strip():
        raise ValueError(f"{name} is empty: there is nothing to summarize")
    ids, limit = encode_text(require_tokenizer(model), text), model.config.max_position_embeddings
    if len(ids) > limit:
        warnings.warn(f"{name} has {len(ids)} tokens, the model reads {limit}: the rest is cut", stacklevel=3)
    return truncate(ids, limit)


def require_tokenizer(model: Model | Prepared) -> Tokenizer:
    """The model's tokenizer; CheckpointError if its folder had none."""
    if model.tokenizer is None:
        raise CheckpointError("the checkpoint has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    return model.tokenizer
