"""`imap_events`: changes in mailboxes for which a script still has to run (RFC 6785), and the names of those scripts.

An event is written before the command that made the change is answered, and removed when the script has run for all of
its messages. Whoever runs it holds a claim, which ends by itself.

Clients may change more than scripts can follow. Where many events of an account wait, a further one becomes part of one
like it that nobody has begun: a script sees messages as they are when it runs, so once for each says as much as twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct

from sora._native.seqset import UidSet
from sora.errors import InvalidName
from sora.store.scripts import check_name
from sora.types import AccountId, ContentId, MailboxId, Uid

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sora.store.db import Database

ENTRY: Final = "/shared/imapsieve/script"
"""The annotation whose value is the name of a script; of a mailbox, or of the server for all that have none."""
CHANNEL: Final = "sora_script_names"
"""Notified with the number of an account, in hex, when one of its mailboxes gets or loses a name; 0: the server."""

CROWDED: Final = 100
"""Events of an account that wait on their own; they are the most that it has in the memory of processes too."""
MOST: Final = 5_000
"""Rows that an account may have in all. Such as cannot be put together are for other mailboxes, flags or people."""
RANGES: Final = 100
"""Ranges of UIDs of an event that others become part of: it is written anew each time."""

Cause: TypeAlias = Literal["APPEND", "COPY", "FLAG"]


class Event(Struct, frozen=True):
    """What happened to messages of a mailbox.

    Attributes:
        event_id: 0: it is not written down.
        account_id: Of the mailbox.
        script: Name of the script.
        everywhere: The server's entry named it, not the mailbox's.
        changed_flags: Names of the flags, separated by spaces.
        actor_id: Who gave the command.
        login: The same as login name.
        attempts: How often it was claimed after its first worker let go of it; -1: nobody has claimed it.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    script: str
    everywhere: bool
    cause: Cause
    uids: UidSet
    actor_id: AccountId
    login: str
    changed_flags: str = ""
    event_id: int = 0
    attempts: int = 0

    @property
    def viewer_id(self) -> AccountId | None:
        """Whose \\Seen counts, if not the owner's."""
        return None if self.actor_id == self.account_id else self.actor_id


class Owner(Struct, frozen=True):
    """Whose script runs.

    Attributes:
        scripts: Another number after every change of the account's scripts.
    """

    address: str
    scripts: int


class Subject(Struct, frozen=True):
    """A message that a script runs for.

    Attributes:
        flags: Flag numbers, as the actor sees them.
    """

    uid: Uid
    size: int
    internal_date: datetime
    content_id: ContentId
    content_hash: bytes
    flags: tuple[int, ...]


class Events:
    """Rows of `imap_events`, and what scripts run for."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, event: Event, claim_s: float) -> int:
        """Write an event down; its number, or 0: the account has many already, see `join`.

        Args:
            claim_s: How long it is the caller's; 0: it is anybody's.
        """
        return await self._db.fetchval(_ADD, *_values(event), claim_s, CROWDED) or 0

    async def join(self, event: Event) -> bool:
        """Write an event of an account down that has many, for whoever has time; False: it has too many."""
        if await self._db.fetchval(_JOIN, *_values(event), RANGES):
            return True
        return await self._db.fetchval(_ADD, *_values(event), 0.0, MOST) is not None

    async def claim(self, limit: int, claim_s: float) -> list[Event]:
        """Events that nobody works on, oldest first."""
        return [_event(row) for row in await self._db.fetch(_CLAIM, limit, claim_s)]

    async def release(self, event: Event, pause_s: float = 0.0) -> None:
        """Let go of an event: after the pause it is anybody's."""
        await self._db.fetchval(_KEEP, event.event_id, 0, pause_s, event.attempts)

    async def keep(self, event: Event, done_to: int, claim_s: float) -> bool:
        """The script has run for messages up to this UID; the claim begins anew. False: somebody else has it."""
        return bool(await self._db.fetchval(_KEEP, event.event_id, done_to, claim_s, event.attempts))

    async def renew(self, events: Collection[Event], claim_s: float) -> None:
        """Claims of events that still wait for their turn begin anew."""
        if events:
            numbers, attempts = [event.event_id for event in events], [event.attempts for event in events]
            await self._db.execute(_RENEW, numbers, attempts, claim_s)

    async def finish(self, event: Event) -> None:
        """The script has run for all of them."""
        await self._db.execute("DELETE FROM imap_events WHERE event_id = $1", event.event_id)

    async def subjects(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, viewer_id: AccountId | None
    ) -> list[Subject]:
        """Messages that are still there, in the order of their UIDs; meant for few."""
        rows = await self._db.fetch(_SUBJECTS, account_id, mailbox_id, list(uids), viewer_id)
        return [
            Subject(
                Uid(row["uid"]), row["size"], row["internal_date"], ContentId(row["content_id"]), row["content_hash"],
                tuple(sorted(row["flags"])),
            )
            for row in rows
        ]  # fmt: skip

    async def script_names(self, account_id: AccountId) -> dict[MailboxId, str]:
        """Names of the scripts of an account's mailboxes; account 0: of the server, as mailbox 0."""
        return _names(await self._db.fetch(f"{_NAMES} AND account_id = $1", account_id)).get(account_id, {})

    async def all_script_names(self, limit: int) -> dict[AccountId, dict[MailboxId, str]] | None:
        """The same of all accounts that have some; None: those are more than *limit* mailboxes."""
        rows = await self._db.fetch(f"{_NAMES} LIMIT $1", limit + 1)
        return None if len(rows) > limit else _names(rows)

    async def owner(self, account_id: AccountId) -> Owner | None:
        """Whose script runs; None: the account is gone."""
        row = await self._db.fetchrow(_OWNER, account_id)
        return None if row is None else Owner(**row)


