"""What the journal writes of accounts, read from the database: some accounts at a time, as they are at one moment.

Each statement is for all of them, because a pass over many accounts is otherwise nothing but round trips. What may be
large is read in parts: the messages of a mailbox some blocks at a time, mail that waits to leave page by page.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from sora.store.journal import (
    HASH_BYTES,
    Account,
    AliasFacts,
    CredentialFacts,
    DomainFacts,
    Domains,
    GrantFacts,
    HoldFacts,
    KeywordFacts,
    MailboxFacts,
    MailFacts,
    Messages,
    MetadataFacts,
    Outbound,
    Page,
    Plane,
    ScriptFacts,
    Scripts,
    SubscriptionFacts,
)
from sora.types import MAX_UID, AccountId, MailboxId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from asyncpg import Record

    from sora.store.db import Connection

AHEAD: Final = 1 << 20
"""UIDs and modseqs that are reserved in advance; more are when half of them are used."""
PAGE_BLOCKS: Final = 16
"""Blocks of a page: up to 16,384 messages, 1.5 MB before they are compressed."""
FIRST_PAGES: Final = 64
"""Mailboxes whose first block is read at a time, 6 MB at most."""
SCRIPT_BYTES: Final = 64 * 1024
"""Accounts with smaller filters are read together."""
MAIL_BYTES: Final = 1024**2
"""Mail that waits to leave is written in pages of about so many octets."""
PLANE_BYTES: Final = 128
_PLANE: Final = struct.Struct(f">ihq{PLANE_BYTES}s")
_FIRST: Final = -1

_Facts = TypeVar("_Facts", bound=Struct)


class Look(Struct, frozen=True):
    """What there is to read of an account.

    Attributes:
        exists: False: it was purged.
        shredded: Its key was destroyed.
        known: The journal has it already.
        notes: Rows of `journal_dirty`, and their `kinds`: what has changed beside messages.
        script_bytes: Of all filters.
        mails: Some wait to leave.
    """

    account_id: AccountId
    exists: bool
    shredded: bool
    known: bool
    notes: list[int]
    kinds: list[str]
    script_bytes: int
    mails: bool

    @property
    def gone(self) -> bool:
        """Nothing is written of it but that."""
        return not self.exists or self.shredded


class Mark(Struct, frozen=True):
    """A mailbox, and how much of it the journal has.

    Attributes:
        uid_reserved: What the next page of it promises, as `modseq_reserved`.
        since: From where the next page goes on.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    uid_next: int
    highest_modseq: int
    uid_reserved: int
    modseq_reserved: int
    since: int


