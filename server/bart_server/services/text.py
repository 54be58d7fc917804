"""Text to token ids and back: windows for long texts, and detokenisation in pieces. Knows tokenizers, not models."""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from bart_server.scheduling.errors import InvalidArgument

# After a full stop and its closing quotes, before white space; at the end of a line; after an ideographic full stop.
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(?=\s)|\n+|(?<=[。！？])")
WORD_END = re.compile(r"(?=\s)")
INCOMPLETE = "\ufffd"  # what a tokenizer prints for the bytes of a character that is not complete yet


@dataclass(frozen=True)
class Window:
    """A part of a text. begin, end: in code points. ids: special tokens included. truncated: tokens were cut off."""

    begin: int
    end: int
    ids: tuple[int, ...]
    truncated: bool = False


class Text:
    """A tokenizer and the longest source, in tokens, that its model reads. Safe to call from any thread."""

    def __init__(self, tokenizer: Tokenizer, source_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.source_tokens = source_tokens

    def whole(self, text: str, pair: str | None = None, field: str = "text") -> Window:
        """The text (and a second one), or InvalidArgument if it is too long."""
        ids = self._encode(text, pair).ids
        if len(ids) > self.source_tokens:
            raise InvalidArgument(field, f"{len(ids)} tokens, at most {self.source_tokens} fit; see long_input")
        return Window(0, len(text), tuple(ids))

    def truncated(self, text: str, pair: str | None = None, field: str = "text") -> Window:
        """The beginning of the text that fits, together with the whole of the second one."""
        ids = self._encode(text, pair).ids
        excess = len(ids) - self.source_tokens
        if excess <= 0:
            return Window(0, len(text), tuple(ids))
        first = self._encode(text, special=False)
        second = None if pair is None else self._encode(pair, special=False)
        if len(first.ids) <= excess:
            raise InvalidArgument(field, f"{len(ids)} tokens, of which at most {self.source_tokens} fit, cannot be cut")
        first.truncate(len(first.ids) - excess)
        ids = self._tokenizer.post_process(first, second).ids
        return Window(0, first.offsets[-1][1], tuple(ids), truncated=True)

    def windows(self, text: str, limit: int, field: str = "text") -> list[Window]:
        """The text in windows that fit, split after a sentence where possible, else after a word, else anywhere.

        limit: how many windows there may be at most.
        """
        offsets = self._encode(text, special=False).offsets
        starts = [start for start, _ in offsets]
        sentences = [match.end() for match in SENTENCE_END.finditer(text)]
        words = [match.end() for match in WORD_END.finditer(text)]
        windows: list[Window] = []
        begin, stop = 0, len(text.rstrip())
        while begin < stop:
            if len(windows) == limit:
                raise InvalidArgument(field, f"{len(offsets)} tokens need more than the limit of {limit} windows")
            begin += len(text[begin:]) - len(text[begin:].lstrip())
            first = bisect.bisect_left(starts, begin)
            room = self.source_tokens - self._tokenizer.num_special_tokens_to_add(False)
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
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _encode(self, text: str, pair: str | None = None, special: bool = True) -> Encoding:
        """As `encode` of the tokenizer, which unlike `encode_batch` keeps the interpreter's lock meanwhile."""
        return self._tokenizer.encode_batch([text if pair is None else (text, pair)], add_special_tokens=special)[0]

    def _part(self, text: str, begin: int, end: int) -> Window:
        """A window of the text, without the white space around it."""
        part = text[begin:end]
        begin += len(part) - len(part.lstrip())
        part = part.strip()
        return Window(begin, begin + len(part), tuple(self._encode(part).ids))


def split(begin: int, most: int, sentences: Sequence[int], words: Sequence[int]) -> int:
    """Where in (begin, most] to end a window: after the last sentence, else after the last word, else at `most`."""
    for ends in (sentences, words):
        index = bisect.bisect_right(ends, most)
        if index and ends[index - 1] > begin:
            return ends[index - 1]
    return most


class Detokenizer:
    """Text of a growing token sequence, in pieces that together are the text of the whole."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._ids: list[int] = []
        self._sent = 0

    def push(self, ids: Sequence[int], last: bool = False) -> str:
        """Adds tokens; returns what has become certain. A character waits until all of its bytes are there."""
        self._ids.extend(ids)
        text = self._text.decode(self._ids)
        certain = len(text) if last else len(text.rstrip(INCOMPLETE).rstrip())  # what follows may be white space
        piece, self._sent = text[self._sent : certain], max(self._sent, certain)
        return piece
