r"""What one client has been told of its mailbox, and how it is told what is new.

The rules stand at the head of `view`; here the third of them is kept: `sync` writes exactly what it moves over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot
from sora.errors import DatabaseReadOnly
from sora.protocols.imap.enable import CONDSTORE
from sora.protocols.imap.replies import ReadOnly
from sora.protocols.imap.rights import CHANGES, permanent_flags
from sora.protocols.imap.views.untagged import flag_lines, write_count, write_expunges
from sora.types import MAX_UID, SYSTEM_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from sora._native.modseqs import ModSeqs
    from sora.protocols.imap.views.view import FlagChange, MailboxView

NO_UIDS: Final = UidSet.empty()

EMPTY: Final = Snapshot.load(None, 1, 0)
"""The picture of a mailbox that was not loaded yet, and of one without messages."""


class Selection:
    """What one client has been told of the mailbox it selected.

    Attributes:
        told: The picture the client has.
        examined: Opened by EXAMINE.
        frozen: The client was told that nobody may change anything now.
        uidvalidity: Of the mailbox.
        recent_after: Messages with a higher UID are \\Recent in this session.
        enabled: What the session has enabled: in which words it is told.
        wake: Called when the view moves, while the session is in IDLE or pushes (NOTIFY).
        tells_counts: The client wants to hear of messages that come and go; else its picture stays as it is, but for
            what it does itself (NOTIFY).
        tells_flags: The client wants to hear of flags.
        tells_uids: Flags carry the UID, whatever the command (RFC 5465 §5.1).
    """

    __slots__ = (
        "_gone",
        "_keywords_at",
        "_keywords_told",
        "_later_modseqs",
        "_rights_told",
        "_tell",
        "_tell_modseqs",
        "enabled",
        "examined",
        "frozen",
        "recent_after",
        "tells_counts",
        "tells_flags",
        "tells_uids",
        "told",
        "uidvalidity",
        "view",
        "wake",
    )

    def __init__(self, view: MailboxView, *, read_only: bool) -> None:
        self.view = view
        self.examined = read_only
        self.frozen = False
        self.uidvalidity = 0
        self.recent_after = MAX_UID
        self.told: Snapshot = EMPTY
        self.enabled: AbstractSet[str] = frozenset()
        self.wake: Callable[[], None] | None = None
        self.tells_counts = self.tells_flags = True
        self.tells_uids = False
        self._gone: UidSet = NO_UIDS
        self._keywords_told: frozenset[int] = frozenset()
        self._rights_told = view.rights
        self._keywords_at: Snapshot = EMPTY
        self._tell: UidSet = NO_UIDS
        self._tell_modseqs: UidSet = NO_UIDS
        self._later_modseqs: UidSet = NO_UIDS

    def start(self, uidvalidity: int, recent_after: int) -> None:
        """The answer to SELECT tells the newest picture."""
        self.uidvalidity = uidvalidity
        self.recent_after = recent_after
        self.told = self.view.newest
        self._keywords_told = frozenset(self.told.flag_numbers()) - SYSTEM_FLAGS.keys()
        self._rights_told = self.view.rights

    @property
    def read_only(self) -> bool:
        """Nothing may be changed in it, as the client knows."""
        return self.examined or self.frozen

    def require_writable(self) -> None:
        """See that the mailbox was opened to change something.

        Raises:
            ReadOnly: It was opened by EXAMINE.
            DatabaseReadOnly: The database takes no changes now.
        """
        if self.examined:
            raise ReadOnly
        if self.frozen:
            raise DatabaseReadOnly

    def freeze(self, write: Callable[[bytes], None], *, frozen: bool) -> None:
        """Access has changed while the mailbox is selected: say so (RFC 9051 §7.1, READ-ONLY and READ-WRITE)."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        if not self.examined and self.view.rights & CHANGES:
            text = (
                b"[READ-ONLY] Nothing can be changed for now" if frozen else b"[READ-WRITE] Changes are possible again"
            )
            write(b"* OK %s\r\n" % text)
            write(self.permanent_flags())

    @property
    def behind(self) -> bool:
        """There is something to tell."""
        return self.told is not self.view.newest

    @property
    def names(self) -> Mapping[int, bytes]:
        """Names of all flags that may occur."""
        return self.view.keywords.names

    def recent_count(self) -> int:
        """Messages that are \\Recent in this session."""
        if self.recent_after >= self.told.uid_next - 1:
            return 0
        return len(self.told.present(UidSet.from_ranges([(self.recent_after + 1, MAX_UID)])))

    def flags_list(self) -> bytes:
        """The parenthesised list of FLAGS: the system flags and the keywords that occur in the mailbox."""
        keywords = (self.names[number] for number in sorted(self._keywords_told))
        return b"(%s)" % b" ".join((*SYSTEM_FLAGS.values(), *keywords))

    def changed(self, change: FlagChange, edit: FlagEdit, tell: UidSet) -> None:
        """This session has changed flags: the shared picture learns it, and the client knows it.

        Args:
            tell: Messages whose flags the client still wants to be told at the next `sync` (STORE without .SILENT).
        """
        in_step = self.told is self.view.newest
        self.view.flagged(change, edit)
        if in_step and self.view.newest.highest_modseq == change.modseq:
            self.told = self.view.newest
        else:
            self.told = edit.patch(self.told, self.told.highest_modseq, change.blocks)
        self._tell = self._tell | tell
        if CONDSTORE in self.enabled:  # with .SILENT too the client must learn the new modseq (RFC 7162 §3.1.3)
            self._tell_modseqs = self._tell_modseqs | uids_of((no, changed) for no, _, changed, _ in change.blocks)

    def expunged(self, modseq: int, uids: Iterable[int]) -> None:
        """This session has expunged messages: the shared picture learns it; the client is told at the next `sync`."""
        self.view.expunged(modseq, uids)
        if not self.tells_counts:
            self._gone = self._gone | UidSet.from_numbers(uids)

    def modseqs_of(self, known: ModSeqs, uids: UidSet) -> bytes:
        """Modseqs of messages as this client may know them; later ones are told once it has been told the rest.

        Args:
            uids: Messages of `told`.
        """
        up_to = self.told.highest_modseq
        self._later_modseqs = self._later_modseqs | known.newer(uids, up_to, known.highest)
        return known.of(uids, up_to)

    def tell_modseqs(self, uids: UidSet) -> None:
        """The client wants to know these modseqs at the next `sync`, whatever becomes of the flags."""
        self._tell_modseqs = self._tell_modseqs | uids

    def heard_modseqs(self, uids: UidSet) -> None:
        """The answer of a command itself tells these; call before `modseqs_of`."""
        self._tell_modseqs = self._tell_modseqs - uids

    @property
    def needs_modseqs(self) -> int | None:
        """`sync` must be given modseqs, which are exact for what changed after this one; None: not now.

        A message whose flags changed did so after `told`; one that STORE left as it was, any time before.
        """
        if CONDSTORE not in self.enabled:
            return None
        behind = self.told is not self.view.newest
        changed = self.told.diff(self.view.newest).changed if behind else NO_UIDS
        if self._tell - changed or self._tell_modseqs:
            return 0
        return self.told.highest_modseq if changed or (behind and self._later_modseqs) else None

    def leaving(self) -> UidSet:
        """Messages that the next `sync` without *hold* will say are gone."""
        return self.told.diff(self.view.newest).vanished if self.tells_counts else self.told.present(self._gone)

    def sync(
        self,
        write: Callable[[bytes], None],
        *,
        hold: bool,
        with_uid: bool = False,
        modseqs: ModSeqs | None = None,
    ) -> bool:
        """Tell the client what changed, and remember that it was told.

        Args:
            hold: Messages may not be renumbered now: expunges (and then arrivals) wait.
            with_uid: The command speaks of UIDs, so the flags carry them.
            modseqs: See `needs_modseqs`; up to `view.newest`.

        Returns:
            True if there were new messages that a read-write session now knows as recent.
        """
        also, self._tell = self._tell, NO_UIDS
        with_uid = with_uid or self.tells_uids
        if not self.tells_counts:
            self._sync_own(write, also, with_uid, modseqs)
            return False
        if self.told is self.view.newest and not also and not self._tell_modseqs:
            self._tell_keywords(write)
            return False
        before, newest = self.told, self.view.newest
        diff = before.diff(newest)
        if hold and diff.expunged_seqs:
            newest = before.hold_expunges(newest)
            diff = before.diff(newest)
        self._move(newest)
        write_expunges(write, diff, self.enabled)
        if diff.arrived:
            write_count(write, len(newest), self.recent_count(), self.enabled)
        self._tell_keywords(write)
        self._write_flags(write, newest.present(diff.changed | also if self.tells_flags else also), with_uid, modseqs)
        return bool(diff.arrived) and not self.read_only and self.view.viewer_id is None

    def _move(self, newest: Snapshot) -> None:
        """The client knows this picture now, and may learn the modseqs that were too late for the one before."""
        if newest.highest_modseq > self.told.highest_modseq:
            self._tell_modseqs, self._later_modseqs = self._tell_modseqs | self._later_modseqs, NO_UIDS
        self.told = newest

    def _sync_own(self, write: Callable[[bytes], None], also: UidSet, with_uid: bool, modseqs: ModSeqs | None) -> None:
        """Tell only what the client has done itself; the picture of everything else stays (RFC 5465 §5: a snapshot)."""
        gone, self._gone = self._gone, NO_UIDS
        before = self.told
        self.told = before.patch_expunge(before.highest_modseq, gone) if gone else before
        write_expunges(write, before.diff(self.told), self.enabled)
        self._write_flags(write, self.told.present(also), with_uid, modseqs)

    def _write_flags(
        self, write: Callable[[bytes], None], changed: UidSet, with_uid: bool, modseqs: ModSeqs | None
    ) -> None:
        """FETCH responses about flags, and about modseqs alone where the client knows the flags."""
        stamps, only = None, NO_UIDS
        if modseqs is not None:
            only, self._tell_modseqs = self.told.present(self._tell_modseqs) - changed, NO_UIDS
            stamps = self.modseqs_of(modseqs, changed)
        for chunk in flag_lines(
            self.told, changed, self.names, self.enabled,
            recent_after=self.recent_after, modseqs=stamps, with_uid=with_uid,
        ):  # fmt: skip
            write(chunk)
        if modseqs is not None and only:
            stamps = self.modseqs_of(modseqs, only)
            for chunk in flag_lines(self.told, only, self.names, self.enabled, modseqs=stamps, with_flags=False):
                write(chunk)

    def _tell_keywords(self, write: Callable[[bytes], None]) -> None:
        """RFC 9051 §7.3.5: FLAGS again when a keyword shows up that was not in it, or rights change (RFC 4314 §5.1).

        Looking costs time with the size of the mailbox, so a picture is looked at once and not at every command.
        """
        rights = self.view.rights
        if self._keywords_at is self.told and self._rights_told == rights:
            return
        self._keywords_at = self.told
        new = set(self.told.flag_numbers()) - SYSTEM_FLAGS.keys() - self._keywords_told
        if not new and self._rights_told == rights:
            return
        self._keywords_told |= new
        self._rights_told = rights
        write(b"* FLAGS %s\r\n" % self.flags_list())
        write(self.permanent_flags())

    def permanent_flags(self) -> bytes:
        """The PERMANENTFLAGS line."""
        flags = ((number, self.names[number]) for number in (*SYSTEM_FLAGS, *sorted(self._keywords_told)))
        return permanent_flags(self.view.rights, flags, read_only=self.read_only)


class FlagEdit:
    """A flag change as STORE means it.

    Attributes:
        set: Flag numbers to set.
        clear: Flag numbers to clear.
        replace: Every flag that is not in `set` is cleared.
    """

    __slots__ = ("clear", "replace", "set")

    def __init__(self, set_: Sequence[int] = (), clear: Sequence[int] = (), *, replace: bool = False) -> None:
        self.set = tuple(set_)
        self.clear = tuple(clear)
        self.replace = replace

    def patch(self, picture: Snapshot, modseq: int, blocks: Iterable[tuple[int, bytes, bytes, bytes]]) -> Snapshot:
        """The picture after this change; `blocks` as in `FlagChange`."""
        masks = [(block_no, applied) for block_no, applied, _, _ in blocks]
        return picture.patch_flags(modseq, masks, self.set, self.clear, self.replace)


def uids_of(blocks: Iterable[tuple[int, bytes]]) -> UidSet:
    """UIDs of block numbers with masks of 128 octets."""
    records = [no.to_bytes(4) + b"\xff\xff\0\0\4\0" + mask for no, mask in blocks]
    return Snapshot.load(b"".join(records), 1, 0).all_uids()
