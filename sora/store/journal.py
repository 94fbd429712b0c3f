"""The account journal in the object store: what it says, and its octets. Nothing here asks a database or a bucket.

Bodies are in the bucket anyway; the journal has all else that a database is built anew from (`sora-admin import s3`):
domains, accounts, credentials, aliases, mailboxes, subscriptions, rights, annotations, keywords, filters, mail that
waits to leave, and of every message its mailbox, UID, content, dates and flags.

**Objects.** `journal/<seq>.seg` has what changed in many accounts, `journal/accounts/<account>/<seq>.<part>.snap` all
there is of one. `seq` only grows, over both kinds, and is never used twice. What an object of a greater `seq` says of
an account is newer. An object is a header, frames, and a digest of all that:

| octets | header                          | octets | frame                                                   |
|--------|---------------------------------|--------|---------------------------------------------------------|
| 8      | magic, `93 "SORAJ" 0d 0a`       | 8      | account; 0: what belongs to none (`Domains`)            |
| 1      | version, 1                      | 8      | group: the `seq` under which it was begun               |
| 7      | zero                            | 4      | part, from 0                                            |
| 8      | seq                             | 4      | octets of the payload                                   |
|        |                                 | 1      | 1: the last part of its group, 2: sealed                |
|        | digest: BLAKE2b, 32 octets      | 3      | zero                                                    |

All in little-endian octets. A payload is one record or more, an array in msgpack, compressed by zlib. With encryption
on it is sealed with the key of its account, under `frame_context`, so that destroying that key makes it unreadable.

**Groups.** What an account was at one moment is a group: its parts, numbered, of which the last is marked. A group may
go on in the next object. One that has no last part was being written when its writer died: **it does not count**
(`finished_groups`), and the next group of that account says all of it again. A later segment may have frames of earlier
groups, as they were: they count once.

**Replaying.** For each account: the newest snapshot whose group is finished, then the finished groups of the segments
with a greater `seq`, in their order. Every record is absolute in what it speaks of, so to apply one twice, or an old
one before the newer one, does no harm (`AccountState.apply` is the definition of what a record means):

- `Account`, `Scripts`, `Outbound` replace what was known of their kind; a mailbox that `Account` does not name is gone.
- `Page` speaks of blocks of 1,024 UIDs of one mailbox. `since` 0: of all blocks from `first_block` to `last_block`, so
  what it does not name among them is empty. Else of the blocks in `blocks` alone: their live UIDs and all their flags
  replace what was known; `messages` are those of them that are new, or expunged, since the page before.
- `Gone`: the account is no more, or its key was destroyed.

**Reservations.** UIDs below `uid_reserved` and modseqs up to `modseq_reserved` may have been given to clients without
any segment saying so. Whoever builds a mailbox anew goes on at `uid_reserved`, with every modseq at `modseq_reserved`.
The database refuses to pass what the last segment has reserved (`schema/0025_journal.sql`). A mailbox of which the
journal says nothing has no reservation: it gets a new UIDVALIDITY.

If there is an object `STOPPED`, the journal was turned off, and what came after it stands nowhere: every mailbox gets a
new UIDVALIDITY.
"""

from __future__ import annotations

import enum
import hashlib
import re
import struct
import zlib
from collections import defaultdict
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from sora.types import AccountId, MailboxId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PREFIX: Final = "journal/"
STOPPED: Final = "journal/stopped"
"""Its content is the moment, in ISO 8601."""
BLOCK_BITS: Final = 10
LIVE: Final = -1
"""Flag number of the plane of live UIDs."""
HASH_BYTES: Final = 32

_MAGIC: Final = b"\x93SORAJ\r\n"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sB7xQ")
_FRAME: Final = struct.Struct("<qQIIB3x")
_CONTEXT: Final = struct.Struct("<qQIB")
_DIGEST_BYTES: Final = 32
_SEGMENT_KEY: Final = re.compile(r"journal/([0-9a-f]{16})\.seg")
_SNAPSHOT_KEY: Final = re.compile(r"journal/accounts/([0-9a-f]{16})/([0-9a-f]{16})\.([0-9]{4})\.snap")
_LEVEL: Final = 3
"""Of zlib: most of what is left after it are hashes and bitmaps."""


class BadJournal(ValueError):
    """These octets are no object of the journal, or not all of one."""


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Record(Struct, frozen=True, omit_defaults=True, tag_field="t"):
    """Fields may be added with a default; what an older release does not know it leaves out."""


class DomainFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `domains`."""

    domain_id: int
    name: str
    catch_all_account_id: int | None = None
    quota_bytes: int | None = None
    quota_messages: int | None = None
    account_quota_bytes: int | None = None
    account_quota_messages: int | None = None
    account_quota_mailboxes: int | None = None
    created_at: datetime | None = None


class MetadataFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `metadata`; mailbox 0: of the server, viewer 0: shared."""

    mailbox_id: int
    viewer_id: int
    entry: str
    value: bytes