class Reading:
    """Some accounts at one moment; inside `Marks.reading`.

    Attributes:
        looks: Each of the accounts, in the order in which they were asked for.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self.looks: list[Look] = []
        self._accounts: dict[AccountId, Account] = {}
        self._scripts: dict[AccountId, Scripts] = {}
        self._marks: defaultdict[AccountId, list[Mark]] = defaultdict(list)
        self._ahead: list[Mark] = []
        self._first_pages: dict[tuple[AccountId, MailboxId], Record] = {}

    async def look(self, account_ids: Sequence[AccountId], whole: str = "") -> None:
        """Find out what there is to read.

        Args:
            whole: `snapshot`: everything of them; `segment`: what is not in their snapshots; empty: what has changed.
        """
        rows = await self._conn.fetch(_LOOK, account_ids)
        self.looks = [Look(*row) for row in rows]
        there = [look for look in self.looks if look.account_id and not look.gone]
        every = {look.account_id for look in there if whole or not look.known}
        await self._read_marks([look.account_id for look in self.looks if look.exists], whole)
        await self._read_accounts([
            look.account_id for look in there if look.account_id in every or "account" in look.kinds
        ])  # fmt: skip
        await self._read_scripts([
            look for look in there if look.account_id in every or "scripts" in look.kinds
        ])  # fmt: skip

    def account(self, look: Look) -> Account | None:
        """The account with the small things that belong to it; None: the journal has them."""
        return self._accounts.get(look.account_id)

    async def scripts(self, look: Look) -> Scripts | None:
        """All filters; None: the journal has them."""
        found = self._scripts.get(look.account_id)
        if found is not None and look.script_bytes > SCRIPT_BYTES:
            rows = await self._facts("sieve_scripts", ScriptFacts, [look.account_id], "name")
            return Scripts(tuple(rows[look.account_id]))
        return found

    async def outbound(self, look: Look, whole: str = "") -> AsyncGenerator[Outbound]:
        """Mail that waits to leave; one page at least if something has changed: the first takes the place of all."""
        if not (whole or not look.known or "outbound" in look.kinds):
            return
        page, last = 0, 0
        while True:
            rows = await self._conn.fetch(_OUTBOUND, look.account_id, last, MAIL_BYTES) if look.mails else []
            if rows or not page:
                yield Outbound(page, tuple(MailFacts(**row) for row in rows))
            if not rows:
                return
            page, last = page + 1, rows[-1]["queue_id"]

    def marks(self, look: Look) -> list[Mark]:
        """Mailboxes of which there is something to write."""
        return self._marks[look.account_id]

    async def pages(self, mark: Mark) -> AsyncGenerator[Page]:
        """A mailbox, some blocks at a time; one page at least, for what is said of the mailbox itself."""
        after, more = _FIRST, True
        while more:
            row: Mapping[str, Any]
            if mark.uid_next == 1:
                row = _NOTHING  # as most of a new house
            elif after == _FIRST:
                row = await self._first_page(mark)
            else:
                row = await self._conn.fetchrow(
                    "SELECT * FROM journal_page($1, $2, $3, $4, $5)",
                    mark.account_id, mark.mailbox_id, mark.since, after, PAGE_BLOCKS,
                )  # fmt: skip
            blocks, more = row["blocks"], row["more"]
            last = blocks[-1] if more else MAX_UID >> 10
            yield Page(
                mailbox_id=mark.mailbox_id,
                since=mark.since,
                uid_next=mark.uid_next,
                highest_modseq=mark.highest_modseq,
                uid_reserved=mark.uid_reserved,
                modseq_reserved=mark.modseq_reserved,
                first_block=after + 1,
                last_block=last,
                blocks=tuple(blocks),
                planes=_planes(row["planes"] or b""),
                messages=_messages(row),
            )
            after = last

    async def domains(self) -> Domains:
        """What belongs to no account."""
        rows = await self._conn.fetch(f"SELECT {_columns(DomainFacts)} FROM domains ORDER BY domain_id")
        metadata = await self._facts("metadata", MetadataFacts, [AccountId(0)], "mailbox_id, viewer_id, entry")
        return Domains(tuple(DomainFacts(*row) for row in rows), tuple(metadata[AccountId(0)]))

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_marks(self, account_ids: Sequence[AccountId], whole: str) -> None:
        since = {"": "modseq", "segment": "snapshot_modseq"}.get(whole)
        for row in await self._conn.fetch(_MARKS, account_ids, bool(whole)):
            mark = _mark(row, row[since] if since else 0)
            self._marks[mark.account_id].append(mark)
        gone = {look.account_id for look in self.looks if look.gone}
        self._ahead = [
            mark
            for found in self._marks.values()
            for mark in found
            if mark.uid_next > 1 and mark.account_id not in gone
        ]
        self._ahead.reverse()

    async def _read_accounts(self, account_ids: Sequence[AccountId]) -> None:
        if not account_ids:
            return
        parts = [await self._facts(table, kind, account_ids, order) for _, table, kind, order in _OF_ACCOUNT]
        rows = await self._conn.fetch(
            f"SELECT account_id, {', '.join(_OWN)} FROM accounts WHERE account_id = ANY ($1)", account_ids
        )
        for row in rows:
            account_id = row[0]
            values: dict[str, Any] = {name: row[name] for name in _OWN}
            values |= {name: tuple(part[account_id]) for (name, *_), part in zip(_OF_ACCOUNT, parts, strict=True)}
            self._accounts[account_id] = Account(**values)

    async def _read_scripts(self, looks: Sequence[Look]) -> None:
        """What is large comes later, by itself."""
        for look in looks:
            self._scripts[look.account_id] = Scripts()
        small = [look.account_id for look in looks if 0 < look.script_bytes <= SCRIPT_BYTES]
        for account_id, rows in (await self._facts("sieve_scripts", ScriptFacts, small, "name")).items():
            self._scripts[account_id] = Scripts(tuple(rows))

    async def _first_page(self, mark: Mark) -> Record:
        """One block of it, read together with those of the mailboxes that come next."""
        key = mark.account_id, mark.mailbox_id
        if key not in self._first_pages:
            self._first_pages.clear()
            while self._ahead and self._ahead[-1] is not mark:
                self._ahead.pop()  # of an account that was passed over
            batch = self._ahead[-FIRST_PAGES:]
            del self._ahead[-FIRST_PAGES:]
            rows = await self._conn.fetch(
                """
                SELECT g.account_id, g.mailbox_id, p.* FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
                  g (account_id, mailbox_id, since)
                CROSS JOIN LATERAL journal_page(g.account_id, g.mailbox_id, g.since, -1, 1) p
                """,
                [found.account_id for found in batch],
                [found.mailbox_id for found in batch],
                [found.since for found in batch],
            )
            self._first_pages = {(row["account_id"], row["mailbox_id"]): row for row in rows}
        return self._first_pages.pop(key)

    async def _facts(
        self, table: str, kind: type[_Facts], account_ids: Sequence[AccountId], order: str
    ) -> defaultdict[AccountId, list[_Facts]]:
        """Rows of a table by account; a struct has a field for each column that the journal keeps."""
        found: defaultdict[AccountId, list[_Facts]] = defaultdict(list)
        if account_ids:
            without = _LEFT_OUT.get(table, "")
            rows = await self._conn.fetch(
                f"SELECT account_id, {_columns(kind)} FROM {table} t WHERE account_id = ANY ($1){without}"
                f" ORDER BY account_id, {order}",
                account_ids,
            )
            for account_id, *values in rows:
                found[account_id].append(kind(*values))
        return found


def _columns(kind: type[Struct]) -> str:
    return ", ".join(kind.__struct_fields__)


def _mark(row: Record, since: int) -> Mark:
    """With reservations that are renewed when half of what was promised is used."""
    return Mark(
        account_id=AccountId(row["account_id"]),
        mailbox_id=MailboxId(row["mailbox_id"]),
        uid_next=row["uid_next"],
        highest_modseq=row["highest_modseq"],
        uid_reserved=_ahead(max(row["uid_next"], row["uid_wanted"]), row["uid_reserved"], MAX_UID + 1),
        modseq_reserved=_ahead(row["highest_modseq"] + 1, row["modseq_reserved"], 1 << 62),
        since=since,
    )


def _ahead(needed: int, reserved: int | None, most: int) -> int:
    if reserved is not None and (reserved - needed >= AHEAD // 2 or reserved == most):
        return reserved
    return min(needed + AHEAD, most)


def _planes(packed: bytes) -> tuple[Plane, ...]:
    return tuple(Plane(*found) for found in _PLANE.iter_unpack(packed))


def _messages(row: Mapping[str, Any]) -> Messages:
    if not row["uids"]:
        return Messages()
    if len(row["hashes"]) * 8 != len(row["uids"]) * HASH_BYTES:
        raise ValueError("a content hash of another length")
    return Messages(*(row[column] for column in Messages.__struct_fields__))


_OF_ACCOUNT: Final[tuple[tuple[str, str, type[Struct], str], ...]] = (
    ("credentials", "credentials", CredentialFacts, "credential_id"),
    ("aliases", "aliases", AliasFacts, "address"),
    ("keywords", "account_keywords", KeywordFacts, "flag_no"),
    ("mailboxes", "mailboxes", MailboxFacts, "mailbox_id"),
    ("subscriptions", "subscriptions", SubscriptionFacts, "name"),
    ("grants", "mailbox_acl", GrantFacts, "mailbox_id, grantee_id, negative"),
    ("metadata", "metadata", MetadataFacts, "mailbox_id, viewer_id, entry"),
    ("holds", "legal_hold_log", HoldFacts, "entry_id"),
)
"""Field of `Account`, table, what a row becomes, and order."""
_OF_A_SHADOW: Final = """
    AND NOT EXISTS (
      SELECT 1 FROM mailboxes b WHERE b.account_id = t.account_id AND b.mailbox_id = t.mailbox_id AND b.shadow)
