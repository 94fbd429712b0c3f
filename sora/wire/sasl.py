"""SASL as every protocol uses it (RFC 4422): the mechanisms by name, and the exchange of challenges and responses.

A mechanism is a generator: it yields challenges, is sent responses, and returns `Credentials`. A protocol looks its
name up in `MECHANISMS` and hands it to `negotiate` with a function that sends a challenge and reads the answer:

    credentials = await sasl.negotiate(sasl.find(name), initial, ask)

Challenges and responses are octets here; protocols that send them in base64 use `encode_challenge` and
`decode_response`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from sora.errors import BadSyntax

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

MAX_LINE: Final = 12_288
"""Octets of a response with its line end: RFC 5034 §4 sets this bound, the other protocols none."""


class Credentials(Struct, frozen=True):
    """What a client says of itself.

    Attributes:
        authzid: Whom to act as; empty: the one who logs in.
        authcid: Who logs in.
    """

    authzid: str
    authcid: str
    password: str

    @property
    def for_another(self) -> bool:
        """True if the client wants to act as somebody else."""
        return bool(self.authzid) and self.authzid != self.authcid

    def __repr__(self) -> str:
        return f"Credentials(authzid={self.authzid!r}, authcid={self.authcid!r}, password=...)"


Exchange: TypeAlias = Generator[bytes, bytes, Credentials]
Mechanism: TypeAlias = Callable[[], Exchange]


def parse_plain(message: bytes) -> Credentials:
    """`[authzid] NUL authcid NUL passwd` (RFC 4616 §2).

    Raises:
        BadSyntax: Not three parts of UTF-8, or no name.
    """
    parts = _text(message).split("\0")
    if len(parts) != 3 or not parts[1]:
        raise BadSyntax("The response is not authzid NUL authcid NUL password")
    return Credentials(*parts)


def plain() -> Exchange:
    """PLAIN (RFC 4616): one response, to an empty challenge."""
    return parse_plain((yield b""))


def login() -> Exchange:
    """LOGIN (draft-murchison-sasl-login): name and password, each asked for. An initial response is the name."""
    name = _text((yield b"Username:"))
    password = _text((yield b"Password:"))
    if not name or "\0" in name:
        raise BadSyntax("The response is no name")
    return Credentials("", name, password)


MECHANISMS: Final[Mapping[str, Mechanism]] = {
    "PLAIN": plain,
    "LOGIN": login,
}
"""What can be offered, best first. All send the password as it is: only where passwords may come in cleartext."""


def find(name: str) -> Mechanism | None:
    """A mechanism by its name in any case (RFC 4422 §3.1 has capitals only, clients do not)."""
    return MECHANISMS.get(name.upper())


async def negotiate(
    mechanism: Mechanism, initial: bytes | None, ask: Callable[[bytes], Awaitable[bytes]]
) -> Credentials:
    """Go through an exchange.

    Args:
        initial: The initial response, decoded; None: there is none. It stands for the answer to the first challenge.
        ask: Sends a challenge and gives the response; what it raises ends the exchange.

    Raises:
        BadSyntax: A response that the mechanism does not understand.
    """
    exchange = mechanism()
    challenge = next(exchange)
    response = await ask(challenge) if initial is None else initial
    while True:
        try:
            challenge = exchange.send(response)
        except StopIteration as done:
            credentials: Credentials = done.value
            return credentials
        response = await ask(challenge)


def encode_challenge(challenge: bytes) -> bytes:
    """A challenge as IMAP and POP3 send it, without `+ ` and line end."""
    return base64.b64encode(challenge)


def decode_response(line: bytes) -> bytes:
    """A response as IMAP and POP3 receive it.

    Raises:
        BadSyntax: Not base64, or `*`: the client gives up.
    """
    if line == b"*":
        raise BadSyntax("Authentication cancelled")
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        raise BadSyntax("The response is not base64") from None


def decode_initial(text: bytes) -> bytes:
    """An initial response behind the name of the mechanism; `=` is an empty one (RFC 4959 §3, RFC 5034 §4).

    Raises:
        BadSyntax: Not base64.
    """
    return b"" if text == b"=" else decode_response(text)


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise BadSyntax("The response is not UTF-8") from None
