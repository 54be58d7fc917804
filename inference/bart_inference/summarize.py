"""summarize: text in, text out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, overload

from bart_inference.checkpoint import CheckpointError, Model
from bart_inference.generate import generate
from bart_inference.layout import Prepared
from bart_inference.tokenization import decode_text, encode_text, pad, truncate


@overload
def summarize(model: Model | Prepared, text: str, **options: Any) -> str: ...
@overload
def summarize(model: Model | Prepared, text: Sequence[str], **options: Any) -> list[str]: ...
def summarize(model: Model | Prepared, text: str | Sequence[str], **options: Any) -> str | list[str]:
    """One summary for a text, or a list for a list, with the checkpoint's generation defaults.

    options: those of generate, but for num_return_sequences. A text with more tokens than the position table is cut
    there, its end token kept, with a UserWarning that says where. ValueError for an empty list or a text with no words.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if (n := options.get("num_return_sequences")) not in (None, 1):
        raise ValueError(f"num_return_sequences must be 1 in summarize, got {n}: use generate")
    if not texts:
        raise ValueError("texts is empty: there is nothing to summarize")
    for i, one in enumerate(texts):
        if not one.strip():
            raise ValueError(f"texts[{i}] is empty: there is nothing to summarize")
    tokenizer = require_tokenizer(model)
    limit = model.config.max_position_embeddings
    rows = []
    for i, one in enumerate(texts):
        ids = encode_text(tokenizer, one)
        if len(ids) > limit:
            warnings.warn(f"texts[{i}] has {len(ids)} tokens, the model reads {limit}: the rest is cut", stacklevel=2)
        rows.append(truncate(ids, limit))
    input_ids, attention_mask = pad(rows, model.config.pad_token_id)
    generated = generate(model, input_ids, attention_mask, **options)
    summaries = [decode_text(tokenizer, ids[:n]) for ids, n in zip(generated.sequences, generated.lengths, strict=True)]
    return summaries[0] if isinstance(text, str) else summaries


def require_tokenizer(model: Model | Prepared) -> Any:
    if model.tokenizer is None:
        raise CheckpointError("the checkpoint has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    return model.tokenizer
