"""The limits on the fields of one call, and functions that check fields before a text is tokenized."""

from dataclasses import dataclass
from typing import Any

from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.errors import InvalidArgument


@dataclass(frozen=True)
class Limits:
    """The largest sizes that one call may have.

    text_bytes: bytes of one text in UTF-8. windows: windows that one long text is split into. batch_items: texts of one
    BatchSummarize. labels: labels of one ClassifyZeroShot. label_bytes: bytes of one label within its template, in
    UTF-8. options_bytes: bytes of a request's options, and of its token ids, in protobuf's format.
    """

    text_bytes: int
    windows: int
    batch_items: int
    labels: int
    label_bytes: int
    options_bytes: int


def check_size(field: str, text: str, limit: int) -> None:
    """Raises InvalidArgument for a text of more than `limit` bytes of UTF-8."""
    size = len(text.encode())
    if size > limit:
        raise InvalidArgument(field, f"{size} bytes, at most {limit} are allowed")


def check_not_blank(field: str, text: str) -> None:
    """Raises InvalidArgument for a text that is empty or has white space only."""
    if not text.strip():
        raise InvalidArgument(field, "blank, at least 1 visible character is needed")


def check_count(field: str, count: int, limit: int) -> None:
    """Raises InvalidArgument unless the repeated field, such as "texts", has 1 to `limit` items.

    count: how many it has.
    """
    if not 1 <= count <= limit:
        raise InvalidArgument(field, f"{count} {field}, between 1 and {limit} are allowed")


def check_policy(policy: pb.LongInput, chunk: bool = True) -> None:
    """Raises InvalidArgument for an unknown value. chunk: whether LONG_INPUT_CHUNK is allowed."""
    if policy not in pb.LongInput.values():
        raise InvalidArgument("long_input", f"{policy} is no value of bart.v1.LongInput")
    if policy == pb.LONG_INPUT_CHUNK and not chunk:
        raise InvalidArgument("long_input", "LONG_INPUT_CHUNK is for summaries only")


def one_sequence(options: dict[str, Any]) -> dict[str, Any]:
    """Sets num_return_sequences to 1 if it is absent, whatever the checkpoint's default. Returns the options.

    Raises InvalidArgument if it is another number.
    """
    count = options.setdefault("num_return_sequences", 1)
    if count != 1:
        raise InvalidArgument("options.num_return_sequences", f"{count}, only Generate returns more than 1")
    return options
