"""TLS contexts of the servers: TLS 1.2 or later, the certificate read again on reload."""

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
