"""Text <-> token ids, with the `tokenizers` library alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """tokenizer.json, or BART's byte-level BPE from vocab.json and merges.txt; None if the folder has neither.

    ValueError for a file that is damaged.
    """
    try:
        return read_tokenizer(folder)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"the tokenizer's files are damaged: {error}") from error


def read_tokenizer(folder: Path) -> Tokenizer | None:
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
        tokenizer.add_special_tokens(
            [AddedToken("<mask>", lstrip=True)]
        )  # it takes the space before it, as in training
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
        )
    else:
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def printable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot carry, as '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids with BART's start and end tokens."""
    return tokenizer.encode(printable(text)).ids


def truncate(ids: Sequence[int], limit: int) -> list[int]:
    """At most `limit` ids, the final (end-of-sequence) token kept, as transformers truncates."""
    return list(ids) if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def decode_text(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> str:
    """Text without special tokens."""
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).strip()


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids -> input_ids and attention_mask, int32 (B,S), padded on the right to the longest."""
    ids = np.full((len(rows), max(map(len, rows))), pad_id, np.int32)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
