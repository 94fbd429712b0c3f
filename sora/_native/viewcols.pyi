# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""The columns of a mailbox: which UIDs live and which flags they bear, as bitmaps of 1,024 UIDs.

A `Snapshot` is one immutable version. Versions share the blocks that did not change, so that many sessions can
each keep the version their client has been told about.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

from sora._native.seqset import NumSet, SeqSet, UidSet

NO_RECENT: int
"""Value of `recent_after` under which no message is \\Recent."""

@final
class Diff:
    """What a client that knows the older version must be told."""

    @property
    def expunged_seqs(self) -> list[int]:
        """Numbers for `* n EXPUNGE`, ready to be sent in this order (each counts the ones before it as gone)."""

    @property
    def vanished(self) -> UidSet: ...
    @property
    def changed(self) -> UidSet:
        """Messages in both versions whose flags differ."""

    @property
    def arrived(self) -> UidSet: ...
    def __bool__(self) -> bool:
        """True if anything differs."""

@final
class Snapshot:
    """One version of one mailbox."""

    @classmethod
    def load(cls, state: bytes | None, uid_next: int, highest_modseq: int) -> Snapshot:
        """From the whole `state` of `mailbox_state()`.

        Records of 138 bytes in any order: block number (int4), flag number (int2; -1 is the live bitmap), 1024
        (int4), 128 bytes of bits, the first UID of the block being the highest bit of the first byte.

        Raises:
            ValueError: the bytes are not such records.
        """

    def apply(self, state: bytes | None, uid_next: int, highest_modseq: int) -> Snapshot:
        """The version after `mailbox_delta()`: every block named in *state* is replaced, the others are shared."""

    def patch_flags(
        self,
        modseq: int,
        blocks: Iterable[tuple[int, bytes]],
        set: Sequence[int],
        clear: Sequence[int],
        replace: bool,
    ) -> Snapshot:
        """The version after a STORE.

        Args:
            modseq: highest_modseq of the new version.
            blocks: block number and the bits (128 bytes) of the messages to which the change was applied.
            set: flag numbers to set.
            clear: flag numbers to clear.
            replace: clear every flag that is not in *set*.

        Raises:
            ValueError: a block that this version does not have; load anew.
        """

    def patch_expunge(self, modseq: int, uids: UidSet | Iterable[int]) -> Snapshot:
        """The version without *uids*; unknown ones are skipped."""

    @property
    def uid_next(self) -> int: ...
    @property
    def highest_modseq(self) -> int: ...
    @property
    def unseen(self) -> int:
        """How many messages lack \\Seen."""

    @property
    def size_bytes(self) -> int:
        """Memory held by the blocks of this version, those shared with others included."""

    def __len__(self) -> int: ...
    def seq(self, uid: int) -> int:
        """Sequence number of *uid*; 0 if it is not here."""

    def uid(self, seq: int) -> int:
        """UID of sequence number *seq*. Raises IndexError."""

    def uids(self, seqs: SeqSet) -> UidSet:
        """UIDs of *seqs*; `*` is the last message; numbers beyond the last message are skipped."""

    def seqs(self, uids: UidSet) -> SeqSet:
        """Sequence numbers of those *uids* that are here; `*` is the last message."""

    def present(self, uids: UidSet) -> UidSet:
        """Those of *uids* that are here; `*` is the last message."""

    def all_uids(self) -> UidSet: ...
    def with_flag(self, flag_no: int, value: bool = True) -> UidSet:
        """Messages that bear the flag, or that do not."""

    def among(self, uids: UidSet, flag_no: int, value: bool = True) -> UidSet:
        """Those of *uids* that bear the flag, or that do not; costs nothing for the others."""

    def count_flag(self, flag_no: int) -> int:
        """How many messages bear the flag."""

    def first_unseen(self) -> int:
        """Sequence number of the first message without \\Seen; 0 if there is none."""

    def flags(self, uid: int) -> tuple[int, ...]:
        """Flag numbers of *uid*, ascending. Raises KeyError."""

    def flag_numbers(self) -> tuple[int, ...]:
        """Every flag number that some message bears, ascending."""

    def diff(self, newer: Snapshot) -> Diff: ...
    def hold_expunges(self, newer: Snapshot) -> Snapshot:
        """The messages of this version with the flags of *newer*.

        What was expunged since stays, with its last known flags, and what arrived is not there yet. `uid_next` and
        `highest_modseq` stay those of this version, since the client has not been told of all that came after.
        """

    def flags_text(self, uid: int, names: Mapping[int, bytes], recent: bool) -> bytes:
        """`(\\Seen kw)` of one message. Numbers without a name are left out. Raises KeyError."""

    def write_fetch_flags(
        self,
        messages: NumSet,
        names: Mapping[int, bytes],
        with_uid: bool,
        recent_after: int = ...,
        chunk: int = 1000,
        *,
        modseqs: bytes | None = None,
        with_flags: bool = True,
        uid_only: bool = False,
    ) -> Iterator[bytes]:
        """`* n FETCH (UID u FLAGS (...) MODSEQ (m))` lines, *chunk* messages to a bytes object.

        Args:
            messages: a SeqSet or a UidSet; absent messages are skipped.
            names: keyword numbers to names; system flags have theirs.
            with_uid: write `UID u` too.
            recent_after: messages with a UID above it are \\Recent; NO_RECENT for none.
            modseqs: one for each of *messages*, as `ModSeqs.of` gives them; None: without MODSEQ.
            with_flags: write FLAGS.
            uid_only: `* u UIDFETCH (...)` (RFC 9586 §3.3).
        """

UID_ITEM: int
FLAGS_ITEM: int
NUMBER_ITEM: int
DATE_ITEM: int
TEXT_ITEM: int
MADE_ITEM: int

@final
class RowWriter:
    """Writes `* n FETCH (...)` lines of rows, whole chunks of them into one buffer.

    Args:
        items: kind, label with its space, and what the value comes from: a key of the row (NUMBER_ITEM, DATE_ITEM with
            an aware datetime, TEXT_ITEM with bytes) or a function that makes the bytes out of the row (MADE_ITEM).
        names, recent_after, uid_only: as `write_fetch_flags`.
    """

    def __init__(
        self,
        view: Snapshot,
        items: Iterable[tuple[int, bytes, str | Callable[[Mapping[str, Any]], bytes] | None]],
        names: Mapping[int, bytes],
        recent_after: int = ...,
        uid_only: bool = False,
    ) -> None: ...
    def write(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        """The lines of rows, each with its `uid`. Raises KeyError for a message that is not in the view."""

    def text(self, row: Mapping[str, Any], place: int) -> bytes:
        """One item of one row, with its label."""
