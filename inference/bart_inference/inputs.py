"""Checks the arguments of public functions: token ids and masks, texts, and whether a model has a tokenizer."""

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
    """Ids (B,S) as int32 and their mask (B,S) as bool; a mask None becomes all true. ValueError for wrong arguments.

    side: "decoder_" if the arguments are decoder_input_ids and decoder_attention_mask.
    """
    ids = as_array(f"{side}input_ids", input_ids)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"{side}input_ids must be (batch, length) and not empty, got shape {ids.shape}")
    check_ids(f"{side}input_ids", ids, config)
    limit = config.max_position_embeddings
    if ids.shape[1] > limit:
        raise ValueError(f"{side}input_ids has {ids.shape[1]} positions, the position table {limit}")
    mask = np.ones(ids.shape, bool) if attention_mask is None else as_array(f"{side}attention_mask", attention_mask)
    if mask.shape != ids.shape:
        raise ValueError(f"{side}attention_mask has shape {mask.shape}, {side}input_ids {ids.shape}")
    return ids.astype(np.int32), mask.astype(bool)


def as_array(name: str, values: Any) -> np.ndarray:
    """The argument of that name as a numpy array; ValueError if its rows differ in length."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be rows of one length: {error}") from error


def check_ids(name: str, ids: np.ndarray, config: Config) -> None:
    """ValueError if the ids are not integers or not in the vocabulary."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    smallest, largest = int(ids.min()), int(ids.max())
    if smallest < 0 or largest >= config.vocab_size:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"{name} has the id {wrong}, the vocabulary goes from 0 to {config.vocab_size - 1}")


def check_texts(text: str | list[str]) -> list[str]:
    """A text, or a list of texts, as a list; ValueError for an empty list or a blank text."""
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError("texts is empty")
    for i, item in enumerate(texts):
        if not isinstance(item, str) or not item.strip():
            raise ValueError(f"texts[{i}] must be a text with at least one word, got {item!r}")
    return texts


def encode_within(model: Model | Prepared, text: str, name: str) -> list[int]:
    """Token ids of a text, truncated to the position table with a warning; ValueError for a blank text.

    name: of the text, for messages.
    """
    if not text.strip():
        raise ValueError(f"{name} is empty: there is nothing to summarize")
    ids = encode_text(require_tokenizer(model), text)
    limit = model.config.max_position_embeddings
    if len(ids) > limit:
        warnings.warn(f"{name} has {len(ids)} tokens, the model reads {limit}: the rest is cut", stacklevel=3)
    return truncate(ids, limit)


def require_tokenizer(model: Model | Prepared) -> Tokenizer:
    """The model's tokenizer; CheckpointError if its folder had none."""
    if model.tokenizer is None:
        raise CheckpointError("the checkpoint has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    return model.tokenizer
