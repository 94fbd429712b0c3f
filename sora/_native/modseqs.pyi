# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""When the messages of a mailbox changed last, at any version of it."""

from collections.abc import Iterable
from typing import final

from sora._native.seqset import UidSet

@final
class ModSeqs:
    """Creations and changes of one mailbox after `since`, up to `highest`.

    Args:
        since: exact for messages that changed later; 0: for all.
        created, changes: as `modseqs()` of the schema gives them; None: none.
    """

    def __init__(
        self, since: int, highest: int, created: bytes | None = None, changes: bytes | None = None
    ) -> None: ...
    @property
    def since(self) -> int: ...
    @property
    def highest(self) -> int: ...
    @property
    def size_bytes(self) -> int:
        """Memory held by both."""

    @property
    def entries(self) -> int:
        """Changes that are kept, 160 octets each."""

    def add(self, highest: int, created: bytes | None, changes: bytes | None) -> None:
        """What came after `highest`, which becomes *highest*. Raises ValueError for records in another order."""

    def add_change(self, modseq: int, blocks: Iterable[tuple[int, bytes]]) -> None:
        """One change: block numbers and the bits (128 bytes) of the messages that it changed."""

    def of(self, uids: UidSet, as_of: int) -> bytes:
        """Modseqs of *uids* at a version, in their order, as native 64-bit numbers; *as_of* where it is not known."""

    def last(self, uids: UidSet, as_of: int) -> int:
        """The greatest of them; 0 if *uids* is empty."""

    def newer(self, uids: UidSet, since: int, as_of: int) -> UidSet:
        """Those of *uids* that came or changed after *since*, up to *as_of*."""
