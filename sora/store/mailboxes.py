"""The mailbox tree of an account: names, subscriptions, counters, keyword names.

Names are hierarchical with `/`, case-sensitive except for INBOX, in NFC; `canonical_name` is the one form in which they
are stored and compared. Every change of the tree runs inside one SQL function, under the account's structure lock.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import Struct

from sora.errors import InvalidName, NoPermission, NotFound
from sora.store.messages import MailboxState, read_state
from sora.types import ALL_RIGHTS, AccountId, MailboxId, ModSeq, Rights, Uid, UidValidity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncpg import Record

    from sora.store.db import Database

DELIMITER: Final = "/"
INBOX: Final = "INBOX"
MAX_NAME_BYTES: Final = 1000
MAX_LEVEL_BYTES: Final = 255
"""One level is a file name in an export, and file systems stop at 255."""
MAX_LEVELS: Final = 32


class Mailbox(Struct, frozen=True):
    """One mailbox as SELECT needs it.

    Attributes:
        special_use: `\\Sent` … (RFC 6154), or None.
        noselect: a name that only has mailboxes below it.
        recent_uid: highest UID that some session was told of as recent (RFC 3501 §2.3.2).
        rights: of the account that asked.
    """

    mailbox_id: MailboxId
    name: str
    uidvalidity: UidValidity
    special_use: str | None = None
    noselect: bool = False
    recent_uid: Uid = Uid(0)
    rights: Rights = ALL_RIGHTS


class Opened(Struct, frozen=True):
    """A mailbox and its picture, as SELECT needs them; one database snapshot.

    Attributes:
        recent_uid: highest UID that some earlier session was told of as recent (RFC 3501 §2.3.2).
        whole: `state` is the whole picture; False: what changed in the picture that the caller holds.
    """

    mailbox_id: MailboxId
    recent_uid: Uid
    whole: bool
    state: MailboxState


class Target(Struct, frozen=True):
    """A mailbox that messages shall go to, and the room that the account's quota leaves.

    Attributes:
        bytes_left: None: no limit.
        messages_left: None: no limit.
    """

    mailbox: Mailbox
    bytes_left: int | None = None
    messages_left: int | None = None

    def has_room(self, messages: int, size: int) -> bool:
        """So many messages of so many octets may fit; the commit decides."""
        return (self.bytes_left is None or size <= self.bytes_left) and (
            self.messages_left is None or messages <= self.messages_left
        )


class Status(Struct, frozen=True):
    """Counters of a mailbox at one moment (STATUS, RFC 9051 §6.3.11).

    Attributes:
        deleted: messages with \\Deleted.
        size: octets of all messages.
        recent: messages that no session was told of as recent; None if not asked for.
        deleted_size: octets of the messages with \\Deleted; None if not asked for.
        rights: of the account that asked, whose unseen messages are counted.
    """

    mailbox_id: MailboxId
    name: str
    uidvalidity: UidValidity
    uid_next: Uid
    highest_modseq: ModSeq
    messages: int
    unseen: int
    deleted: int
    size: int
    recent: int | None = None
    deleted_size: int | None = None
    rights: Rights = ALL_RIGHTS


class ListedMailbox(Struct, frozen=True):
    """One line of LIST or LSUB.

    Attributes:
        name: as the account that asked says it.
        exists: False: a subscription whose mailbox is gone (RFC 9051 §6.3.7).
        status: counters; None if it does not exist.
        rights: of the account that asked.
        owner_id: whose mailbox it is, if not the account's.
        leads: no mailbox, but the way to what others share.
    """

    name: str
    exists: bool
    noselect: bool
    subscribed: bool
    has_children: bool
    special_use: str | None
    uidvalidity: UidValidity
    status: Status | None
    rights: Rights = ALL_RIGHTS
    owner_id: AccountId | None = None
    leads: bool = False


_Listing: TypeAlias = "list[ListedMailbox]"  # inside the class `list` is the method


def canonical_name(name: str) -> str:
    """The form in which a mailbox name is stored: NFC, `INBOX` in capitals as first level, no `/` at the end.

    Raises:
        InvalidName: empty, an empty level, `.` or `..` as one, control characters, or too long.
    """
    if len(name) > 4 * MAX_NAME_BYTES:  # whatever NFC makes of it; and it takes its time with combining marks
        raise InvalidName("Mailbox name is too long")
    name = unicodedata.normalize("NFC", name).removesuffix(DELIMITER)
    levels = name.split(DELIMITER)
    if levels[0].isascii() and levels[0].upper() == INBOX:
        levels[0] = INBOX
    name = DELIMITER.join(levels)
    if len(levels) > MAX_LEVELS or _octets(name) > MAX_NAME_BYTES:
        raise InvalidName("Mailbox name is too long")
    for level in levels:
        if not level or _octets(level) > MAX_LEVEL_BYTES:
            raise InvalidName("A level of the mailbox name is empty or too long")
        if level in (".", ".."):
            raise InvalidName("A level of the mailbox name stands for a directory")
        if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in level):
            raise InvalidName("Control character in mailbox name")
    return name


class Mailboxes:
    """Mailboxes of accounts. Names may come in any spelling of `canonical_name`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, account_id: AccountId, name: str, actor_id: AccountId | None = None) -> Mailbox | None:
        """One mailbox by name; None if there is none, also for a name that cannot be.

        Args:
            actor_id: whose rights are wanted; None: nobody's, all are there.
        """
        try:
            wanted = canonical_name(name)
        except InvalidName:
            return None
        row = await self._db.fetchrow(
            """
            SELECT m.mailbox_id, m.name, m.uidvalidity, m.special_use, m.noselect,
              coalesce(r.recent_uid, 0) AS recent_uid,
              CASE WHEN $3::bigint IS NULL THEN 2047 ELSE mailbox_rights($1, m.mailbox_id, $3) END AS rights
            FROM mailboxes m LEFT JOIN mailbox_recent r USING (account_id, mailbox_id)
            WHERE m.account_id = $1 AND m.name = $2 AND m.deleted_at IS NULL
            """,
            account_id,
            wanted,
            actor_id,
        )
        return None if row is None else _mailbox(row.values())

    async def find_target(self, account_id: AccountId, name: str, actor_id: AccountId | None = None) -> Target | None:
        """As `find`, with the room that is left; the usage is only added up where there is a limit."""
        try:
            wanted = canonical_name(name)
        except InvalidName:
            return None
        row = await self._db.fetchrow(_FIND_TARGET, account_id, wanted, actor_id)
        if row is None:
            return None
        *columns, bytes_left, messages_left = row.values()
        return Target(_mailbox(columns), bytes_left, messages_left)

    async def get(self, account_id: AccountId, name: str) -> Mailbox:
        """One mailbox by name.

        Raises:
            NotFound: there is none.
        """
        found = await self.find(account_id, name)
        if found is None:
            raise NotFound("No such mailbox")
        return found

    async def open(
        self,
        account_id: AccountId,
        name: str,
        known: tuple[MailboxId, int] | None,
        viewer_id: AccountId | None = None,
        *,
        claim: bool,
    ) -> Opened:
        """What SELECT needs of a mailbox, by name; one statement.

        Args:
            known: a mailbox whose picture the caller holds, and the modseq of that picture.
            viewer_id: who opens it, if not the owner.
            claim: the messages are shown to a session as recent, and to no other one; the owner's sessions alone.

        Raises:
            NotFound: there is none, or it cannot be selected, or is not for the viewer to see.
            NoPermission: it is not for the viewer to read.
        """
        known_id, since = known or (None, None)
        row = await self._db.fetchrow(
            "SELECT * FROM open_mailbox($1, $2, $3, $4, $5, $6)",
            account_id, _canonical_or_empty(name), known_id, since, claim, viewer_id,
        )  # fmt: skip
        if row is not None and row["noselect"] and viewer_id is None:
            raise NotFound("This name only has mailboxes below it")
        if row is None or row["uid_next"] is None or not row["rights"] & (Rights.LOOKUP | Rights.READ):
            raise NotFound("No such mailbox")
        if not row["rights"] & Rights.READ:
            raise NoPermission
        mailbox_id, _, recent_uid, whole, *state = row.values()
        return Opened(MailboxId(mailbox_id), Uid(recent_uid), whole, read_state(state))

    async def list(self, account_id: AccountId) -> _Listing:
        """Everything LIST, LSUB and LIST-STATUS ask of an account, in byte order of the names; one query.

        Subscriptions whose mailbox is gone are among them.
        """
        return listed(await self._db.fetch("SELECT * FROM list_mailboxes($1)", account_id))

    async def status(
        self,
        account_id: AccountId,
        names: Sequence[str],
        actor_id: AccountId | None = None,
        *,
        recent: bool = False,
        deleted_size: bool = False,
    ) -> dict[str, Status | None]:
        """Counters of many mailboxes in one query.

        Args:
            actor_id: who asks; None: somebody with all rights, who sees what the owner sees.
            recent: count recent messages too.
            deleted_size: add up the messages with \\Deleted too (RFC 9208 §4.1.4).

        Returns:
            By name as given; None: no such mailbox, or one that cannot be selected.
        """
        asked = {name: _canonical_or_empty(name) for name in names}
        rows = await self._db.fetch(_STATUS, account_id, list(set(asked.values())), recent, deleted_size, actor_id)
        found = {
            row["name"]: read_status(row, row["recent"], row["deleted_size"], Rights(row["rights"])) for row in rows
        }
        return {name: found.get(canonical) for name, canonical in asked.items()}

    async def create(self, account_id: AccountId, name: str, special_use: str | None = None) -> Mailbox:
        """Create a mailbox, and those above it that are missing (RFC 9051 §6.3.4).

        Raises:
            AlreadyExists: there is one of that name.
            InvalidName: the name cannot be.
            OverQuota: the account has as many as it may.
        """
        row = await self._db.fetchrow(
            "SELECT * FROM create_mailbox($1, $2, $3)", account_id, canonical_name(name), special_use
        )
        return Mailbox(**_one(row), special_use=special_use)

    async def rename(self, account_id: AccountId, old: str, new: str) -> Mailbox:
        """Rename a mailbox with its children; of INBOX only the messages go (RFC 9051 §6.3.6).

        Subscriptions are names and stay.

        Raises:
            NotFound: no mailbox *old*.
            AlreadyExists: there is a mailbox *new*.
            InvalidName: *new*, or the name of a child under it, cannot be.
            NoPermission: *new* lies below *old*.
        """
        row = await self._db.fetchrow(
            "SELECT * FROM rename_mailbox($1, $2, $3)", account_id, canonical_name(old), canonical_name(new)
        )
        return Mailbox(**_one(row))

    async def delete(self, account_id: AccountId, name: str) -> MailboxId:
        """Delete a mailbox; one with children leaves a name behind that cannot be selected (RFC 9051 §6.3.5).

        Raises:
            NotFound: there is none.
            NoPermission: it is INBOX, or already only a name above others.
        """
        return MailboxId(await self._db.fetchval("SELECT delete_mailbox($1, $2)", account_id, canonical_name(name)))

    async def subscribe(self, account_id: AccountId, name: str) -> None:
        """Subscribe to a name; it need not be a mailbox's (RFC 9051 §6.3.7).

        Raises:
            InvalidName: it could never be one.
        """
        await self._db.fetchval("SELECT subscribe($1, $2)", account_id, canonical_name(name))

    async def unsubscribe(self, account_id: AccountId, name: str) -> bool:
        """Undo `subscribe`; False: it was not subscribed."""
        done: bool = await self._db.fetchval("SELECT unsubscribe($1, $2)", account_id, canonical_name(name))
        return done

    async def claim_recent(self, account_id: AccountId, mailbox_id: MailboxId, up_to: int) -> Uid:
        """Note that a session was told of all messages up to a UID as recent.

        Returns:
            The highest UID that some earlier session was told of: what lies above it is recent for the caller.

        Raises:
            NotFound: no such mailbox.
        """
        row = await self._db.fetchrow(_CLAIM_RECENT, account_id, mailbox_id, up_to)
        if row is None:
            raise NotFound("No such mailbox")
        return Uid(row["recent_uid"])

    # ── keywords ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def list_keywords(self, account_id: AccountId) -> Mapping[int, str]:
        """Names of the account's keywords by flag number."""
        rows = await self._db.fetch("SELECT flag_no, name FROM account_keywords WHERE account_id = $1", account_id)
        return {row["flag_no"]: row["name"] for row in rows}

    async def register_keywords(self, account_id: AccountId, names: Sequence[str]) -> Mapping[str, int]:
        """Numbers of keywords; new ones get one, known ones keep their first spelling.

        Returns:
            By stored spelling, which may differ from the given one in case.

        Raises:
            LimitExceeded: the account would have more than 1,000; none was added.
        """
        rows = await self._db.fetch("SELECT * FROM register_keywords($1, $2)", account_id, list(names))
        return {row["name"]: row["flag_no"] for row in rows}