class Domains(_Record, frozen=True, tag="domains"):
    """What belongs to no account. Never sealed.

    Attributes:
        metadata: Shared annotations of the server.
    """

    domains: tuple[DomainFacts, ...]
    metadata: tuple[MetadataFacts, ...] = ()


class CredentialFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `credentials`."""

    kind: str
    name: str
    hash: str
    expires_at: datetime | None = None
    created_at: datetime | None = None


class AliasFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `aliases`."""

    address: str
    login: bool = False
    created_at: datetime | None = None


class MailboxFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `mailboxes`; deleted ones are kept for as long as they can be restored."""

    mailbox_id: int
    name: str
    uidvalidity: int
    special_use: str | None = None
    noselect: bool = False
    created_at: datetime | None = None
    deleted_at: datetime | None = None


class GrantFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `mailbox_acl`."""

    mailbox_id: int
    grantee_id: int
    negative: bool
    rights: int
    domain_id: int | None = None


class KeywordFacts(Struct, frozen=True, array_like=True):
    """A row of `account_keywords`."""

    flag_no: int
    name: str


class SubscriptionFacts(Struct, frozen=True, array_like=True):
    """A row of `subscriptions`."""

    name: str


class HoldFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `legal_hold_log`."""

    address: str
    held: bool
    reason: str
    actor: str
    changed_at: datetime | None = None


class Account(_Record, frozen=True, tag="account"):
    """An account, but for its scripts, its mail that waits to leave, and its messages.

    Attributes:
        metadata: Annotations of its mailboxes, of whomever, and its own private ones of the server.
    """

    address: str
    domain_id: int
    disabled: bool = False
    legal_hold: bool = False
    deleted_at: datetime | None = None
    quota_bytes: int | None = None
    quota_messages: int | None = None
    quota_mailboxes: int | None = None
    created_at: datetime | None = None
    hold_reason: str = ""
    held_at: datetime | None = None
    credentials: tuple[CredentialFacts, ...] = ()
    aliases: tuple[AliasFacts, ...] = ()
    keywords: tuple[KeywordFacts, ...] = ()
    mailboxes: tuple[MailboxFacts, ...] = ()
    subscriptions: tuple[SubscriptionFacts, ...] = ()
    grants: tuple[GrantFacts, ...] = ()
    metadata: tuple[MetadataFacts, ...] = ()
    holds: tuple[HoldFacts, ...] = ()


class ScriptFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `sieve_scripts`."""

    name: str
    content: bytes
    version: bytes
    active: bool = False
    updated_at: datetime | None = None


class Scripts(_Record, frozen=True, tag="scripts"):
    """All filters of the account."""

    scripts: tuple[ScriptFacts, ...] = ()


class MailFacts(Struct, frozen=True, omit_defaults=True):
    """A row of `outbound_queue`; `body` as it is stored there, sealed or not. `params` is JSON."""

    queue_id: int
    kind: str
    sender: str
    recipient: str
    size: int
    content_id: int | None = None
    body: bytes | None = None
    body_hash: bytes | None = None
    header: bytes = b""
    smtputf8: bool = False
    params: str = "{}"
    created_at: datetime | None = None
    attempts: int = 0


class Outbound(_Record, frozen=True, tag="outbound"):
    """Mail of the account that waits to leave; page 0 replaces what was known, the others add to it.

    Mail that was sent after the last segment is sent again after a rebuild: at least once, as ever.
    """

    page: int
    mails: tuple[MailFacts, ...] = ()


class Plane(Struct, frozen=True, array_like=True):
    """Bits of a block, the leftmost for its first UID.

    Attributes:
        flag_no: See `types`; `LIVE`: which UIDs are not expunged.
        viewer_id: Whose \\Seen; 0: everybody's, or of the owner.
        bits: 128 octets.
    """

    block_no: int
    flag_no: int
    viewer_id: int
    bits: bytes


class MessageFacts(NamedTuple):
    """A row of `messages` with what names its body. Times are microseconds since 1970, UTC.

    Attributes:
        expunged_at: 0: it was not, then.
    """

    uid: int
    content_id: int
    content_hash: bytes
    size: int
    modseq: int
    internal_date: int
    saved_at: int
    expunged_at: int


