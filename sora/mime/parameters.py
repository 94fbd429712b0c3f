"""Parameters of MIME fields in the form of RFC 2231: values in pieces, with a charset, with octets by their codes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from sora.mime.text import decode_charset, decode_raw

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME: Final = re.compile(rb"(.+?)(?:\*(0|[1-9][0-9]{0,3}))?(\*)?")


def decode_parameters(params: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Names in lower case and values as texts, in the order in which they begin.

    Pieces stand in the order of their numbers and end where one is missing (RFC 2231 §3).
    """
    found: dict[str, dict[int, tuple[bytes, bool]]] = {}
    for raw_name, value in params:
        match = _NAME.fullmatch(raw_name)
        name = decode_raw(match[1] if match else raw_name).lower()
        number = int(match[2] or 0) if match else 0
        found.setdefault(name, {}).setdefault(number, (value, bool(match and match[3])))
    return [(name, _joined(pieces)) for name, pieces in found.items() if 0 in pieces]


def _joined(pieces: dict[int, tuple[bytes, bool]]) -> str:
    first, encoded = pieces[0]
    charset = b""
    if encoded:  # charset'language'octets (RFC 2231 §4)
        charset, _, rest = first.partition(b"'")
        first = rest.partition(b"'")[2]
    octets = [unquote_to_bytes(first) if encoded else first]
    for number in range(1, len(pieces)):
        if number not in pieces:
            break
        value, encoded = pieces[number]
        octets.append(unquote_to_bytes(value) if encoded else value)
    whole = b"".join(octets)
    return decode_charset(whole, charset) if charset else decode_raw(whole)
