"""Plain model of the modseqs of a mailbox: creations by UID, and a list of changes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.support.models_viewcols import bitmap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def created(mailbox: Mapping[int, int]) -> bytes:
    """Creations as the function of the schema gives them."""
    return b"".join(struct.pack(">Iq", uid, modseq) for uid, modseq in sorted(mailbox.items()))


def changes(journal: Iterable[tuple[int, Iterable[int]]]) -> bytes:
    """A journal as the function of the schema gives it: modseqs with the UIDs that changed."""
    return b"".join(
        struct.pack(">qii", modseq, block, 1024) + bitmap(uid for uid in uids if uid >> 10 == block)
        for modseq, uids in journal
        for block in sorted({uid >> 10 for uid in uids})
    )


class PlainModSeqs:
    """See modseqs.ModSeqs."""

    def __init__(self, since: int) -> None:
        self.highest = since
        self.created: dict[int, int] = {}
        self.journal: list[tuple[int, frozenset[int]]] = []

    def add(self, highest: int, mailbox: Mapping[int, int], journal: Iterable[tuple[int, Iterable[int]]]) -> None:
        """What came later."""
        self.highest = highest
        self.created |= mailbox
        self.journal += [(modseq, frozenset(uids)) for modseq, uids in journal]

    def of(self, uids: Iterable[int], as_of: int) -> list[int]:
        """Modseqs at a version."""
        return [self._one(uid, as_of) for uid in uids]

    def _one(self, uid: int, as_of: int) -> int:
        changed = [modseq for modseq, uids in self.journal if uid in uids and modseq <= as_of]
        return max(changed, default=min(self.created.get(uid, as_of), as_of))

    def last(self, uids: Iterable[int], as_of: int) -> int:
        """The greatest of them."""
        return max(self.of(uids, as_of), default=0)

    def newer(self, uids: Iterable[int], since: int, as_of: int) -> list[int]:
        """Those that came or changed in between."""
        return [
            uid
            for uid in uids
            if since < self.created.get(uid, since) <= as_of
            or any(since < modseq <= as_of and uid in changed for modseq, changed in self.journal)
        ]
