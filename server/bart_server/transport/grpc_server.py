"""The gRPC server. It turns grpc.aio's calls, deadlines and metadata into arguments of `Runtime.call`, which knows no
gRPC, and the errors that are raised there into gRPC statuses.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bart_server.runtime import Runtime
from bart_server.scheduling.errors import DeadlineExceeded, Overloaded, Unavailable
from bart_server.services.call import Call
from bart_server.services.methods import METHODS, SERVICES, Method
from bart_server.services.status import status
from bart_server.settings import Settings
from bart_server.transport import credentials
from bart_server.transport.health import Health
from bart_server.transport.interceptor import Authentication, Interceptor

UNREAD_LIMIT = 30.0  # seconds that a message of a stream may wait for the caller to read it
REQUEST_ID = "x-request-id"
CODES = {code.value[0]: code for code in grpc.StatusCode}  # by number; google.rpc.Status has the same numbers
Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServer:
    """A port on which the methods of a runtime are served. It belongs to the event loop that runs when it is made.

    health: the health service, which says NOT_SERVING until its owner sets it. unread_limit: seconds that a message of
    a stream may wait for the caller to read it.
    """

    def __init__(self, settings: Settings, runtime: Runtime, unread_limit: float = UNREAD_LIMIT) -> None:
        self._unread_limit = unread_limit
        self.health = Health(SERVICES)
        self._runtime = runtime
        self._authentication = Authentication(credentials.read_tokens(settings))
        self._server = grpc.aio.server(interceptors=[Interceptor(self._authentication)], options=options(settings))
        for name in SERVICES:
            handlers = {
                method.short_name: self._handler(method) for method in METHODS.values() if method.service == name
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*SERVICES, health_name, reflection.SERVICE_NAME), self._server)
        address, tls = f"{settings.host}:{settings.port}", credentials.credentials(settings)
        self.port = self._server.add_secure_port(address, tls) if tls else self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Opens the port."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuses new calls, and cancels those that are still in progress after `grace` seconds."""
        await self._server.stop(grace)

    def _handler(self, method: Method) -> Any:
        """grpc's handler of a method. It parses the bytes itself: malformed ones then get a status with details."""

        async def handle(data: bytes, context: Context) -> Message | None:
            metadata = dict(context.invocation_metadata() or ())
            call = Call(remaining(context), request_id=str(metadata.get(REQUEST_ID, ""))[:128])
            call.note(method=method.name, peer=context.peer())
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            try:
                with self._runtime.observe(method.name, call, metadata):
                    call.identity = self._authentication.identify(metadata)
                    answer: Any = self._runtime.call(method.name, method.parse(data), call)
                    return await (write(context, answer, self._unread_limit) if method.streams else answer)
            except Exception as error:  # CancelledError is none of these: a caller that cancelled reads no status
                answer = status(error)
                trailers = ((REQUEST_ID, call.request_id), *error_trailers(error, answer))
                await context.abort(CODES[answer.code], answer.message, trailers)

        wrap = grpc.unary_stream_rpc_method_handler if method.streams else grpc.unary_unary_rpc_method_handler
        return wrap(handle, request_deserializer=None, response_serializer=method.response.SerializeToString)


async def write(context: Context, messages: AsyncGenerator[Message, None], unread_limit: float) -> None:
    """Sends messages; DeadlineExceeded if the caller does not read one of them within `unread_limit` seconds."""
    async with contextlib.aclosing(messages):
        async for message in messages:
            try:
                async with asyncio.timeout(unread_limit):
                    await context.write(message)
            except TimeoutError:
                raise DeadlineExceeded(f"the stream was not read for {unread_limit:g} s") from None


def remaining(context: Context) -> float | None:
    """Seconds to the caller's deadline. None if there is none, for which grpc gives None or infinity."""
    seconds = context.time_remaining()
    return seconds if seconds is not None and math.isfinite(seconds) else None


def error_trailers(error: Exception, answer: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata of an error: the status with its details, and if a retry can help, the pause before it.

    A gRPC client that retries waits exactly as long as this pause. It is drawn between one and two times `retry_after`,
    so that callers that were refused together come back at different times.
    """
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", answer.SerializeToString())]
    if isinstance(error, Overloaded | Unavailable):
        pause = error.retry_after * random.uniform(1.0, 2.0)
        metadata.append(("grpc-retry-pushback-ms", str(round(pause * 1000))))
    return tuple(metadata)


def options(settings: Settings) -> list[tuple[str, int]]:
    """The channel arguments of grpc's server."""
    milliseconds = round(settings.keepalive * 1000)
    arguments = [
        ("grpc.so_reuseport", 0),  # a second server on the port has to fail, not to share it
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", max(1024, 4 * settings.max_requests)),  # calls at a time on a connection
        ("grpc.keepalive_time_ms", milliseconds),  # pings find connections whose other end has vanished
        ("grpc.keepalive_timeout_ms", round(settings.keepalive * 1000 / 3)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive * 1000 / 3)),  # unset it is 20 s
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
    if settings.max_connection_age:
        arguments.append(("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)))
    return arguments