class Messages(Struct, frozen=True, array_like=True):
    """Rows by column, as the database packs them: 8 octets a number, big-endian, and 32 a hash. By UID."""

    uids: bytes = b""
    content_ids: bytes = b""
    hashes: bytes = b""
    sizes: bytes = b""
    modseqs: bytes = b""
    internal_dates: bytes = b""
    saved_ats: bytes = b""
    expunged_ats: bytes = b""

    def __len__(self) -> int:
        return len(self.uids) // 8

    def __iter__(self) -> Iterator[MessageFacts]:
        count = len(self)
        hashes = (self.hashes[at : at + HASH_BYTES] for at in range(0, count * HASH_BYTES, HASH_BYTES))
        numbers = (
            struct.unpack(f">{count}q", column)
            for column in (self.sizes, self.modseqs, self.internal_dates, self.saved_ats, self.expunged_ats)
        )
        uids, contents = (struct.unpack(f">{count}q", column) for column in (self.uids, self.content_ids))
        return map(MessageFacts._make, zip(uids, contents, hashes, *numbers, strict=True))


class Page(_Record, frozen=True, tag="page"):
    """Blocks of one mailbox; see the head of this module.

    Attributes:
        since: Modseq of the page that this one goes on from; 0: it is complete for its blocks.
        blocks: Those that it speaks of, ascending.
        planes: All that have a bit set, of these blocks.
        messages: Those with a row, expunged ones among them until they are removed.
    """

    mailbox_id: int
    since: int
    uid_next: int
    highest_modseq: int
    uid_reserved: int
    modseq_reserved: int
    first_block: int
    last_block: int
    blocks: tuple[int, ...] = ()
    planes: tuple[Plane, ...] = ()
    messages: Messages = Messages()


class Reason(enum.StrEnum):
    """Why an account is no more."""

    PURGED = "purged"
    SHREDDED = "shredded"


class Gone(_Record, frozen=True, tag="gone"):
    """The account is no more. Never sealed."""

    reason: Reason


Record: TypeAlias = Domains | Account | Scripts | Outbound | Page | Gone


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Record])


def encode(record: Record) -> bytes:
    """A record by itself."""
    return _encoder.encode(record)


def pack(encoded: Sequence[bytes]) -> bytes:
    """The payload of a frame, before it is sealed; of records that are encoded."""
    return zlib.compress(_encoder.encode([msgspec.Raw(record) for record in encoded]), _LEVEL)


def unpack(payload: bytes) -> list[Record]:
    """The records of a payload that was opened.

    Raises:
        BadJournal: It has none.
    """
    try:
        return _decoder.decode(zlib.decompress(payload))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise BadJournal(f"not a record: {error}") from error


# ── objects ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Frame(Struct, frozen=True):
    """A part of a group."""

    account_id: AccountId
    group: int
    part: int
    last: bool
    sealed: bool
    payload: bytes

    @property
    def context(self) -> bytes:
        """See `frame_context`."""
        return frame_context(self.account_id, self.group, self.part, last=self.last)


def frame_context(account_id: int, group: int, part: int, *, last: bool) -> bytes:
    """What a sealed payload is bound to: it opens nowhere else."""
    return b"sora journal" + _CONTEXT.pack(account_id, group, part, last)


def segment_key(seq: int) -> str:
    """Keys sort as their numbers do."""
    return f"{PREFIX}{seq:016x}.seg"


def parse_segment_key(key: str) -> int | None:
    """The number of a segment; None: another object."""
    match = _SEGMENT_KEY.fullmatch(key)
    return int(match[1], 16) if match else None


def snapshot_prefix(account_id: int) -> str:
    """What the keys of an account's snapshots begin with."""
    return f"{PREFIX}accounts/{account_id:016x}/"


def snapshot_key(account_id: int, seq: int, part: int) -> str:
    """A snapshot is one object or several, numbered from 0."""
    return f"{snapshot_prefix(account_id)}{seq:016x}.{part:04d}.snap"


def parse_snapshot_key(key: str) -> tuple[AccountId, int, int] | None:
    """Account, number and part of a snapshot; None: another object."""
    match = _SNAPSHOT_KEY.fullmatch(key)
    return (AccountId(int(match[1], 16)), int(match[2], 16), int(match[3])) if match else None


