"""Answers that are many numbers: SEARCH, SORT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native import columns as native

if TYPE_CHECKING:
    from array import array

    from sora.protocols.imap.session import Session

NUMBERS_PER_WRITE: Final = 10_000


async def write_numbers(s: Session, name: bytes, numbers: array[int], *, modseq: int | None = None) -> None:
    """`* SEARCH 1 2 3 (MODSEQ 4)`, however long; a client takes what a cut answer lacks for gone."""
    s.write(name)
    for first in range(0, len(numbers), NUMBERS_PER_WRITE):
        s.write(native.write_numbers(numbers, first, first + NUMBERS_PER_WRITE))
        await s.breathe()
    s.write(b"\r\n" if modseq is None else b" (MODSEQ %d)\r\n" % modseq)


def numbers_for(s: Session, uids: array[int], *, uid: bool) -> array[int]:
    """What the client is answered: UIDs, or the sequence numbers of its picture."""
    return uids if uid else native.places(uids, s.view.told.all_uids())
