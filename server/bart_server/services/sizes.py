"""Checks the size of every field in a message's bytes before the message is parsed, which would take more memory."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from bart_server.scheduling.errors import InvalidArgument
from bart_server.services.limits import Limits, check_count

MAX_FIELDS = 1000  # fields of a message, not counting the items of repeated fields
MAX_NAME = 1000  # bytes of a name or a template
VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)  # the wire types of protobuf's encoding


def check_sizes(request: type[Message], data: bytes, limits: Limits) -> None:
    """Raises InvalidArgument for the first field that is too large. Malformed bytes are left to the parser.

    A field that does not repeat may still occur several times in the bytes, and a parser may join its values. So the
    sizes of all its occurrences are added up.
    """
    fields: Mapping[int, Any] = request.DESCRIPTOR.fields_by_number
    max_fields = MAX_FIELDS + limits.batch_items + limits.labels
    sizes: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for index, (number, size) in enumerate(top_level(data)):
        if index == max_fields:
            raise InvalidArgument("request", f"more than {max_fields} fields")
        field = fields.get(number)
        counts[number] += 1
        if field is None:
            name, limit = "unknown fields", limits.options_bytes
            number = 0  # all unknown fields are added up together
        elif field.name == "texts":
            continue  # BatchSummarize checks each text, and answers one that is too large with an error of its own
        elif field.is_repeated:
            check_size(f"{field.name}[{counts[number] - 1}]", size, limits.label_bytes)
            continue
        else:
            name, limit = field.name, limit_of(field, limits)
        sizes[number] += size
        check_size(name, sizes[number], limit)
    for field in fields.values():
        if field.is_repeated and counts[field.number]:
            limit = limits.batch_items if field.name == "texts" else limits.labels
            check_count(field.name, counts[field.number], limit)


def limit_of(field: Any, limits: Limits) -> int:
    """The most bytes of a field that does not repeat."""
    if field.message_type is not None:
        return limits.options_bytes
    return limits.text_bytes if field.name in ("text", "target_text") else MAX_NAME


def check_size(field: str, size: int, limit: int) -> None:
    """Raises InvalidArgument for a field of more than `limit` bytes."""
    if size > limit:
        raise InvalidArgument(field, f"{size} bytes, at most {limit} are allowed")


def top_level(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields each field's number and its value's size in bytes (0 for a varint), up to the first invalid wire type."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire_type = key >> 3, key & 7
        size = 0
        if wire_type == VARINT:
            _, at = varint(data, at)
        elif wire_type == LENGTH:
            size, at = varint(data, at)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        elif wire_type in (START_GROUP, END_GROUP):
            raise InvalidArgument("request", "holds a group, which proto3 does not have")
        else:
            return
        at += size
        yield number, size


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at a position, and the position after it.

    A varint that the data cuts off is read as far as it goes.
    """
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
