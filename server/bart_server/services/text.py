"""Tokenizes the texts of requests, and names the request's field in errors."""

import contextlib
from collections.abc import Iterator

from bart_inference.tokenization import TextEncoder, TextError, Window

from bart_server.scheduling.errors import InvalidArgument


class Text(TextEncoder):
    """A TextEncoder whose methods raise InvalidArgument instead of TextError.

    field: the request's field with the text.
    """

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
    """Turns a TextError that is raised inside the block into InvalidArgument for `field`, with `hint` at its end."""
    try:
        yield
    except TextError as error:
        raise InvalidArgument(field, f"{error}{hint}") from None
