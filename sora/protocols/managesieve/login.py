"""Who the client is and what both sides can do: CAPABILITY, STARTTLS, AUTHENTICATE, UNAUTHENTICATE, NOOP, LOGOUT."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from sora.errors import AuthFailed, BadSyntax
from sora.protocols.managesieve.replies import PrivacyRequired, WrongState
from sora.protocols.managesieve.state import KNOWN
from sora.services.filters.answers import list_schemes
from sora.sieve.language import EXTENSIONS
from sora.wire import managesieve as wire
from sora.wire import sasl
from sora.wire.managesieve import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.protocols.managesieve.session import Session

VERSION: Final = "1.0"
"""RENAMESCRIPT, CHECKSCRIPT and NOOP are there (RFC 5804 §1.7)."""


@functools.cache
def _extensions() -> str:
    return " ".join(sorted(EXTENSIONS))


async def capability(s: Session) -> None:
    """RFC 5804 §2.4."""
    say_capabilities(s)
    s.ok()


def say_capabilities(s: Session) -> None:
    """What works now (RFC 5804 §1.7); also what a session and TLS begin with."""
    s.write(wire.write_capabilities(_capabilities(s)))


def _capabilities(s: Session) -> Iterator[tuple[str, str | None]]:
    yield "IMPLEMENTATION", "Sora"
    yield "SIEVE", _extensions()
    # Nothing to choose from: the client needs TLS first.
    yield "SASL", " ".join(sasl.MECHANISMS) if s.private else ""
    if s.can_start_tls:
        yield "STARTTLS", None
    yield "MAXREDIRECTS", str(s.node.config.sieve.max_redirects)
    yield "NOTIFY", "mailto"
    yield "EXTLISTS", " ".join(list_schemes(s.node.filters.site))
    yield "LANGUAGE", "en"
    yield "UNAUTHENTICATE", None
    if s.state is KNOWN:
        yield "OWNER", s.address
    yield "VERSION", VERSION


async def starttls(s: Session) -> None:
    """RFC 5804 §2.2: what came in plaintext behind the command is thrown away, and all is announced anew."""
    if not s.can_start_tls:
        raise WrongState("TLS is active" if s.tls else "No TLS here")
    s.ok("Begin TLS")
    await s.start_tls()
    say_capabilities(s)
    s.ok("TLS is active")


async def authenticate(s: Session, name: str, initial: bytes | None = None) -> None:
    """RFC 5804 §2.1, with an initial response or without."""
    if not s.private:
        raise PrivacyRequired
    mechanism = sasl.find(name)
    if mechanism is None:
        raise BadSyntax("Unknown authentication mechanism")
    first = None if initial is None else sasl.decode_initial(initial)
    credentials = await sasl.negotiate(mechanism, first, s.ask)
    if credentials.for_another:
        raise AuthFailed(detail="authorization identity of somebody else")
    await s.log_in(credentials.authcid, credentials.password)
    s.ok("Logged in")


async def unauthenticate(s: Session) -> None:
    """RFC 5804 §2.14: as if nobody had logged in; TLS stays."""
    s.log_out()
    s.ok("Logged out")


async def noop(s: Session, tag: str | None = None) -> None:
    """RFC 5804 §2.13: the client gets its own words back, so that it finds its place in the stream."""
    s.write(wire.write_ok("Done") if tag is None else wire.write_ok("Done", Code.TAG, tag))


async def logout(s: Session) -> None:
    """RFC 5804 §2.3."""
    s.end(wire.write_ok("Bye"))
