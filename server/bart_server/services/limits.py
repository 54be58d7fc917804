"""What may be asked for at all: bounds on one call, checked before anything is tokenized."""

from dataclasses import dataclass
from typing import Any

from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.errors import InvalidArgument


@dataclass(frozen=True)
class Limits:
    """Sizes are in bytes of UTF-8. windows: of one long text. batch_items: texts of one BatchSummarize.

    options_bytes: of a request's options in the wire format, and of its token ids.
    """

    text_bytes: int
    windows: int
    batch_items: int
    labels: int
    label_bytes: int
    options_bytes: int


def check_size(field: str, text: str, limit: int) -> None:
    """limit: in bytes of UTF-8."""
    size = len(text.encode())
    if size > limit:
        raise InvalidArgument(field, f"{size} bytes, at most {limit} are allowed")


def check_not_blank(field: str, text: str) -> None:
    if not text.strip():
        raise InvalidArgument(field, "blank, at least 1 visible character is needed")


def check_count(field: str, count: int, limit: int) -> None:
    """field: the name of a repeated field, such as texts."""
    if not 1 <= count <= limit:
        raise InvalidArgument(field, f"{count} {field}, between 1 and {limit} are allowed")


def check_policy(policy: pb.LongInput, chunk: bool = True) -> None:
    """chunk: whether a long text may be split."""
    if policy not in pb.LongInput.values():
        raise InvalidArgument("long_input", f"{policy} is no value of bart.v1.LongInput")
    if policy == pb.LONG_INPUT_CHUNK and not chunk:
        raise InvalidArgument("long_input", "LONG_INPUT_CHUNK is for summaries only")


def one_sequence(options: dict[str, Any]) -> dict[str, Any]:
    """The options with one answer: summaries and streams have one, whatever the checkpoint's default is."""
    count = options.setdefault("num_return_sequences", 1)
    if count != 1:
        raise InvalidArgument("options.num_return_sequences", f"{count}, only Generate returns more than 1")
    return options
