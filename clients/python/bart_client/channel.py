"""The options, TLS credentials and metadata with which both clients open a gRPC channel."""

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import grpc

# gRPC retries refused calls by this policy. The server's methods have no side effects, so every call may be retried.
# Pauses between tries grow, unless the server asks for a certain pause with the trailer grpc-retry-pushback-ms. While
# most calls fail, gRPC does not retry (retryThrottling).
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
    """The TLS settings of a client.

    ca: PEM file of the certificate authorities to trust; None: gRPC's default ones. cert, key: PEM files of the
    client's certificate and its private key, for a server that asks for one. name: the name in the server's
    certificate, if it differs from the host in the target.
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
    """The options of a gRPC channel. retries: whether a call that the server refuses for the moment is tried again."""
    config = SERVICE_CONFIG if retries else {"loadBalancingConfig": SERVICE_CONFIG["loadBalancingConfig"]}
    channel_options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", int(retries)),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if security and security.name:
        channel_options.append(("grpc.ssl_target_name_override", security.name))
    return channel_options


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of every call: the bearer token, if there is one."""
    return (("authorization", f"Bearer {token}"),) if token else ()
