"""Files that Dovecot keeps in a maildir: `dovecot-uidlist`, `dovecot-keywords`, `subscriptions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.formats.names import decode_level
from sora.types import MAX_UID
from sora.wire import utf7

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_LINE: Final = 64 * 1024
SUBSCRIPTIONS_VERSION: Final = b"V\t2"


class UidListHeader(Struct, frozen=True):
    """First line of `dovecot-uidlist`.

    Attributes:
        uidvalidity: 0: it names none.
        uid_next: As of the last time the file was written anew: messages that were added since have higher UIDs.
    """

    version: int
    uidvalidity: int
    uid_next: int


class UidListEntry(Struct, frozen=True):
    """A message; `base` is the file name without its flags."""

    uid: int
    base: bytes


def parse_uidlist_header(line: bytes) -> UidListHeader | None:
    """The header of version 1 or 3; None: this is no such file."""
    version, *fields = line.split()[:64] or [b""]
    if version == b"1" and len(fields) >= 2 and all(field.isdigit() for field in fields[:2]):
        return UidListHeader(1, _number(fields[0]), _number(fields[1]))
    if version != b"3":
        return None
    values = {field[:1]: field[1:] for field in fields}
    return UidListHeader(3, _number(values.get(b"V", b"")), _number(values.get(b"N", b"")) or 1)


def parse_uidlist_line(line: bytes, version: int) -> UidListEntry | None:
    """One message; None: a line that was torn, or is none."""
    number, space, rest = line.rstrip(b"\n").partition(b" ")
    uid = _number(number)
    if not space or not uid:
        return None
    if version == 1:
        name = rest
    else:  # extensions, each a letter and a value, then the name behind a colon
        name = rest[1:] if rest.startswith(b":") else rest.partition(b" :")[2]
    base = name.partition(b":")[0]
    return UidListEntry(uid, base) if base else None


def _number(digits: bytes) -> int:
    """A 32-bit number, or 0."""
    if not digits.isdigit() or len(digits) > 10:
        return 0
    number = int(digits)
    return number if number <= MAX_UID else 0


def write_uidlist(uidvalidity: int, uid_next: int, guid: bytes, entries: Iterable[UidListEntry]) -> Iterator[bytes]:
    """The lines of a new file, version 3."""
    yield b"3 V%d N%d G%s\n" % (uidvalidity, uid_next, guid)
    for entry in entries:
        yield b"%d :%s\n" % (entry.uid, entry.base)


def parse_keywords(text: bytes) -> dict[int, str]:
    """Names of the letters of a folder, by number from 0; lines that are none are passed over."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        number, space, name = line.partition(b" ")
        if space and name and number.isdigit() and len(number) <= 2:
            found.setdefault(int(number), name.decode("utf-8", "replace"))
    return found


def write_keywords(names: Mapping[int, str]) -> bytes:
    """The file for these names."""
    return b"".join(b"%d %s\n" % (number, names[number].encode()) for number in sorted(names))


def parse_subscriptions(text: bytes, separator: bytes, escape: str = "") -> list[list[str]]:
    """Levels of the names in `subscriptions`: version 2 parts them by TAB, version 1 by what the storage does."""
    lines = text.split(b"\n")
    if lines and lines[0] == SUBSCRIPTIONS_VERSION:
        lines, separator = lines[1:], b"\t"
    return [[decode_level(part, escape) for part in line.split(separator)] for line in lines if line.strip()]


def write_subscriptions(names: Iterable[str]) -> bytes:
    """Version 2."""
    lines = [b"\t".join(utf7.encode(part) for part in name.split("/")) for name in names]
    return b"\n".join([SUBSCRIPTIONS_VERSION, b"", *lines, b""])
