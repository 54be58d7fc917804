"""summarize: from texts to their summaries, with a checkpoint's tokenizer and generation defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from bart_inference.checkpoint import Model
from bart_inference.generation.generate import generate
from bart_inference.inputs import encode_within, require_tokenizer
from bart_inference.model.layout import Prepared
from bart_inference.tokenization import decode_text, pad


@overload
def summarize(model: Model | Prepared, text: str, **options: Any) -> str: ...
@overload
def summarize(model: Model | Prepared, text: Sequence[str], **options: Any) -> list[str]: ...
def summarize(model: Model | Prepared, text: str | Sequence[str], **options: Any) -> str | list[str]:
    """One summary for a text, or a list for a list, with the checkpoint's generation defaults.

    options: those of generate, except num_return_sequences. A text with more tokens than the position table is
    truncated with a UserWarning that names both numbers. ValueError for an empty list or a blank text.
    """
    texts = [text] if isinstance(text, str) else list(text)
    count = options.get("num_return_sequences")
    if count not in (None, 1):
        raise ValueError(f"num_return_sequences must be 1 in summarize, got {count}: use generate")
    if not texts:
        raise ValueError("texts is empty: there is nothing to summarize")
    tokenizer = require_tokenizer(model)
    rows = [encode_within(model, item, f"texts[{i}]") for i, item in enumerate(texts)]
    input_ids, attention_mask = pad(rows, model.config.pad_token_id)
    generated = generate(model, input_ids, attention_mask, **options)
    summaries = []
    for ids, length in zip(generated.sequences, generated.lengths, strict=True):
        summaries.append(decode_text(tokenizer, ids[:length]))
    return summaries[0] if isinstance(text, str) else summaries
