"""Checks the bearer tokens of calls."""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from bart_server.runtime import Runtime
from bart_server.scheduling.errors import Unauthenticated
from bart_server.services.methods import METHODS
from bart_server.settings import Settings
from bart_server.transport.credentials import read_tokens

log = logging.getLogger(__name__)
HEALTH = "/grpc.health.v1.Health/"  # probes carry no tokens
LOOK_AGAIN = 1.0  # seconds between two checks whether the file of tokens has changed
REFUSAL = "a valid bearer token is needed"


class Authentication:
    """The bearer tokens in --token-file, which is read again when it changes. Without that file every call is accepted.

    As long as a changed file cannot be read, the old tokens are accepted.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._digests: list[bytes] | None = None  # SHA-256 of each token; None without a file
        self._modified = 0  # when the file was changed, in nanoseconds
        self._looked_at = 0.0  # when the file was last checked, by time.monotonic()
        if settings.token_file:
            self._read()

    def _read(self) -> None:
        """Reads the tokens. Raises SettingsError if the file has none, OSError if it cannot be read."""
        self._modified = os.stat(self._settings.token_file).st_mtime_ns
        self._looked_at = time.monotonic()
        tokens = read_tokens(self._settings) or []
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    def _refresh(self) -> None:
        """Reads the file again if it has changed, checking at most every LOOK_AGAIN seconds."""
        now = time.monotonic()
        if now < self._looked_at + LOOK_AGAIN:
            return
        self._looked_at = now
        try:
            if os.stat(self._settings.token_file).st_mtime_ns != self._modified:
                self._read()
                log.info("tokens reloaded")
        except (OSError, ValueError):
            log.warning("the changed file of tokens cannot be read, the old tokens are accepted")

    def identify(self, metadata: Mapping[str, Any]) -> str:
        """The caller's name, a digest of its token; empty if no token is needed. Raises Unauthenticated.

        The token's digest is compared with every accepted one in constant time, so that timing reveals nothing.
        """
        if self._digests is None:
            return ""
        self._refresh()
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        known = sum(hmac.compare_digest(digest, accepted) for accepted in self._digests)
        if not known or scheme.lower() != "bearer":
            raise Unauthenticated(REFUSAL)
        return digest.hex()


class Interceptor(grpc.aio.ServerInterceptor):
    """Refuses calls of services other than bart.v1, such as reflection, that have no valid token.

    The handlers of bart.v1 check the token themselves, and health checks need none. Calls of unknown methods are
    counted.
    """

    def __init__(self, authentication: Authentication, runtime: Runtime) -> None:
        self._authentication = authentication
        self._runtime = runtime

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._runtime.metrics.call_refused("unknown", "UNIMPLEMENTED")
            return None
        if handler_call_details.method.startswith(HEALTH):
            return handler
        if handler_call_details.method in METHODS:  # these check the token and count refusals themselves
            return handler
        try:
            self._authentication.identify(dict(handler_call_details.invocation_metadata))
        except Unauthenticated:
            self._runtime.metrics.call_refused(handler_call_details.method, "UNAUTHENTICATED")
            return refusing_handler(handler)
        return handler


def refusing_handler(handler: Any) -> Any:
    """A handler that refuses every call, for the same kind of method as `handler`."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)

    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)](refuse)
