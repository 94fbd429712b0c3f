"""File names of a maildir: a base that never changes, and flags as letters behind `:2,`.

`1795376927.M8P16.host,S=28,W=32:2,Sac`: the base goes up to the colon; `S` is the size of the file, `W` the size with
CRLF, as Dovecot and Maildir++ write them. Small letters are keywords of the folder, named in `dovecot-keywords`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from sora.formats.flags import FORWARDED, LETTERS, Flags, of_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INFO: Final = b":2,"
MAX_LETTERS: Final = 26
_OF_FLAG: Final = {number: letter for letter, number in LETTERS.items()}


class FileName(Struct, frozen=True):
    """A file of `cur` or `new`.

    Attributes:
        base: What names the message for ever.
        letters: In the order of the file name.
    """

    base: bytes
    letters: str


def parse(name: bytes) -> FileName:
    """Take a file name apart; one without flags has none, and one with other than these (`:1,`) neither."""
    base, colon, info = name.partition(b":")
    if not colon or not info.startswith(b"2,"):
        return FileName(base, "")
    return FileName(base, info[2:].decode("latin-1").partition(",")[0])


def flags_of(letters: str, keywords: Sequence[str] | Mapping[int, str]) -> Flags:
    """What letters mean in a folder with these keywords; letters without a name mean nothing."""
    names = []
    system = sorted({LETTERS[letter] for letter in letters if letter in LETTERS})
    known = keywords if not isinstance(keywords, (list, tuple)) else dict(enumerate(keywords))
    for letter in letters:
        if "a" <= letter <= "z":
            name = known.get(ord(letter) - ord("a"), "")  # type: ignore[union-attr]
            if name:
                names.append(name)
        elif letter == "P":
            names.append(FORWARDED)
    return replace(of_names(names), system=tuple(system))


def letters_of(system: Sequence[int], keywords: Sequence[int]) -> str:
    """Letters for flags, in the order of ASCII, as the format wants it; keywords are numbers in the folder from 0."""
    large = sorted(_OF_FLAG[number] for number in system if number in _OF_FLAG)
    return "".join(large) + "".join(chr(ord("a") + number) for number in sorted(keywords) if number < MAX_LETTERS)


def size_of(base: bytes, which: bytes = b"W") -> int | None:
    """A size that the name tells, such as `,W=32`."""
    for part in base.split(b",")[1:]:
        if part.startswith(which + b"=") and part[2:].isdigit():
            return int(part[2:])
    return None
