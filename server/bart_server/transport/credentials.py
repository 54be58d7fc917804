"""Certificates and tokens from files."""

import logging
import pathlib
from typing import Any

import grpc

from bart_server.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS, with client certificates if an authority for them is given; None without TLS.

    A changed certificate is read at the next handshake; while the new files are unusable the old ones stay.
    """
    if not settings.tls_cert:
        return None
    current = certificates(settings)
    stamp = stamps(settings)

    def fetch() -> Any:
        nonlocal stamp
        try:
            if (now := stamps(settings)) == stamp:
                return None
            fresh = certificates(settings)
            stamp = now
            log.info("certificates reloaded")
            return fresh
        except (OSError, ValueError):
            log.warning("certificates unreadable, the old ones stay")
            return None

    return grpc.dynamic_ssl_server_credentials(
        current, fetch, require_client_authentication=bool(settings.tls_client_ca)
    )


def certificates(settings: Settings) -> grpc.ServerCertificateConfiguration:
    key, chain = (pathlib.Path(path).read_bytes() for path in (settings.tls_key, settings.tls_cert))
    authorities = pathlib.Path(settings.tls_client_ca).read_bytes() if settings.tls_client_ca else None
    for name, pem in (("tls_key", key), ("tls_cert", chain), ("tls_client_ca", authorities)):
        if pem is not None and b"-----BEGIN" not in pem:
            raise SettingsError(f"--{name.replace('_', '-')} names a file that is not PEM")
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def stamps(settings: Settings) -> tuple[int, ...]:
    """When the files were written."""
    paths = filter(None, (settings.tls_key, settings.tls_cert, settings.tls_client_ca))
    return tuple(pathlib.Path(path).stat().st_mtime_ns for path in paths)


def tokens(settings: Settings) -> list[str] | None:
    """The accepted bearer tokens; None if everybody may call. Blank lines and lines that begin with # are skipped."""
    if not settings.token_file:
        return None
    lines = [line.strip() for line in pathlib.Path(settings.token_file).read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise SettingsError("--token-file names a file without a token")
    return found
