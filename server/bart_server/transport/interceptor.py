"""Who may call: bearer tokens."""

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
LOOK_AGAIN = 1.0  # seconds after which the file of tokens is looked at again
REFUSAL = "a valid bearer token is needed"


class Authentication:
    """The accepted bearer tokens of --token-file, read again when it changes; without it everybody is accepted.

    While a changed file cannot be used, the old tokens stay.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._digests: list[bytes] | None = None
        self._modified = 0
        self._looked_at = 0.0  # when the file was last looked at, by time.monotonic()
        if settings.token_file:
            self._read()

    def _read(self) -> None:
        """Reads the tokens. Raises SettingsError if the file has none, OSError if it cannot be read."""
        self._modified = os.stat(self._settings.token_file).st_mtime_ns
        self._looked_at = time.monotonic()
        tokens = read_tokens(self._settings) or []
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._looked_at + LOOK_AGAIN:
            return
        self._looked_at = now
        try:
            if os.stat(self._settings.token_file).st_mtime_ns != self._modified:
                self._read()
                log.info("tokens reloaded")
        except (OSError, ValueError):
            log.warning("the file of tokens cannot be used, the old ones stay")

    def identify(self, metadata: Mapping[str, Any]) -> str:
        """A name for the caller, empty if everybody may call. Raises Unauthenticated.

        Compares digests in constant time with every token, so that timing tells nothing.
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
    """Refuses calls of every service that is not ours, such as reflection, without a token; counts unknown methods."""

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
        if handler_call_details.method in METHODS:  # their handlers check the token and log a refusal
            return handler
        try:
            self._authentication.identify(dict(handler_call_details.invocation_metadata))
        except Unauthenticated:
            self._runtime.metrics.call_refused(handler_call_details.method, "UNAUTHENTICATED")
            return refusing_handler(handler)
        return handler


def refusing_handler(handler: Any) -> Any:
    """A handler of the same kind that refuses."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)

    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)](refuse)