_FIND_TARGET: Final = """
    SELECT m.mailbox_id, m.name, m.uidvalidity, m.special_use, m.noselect,
      0 AS recent_uid, CASE WHEN $3::bigint IS NULL THEN 2047 ELSE mailbox_rights($1, m.mailbox_id, $3) END AS rights,
      l.bytes - u.bytes AS bytes_left, l.messages - u.messages AS messages_left
    FROM mailboxes m
    LEFT JOIN account_limits l
      ON l.account_id = m.account_id AND (l.bytes IS NOT NULL OR l.messages IS NOT NULL)
    LEFT JOIN LATERAL account_usage(l.account_id) u ON l.account_id IS NOT NULL
    WHERE m.account_id = $1 AND m.name = $2 AND m.deleted_at IS NULL
"""
_STATUS: Final = """
    SELECT m.mailbox_id, m.name, m.uidvalidity, t.uid_next, t.highest_modseq, t.message_count,
      CASE WHEN $5::bigint <> $1::bigint THEN viewer_unseen($1, m.mailbox_id, $5)::int ELSE t.unseen_count END
        AS unseen_count,
      CASE WHEN $5 IS NULL THEN 2047 ELSE mailbox_rights($1, m.mailbox_id, $5) END AS rights,
      t.deleted_count, t.total_size, CASE WHEN $3 AND coalesce($5, $1) = $1 THEN (
        SELECT coalesce(sum(CASE WHEN s.block_no > r.first >> 10 THEN s.n
                                 ELSE bit_count(s.live & range_mask((r.first & 1023)::int, 1023)) END), 0)::bigint
        FROM message_sequences s
        WHERE s.account_id = m.account_id AND s.mailbox_id = m.mailbox_id AND s.block_no >= r.first >> 10
      ) END AS recent, CASE WHEN $4 THEN (
        SELECT coalesce(sum(d.size), 0)::bigint
        FROM message_flags f CROSS JOIN LATERAL (
          SELECT i.size FROM messages i
          WHERE i.account_id = m.account_id AND i.mailbox_id = m.mailbox_id AND i.expunged_at IS NULL
            AND i.uid BETWEEN f.block_no::bigint << 10 AND (f.block_no::bigint << 10) + 1023
            AND get_bit(f.bits, (i.uid & 1023)::int) = 1
          OFFSET 0) d
        WHERE f.account_id = m.account_id AND f.mailbox_id = m.mailbox_id AND f.flag_no = 3
      ) END AS deleted_size
    FROM mailboxes m
    JOIN mailbox_stats t USING (account_id, mailbox_id)
    CROSS JOIN LATERAL (
      SELECT coalesce(max(x.recent_uid), 0) + 1 AS first FROM mailbox_recent x
      WHERE x.account_id = m.account_id AND x.mailbox_id = m.mailbox_id
    ) r
    WHERE m.account_id = $1 AND m.name = ANY ($2::text[]) AND m.deleted_at IS NULL AND NOT m.noselect
"""
# Two sessions may both find no row and both claim; RFC 3501 §2.3.2 prefers that to a message recent for nobody. The
# INSERT asks for `before` so that the row is read and locked before it is changed.
_CLAIM_RECENT: Final = """
    WITH before AS (
      SELECT recent_uid FROM mailbox_recent WHERE account_id = $1 AND mailbox_id = $2 FOR UPDATE
    ), claim AS (
      INSERT INTO mailbox_recent AS r (account_id, mailbox_id, recent_uid)
      SELECT account_id, mailbox_id, greatest($3, (SELECT recent_uid FROM before)) FROM mailboxes
      WHERE account_id = $1 AND mailbox_id = $2 AND deleted_at IS NULL
      ON CONFLICT (account_id, mailbox_id) DO UPDATE SET recent_uid = greatest(r.recent_uid, EXCLUDED.recent_uid)
      RETURNING 1
    )
    SELECT coalesce((SELECT recent_uid FROM before), 0) AS recent_uid FROM claim
"""


