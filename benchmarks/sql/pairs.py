"""Every SQL function beside plain SQL that does the same the straightforward way, in one session on one database.

The plain side (plain.sql) has a row a message with its flags in an array, and counts, numbers and joins when asked.
Where the data is the same on both sides (accounts, leases, uploads) plain means the bare statement. Each call is
rolled back, so that all of them meet the same mailbox. The pairs themselves stand in pairs.sql.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from msgspec import Struct

from tests.store.sql.oracle import deliver

if TYPE_CHECKING:
    from benchmarks.sql.data import Target

HERE = Path(__file__).parent


class Pair(Struct):
    """A function and its plain model.

    Attributes:
        name: The function, and what is asked of it.
        ours: A statement, or `deliver <n>` for that function, which has too many arguments for one.
        plain: One that gives the same.
        untimed: Statements that run before each of the two, in the same transaction.
        same: Whether the answers can be compared; not those that are new numbers, times, or nothing.
        covers: Functions that run inside this one and are measured with it.
        fails: Both raise.
    """

    name: str
    ours: str = ""
    plain: str = ""
    untimed: str = ""
    same: bool = True
    covers: tuple[str, ...] = ()
    fails: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that this measures."""
        return (re.split(r"[ ,]", self.name)[0], *self.covers)


def read(text: str) -> list[Pair]:
    """The pairs of a file; its head says how it is written."""
    pairs: list[Pair] = []
    part = ""
    for line in text[text.index("-- ── ") :].splitlines():
        if line.startswith("-- ── "):
            pairs.append(Pair(line[6:]))
        elif line.startswith("-- covers "):
            pairs[-1].covers = tuple(line.split()[2:])
        elif line == "-- uncompared":
            pairs[-1].same = False
        elif line == "-- fails":
            pairs[-1].fails = True
        elif line.startswith("-- "):
            part = line[3:]
        elif line:
            setattr(pairs[-1], part, f"{getattr(pairs[-1], part)} {line}".strip())
    return pairs


PAIRS = read((HERE / "pairs.sql").read_text())


class Context:
    """A session on both sides, and the words of the statements."""

    def __init__(self, conn: asyncpg.Connection, words: dict[str, object], *, plain: bool) -> None:
        self.conn = conn
        self.plain = plain
        self.words = words

    def fill(self, text: str) -> str:
        """Put the words in; other braces are PostgreSQL's."""
        return re.sub(r"\{([a-z]+)\}", lambda match: str(self.words.get(match[1], match[0])), text)

    async def run(self, pair: Pair, side: str) -> Any:
        """One side of a pair, inside the caller's transaction."""
        text = getattr(pair, side)
        if text.startswith("deliver "):
            message = {"account_id": self.words["acc"], "mailbox_id": self.words["mb"], "size": 3000}
            _, count, *impatient = text.split()
            rows = await deliver(self.conn, [message] * int(count), patient=not impatient)
            return [(row["uid"],) for row in rows]
        try:
            return [tuple(row) for row in await self.conn.fetch(self.fill(text))]
        except asyncpg.PostgresError:
            if not pair.fails:
                raise
            return []

    async def prepare(self, pair: Pair) -> None:
        """What runs before both sides, or before ours where the plain one is not there."""
        for statement in filter(None, pair.untimed.split(";")):
            if self.plain or "plain." not in statement:
                await self.conn.execute(self.fill(statement))


async def furnish(conn: asyncpg.Connection, target: Target, *, plain: bool = True) -> Context:
    """Fill what mail alone does not bring, make the plain side if wanted, and look up the words."""
    context = Context(conn, {"acc": target.account_id, "mb": target.mailbox_id, "to": target.other_id}, plain=plain)
    await conn.execute(context.fill((HERE / "furniture.sql").read_text()))
    if plain:
        async with conn.transaction():
            await conn.execute((HERE / "plain.sql").read_text())
    await conn.execute("ANALYZE")
    row = await conn.fetchrow(
        """
        SELECT u.content_id AS content,
          '''\\x' || encode(u.content_hash, 'hex') || '''::bytea' AS hash, a.domain_id AS domain,
          b.account_id AS neighbour, b.mailbox_id AS inbox, c.mailbox_id AS sent, s.highest_modseq AS modseq,
          (SELECT max(content_id) FROM message_contents) AS orphan
        FROM accounts a JOIN mailbox_stats s ON s.account_id = a.account_id AND s.mailbox_id = $2
        JOIN pending_uploads u ON u.account_id = a.account_id
        JOIN accounts n ON n.address = 'neighbour0@example.com'
        JOIN mailboxes b ON b.account_id = n.account_id AND b.name = 'INBOX'
        JOIN mailboxes c ON c.account_id = n.account_id AND c.name = 'Sent'
        WHERE a.account_id = $1 ORDER BY u.content_id LIMIT 1
        """,
        target.account_id, target.mailbox_id,
    )  # fmt: skip
    middle = target.size // 2 // 1024 * 1024 + 3
    context.words |= dict(row) | {"box": f"{target.account_id}, {target.mailbox_id}", "mid": middle}
    return context