class Builder:
    """Puts an object together."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.frames = 0
        self._data = bytearray(_HEADER.pack(_MAGIC, _VERSION, seq))

    def __len__(self) -> int:
        return len(self._data) + _DIGEST_BYTES

    def add(self, frame: Frame) -> int:
        """Append a frame; how many octets it takes."""
        flags = frame.last | frame.sealed << 1
        head = _FRAME.pack(frame.account_id, frame.group, frame.part, len(frame.payload), flags)
        self._data += head
        self._data += frame.payload
        self.frames += 1
        return len(head) + len(frame.payload)

    def finish(self) -> bytes:
        """The object."""
        return bytes(self._data) + _digest(self._data)


def parse(data: bytes) -> tuple[int, list[Frame]]:
    """The number and the frames of an object.

    Raises:
        BadJournal: It is torn, changed, or of a release that this one does not know.
    """
    end = len(data) - _DIGEST_BYTES
    if end < _HEADER.size or not data.startswith(_MAGIC):
        raise BadJournal("not an object of the journal")
    if _digest(data[:end]) != data[end:]:
        raise BadJournal("the digest does not match")
    _, version, seq = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise BadJournal(f"version {version}, this release knows {_VERSION}")
    return seq, list(_frames(data, end))


def _frames(data: bytes, end: int) -> Iterator[Frame]:
    at = _HEADER.size
    while at < end:
        if end - at < _FRAME.size:
            raise BadJournal("a frame is cut")
        account_id, group, part, length, flags = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        if end - at < length:
            raise BadJournal("a frame is cut")
        yield Frame(AccountId(account_id), group, part, bool(flags & 1), bool(flags & 2), data[at : at + length])
        at += length


def finished_groups(frames: Iterable[Frame]) -> set[tuple[AccountId, int]]:
    """Account and number of each group of which all parts are among these frames."""
    parts: defaultdict[tuple[AccountId, int], set[int]] = defaultdict(set)
    last: dict[tuple[AccountId, int], int] = {}
    for frame in frames:
        parts[frame.account_id, frame.group].add(frame.part)
        if frame.last:
            last[frame.account_id, frame.group] = frame.part
    return {key for key, part in last.items() if len(parts[key]) == part + 1}


def _digest(data: bytes | bytearray) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


# ── meaning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class MailboxState:
    """What is known of one mailbox.

    Attributes:
        messages: By UID: those with a row.
        planes: By block, flag and viewer.
        covered: By block: `uid_next` when the journal last spoke of it. A UID below that which is not live was
            expunged; one that is not was given out later, and nothing but its object knows of it.
    """

    def __init__(self) -> None:
        self.uid_next = self.highest_modseq = 1
        self.uid_reserved = self.modseq_reserved = 1
        self.messages: dict[int, MessageFacts] = {}
        self.planes: dict[tuple[int, int, int], bytes] = {}
        self.covered: dict[int, int] = {}

    def apply(self, page: Page) -> None:
        """Take over what a page says."""
        self.uid_next, self.highest_modseq = page.uid_next, page.highest_modseq
        self.uid_reserved = max(self.uid_reserved, page.uid_reserved)
        self.modseq_reserved = max(self.modseq_reserved, page.modseq_reserved)
        blocks = set(page.blocks)
        if not page.since:
            replaced = range(page.first_block, page.last_block + 1)
            self.covered = {block: top for block, top in self.covered.items() if block not in replaced}
            self.messages = {uid: row for uid, row in self.messages.items() if uid >> BLOCK_BITS not in replaced}
            self.planes = {key: bits for key, bits in self.planes.items() if key[0] not in replaced}
        self.planes = {key: bits for key, bits in self.planes.items() if key[0] not in blocks}
        self.planes |= {(plane.block_no, plane.flag_no, plane.viewer_id): plane.bits for plane in page.planes}
        self.messages |= {row.uid: row for row in page.messages}
        self.covered |= dict.fromkeys(blocks, page.uid_next)

    def is_live(self, uid: int) -> bool:
        """True if it was there, and not expunged."""
        return self.has_flag(uid, LIVE)

    def has_flag(self, uid: int, flag_no: int, viewer_id: int = 0) -> bool:
        """Whether the bit of a UID is set."""
        bits = self.planes.get((uid >> BLOCK_BITS, flag_no, viewer_id))
        at = uid & (1 << BLOCK_BITS) - 1
        return bits is not None and bool(bits[at >> 3] & 0x80 >> (at & 7))


class AccountState:
    """What is known of one account. It is held whole: whoever rebuilds a large one works page by page."""

    def __init__(self) -> None:
        self.gone: Reason | None = None
        self.domains: Domains | None = None
        self.account: Account | None = None
        self.scripts: tuple[ScriptFacts, ...] = ()
        self.outbound: dict[int, MailFacts] = {}
        self.mailboxes: defaultdict[MailboxId, MailboxState] = defaultdict(MailboxState)

    def apply_all(self, records: Iterable[Record]) -> None:
        """Take over what the records of a payload say."""
        for record in records:
            self.apply(record)

    def apply(self, record: Record) -> None:
        """Take over what a record says."""
        match record:
            case Gone():
                self.__init__()  # type: ignore[misc]
                self.gone = record.reason
            case Domains():
                self.domains = record
            case Account():
                self.gone, self.account = None, record
                for mailbox_id in self.mailboxes.keys() - {row.mailbox_id for row in record.mailboxes}:
                    del self.mailboxes[mailbox_id]
            case Scripts():
                self.scripts = record.scripts
            case Outbound():
                kept = self.outbound if record.page else {}
                self.outbound = kept | {row.queue_id: row for row in record.mails}
            case Page():
                self.mailboxes[MailboxId(record.mailbox_id)].apply(record)
