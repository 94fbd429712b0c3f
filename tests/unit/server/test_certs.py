"""The self-signed certificate."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sora.net.tls import server_context
from sora.server.certs import ensure_self_signed

if TYPE_CHECKING:
    from pathlib import Path


def test_a_client_that_trusts_it_can_connect_by_name_and_address(tmp_path: Path) -> None:
    cert, key = tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem"
    ensure_self_signed(cert, key, ("localhost", "127.0.0.1"))
    assert key.stat().st_mode & 0o777 == 0o600
    loaded = x509.load_pem_x509_certificate(cert.read_bytes())
    public = loaded.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    for name in ("localhost", "127.0.0.1"):
        handshake(server_context(str(cert), str(key)), ssl.create_default_context(cafile=str(cert)), name)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """In memory, both sides in turns."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(ours, theirs, server_hostname=name),
        server.wrap_bio(theirs, ours, server_side=True),
    ]
    for _ in range(3):
        for side in tuple(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not sides


def test_one_that_is_there_is_kept_and_half_of_one_is_replaced(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ensure_self_signed(cert, key, ("localhost",))
    before = cert.read_bytes()
    ensure_self_signed(cert, key, ("localhost",))
    assert cert.read_bytes() == before
    cert.unlink()
    ensure_self_signed(cert, key, ("localhost",))
    server_context(str(cert), str(key))