"""
_LEFT_OUT: Final = {"mailboxes": " AND NOT shadow", "mailbox_acl": _OF_A_SHADOW, "metadata": _OF_A_SHADOW}
"""By table: what belongs to mailboxes of deleted mail, which are made anew when somebody looks."""
_OWN: Final = tuple(name for name in Account.__struct_fields__ if name not in {name for name, *_ in _OF_ACCOUNT})
_NOTHING: Final[dict[str, Any]] = {"blocks": (), "more": False, "planes": b"", "uids": b""}
_LOOK: Final = """
    SELECT g.account_id, g.account_id = 0 OR EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = g.account_id),
      EXISTS (SELECT 1 FROM shreddings s WHERE s.account_id = g.account_id),
      EXISTS (SELECT 1 FROM journal_accounts j WHERE j.account_id = g.account_id), d.notes, d.kinds,
      (SELECT coalesce(sum(octet_length(s.content)), 0) FROM sieve_scripts s WHERE s.account_id = g.account_id),
      EXISTS (SELECT 1 FROM outbound_queue o WHERE o.account_id = g.account_id)
    FROM unnest($1::bigint[]) WITH ORDINALITY g (account_id, n) CROSS JOIN LATERAL (
      SELECT coalesce(array_agg(note_id), '{}') AS notes, coalesce(array_agg(DISTINCT kind), '{}') AS kinds
      FROM journal_dirty WHERE account_id = g.account_id) d
    ORDER BY g.n
