"""What every call passes: authentication, errors as statuses, one log line, metrics and a trace."""

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from bart_server.scheduling.errors import InvalidArgument, Unauthenticated
from bart_server.services import call as calls
from bart_server.services import status
from bart_server.telemetry.metrics import Metrics
from bart_server.telemetry.tracing import Tracer

log = logging.getLogger(__name__)
OPEN = "/grpc.health.v1.Health/"  # probes carry no tokens
OURS = "/bart.v1."
REQUEST_ID = "x-request-id"
Behaviour = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class Guard(grpc.aio.ServerInterceptor):
    """tokens: the accepted bearer tokens; None accepts everybody."""

    def __init__(self, tokens: Sequence[str] | None, metrics: Metrics, tracer: Tracer) -> None:
        self._digests = None if tokens is None else [hashlib.sha256(token.encode()).digest() for token in tokens]
        self._metrics = metrics
        self._tracer = tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        metadata = dict(handler_call_details.invocation_metadata)
        allowed = self._allowed(str(metadata.get("authorization", "")))
        if method.startswith(OURS):
            return self._guarded(handler, method, metadata, allowed)
        return handler if allowed else denied(handler)

    def _allowed(self, authorization: str) -> bool:
        """Compares digests in constant time with every token, so that timing tells nothing."""
        if self._digests is None:
            return True
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        known = sum(hmac.compare_digest(digest, accepted) for accepted in self._digests)
        return bool(known) and scheme.lower() == "bearer"

    def _guarded(self, handler: Any, method: str, metadata: dict[str, Any], allowed: bool) -> grpc.RpcMethodHandler:
        behaviour: Behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
        parse = handler.request_deserializer

        async def guarded(message: bytes, context: grpc.aio.ServicerContext) -> Any:
            request_id = str(metadata.get(REQUEST_ID) or uuid.uuid4().hex)[:128]
            facts: dict[str, Any] = {"request_id": request_id, "method": method, "peer": context.peer()}
            calls.record.set(facts)
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            began, code = time.perf_counter(), grpc.StatusCode.CANCELLED
            self._metrics.call_began(method)
            try:
                with self._tracer.call(method, metadata, facts):
                    if not allowed:
                        raise Unauthenticated("a valid bearer token is needed")
                    response = await behaviour(parsed(parse, message), context)
                    code = grpc.StatusCode.OK
                    return response
            except asyncio.CancelledError:  # the caller went away, or the server stops without grace
                raise
            except Exception as error:
                found = status.status(error)
                code = status.grpc_code(found)
                if code is grpc.StatusCode.INTERNAL:
                    log.exception("call failed", extra={"request_id": request_id})
                await context.abort(code, found.message, (*status.trailers(error, found), (REQUEST_ID, request_id)))
            finally:
                seconds = time.perf_counter() - began
                self._metrics.call_ended(method, code.name, seconds)
                log.info("call", extra={**facts, "code": code.name, "seconds": round(seconds, 6)})

        wrap = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return wrap(guarded, request_deserializer=None, response_serializer=handler.response_serializer)


def parsed(parse: Callable[[bytes], Any], message: bytes) -> Any:
    try:
        return parse(message)
    except Exception:
        raise InvalidArgument("request", f"{len(message)} bytes that are no such message") from None


def denied(handler: Any) -> grpc.RpcMethodHandler:
    """A handler of the same kind that refuses."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")

    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)](refuse)
