"""CAPABILITY, ID, STARTTLS, AUTHENTICATE, LOGIN, COMPRESS, LOGOUT: who the client is, what each can do."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import BadSyntax
from sora.protocols.imap.replies import ANSWERED, Cannot, CompressionActive, PrivacyRequired, Reply
from sora.wire import sasl

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.wire import imap_commands as wire

_log = log.get(__name__)

OWN_ID: Final = b'("name" "Sora")'
"""Not the version: whoever connects may ask, and it only helps those who look for an old one."""


async def capability(s: Session, _cmd: wire.Capability) -> None:
    """RFC 9051 §6.1.1."""
    s.write(b"* CAPABILITY %s\r\n" % s.capabilities())


async def identify(s: Session, cmd: wire.Id) -> None:
    """RFC 2971 §3.1: what the client says goes to the log, and nowhere else."""
    if cmd.fields:
        _log.info("client named itself", extra={"client": {k[:30]: (v or "")[:200] for k, v in cmd.fields.items()}})
    s.write(b"* ID %s\r\n" % OWN_ID)


async def compress(s: Session, cmd: wire.Compress) -> Reply:
    """RFC 4978 §3: the OK is the last line that is sent as it is.

    A client must not send anything before it has read the OK: nobody could tell whether it is compressed.
    """
    if cmd.algorithm != "DEFLATE":
        raise BadSyntax("Only DEFLATE is offered")
    if s.compressed:
        raise CompressionActive
    if s.scanner.buffered:
        raise BadSyntax("Something follows COMPRESS already")
    s.write(b"%s OK DEFLATE active\r\n" % s.tag)
    await s.start_compression()
    return ANSWERED


async def logout(s: Session, _cmd: wire.Logout) -> None:
    """RFC 9051 §6.1.3."""
    s.bye(b"Logging out")


async def unauthenticate(s: Session, _cmd: wire.Unauthenticate) -> Reply:
    """RFC 8437 §3: everything but TLS is as it was before the login.

    A mailbox is left without an expunge. Compression ends behind the answer, so nothing may have been sent already.
    """
    if s.compressed and s.scanner.buffered:
        raise BadSyntax("Something follows UNAUTHENTICATE already")
    s.log_out()
    s.write(b"%s OK [CAPABILITY %s] Unauthenticated\r\n" % (s.tag, s.capabilities()))
    if s.compressed:
        await s.stop_compression()
    return ANSWERED


async def starttls(s: Session, _cmd: wire.StartTls) -> Reply:
    """RFC 9051 §6.2.1: the OK is the last octet in plaintext; what came after the command is thrown away.

    The session stays in the not authenticated state and remembers nothing that was learnt in plaintext.
    """
    if s.tls or s.listener.tls is None:
        raise BadSyntax("TLS is active already" if s.tls else "No TLS here")
    s.write(b"%s OK Begin TLS now\r\n" % s.tag)
    await s.start_tls()
    return ANSWERED


async def login(s: Session, cmd: wire.Login) -> Reply:
    """RFC 9051 §6.2.3."""
    _require_privacy(s)
    return await _log_in(s, cmd.login, cmd.password)


async def authenticate(s: Session, cmd: wire.Authenticate) -> Reply:
    """RFC 9051 §6.2.2 with the initial response of RFC 4959."""
    _require_privacy(s)
    mechanism = sasl.find(cmd.mechanism)
    if mechanism is None:
        raise Cannot("Unknown authentication mechanism")
    credentials = await sasl.negotiate(mechanism, cmd.initial, functools.partial(_challenge, s))
    if credentials.for_another:
        raise Cannot("Logging in for somebody else is not possible")
    return await _log_in(s, credentials.authcid, credentials.password)


def _require_privacy(s: Session) -> None:
    if not s.tls and not s.node.config.auth.allow_cleartext:
        raise PrivacyRequired


async def _log_in(s: Session, name: str, password: str) -> Reply:
    identity = await s.node.auth.login(name, password, peer=s.peer, protocol=s.protocol)
    s.log_in(identity)
    s.node.warmup.login(identity.account_id)
    return Reply(text=b"Logged in", code=b"CAPABILITY " + s.capabilities())


async def _challenge(s: Session, challenge: bytes) -> bytes:
    """Send a challenge and read the response.

    Raises:
        BadSyntax: It is no base64, or the client gave up with `*`.
    """
    s.write(b"+ %s\r\n" % sasl.encode_challenge(challenge))
    return sasl.decode_response(await s.read_line(sasl.MAX_LINE))
