"""TLS contexts: TLS 1.2 or later; certificates are read again on reload."""

from __future__ import annotations

import ssl

from sora.errors import ConfigError


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """A context for the certificate chain and private key in two PEM files.

    Raises:
        ConfigError: A file cannot be read, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that renegotiates buys handshakes with our CPU.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS certificate {cert} with key {key}: {error}") from error
    return context


def client_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """How a server must prove who it is, and how we do.

    Args:
        ca: PEM file with the authorities to believe; empty: those of the system.
        cert: PEM file with our certificate chain; empty: we show none.
        key: PEM file with its private key; empty: it is in `cert`.

    Raises:
        ConfigError: A file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS files {', '.join(filter(None, (ca, cert, key)))}: {error}") from error
    return context
