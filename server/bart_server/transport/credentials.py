"""Certificates and tokens from files."""

import logging
import pathlib
from typing import Any

import grpc

from bart_server.settings import Config, ConfigError

log = logging.getLogger(__name__)


def credentials(config: Config) -> grpc.ServerCredentials | None:
    """TLS, with client certificates if an authority for them is given; None without TLS.

    A changed certificate is read at the next handshake; while the new files are unusable the old ones stay.
    """
    if not config.tls_cert:
        return None
    current = certificates(config)
    stamp = stamps(config)

    def fetch() -> Any:
        nonlocal stamp
        try:
            if (now := stamps(config)) == stamp:
                return None
            fresh = certificates(config)
            stamp = now
            log.info("certificates reloaded")
            return fresh
        except (OSError, ValueError):
            log.warning("certificates unreadable, the old ones stay")
            return None

    return grpc.dynamic_ssl_server_credentials(current, fetch, require_client_authentication=bool(config.tls_client_ca))


def certificates(config: Config) -> grpc.ServerCertificateConfiguration:
    key, chain = (pathlib.Path(path).read_bytes() for path in (config.tls_key, config.tls_cert))
    authorities = pathlib.Path(config.tls_client_ca).read_bytes() if config.tls_client_ca else None
    for name, pem in (("tls_key", key), ("tls_cert", chain), ("tls_client_ca", authorities)):
        if pem is not None and b"-----BEGIN" not in pem:
            raise ConfigError(f"--{name.replace('_', '-')} names a file that is not PEM")
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def stamps(config: Config) -> tuple[int, ...]:
    """When the files were written."""
    paths = filter(None, (config.tls_key, config.tls_cert, config.tls_client_ca))
    return tuple(pathlib.Path(path).stat().st_mtime_ns for path in paths)


def tokens(config: Config) -> list[str] | None:
    """The accepted bearer tokens; None if everybody may call. Blank lines and lines that begin with # are skipped."""
    if not config.token_file:
        return None
    lines = [line.strip() for line in pathlib.Path(config.token_file).read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigError("--token-file names a file without a token")
    return found
