"""The exception for every call that fails, and how it is made from gRPC's errors."""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

CODES = {code.value[0]: code for code in grpc.StatusCode}  # gRPC's status codes, by number


class BartError(Exception):
    """A call that failed.

    code: the gRPC status code. message: the server's or gRPC's explanation. field: the request's field that the server
    refused, if it named one. retry_after: seconds to wait before another try, if the server gave them. request_id: the
    id of this call in the server's log.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        field: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.request_id = request_id


def from_status(status: status_pb2.Status, request_id: str | None = None) -> BartError:
    """The error that a google.rpc.Status describes."""
    field = retry_after = None
    bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry_info):
            retry_after = retry_info.retry_delay.ToMilliseconds() / 1000
    return BartError(CODES[status.code], status.message, field, retry_after, request_id)


def from_call(error: grpc.RpcError) -> BartError:
    """The error of a call that failed in the synchronous or the asyncio client.

    The details come from the google.rpc.Status in the call's trailing metadata, if the server sent one.
    """
    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]  # (key, value) pairs
    status, request_id = metadata.get("grpc-status-details-bin"), metadata.get("x-request-id")
    if status is not None:
        return from_status(status_pb2.Status.FromString(status), request_id)
    return BartError(error.code(), error.details() or "", request_id=request_id)
