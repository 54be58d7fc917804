"""Text to token ids and back, by the `tokenizers` library: whole texts, windows of long texts, and growing texts.

Imports no jax.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer

# A sentence ends behind its last mark and closing quotes, before white space; at a line's end; behind a mark of Chinese
# or Japanese.
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(?=\s)|\n+|(?<=[。！？])")
WORD_END = re.compile(r"(?=\s)")
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what the first bytes of a character are decoded as while others are missing


class TextError(ValueError):
    """A text with more tokens than fit, which may not or cannot be shortened."""


def printable(text: str) -> str:
    """The text with '?' for each lone surrogate, a code point that UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode(tokenizer: Tokenizer, text: str, pair: str | None = None, special: bool = True) -> Encoding:
    """A text, or a pair of texts, as tokens. special: whether to add the model's start and end tokens.

    `encode_batch` is called even for one text, because it releases the interpreter's lock while it works; the library's
    `encode` does not.
    """
    texts = printable(text) if pair is None else (printable(text), printable(pair))
    return tokenizer.encode_batch([texts], add_special_tokens=special)[0]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids with BART's start and end tokens."""
    return encode(tokenizer, text).ids


def truncate(ids: Sequence[int], limit: int) -> list[int]:
    """At most `limit` ids: of a longer row the first limit - 1 and the last, which is the end-of-sequence token."""
    if len(ids) <= limit:
        return list(ids)
    return [*ids[: limit - 1], ids[-1]]


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
    """A part of a text and its tokens."""

    begin: int  # the index of its first code point in the text
    end: int  # the index behind its last code point
    ids: tuple[int, ...]  # special tokens included
    truncated: bool = False  # whether the rest of the text, behind the window, was left out


class TextEncoder:
    """Texts as token ids for a model that reads at most source_tokens of them. Any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, source_tokens: int) -> None:
        """tokenizer: as tokenizer_files.load_tokenizer returns it: one that neither pads nor truncates by itself.

        source_tokens: the limit, special tokens included.
        """
        self.tokenizer = tokenizer
        self.source_tokens = source_tokens

    def whole(self, text: str, pair: str | None = None) -> Window:
        """A window with the whole text, or with a pair of texts. TextError if it is too long."""
        ids = encode(self.tokenizer, text, pair).ids
        if len(ids) > self.source_tokens:
            raise TextError(f"{len(ids)} tokens, at most {self.source_tokens} fit")
        return Window(0, len(text), tuple(ids))

    def truncated(self, text: str, pair: str | None = None) -> Window:
        """A window with as much of the text as fits beside all of `pair`. TextError if not one token of it fits."""
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

        limit: the largest number of windows; TextError if the text needs more.
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
            first = bisect.bisect_left(starts, begin)  # the index of the window's first token
            room = self.source_tokens - self.tokenizer.num_special_tokens_to_add(False)
            while True:
                if first + room >= len(offsets):
                    end = stop
                else:
                    end = split(begin, offsets[first + room - 1][1], sentences, words)
                window = self._part(text, begin, end)
                excess = len(window.ids) - self.source_tokens
                if excess <= 0 or room == 1:
                    break
                # A part that is encoded by itself can have more tokens than it has inside the text.
                room = max(1, room - excess)
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


def split(begin: int, limit: int, sentences: Sequence[int], words: Sequence[int]) -> int:
    """The index in (begin, limit] where a window ends: after the last sentence, else the last word, else at the limit.

    sentences, words: the indices behind them, ascending.
    """
    for ends in (sentences, words):
        index = bisect.bisect_right(ends, limit)
        if index and ends[index - 1] > begin:
            return ends[index - 1]
    return limit


class Detokenizer:
    """The text of a token sequence that grows. What `push` returns, joined, is the text of the whole sequence."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0  # characters that were returned

    def push(self, ids: Sequence[int], last: bool = False) -> str:
        """Add tokens and return the new text that no later token can change.

        last: no more tokens follow. Until then two things at the end are held back: a character that lacks some of its
        bytes, and white space, because it is removed at the end of the whole text.
        """
        self._ids.extend(ids)
        text = decode_text(self._tokenizer, self._ids)
        final = len(text) if last else len(text.rstrip(INCOMPLETE).rstrip())
        new_text = text[self._sent : final]
        self._sent = max(self._sent, final)
        return new_text
