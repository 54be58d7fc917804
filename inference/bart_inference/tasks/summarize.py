"""summarize: text in, text out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, overload

from tokenizers import Tokenizer

from bart_inference.checkpoint import CheckpointError, Model
from bart_inference.generation.generate import generate
from bart_inference.model.layout import Prepared
from bart_inference.tokenization import decode_text, encode_text, pad, truncate


@overload
def summarize(model: Model | Prepared, text: str, **options: Any) -> str: ...
@overload
def summarize(model: Model | Prepared, text: Sequence[str], **options: Any) -> list[str]: ...
def summarize(model: Model | Prepared, text: str | Sequence[str], **options: Any) -> str | list[str]:
    """One summary for a text, or a list for a list, with the checkpoint's generation defaults.

    options: those of generate, but for num_return_sequences. A text with more tokens than the position table is cut
    there, its end token kept, with a UserWarning that says where. ValueError for an empty list or a text without words.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if (n := options.get("num_return_sequences")) not in (None, 1):
        raise ValueError(f"num_return_sequences must be 1 in summarize, got {n}: use generate")
    if not texts:
        raise ValueError("texts is empty: there is nothing to summarize")
    tokenizer = require_tokenizer(model)
    rows = [encode_within(model, one, f"texts[{i}]") for i, one in enumerate(texts)]
    generated = generate(model, *pad(rows, model.config.pad_token_id), **options)
    summaries = [decode_text(tokenizer, ids[:n]) for ids, n in zip(generated.sequences, generated.lengths, strict=True)]
    return summaries[0] if isinstance(text, str) else summaries


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
