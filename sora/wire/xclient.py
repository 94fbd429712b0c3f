"""What a trusted proxy says of the client that it speaks for: XCLIENT (Postfix XCLIENT_README) and XRCPTFORWARD."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from sora.errors import BadSyntax

if TYPE_CHECKING:
    from collections.abc import Callable


class BadAttribute(BadSyntax):
    """An attribute that nobody advertised, or a value that it cannot have."""


class Client(Struct, frozen=True):
    """Whom a proxy speaks for (XCLIENT, Postfix XCLIENT_README); empty or 0: not told.

    Attributes:
        name: Host name of the client.
        address: Its IP address.
        port: Its port.
        protocol: `SMTP`, `ESMTP` or `LMTP`.
        hello: What it called itself.
        login: Who it is, if it logged in.
        destination: The IP address that it connected to.
        destination_port: The port of that.
    """

    name: str = ""
    address: str = ""
    port: int = 0
    protocol: str = ""
    hello: str = ""
    login: str = ""
    destination: str = ""
    destination_port: int = 0


def parse_xclient(arguments: bytes, client: Client) -> Client:
    """`name=value …` (Postfix XCLIENT_README); several commands add up.

    Args:
        client: What was told before.

    Raises:
        BadAttribute: An attribute that was not advertised, or a value that it cannot have.
    """
    if not arguments.isascii() or not arguments:
        raise BadAttribute("XCLIENT needs attributes")
    told: dict[str, str | int] = {}
    for item in arguments.decode("ascii").split():
        name, _, value = item.partition("=")
        if name.upper() not in _XCLIENT:
            raise BadAttribute("Unknown attribute of XCLIENT")
        field, parse = _XCLIENT[name.upper()]
        text = parse_xtext(value)
        # "" is the default of each field but the ports.
        told[field] = getattr(Client(), field) if text.upper() in ("[UNAVAILABLE]", "[TEMPUNAVAIL]") else parse(text)
    return replace(client, **told)


_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


def _client_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise BadAttribute("Bad host name in XCLIENT")
    return text


def _client_address(text: str) -> str:
    if "%" in text:
        # Behind a per cent sign ip_address takes anything for a scope, line ends too, and this goes into a header.
        raise BadAttribute("Bad address in XCLIENT")
    try:
        return str(ip_address(text[5:] if text[:5].upper() == "IPV6:" else text))
    except ValueError as error:
        raise BadAttribute("Bad address in XCLIENT") from error


def _client_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 65535:
        raise BadAttribute("Bad port in XCLIENT")
    return int(text)


def _client_protocol(text: str) -> str:
    if text.upper() not in ("SMTP", "ESMTP", "LMTP"):
        raise BadAttribute("Bad protocol in XCLIENT")
    return text.upper()


def _client_login(text: str) -> str:
    if not text.isprintable():
        raise BadAttribute("Bad login in XCLIENT")
    return text


_XCLIENT: Final[dict[str, tuple[str, Callable[[str], str | int]]]] = {
    "NAME": ("name", _client_name),
    "ADDR": ("address", _client_address),
    "PORT": ("port", _client_port),
    "PROTO": ("protocol", _client_protocol),
    "HELO": ("hello", _client_name),
    "LOGIN": ("login", _client_login),
    "DESTADDR": ("destination", _client_address),
    "DESTPORT": ("destination_port", _client_port),
}
ATTRIBUTES: Final = tuple(_XCLIENT)


def parse_forward(value: str) -> tuple[tuple[str, str], ...]:
    """XRCPTFORWARD: `name=value` fields between tabs, escaped as Dovecot does (\\001 and a letter), all of it xtext.

    Raises:
        BadAttribute: It is no xtext.
    """
    fields = []
    for field in parse_xtext(value).split("\t"):
        name, _, text = _ESCAPED.sub(_unescaped, field).partition("=")
        fields.append((name, text))
    return tuple(fields)


_ESCAPED: Final = re.compile("\x01(.)", re.DOTALL)


def _unescaped(match: re.Match[str]) -> str:
    return {"1": "\x01", "t": "\t", "r": "\r", "n": "\n"}.get(match[1], match[1])


def parse_xtext(value: str) -> str:
    """The text that `value` encodes (RFC 3461 §4).

    Raises:
        BadAttribute: It is no xtext, or what it encodes is no UTF-8 or has a NUL.
    """
    if not _XTEXT.fullmatch(value):
        raise BadAttribute("Bad xtext")
    octets = re.sub(rb"\+(..)", lambda match: bytes([int(match[1], 16)]), value.encode("ascii"))
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadAttribute("Bad xtext") from error
    if "\0" in text:
        raise BadAttribute("Bad xtext")
    return text


_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*")
