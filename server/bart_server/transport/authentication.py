"""Checks the bearer tokens of calls."""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from bart_server.scheduling.errors import Unauthenticated
from bart_server.settings import Settings
from bart_server.transport.credentials import read_tokens

log = logging.getLogger(__name__)
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
