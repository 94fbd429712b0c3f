"""Annotations of mailboxes and of the server (METADATA, RFC 5464).

Names of entries are folded. What begins with `/private` is kept for each account by itself, `/shared` is one for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.types import AccountId, MailboxId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sora.store.db import Database

PRIVATE: Final = "/private"
SHARED: Final = "/shared"
MAX_ENTRIES: Final = 200
"""Entries of one mailbox: shared ones, and as many private ones of each account."""
MAX_VALUE: Final = 64 * 1024
MAX_BYTES: Final = 1024 * 1024
"""Octets of those values together."""
INFINITY: Final = 2
"""Depth of `Wanted`."""


class Place(Struct, frozen=True):
    """What bears annotations: a mailbox, or the server as an account sees it (`SERVER_MAILBOX`)."""

    account_id: AccountId
    mailbox_id: MailboxId


SERVER_MAILBOX: Final = MailboxId(0)
SERVER: Final = Place(AccountId(0), SERVER_MAILBOX)
"""Where the shared entries of the server are; private ones are with their account."""


class Wanted(Struct, frozen=True):
    """Which entries, and how much of them.

    Attributes:
        entries: folded.
        depth: levels below the entries: 0, 1 or `INFINITY`.
        max_size: leave out longer values; None: none is too long.
    """

    entries: tuple[str, ...]
    depth: int = 0
    max_size: int | None = None


class Entry(Struct, frozen=True):
    """One annotation.

    Attributes:
        value: None: it is longer than was wanted.
    """

    name: str
    size: int
    value: bytes | None


class Metadata:
    """Annotations."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, places: Sequence[Place], viewer_id: AccountId, wanted: Wanted) -> dict[Place, list[Entry]]:
        """Entries of some places, as an account sees them, by name; one statement.

        Returns:
            Places without any of the entries are not there.
        """
        found: dict[Place, list[Entry]] = {}
        rows = await self._db.fetch(
            _GET,
            [place.account_id for place in places], [place.mailbox_id for place in places],
            viewer_id, list(wanted.entries), wanted.depth, wanted.max_size,
        )  # fmt: skip
        for row in rows:
            place = Place(AccountId(row["account_id"]), MailboxId(row["mailbox_id"]))
            found.setdefault(place, []).append(Entry(row["entry"], row["size"], row["value"]))
        return found

    async def set(self, place: Place, viewer_id: AccountId, values: Mapping[str, bytes | None]) -> bool:
        """Set entries, all or none.

        Args:
            values: by folded name; None removes an entry.

        Returns:
            False: there would be too many, or too much in them.

        Raises:
            NotFound: the mailbox is gone.
        """
        owners = [viewer_id if name.startswith(PRIVATE) else AccountId(0) for name in values]
        done: bool = await self._db.fetchval(
            "SELECT set_metadata($1, $2, $3, $4, $5, $6, $7)",
            place.account_id, place.mailbox_id, owners, list(values), list(values.values()), MAX_ENTRIES, MAX_BYTES,
        )  # fmt: skip
        return done


_GET: Final = """
    SELECT d.account_id, d.mailbox_id, d.entry, octet_length(d.value) AS size,
      CASE WHEN octet_length(d.value) <= coalesce($6::bigint, octet_length(d.value)) THEN d.value END AS value
    FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY p (account, mailbox, ord)
    CROSS JOIN LATERAL (
      SELECT * FROM metadata i
      WHERE i.account_id = p.account AND i.mailbox_id = p.mailbox AND i.viewer_id IN (0, $3::bigint) OFFSET 0) d
    WHERE EXISTS (
      SELECT 1 FROM unnest($4::text[]) w (entry)
      WHERE d.entry = w.entry OR starts_with(d.entry, w.entry || '/')
        AND ($5 = 2 OR $5 = 1 AND position('/' IN substr(d.entry, length(w.entry) + 2)) = 0))
    ORDER BY p.ord, d.entry
"""
