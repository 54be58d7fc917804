"""Reads TLS certificates and bearer tokens from the files that the settings name."""

import logging
import pathlib
from typing import Any

import grpc

from bart_server.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The server's TLS credentials; None if no certificate is set. Clients need certificates if --tls-client-ca is set.

    At each TLS handshake, files that have changed are read again. If they cannot be used, the old certificates are
    kept.
    """
    if not settings.tls_cert:
        return None
    current = certificates(settings)
    read_at = modification_times(settings)

    def fetch() -> Any:  # grpc takes None for "unchanged", which its type stubs do not allow
        nonlocal read_at
        try:
            modified = modification_times(settings)
            if modified == read_at:
                return None
            changed = certificates(settings)
        except (OSError, ValueError):
            log.warning("the changed certificates cannot be read, the old ones are used")
            return None
        read_at = modified
        log.info("certificates reloaded")
        return changed

    return grpc.dynamic_ssl_server_credentials(
        current, fetch, require_client_authentication=bool(settings.tls_client_ca)
    )


def certificates(settings: Settings) -> grpc.ServerCertificateConfiguration:
    """The server's key, its certificates and the clients' authorities, as they are in the files now.

    Raises SettingsError for a file that is not PEM, and OSError for one that cannot be read.
    """
    key = read_pem("--tls-key", settings.tls_key)
    chain = read_pem("--tls-cert", settings.tls_cert)
    authorities = read_pem("--tls-client-ca", settings.tls_client_ca) if settings.tls_client_ca else None
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def read_pem(flag: str, path: str) -> bytes:
    """The content of a PEM file. flag: the setting that names it, for the error."""
    content = pathlib.Path(path).read_bytes()
    if b"-----BEGIN" not in content:
        raise SettingsError(f"{flag} names a file that is not PEM")
    return content


def modification_times(settings: Settings) -> list[int]:
    """When each of the certificate files was changed, in nanoseconds."""
    paths = filter(None, (settings.tls_key, settings.tls_cert, settings.tls_client_ca))
    return [pathlib.Path(path).stat().st_mtime_ns for path in paths]


def read_tokens(settings: Settings) -> list[str] | None:
    """The accepted bearer tokens; None if no token is needed. Blank lines and lines that begin with # are skipped.

    Raises SettingsError for a file without a token.
    """
    if not settings.token_file:
        return None
    tokens = []
    for line in pathlib.Path(settings.token_file).read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            tokens.append(line)
    if not tokens:
        raise SettingsError("--token-file names a file without a token")
    return tokens
