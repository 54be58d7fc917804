"""Text <-> token ids, with the `tokenizers` library alone: whole texts, windows of long ones, and text in pieces.

Imports no jax.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer

# After a full stop and its closing quotes, before white space; at the end of a line; after an ideographic full stop.
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(?=\s)|\n+|(?<=[。！？])")
WORD_END = re.compile(r"(?=\s)")
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # stands for the bytes of a character that is not complete yet


class TextError(ValueError):
    """A text with more tokens than fit, where none may be left out."""


def printable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot carry, as '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode(tokenizer: Tokenizer, text: str, pair: str | None = None, special: bool = True) -> Encoding:
    """A text, or two of them, as tokens; special: with the model's start and end tokens.

    The library's `encode` holds the interpreter's lock meanwhile, `encode_batch` does not.
    """
    texts = printable(text) if pair is None else (printable(text), printable(pair))
    return tokenizer.encode_batch([texts], add_special_tokens=special)[0]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids with BART's start and end tokens."""
    return encode(tokenizer, text).ids


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


@dataclass(frozen=True)
class Window:
    """A part of a text. begin, end: in code points. ids: special tokens included. truncated: tokens were cut off."""

    begin: int
    end: int
    ids: tuple[int, ...]
    truncated: bool = False


class TextEncoder:
    """Texts as sources of at most so many tokens, special tokens included. Safe to call from any thread.

    tokenizer: as tokenizer_files.load_tokenizer gives it, one that neither pads nor truncates by itself.
    """

    def __init__(self, tokenizer: Tokenizer, source_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.source_tokens = source_tokens

    def whole(self, text: str, pair: str | None = None) -> Window:
        """The text (and a second one), or TextError if it is too long."""
        ids = encode(self.tokenizer, text, pair).ids
        if len(ids) > self.source_tokens:
            raise TextError(f"{len(ids)} tokens, at most {self.source_tokens} fit")
        return Window(0, len(text), tuple(ids))

    def truncated(self, text: str, pair: str | None = None) -> Window:
        """The beginning of the text that fits together with the whole of the second one, or TextError if none does."""
        ids = encode(self.tokenizer, text, pair).ids
        excess = len(ids) - self.source_tokens
        if excess <= 0:
            return Window(0, len(text), tuple(ids))
        first = encode(self.tokenizer, text, special=False)
        second = None if pair is None else encode(self.tokenizer, pair, special=False)
        if len(first.ids) <= excess:
            raise TextError(f"{len(ids)} tokens, of which at most {self.source_tokens} fit, cannot be cut")
        first.truncate(len(first.ids) - excess)
        ids = self.tokenizer.post_process(first, second).ids
        return Window(0, first.offsets[-1][1], tuple(ids), truncated=True)

    def windows(self, text: str, limit: int) -> list[Window]:
        """The text in windows that fit, split after a sentence where possible, else after a word, else anywhere.

        limit: how many windows there may be at most; TextError if the text needs more.
        """
        offsets = encode(self.tokenizer, text, special=False).offsets
        starts = [start for start, _ in offsets]
        sentences = [match.end() for match in SENTENCE_END.finditer(text)]
        words = [match.end() for match in WORD_END.finditer(text)]
        windows: list[Window] = []
        begin, stop = 0, len(text.rstrip())
        while begin < stop:
            if len(windows) == limit:
                raise TextError(f"{len(offsets)} tokens need more than the limit of {limit} windows")
            begin += len(text[begin:]) - len(text[begin:].lstrip())
            first = bisect.bisect_left(starts, begin)
            room = self.source_tokens - self.tokenizer.num_special_tokens_to_add(False)
            while True:
                last = first + room
                end = stop if last >= len(offsets) else split(begin, offsets[last - 1][1], sentences, words)
                window = self._part(text, begin, end)
                excess = len(window.ids) - self.source_tokens
                if excess <= 0 or room == 1:
                    break
                room = max(1, room - excess)  # the part alone has more tokens than inside the text
            windows.append(window)
            begin = end
        return windows or [self._part(text, 0, 0)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special tokens and white space around it."""
        return decode_text(self.tokenizer, ids)

    def _part(self, text: str, begin: int, end: int) -> Window:
        """A window of the text, without the white space around it."""
        part = text[begin:end]
        begin += len(part) - len(part.lstrip())
        part = part.strip()
        return Window(begin, begin + len(part), tuple(encode(self.tokenizer, part).ids))


def split(begin: int, most: int, sentences: Sequence[int], words: Sequence[int]) -> int:
    """Where in (begin, most] to end a window: after the last sentence, else after the last word, else at `most`."""
    for ends in (sentences, words):
        index = bisect.bisect_right(ends, most)
        if index and ends[index - 1] > begin:
            return ends[index - 1]
    return most


class Detokenizer:
    """Text of a growing token sequence, in pieces that together are the text of the whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0

    def push(self, ids: Sequence[int], last: bool = False) -> str:
        """Adds tokens; returns what has become certain. A character waits until all of its bytes are there."""
        self._ids.extend(ids)
        text = decode_text(self._tokenizer, self._ids)
        certain = len(text) if last else len(text.rstrip(INCOMPLETE).rstrip())  # what follows may be white space
        piece, self._sent = text[self._sent : certain], max(self._sent, certain)
        return piece
