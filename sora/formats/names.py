"""Names of folders: how they stand on a disk or in another server, and how they stand here.

What comes from outside is a path that somebody else has chosen. Each level is made one that may be a mailbox name and a
file name at once; nothing of a name is ever a way to another directory.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from sora.errors import BadSyntax
from sora.wire import utf7

if TYPE_CHECKING:
    from collections.abc import Collection

DELIMITER: Final = "/"
INBOX: Final = "INBOX"
MAX_LEVEL_BYTES: Final = 255
MAX_LEVELS: Final = 32
MAX_NAME_BYTES: Final = 1000
_HEX: Final = frozenset("0123456789abcdefABCDEF")


def level(text: str) -> str:
    """One level of a mailbox name, near to the one that was meant."""
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") or c == DELIMITER else c for c in text)
    if text in ("", ".", ".."):
        return "_" * max(1, len(text))
    while len(text.encode()) > MAX_LEVEL_BYTES:
        text = text[:-1]
    return text


def name_of(levels: list[str]) -> str:
    """A mailbox name of levels as they were elsewhere; INBOX in whatever spelling is INBOX."""
    made = [level(part) for part in levels] or [INBOX]
    if len(made) > MAX_LEVELS:
        made = [*made[: MAX_LEVELS - 1], level("_".join(made[MAX_LEVELS - 1 :]))]
    if made[0].isascii() and made[0].upper() == INBOX:
        made[0] = INBOX
    while len(DELIMITER.join(made).encode()) > MAX_NAME_BYTES:
        longest = max(range(len(made)), key=lambda i: len(made[i]))
        made[longest] = made[longest][:-1]
    return DELIMITER.join(made)


def unlike(name: str, taken: Collection[str]) -> str:
    """The name, or one beside it that nobody has: two folders that are one here would share their UIDs."""
    if name not in taken:
        return name
    for number in range(2, len(taken) + 3):
        other = f"{name} ({number})"
        if other not in taken:
            return other
    raise AssertionError("one of so many names is free")


def decode_level(octets: bytes, escape: str = "") -> str:
    """A level as Dovecot writes it: modified UTF-7, or UTF-8 where that is set; `escape` and two hex digits: an octet.

    What is neither is taken octet by octet.
    """
    try:
        text = utf7.decode(octets)
    except BadSyntax:
        try:
            text = octets.decode("utf-8")
        except UnicodeDecodeError:
            text = octets.decode("latin-1")
    return _unescaped(text, escape) if escape else text


def _unescaped(text: str, escape: str) -> str:
    first, *rest = text.split(escape)
    made = [first]
    for part in rest:
        if len(part) >= 2 and part[0] in _HEX and part[1] in _HEX:
            made.append(chr(int(part[:2], 16)) + part[2:])
        else:
            made.append(escape + part)
    return "".join(made)


def maildirpp_levels(directory: bytes, escape: str = "") -> list[str]:
    """Levels of a Maildir++ directory such as `.Lists.p&-q`."""
    return [decode_level(part, escape) for part in directory.removeprefix(b".").split(b".")]


def can_be_maildirpp(name: str) -> bool:
    """Whether a mailbox name has a Maildir++ directory: `.` parts the levels there."""
    return "." not in name


def maildirpp_directory(name: str) -> bytes:
    """The directory of a mailbox below the maildir; of INBOX it is the maildir itself, the empty name."""
    if name == INBOX:
        return b""
    return b"." + b".".join(utf7.encode(part) for part in name.split(DELIMITER))


def fs_directory(name: str) -> bytes:
    """The same for `LAYOUT=fs`."""
    if name == INBOX:
        return b""
    return b"/".join(utf7.encode(part) for part in name.split(DELIMITER))
