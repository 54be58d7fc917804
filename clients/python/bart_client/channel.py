"""How to reach a server: balancing, health, retries, TLS, tokens."""

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import grpc

# Calls have no side effects, so every one may be tried again. gRPC keeps the pauses and stops when most tries fail
# (retryThrottling); a pause that the server asks for wins over the policy's.
SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}


@dataclass(frozen=True)
class Security:
    """TLS. ca: PEM file of the authorities to trust (None: the system's). cert, key: PEM files of a client certificate.

    name: the server's name in its certificate, if it is not the target's.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        def read(path: str | None) -> bytes | None:
            return pathlib.Path(path).read_bytes() if path else None

        return grpc.ssl_channel_credentials(read(self.ca), read(self.key), read(self.cert))


def options(security: Security | None, max_message_bytes: int, retries: bool) -> list[tuple[str, Any]]:
    """Channel options. Without retries a call fails at its first refusal."""
    config = SERVICE_CONFIG if retries else {key: SERVICE_CONFIG[key] for key in ("loadBalancingConfig",)}
    found: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", int(retries)),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if security and security.name:
        found.append(("grpc.ssl_target_name_override", security.name))
    return found


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return (("authorization", f"Bearer {token}"),) if token else ()