def _one(row: Record | None) -> Record:
    if row is None:
        raise NotFound("No such mailbox")
    return row


def _mailbox(values: Iterable[Any]) -> Mailbox:
    columns = [*values]
    columns[-1] = Rights(columns[-1])
    return Mailbox(*columns)


def _canonical_or_empty(name: str) -> str:
    try:
        return canonical_name(name)
    except InvalidName:
        return ""


def _parents(names: Any) -> set[str]:
    """Every name above one of *names*."""
    above = set()
    for name in names:
        while DELIMITER in name:
            name = name.rpartition(DELIMITER)[0]
            if name in above:
                break
            above.add(name)
    return above


def listed(rows: Iterable[Record]) -> list[ListedMailbox]:
    """Rows of `list_mailboxes()`."""
    rows = list(rows)
    parents = _parents(row["name"] for row in rows if row["mailbox_id"] is not None)
    return [_listed(row, row["name"] in parents) for row in rows]


def _listed(row: Record, has_children: bool) -> ListedMailbox:
    exists = row["mailbox_id"] is not None
    return ListedMailbox(
        name=row["name"],
        exists=exists,
        noselect=row["noselect"],
        subscribed=row["subscribed"],
        has_children=has_children,
        special_use=row["special_use"],
        uidvalidity=UidValidity(row["uidvalidity"] or 0),
        status=read_status(row) if exists else None,
        rights=Rights(row["rights"]),
    )


def read_status(
    row: Record, recent: int | None = None, deleted_size: int | None = None, rights: Rights = ALL_RIGHTS
) -> Status:
    """The counters of a row."""
    return Status(
        mailbox_id=MailboxId(row["mailbox_id"]),
        name=row["name"],
        uidvalidity=UidValidity(row["uidvalidity"]),
        uid_next=Uid(row["uid_next"]),
        highest_modseq=ModSeq(row["highest_modseq"]),
        messages=row["message_count"],
        unseen=row["unseen_count"],
        deleted=row["deleted_count"],
        size=row["total_size"],
        recent=recent,
        deleted_size=deleted_size,
        rights=rights,
    )


def _octets(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidName("Mailbox name is not valid text") from None
