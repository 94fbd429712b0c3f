"""Flags of other stores, and what becomes of those that cannot be flags here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.types import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN, SYSTEM_FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterable

SYSTEM: Final = {name.decode().lower(): number for number, name in SYSTEM_FLAGS.items()}
MAX_KEYWORD: Final = 200
MAX_KEYWORDS: Final = 64
"""Keywords of one message."""
_NOT_IN_ATOM: Final = re.compile(r'[^\x21-\x7e]|[(){%*"\\\]]')

LETTERS: Final = {"S": SEEN, "R": ANSWERED, "F": FLAGGED, "T": DELETED, "D": DRAFT}
"""Of maildir; `P`, passed on, is `$Forwarded`."""
FORWARDED: Final = "$Forwarded"


class Flags(Struct, frozen=True):
    """What a message bears.

    Attributes:
        system: Numbers of system flags.
        keywords: Names, as they may be here.
        changed: Names that do not come over as they are.
    """

    system: tuple[int, ...] = ()
    keywords: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def keyword(name: str) -> str:
    """A keyword as it may be here (RFC 9051 §9, flag-keyword); empty: nothing is left of it.

    `NIL` is an atom, but clients read it in a list as no flag at all: the token alone, not names that begin so.
    """
    name = _NOT_IN_ATOM.sub("_", name)[:MAX_KEYWORD]
    if not name.strip("_"):
        return ""
    return f"{name}_" if name.upper() == "NIL" else name


def of_names(names: Iterable[str]) -> Flags:
    """Flags as IMAP names them; unknown system flags are none of ours."""
    system: set[int] = set()
    keywords: dict[str, str] = {}
    changed: list[str] = []
    for name in names:
        if name.startswith("\\"):
            if name.lower() in SYSTEM:
                system.add(SYSTEM[name.lower()])
            continue
        kept = keyword(name)
        if kept != name:
            changed.append(name)
        if kept:
            keywords.setdefault(kept.lower(), kept)
    return Flags(tuple(sorted(system)), tuple(list(keywords.values())[:MAX_KEYWORDS]), tuple(changed))