"""
_MARKS: Final = """
    SELECT s.account_id, s.mailbox_id, s.uid_next, s.highest_modseq, k.uid_reserved, k.modseq_reserved,
      coalesce(k.modseq, 0) AS modseq, coalesce(k.snapshot_modseq, 0) AS snapshot_modseq,
      coalesce(k.uid_wanted, 0) AS uid_wanted
    FROM mailbox_stats s LEFT JOIN journal_marks k USING (account_id, mailbox_id)
    WHERE s.account_id = ANY ($1) AND ($2 OR k.modseq IS DISTINCT FROM s.highest_modseq
      OR k.uid_reserved IS DISTINCT FROM s.uid_reserved OR k.modseq_reserved IS DISTINCT FROM s.modseq_reserved
      OR k.uid_wanted > k.uid_reserved)
      AND NOT EXISTS (
        SELECT 1 FROM mailboxes b WHERE b.account_id = s.account_id AND b.mailbox_id = s.mailbox_id AND b.shadow)
    ORDER BY 1, 2
"""
# the first mail whatever its size, and those behind it that fit
_OUTBOUND: Final = """
    SELECT queue_id, kind, sender, recipient, size, content_id, body, body_hash, header, smtputf8,
      params::text AS params, created_at, attempts
    FROM outbound_queue WHERE account_id = $1 AND queue_id = ANY (ARRAY(
      SELECT q.queue_id FROM (
        SELECT i.queue_id, sum(coalesce(length(i.body), 0) + length(i.header) + 500) OVER w AS upto,
          row_number() OVER w AS n
        FROM (SELECT * FROM outbound_queue WHERE account_id = $1 AND queue_id > $2 ORDER BY queue_id LIMIT 2000) i
        WINDOW w AS (ORDER BY i.queue_id)) q
      WHERE q.upto <= $3 OR q.n = 1))
    ORDER BY queue_id
"""
