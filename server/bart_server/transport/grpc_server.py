"""Serves a runtime over gRPC: turns the calls, deadlines, metadata and statuses of grpc.aio into ours and back."""

import asyncio
import contextlib
import math
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bart_server.runtime import Runtime
from bart_server.scheduling.errors import DeadlineExceeded, MessageTooLarge, Overloaded, RequestError
from bart_server.scheduling.jobs import Reservation
from bart_server.services.call import Call
from bart_server.services.methods import METHODS, SERVICES, Method
from bart_server.settings import Settings
from bart_server.transport import credentials
from bart_server.transport.authentication import Authentication
from bart_server.transport.health import Health
from bart_server.transport.reading import END_OF_CALL, LOOKAHEAD, NoMessage, Readers
from bart_server.transport.reflection import add_reflection
from bart_server.transport.refusals import REQUEST_ID, refusal, request_id_of, trailers, unread

UNREAD_LIMIT = 30.0  # seconds that a message of a stream may wait for the caller to read it
MAX_UNREAD_STREAMS = 100  # one client's streams that may wait for the client to read them
# gRPC refuses a message by itself, uncounted, only if it has so many bytes more than the limit. We refuse the others.
MARGIN = 1 << 20
MAX_PENDING = 100_000  # calls that may wait for the event loop
Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServer:
    """A gRPC server for the calls of a runtime. It belongs to one event loop.

    port: the port that it listens on. health: its health service, which says NOT_SERVING until it is set. unread_limit:
    seconds that a message of a stream may wait for the caller to read it.
    """

    def __init__(self, settings: Settings, runtime: Runtime, unread_limit: float = UNREAD_LIMIT) -> None:
        self._unread_limit = unread_limit
        self.health = Health(SERVICES)
        self._runtime = runtime
        self._max_message_bytes = settings.max_message_bytes
        self._has_certificates = bool(settings.tls_client_ca)  # whether clients need certificates
        self._readers = Readers(settings.max_readers, max(1, settings.max_readers // 2), settings.message_timeout)
        self._unread_streams: Counter[str] = Counter()  # how many streams wait for each client to read them
        self._authentication = Authentication(settings)
        self._server = grpc.aio.server(options=options(settings))
        for name in SERVICES:
            handlers = {
                method.short_name: self._handler(method) for method in METHODS.values() if method.service == name
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        add_reflection(self._server, (*SERVICES, health_name), self._authentication, runtime)
        self._server.add_generic_rpc_handlers((UnknownMethods(runtime),))  # the last one: it is asked last
        self.port = self._bind(settings)

    def _bind(self, settings: Settings) -> int:
        """Listens on one port of every address of the host. Returns the port. Raises OSError if it is taken."""
        tls = credentials.credentials(settings)
        port = settings.port
        for host in addresses(settings.host):
            try:
                if tls:
                    port = self._server.add_secure_port(f"{host}:{port}", tls)
                else:
                    port = self._server.add_insecure_port(f"{host}:{port}")
            except RuntimeError:
                raise OSError(f"{host}:{port} cannot be bound: is the port taken?") from None
        return port

    async def start(self) -> None:
        """Opens the port."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuses new calls, and cancels those that are still in progress after `grace` seconds."""
        await self._server.stop(grace)

    def _handler(self, method: Method) -> Any:
        """A handler that reads the call's message only when the server has room for the call.

        grpc.aio reads the message before it calls the handler of a method with one request message. So the handler is
        registered as one of a stream of request messages, which is the same on the network.
        """

        async def handle(_: Any, context: Context) -> Message | None:
            metadata = dict(context.invocation_metadata() or ())
            request_id = request_id_of(metadata)
            try:
                identity = self._authentication.identify(metadata) or client_of(context, self._has_certificates)
                self._check_unread_streams(identity)
                reservation = self._runtime.admit(identity)
            except RequestError as error:
                refused = unread(error)
                self._runtime.metrics.call_refused(method.name, refused.code.name)
                await context.abort(refused.code, refused.message, trailers(error, refused.details, request_id))
            call = Call(remaining(context), identity, request_id, reservation)
            call.note(method=method.name, peer=context.peer())
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            try:
                with reservation, self._runtime.observe(method.name, call, metadata):
                    message = await self._runtime.parse(method, await self._read(context, call, reservation))
                    answer: Any = self._runtime.call(method.name, message, call)
                    if not method.streams:
                        return cast(Message, await answer)
                    await self._write(context, call, reservation, answer)
                    return None
            except Exception as error:  # not CancelledError: a caller that cancelled its call reads no status
                failed = refusal(error)
                await context.abort(failed.code, failed.message, trailers(error, failed.details, call.request_id))

        wrap = grpc.stream_stream_rpc_method_handler if method.streams else grpc.stream_unary_rpc_method_handler
        return wrap(handle, request_deserializer=None, response_serializer=method.response.SerializeToString)

    async def _read(self, context: Context, call: Call, reservation: Reservation) -> bytes:
        """The bytes of a call's message. Raises MessageTooLarge, and what Readers.read raises."""
        try:
            self._runtime.metrics.unread(self._readers.unread + 1)
            data = await self._readers.read(context, reservation)
            if len(data) > self._max_message_bytes:
                raise MessageTooLarge(f"{len(data)} bytes, at most {self._max_message_bytes} are allowed")
            return data
        except NoMessage:
            await asyncio.sleep(END_OF_CALL)  # if the caller has gone, gRPC cancels this task during the sleep
            raise
        finally:
            self._runtime.metrics.unread(self._readers.unread)

    def _check_unread_streams(self, client: str) -> None:
        """Raises Overloaded for a client with many streams that it does not read, since their answers take memory."""
        held = self._unread_streams[client]
        if held >= MAX_UNREAD_STREAMS:
            raise Overloaded(f"{held} streams of this client wait to be read", self._unread_limit)

    async def _write(
        self, context: Context, call: Call, reservation: Reservation, messages: AsyncGenerator[Message, None]
    ) -> None:
        """Sends the messages of a stream.

        Raises DeadlineExceeded if the caller does not read a message within `unread_limit` seconds, or has not read all
        messages within `unread_limit` seconds after the last token was computed.
        """
        loop = asyncio.get_running_loop()
        end: float | None = None
        async with contextlib.aclosing(messages):
            async for message in messages:
                if end is None and not reservation.count:  # the places are given back: all tokens are computed
                    end = loop.time() + self._unread_limit
                limit = self._unread_limit if end is None else end - loop.time()
                self._unread_streams[call.identity] += 1
                try:
                    async with asyncio.timeout(limit):
                        await context.write(message)
                except TimeoutError:
                    seconds = f"{self._unread_limit:g} s"
                    if end is None:
                        raise DeadlineExceeded(f"the stream was not read for {seconds}") from None
                    description = f"the stream was not read to its end within {seconds} after the last token"
                    raise DeadlineExceeded(description) from None
                finally:
                    self._unread_streams[call.identity] -= 1
                    if not self._unread_streams[call.identity]:
                        del self._unread_streams[call.identity]


class UnknownMethods(grpc.GenericRpcHandler):
    """Serves nothing. It counts the calls that gRPC then ends with UNIMPLEMENTED."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        self._runtime.metrics.call_refused("unknown", "UNIMPLEMENTED")


def addresses(host: str) -> list[str]:
    """The addresses to listen on: for localhost its IPv4 and IPv6 addresses, as far as this machine has them."""
    if host != "localhost":
        return [host]
    usable = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
            usable.append(address if family == socket.AF_INET else f"[{address}]")
    return usable


def client_of(context: Context, has_certificates: bool) -> str:
    """The name of a client without a token: the identities in its certificate if it has one, otherwise its address."""
    names = context.peer_identities() if has_certificates else None
    if names:
        return b",".join(names).decode(errors="replace")
    return str(context.peer())


def remaining(context: Context) -> float | None:
    """Seconds until the caller's deadline; None without one, for which grpc returns None or infinity."""
    seconds = context.time_remaining()
    return seconds if seconds is not None and math.isfinite(seconds) else None


def options(settings: Settings) -> list[tuple[str, int]]:
    """The options of the gRPC server."""
    milliseconds = round(settings.keepalive * 1000)
    arguments = [
        ("grpc.so_reuseport", 0),  # a second server must fail to bind the port instead of sharing it
        ("grpc.max_receive_message_length", settings.max_message_bytes + MARGIN),
        ("grpc.max_concurrent_streams", max(1024, 4 * settings.max_requests)),  # calls of one connection at a time
        ("grpc.http2.lookahead_bytes", LOOKAHEAD),  # bytes that gRPC receives of a message before we read it
        ("grpc.http2.bdp_probe", 0),  # bandwidth probes would raise the lookahead to megabytes
        # By default gRPC cancels calls at random if more than 1,000 wait for the event loop.
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.keepalive_time_ms", milliseconds),  # pings detect connections whose client has vanished
        ("grpc.keepalive_timeout_ms", round(settings.keepalive * 1000 / 3)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive * 1000 / 3)),  # gRPC's default is 20 s
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
    if settings.max_connection_age:
        arguments.append(("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)))
    return arguments
