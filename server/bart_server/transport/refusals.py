"""Turns errors into what gRPC sends: a status code, a message, and trailing metadata with the details."""

import random
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc

from bart_server.scheduling.errors import Overloaded, RequestError, Unavailable
from bart_server.services.call import new_request_id
from bart_server.services.status import status

REQUEST_ID = "x-request-id"
MAX_REQUEST_ID = 128  # characters of a request id that are kept
REQUEST_ID_CHARACTERS = frozenset(string.printable) - frozenset(string.whitespace) | {" "}
CODES = {code.value[0]: code for code in grpc.StatusCode}  # google.rpc.Code has the same numbers
MAX_BUILT = 256  # refusals in the cache
BUILT: dict[tuple[str, str, float | None], "Refusal"] = {}  # by error class, message and retry_after
Trailers = tuple[tuple[str, str | bytes], ...]


class Refusal(NamedTuple):
    """An error as gRPC sends it.

    details: a google.rpc.Status in bytes. It is the same for all callers with this error.
    """

    code: grpc.StatusCode
    message: str
    details: bytes


def refusal(error: Exception) -> Refusal:
    """What gRPC sends for an error."""
    answer = status(error)
    return Refusal(CODES[answer.code], answer.message, answer.SerializeToString())


def unread(error: RequestError) -> Refusal:
    """The refusal of a call whose message is not read. It comes from a cache, since an overload repeats few errors."""
    key = type(error).__name__, str(error), getattr(error, "retry_after", None)
    if key not in BUILT:
        if len(BUILT) >= MAX_BUILT:
            BUILT.clear()
        BUILT[key] = refusal(error)
    return BUILT[key]


def trailers(error: Exception, details: bytes, request_id: str) -> Trailers:
    """The trailing metadata of an error: the request id, the details, and the pause before a retry if one can help.

    gRPC clients that retry wait exactly this long. The pause is drawn at random between one and two times
    `retry_after`, so that callers that were refused together come back at different times.
    """
    metadata: list[tuple[str, str | bytes]] = [(REQUEST_ID, request_id), ("grpc-status-details-bin", details)]
    if isinstance(error, Overloaded | Unavailable):
        pause = error.retry_after * random.uniform(1.0, 2.0)
        metadata.append(("grpc-retry-pushback-ms", str(round(pause * 1000))))
    return tuple(metadata)


def request_id_of(metadata: Mapping[str, Any]) -> str:
    """The caller's request id, or a new one if it sent none that can be sent back in a header."""
    sent = metadata.get(REQUEST_ID)
    if isinstance(sent, str) and sent and REQUEST_ID_CHARACTERS.issuperset(sent):
        return sent[:MAX_REQUEST_ID]
    return new_request_id()
