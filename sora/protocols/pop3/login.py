"""Who the client is and what both sides can do: CAPA, LANG, UTF8, STLS, USER, PASS, AUTH."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sora.errors import AuthFailed, BadSyntax
from sora.protocols.pop3.replies import PrivacyRequired, WrongState
from sora.protocols.pop3.state import TRANSACTION
from sora.protocols.pop3.transaction import say_totals
from sora.wire import pop3, sasl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.protocols.pop3.session import Session


async def capa(s: Session, _argument: bytes) -> None:
    """RFC 2449 §5: what works; what matters before login is announced after it, too.

    The name of the server is not for everybody.
    """
    s.ok("Capabilities")
    await s.send(pop3.write_listing(_capabilities(s)))


def _capabilities(s: Session) -> Iterator[bytes]:
    yield from (b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"EXPIRE NEVER")
    if delay_s := s.node.config.limits.pop3_login_delay:
        yield b"LOGIN-DELAY %d" % math.ceil(delay_s)
    yield from (b"UTF8 USER", b"LANG")
    if s.can_start_tls:
        yield b"STLS"
    if s.private:
        yield b"USER"
        yield b"SASL " + _mechanisms(b" ")
    if s.state is TRANSACTION:
        yield b"IMPLEMENTATION Sora"


def _mechanisms(separator: bytes) -> bytes:
    return separator.join(name.encode() for name in sasl.MECHANISMS)


async def lang(s: Session, argument: bytes) -> None:
    """LANG (RFC 6856 §3): the texts of all languages are the same ones, in English."""
    if not argument:
        s.ok("Languages")
        await s.send(pop3.write_listing(f"{tag} {name}".encode() for tag, name in pop3.LANGUAGES.items()))
        return
    tag = pop3.find_language(argument)
    if tag is None:
        raise BadSyntax("Unknown language")
    s.ok(f"{tag} Language chosen")


async def utf8(s: Session, _argument: bytes) -> None:
    """UTF8 (RFC 6856 §2.1): messages leave as they are stored.

    Names and passwords may be UTF-8 in any case (the USER argument of the capability).
    """
    s.utf8 = True
    s.ok("UTF-8 it is")


async def stls(s: Session, _argument: bytes) -> None:
    """RFC 2595 §4: what came in plaintext behind the command is thrown away, and so is what the client said before."""
    if not s.can_start_tls:
        raise WrongState("TLS is active" if s.tls else "No TLS here")
    s.ok("Begin TLS")
    s.name = ""
    s.utf8 = False
    await s.start_tls()


async def user(s: Session, argument: bytes) -> None:
    """RFC 1939 §7: any name is fine, so that nobody learns which exist."""
    _require_privacy(s)
    s.name = pop3.parse_text(argument.strip())
    s.ok()


async def password(s: Session, argument: bytes) -> None:
    """PASS (RFC 1939 §7); after a failure the client begins with USER again."""
    _require_privacy(s)
    name, s.name = s.name, ""
    if not name:
        raise WrongState("USER comes first")
    await s.log_in(name, pop3.parse_text(argument))
    say_totals(s)


async def auth(s: Session, argument: bytes) -> None:
    """AUTH (RFC 5034 §4). Without an argument it lists the mechanisms, as old clients expect."""
    _require_privacy(s)
    if not argument.strip():
        s.ok("Mechanisms")
        await s.send(pop3.write_listing([_mechanisms(b"\r\n")]))
        return
    name, _, initial = argument.strip().partition(b" ")
    mechanism = sasl.find(name.decode("ascii", "replace"))
    if mechanism is None:
        raise BadSyntax("Unknown authentication mechanism")
    first = sasl.decode_initial(initial.strip()) if initial else None
    credentials = await sasl.negotiate(mechanism, first, s.ask)
    if credentials.for_another:
        raise AuthFailed(detail="authorization identity of somebody else")
    await s.log_in(credentials.authcid, credentials.password)
    say_totals(s)


def _require_privacy(s: Session) -> None:
    if not s.private:
        raise PrivacyRequired