def _values(event: Event) -> tuple[Any, ...]:
    return (
        event.account_id, event.mailbox_id, event.script, event.everywhere, event.cause,
        *event.uids.bounds(), event.changed_flags, event.actor_id, event.login,
    )  # fmt: skip


def _names(rows: Sequence[Mapping[str, Any]]) -> dict[AccountId, dict[MailboxId, str]]:
    found: dict[AccountId, dict[MailboxId, str]] = {}
    for row in rows:
        found.setdefault(AccountId(row["account_id"]), {})[MailboxId(row["mailbox_id"])] = _name(row["value"])
    return found


def _name(value: bytes) -> str:
    """As scripts are called; empty where none can have this name: annotations may be any octets, and long."""
    try:
        return check_name(value.decode())
    except (UnicodeDecodeError, InvalidName):
        return ""


def _event(row: Mapping[str, Any]) -> Event:
    ranges = zip(row["lows"], row["highs"], strict=True)
    left = UidSet.from_ranges([(max(low, row["done_to"] + 1), high) for low, high in ranges if high > row["done_to"]])
    return Event(
        account_id=AccountId(row["account_id"]),
        mailbox_id=MailboxId(row["mailbox_id"]),
        script=row["script"],
        everywhere=row["everywhere"],
        cause=row["cause"],
        uids=left,
        actor_id=AccountId(row["actor_id"]),
        login=row["login"],
        changed_flags=row["changed_flags"],
        event_id=row["event_id"],
        attempts=row["attempts"],
    )


# Those who add at the same moment do not see each other, and there may be as many more.
_ADD: Final = """
    INSERT INTO imap_events (account_id, mailbox_id, script, everywhere, cause, lows, highs, changed_flags,
      actor_id, login, claimed_until, attempts)
    SELECT $1::bigint, $2::bigint, $3::text, $4::boolean, $5::text, $6::bigint[], $7::bigint[], $8::text, $9::bigint,
      $10::text, clock() + make_interval(secs => $11), CASE WHEN $11 > 0 THEN 0 ELSE -1 END
    WHERE (SELECT count(*) FROM (SELECT FROM imap_events WHERE account_id = $1 LIMIT $12) w) < $12
    RETURNING event_id
"""
# Whoever claims an event knows its UIDs from then on, so none may be added.
_JOIN: Final = """
    UPDATE imap_events e SET (lows, highs) = (
      SELECT array_agg(lower(r) ORDER BY r), array_agg(upper(r) - 1 ORDER BY r)
      FROM unnest((SELECT range_agg(int8range(u.low, u.high, '[]'))
                   FROM unnest(e.lows || $6::bigint[], e.highs || $7::bigint[]) u (low, high))) r)
    WHERE e.event_id = (
      SELECT event_id FROM imap_events
      WHERE account_id = $1 AND mailbox_id = $2 AND script = $3 AND everywhere = $4 AND cause = $5
        AND changed_flags = $8 AND actor_id = $9 AND login = $10 AND attempts < 0
        AND cardinality(lows) + cardinality($6::bigint[]) <= $11
      ORDER BY event_id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING true
"""
_CLAIM: Final = """
    UPDATE imap_events e SET attempts = e.attempts + 1, claimed_until = clock() + make_interval(secs => $2)
    FROM (SELECT event_id FROM imap_events WHERE claimed_until <= clock() ORDER BY event_id LIMIT $1
          FOR UPDATE SKIP LOCKED) d
    WHERE e.event_id = d.event_id RETURNING e.*
"""
# attempts is another number after every claim, so that it says whose the event is
_KEEP: Final = """
    UPDATE imap_events SET done_to = greatest(done_to, $2), claimed_until = clock() + make_interval(secs => $3)
    WHERE event_id = $1 AND attempts = $4 RETURNING true
"""
_RENEW: Final = """
    UPDATE imap_events e SET claimed_until = clock() + make_interval(secs => $3)
    FROM unnest($1::bigint[], $2::int[]) h (event_id, attempts)
    WHERE e.event_id = h.event_id AND e.attempts = h.attempts
"""
_NAMES: Final = f"SELECT account_id, mailbox_id, value FROM metadata WHERE entry = '{ENTRY}' AND viewer_id = 0"
_OWNER: Final = """
    SELECT address, script_version AS scripts FROM accounts WHERE account_id = $1 AND deleted_at IS NULL
"""
_SUBJECTS: Final = """
    SELECT u.uid, m.size, m.internal_date, m.content_id, c.content_hash, ARRAY(
      SELECT f.flag_no::int FROM message_flags f
      WHERE f.account_id = $1 AND f.mailbox_id = $2 AND f.block_no = (u.uid >> 10)::int
        AND ($4::bigint IS NULL OR f.flag_no <> 0) AND get_bit(f.bits, (u.uid & 1023)::int) = 1
      UNION ALL
      SELECT 0 FROM message_viewer_seen v
      WHERE v.account_id = $1 AND v.mailbox_id = $2 AND v.viewer_id = $4 AND v.block_no = (u.uid >> 10)::int
        AND get_bit(v.bits, (u.uid & 1023)::int) = 1) AS flags
    FROM unnest($3::bigint[]) u (uid)
    CROSS JOIN LATERAL (
      SELECT * FROM messages i
      WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid = u.uid AND i.expunged_at IS NULL OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT i.content_hash FROM message_contents i
      WHERE i.account_id = $1 AND i.content_id = m.content_id OFFSET 0) c
    ORDER BY u.uid
"""
