"""Texts of requests as token ids: bart_inference.tokenization, with errors that name the request's field."""

import contextlib
from collections.abc import Iterator

from bart_inference.tokenization import TextEncoder, TextError, Window

from bart_server.scheduling.errors import InvalidArgument


class Text(TextEncoder):
    """A TextEncoder that raises InvalidArgument for the field that a text came in."""

    def whole(self, text: str, pair: str | None = None, field: str = "text") -> Window:
        with naming(field, "; see long_input"):
            return super().whole(text, pair)

    def truncated(self, text: str, pair: str | None = None, field: str = "text") -> Window:
        with naming(field):
            return super().truncated(text, pair)

    def windows(self, text: str, limit: int, field: str = "text") -> list[Window]:
        with naming(field):
            return super().windows(text, limit)


@contextlib.contextmanager
def naming(field: str, hint: str = "") -> Iterator[None]:
    """A TextError within becomes InvalidArgument for that field, with a hint behind what it says."""
    try:
        yield
    except TextError as error:
        raise InvalidArgument(field, f"{error}{hint}") from None
