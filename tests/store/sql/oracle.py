"""A model of the store in plain Python, and random operations that run on it and on PostgreSQL alike.

Two accounts with three mailboxes each, which both may see. After each operation everything that a session can read of
the mailboxes it touched is compared: sequence numbers, flags, counters, modseqs, state and delta, the expunge log.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sora._native.modseqs import ModSeqs
from sora._native.seqset import UidSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora.store.db import Connection

STRANGER = 4711
"""A viewer of every mailbox that owns none."""
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
TOP = 4_294_967_295
RECORD = 4 + 2 + 4 + 128

DELIVER = """
SELECT * FROM deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL, $10, $11, $12, $12,
  $11, $11, $11, $11, $12, $12, $12, $12, $12,
  $12, $13, $13, NULL, $14, $15, $16, 'node', $17, p_patient => $18)"""


async def deliver(
    conn: Connection,
    messages: list[dict[str, Any]],
    *,
    texts: list[tuple[str, str | None, bool]] | None = None,
    message_ids: list[str | None] | None = None,
    references: list[str | None] | None = None,
    patient: bool = True,
) -> list[Any]:
    """Call deliver() with one digest a message; each message is a dict of the fields that matter to a test."""
    n = len(messages)

    def column(name: str, default: object) -> list[Any]:
        return [message.get(name, default) for message in messages]

    texts = texts or [("subject: hello\n", "body", False)] * n
    args = (
        column("account_id", None),
        column("mailbox_id", None),
        [message.get("hash") or random.randbytes(32) for message in messages],
        column("size", 100),
        [None if m.get("flags") is None else ",".join(map(str, m["flags"])) for m in messages],
        column("internal_date", NOW),
        column("key", None),
        column("append_id", None),
        list(range(1, n + 1)),
        [NOW] * n,
        message_ids or [None] * n,
        references or [None] * n,
        [b"()"] * n,
        [text[0] for text in texts],
        [text[1] for text in texts],
        [text[2] for text in texts],
        column("actor_id", None),
        patient,
    )
    rows: list[Any] = await conn.fetch(DELIVER, *args)
    return rows


def positions(mask: bytes) -> Iterable[int]:
    """Numbers of the set bits; bit 0 is the leftmost of the first byte."""
    for index, byte in enumerate(mask):
        for bit in range(8):
            if byte >> (7 - bit) & 1:
                yield index * 8 + bit


def uids_of(rows: list[Any], column: str) -> set[int]:
    """UIDs of one bitmap column over all blocks."""
    return {(row["block_no"] << 10) + bit for row in rows for bit in positions(row[column])}


class Planes:
    """What a session keeps of a mailbox: replaced block by block, as the records come."""

    def __init__(self) -> None:
        self.bits: dict[tuple[int, int], bytes] = {}
        self.since = 0

    def apply(self, row: Any) -> None:
        """Take one row of mailbox_state() or mailbox_delta()."""
        state = row["state"] or b""
        records = [state[i : i + RECORD] for i in range(0, len(state), RECORD)]
        heads = [struct.unpack(">ihi", record[:10]) for record in records]
        assert all(head[2] == 1024 for head in heads)
        assert len({head[:2] for head in heads}) == len(heads), "a plane came twice"
        changed = {head[0] for head in heads}
        self.bits = {key: bits for key, bits in self.bits.items() if key[0] not in changed}
        for head, record in zip(heads, records, strict=True):
            self.bits[head[0], head[1]] = record[10:]
        self.since = row["highest_modseq"]

    def flags(self) -> dict[int, set[int]]:
        """Flags of the live messages by UID."""
        found: dict[int, set[int]] = {}
        for (block, flag), bits in self.bits.items():
            if flag == -1:
                found |= {(block << 10) + bit: set() for bit in positions(bits)}
        for (block, flag), bits in self.bits.items():
            if flag != -1:
                for bit in positions(bits):
                    if (block << 10) + bit in found:
                        found[(block << 10) + bit].add(flag)
        return found


@dataclass
class Message:
    """A live message; flag 0 in `flags` is the owner's, `seen_by` are the others who have seen it."""

    flags: set[int]
    modseq: int
    hash: bytes
    size: int
    seen_by: set[int] = field(default_factory=set)

    def seen_from(self, viewer: int | None) -> set[int]:
        """The flags as owner or viewer sees them."""
        if viewer is None:
            return set(self.flags)
        return (self.flags - {0}) | ({0} if viewer in self.seen_by else set())

    def set_from(self, viewer: int | None, flags: set[int]) -> None:
        """The other way round."""
        if viewer is None:
            self.flags = set(flags)
        else:
            self.seen_by = (self.seen_by | {viewer}) if 0 in flags else (self.seen_by - {viewer})
            self.flags = (self.flags & {0}) | (flags - {0})


@dataclass
class Box:
    """A mailbox of the model."""

    account_id: int
    mailbox_id: int
    uidvalidity: int
    inbox: bool
    viewers: list[int]
    live: dict[int, Message] = field(default_factory=dict)
    log: list[tuple[int, list[int]]] = field(default_factory=list)
    uid_next: int = 1
    modseq: int = 1
    floor: int = 0
    trimmed: int = 0  # messages of the oldest entry of the log that are gone
    views: dict[int | None, Planes] = field(init=False)

    def __post_init__(self) -> None:
        self.views = {viewer: Planes() for viewer in (None, *self.viewers)}

    def add(self, message: Message) -> int:
        """A message under the next UID."""
        self.live[self.uid_next] = message
        self.uid_next += 1
        return self.uid_next - 1

    def remove(self, uids: list[int]) -> None:
        """Expunge at the present modseq."""
        for uid in uids:
            del self.live[uid]
        self.log.append((self.modseq, uids))


class Oracle:
    """Model and database side by side."""

    def __init__(self, conn: Connection, seed: int) -> None:
        self.conn = conn
        self.random = random.Random(seed)
        self.boxes: list[Box] = []
        self.keys: dict[tuple[int, bytes, int], int] = {}
        self.contents: dict[tuple[int, bytes], int] = {}
        self.names: dict[int, dict[int, str]] = {}

    async def set_up(self) -> None:
        """Two accounts whose keywords have the same names under other numbers; each may see the other's mailboxes."""
        for address, keywords in (
            ("a@example.com", ["alpha", "Beta", "gamma"]),
            ("b@example.com", ["delta", "ALPHA", "beta"]),
        ):
            account_id = await self.conn.fetchval("SELECT create_account($1)", address)
            await self.conn.execute("SELECT register_keywords($1, $2)", account_id, keywords)
            self.names[account_id] = {16 + i: name.lower() for i, name in enumerate(keywords)}
        for account_id in self.names:
            viewers = [other for other in (*self.names, STRANGER) if other != account_id]
            for row in await self.conn.fetch("SELECT * FROM list_mailboxes($1)", account_id):
                if row["name"] in ("INBOX", "Sent", "Trash"):
                    self.boxes.append(
                        Box(account_id, row["mailbox_id"], row["uidvalidity"], row["name"] == "INBOX", viewers)
                    )

    async def run(self, steps: int) -> None:
        """Random operations, each followed by a comparison of what it touched."""
        operations = [
            (self.do_deliver, 25), (self.do_store, 30), (self.do_expunge, 13), (self.do_copy, 16),
            (self.do_copy_across, 6),
            (self.do_trim, 5), (self.do_jump, 4), (self.do_rebuild, 2), (self.do_compact, 2),
        ]  # fmt: skip
        for step in range(steps):
            operation = self.random.choices([o for o, _ in operations], [w for _, w in operations])[0]
            try:
                for box in await operation():
                    await self.compare(box)
            except AssertionError as error:
                error.add_note(f"step {step}: {operation.__name__}")
                raise

    # ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def do_deliver(self) -> list[Box]:
        """A batch to any mailboxes: equal bodies, repeated keys, INBOX by name, a viewer that appends."""
        batch: list[tuple[Box, dict[str, Any]]] = []
        for _ in range(self.random.choice([1, 1, 1, 4, 30])):
            box = self.random.choice(self.boxes)
            known = [key[1] for key in self.keys] + [m["key"] for _, m in batch if m["key"]]
            key = self.random.choice([None, self.random.randbytes(8), *known[-2:]])
            hashes = [h for a, h in self.contents if a == box.account_id] + [m["hash"] for _, m in batch]
            batch.append((box, {
                "account_id": box.account_id,
                "mailbox_id": self.random.choice([None, 0]) if box.inbox else box.mailbox_id,
                "hash": self.random.choice([*hashes[-3:], *(self.random.randbytes(32) for _ in range(4))]),
                "size": self.random.randint(0, 5_000_000_000),
                "flags": self.random.choice([None, [0], [0, 3], [1, 2, 16, 17], []]),
                "key": key,
                "actor_id": self.random.choice([None, None, box.account_id, *box.viewers]),
            }))  # fmt: skip
        rows = await deliver(self.conn, [message for _, message in batch])
        assert len(rows) == len(batch)
        stored: set[int] = set()
        for ordinal, ((box, message), row) in enumerate(zip(batch, rows, strict=True), 1):
            assert (row["ord"], row["account_id"], row["mailbox_id"]) == (ordinal, box.account_id, box.mailbox_id)
            assert row["uidvalidity"] == box.uidvalidity
            assert not row["over_quota"]
            self._expect_delivered(box, message, row, stored)
        return [box for box in self.boxes if box.mailbox_id in stored] or [batch[0][0]]

    def _expect_delivered(self, box: Box, message: dict[str, Any], row: Any, stored: set[int]) -> None:
        witness = (box.account_id, message["key"], box.mailbox_id)
        assert row["duplicate"] == (witness in self.keys)
        if row["duplicate"]:
            assert row["uid"] == self.keys[witness]
            return
        if box.mailbox_id not in stored:
            stored.add(box.mailbox_id)
            box.modseq += 1
        flags = set(message["flags"] or [])
        added = Message(flags - {0}, box.modseq, message["hash"], message["size"])
        added.set_from(message["actor_id"] if message["actor_id"] in box.viewers else None, flags)
        uid = box.add(added)
        assert (row["uid"], row["modseq"]) == (uid, box.modseq)
        content = self.contents.setdefault((box.account_id, message["hash"]), row["content_id"])
        assert row["content_id"] == content
        if message["key"] is not None:
            self.keys[witness] = uid

    async def do_store(self) -> list[Box]:
        """STORE in all its forms, by the owner and by the viewer."""
        box = self.random.choice(self.boxes)
        lo, hi = self._ranges(box)
        every = [0, 1, 2, 3, 4, 16, 17]
        wanted = set(self.random.sample(every, self.random.randint(0, 3)))
        unwanted = set(self.random.sample(every, self.random.randint(0, 2))) - wanted
        replace = self.random.random() < 0.2
        unchanged = self.random.choice([None, None, self.random.randint(0, box.modseq)])
        viewer = self.random.choice([None, None, *box.viewers])
        if (
            self.random.random() < 0.5
        ):  # what clients send all day has a path of its own: one flag of one range in a block
            flag = self.random.choice([0, 0, 3, 16])
            wanted, unwanted = self.random.choice([({flag}, set()), (set(), {flag})])
            replace, unchanged, viewer = False, None, None
            low = max(1, self.random.choice([*box.live, 5000]) - self.random.choice([0, 1]))
            lo, hi = [low], [min(low + self.random.choice([0, 0, 3]), low | 1023)]
        rows = await self.conn.fetch(
            "SELECT * FROM store_flags($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            box.account_id, box.mailbox_id, lo, hi, list(wanted), list(unwanted), replace, unchanged, viewer,
        )  # fmt: skip
        applied, changed, failed = set(), set(), set()
        for uid in self._selected(box, lo, hi):
            message = box.live[uid]
            if unchanged is not None and message.modseq > unchanged:
                failed.add(uid)
                continue
            applied.add(uid)
            before = message.seen_from(viewer)
            after = set(wanted) if replace else (before | wanted) - unwanted
            if after != before:
                changed.add(uid)
                message.set_from(viewer, after)
        assert uids_of(rows, "applied") == applied
        assert uids_of(rows, "changed") == changed
        assert uids_of(rows, "failed") == failed
        if changed:
            box.modseq += 1
            for uid in changed:
                box.live[uid].modseq = box.modseq
        assert {row["modseq"] for row in rows} <= {box.modseq}
        return [box]

    async def do_expunge(self) -> list[Box]:
        """EXPUNGE, UID EXPUNGE, and removal regardless of the flag."""
        box = self.random.choice(self.boxes)
        lo, hi = self._ranges(box)
        only_deleted = self.random.random() < 0.6
        whole = only_deleted and self.random.random() < 0.4
        bounds = (None, None) if whole else (lo, hi)
        row = await self.conn.fetchrow(
            "SELECT * FROM expunge($1, $2, $3, $4, $5)", box.account_id, box.mailbox_id, *bounds, only_deleted
        )
        chosen = sorted(box.live) if whole else self._selected(box, lo, hi)
        gone = [uid for uid in chosen if not only_deleted or 3 in box.live[uid].flags]
        if gone:
            box.modseq += 1
            box.remove(gone)
        assert (row["modseq"], row["uids"]) == (box.modseq, gone)
        return [box]

    async def do_copy(self) -> list[Box]:
        """COPY and MOVE inside an account, into the mailbox itself too."""
        box = self.random.choice(self.boxes)
        target = self.random.choice([b for b in self.boxes if b.account_id == box.account_id])
        return await self._transfer(box, target, self.random.choice([None, *box.viewers]))

    async def do_copy_across(self) -> list[Box]:
        """COPY and MOVE into the other account."""
        box = self.random.choice(self.boxes)
        target = self.random.choice([b for b in self.boxes if b.account_id != box.account_id])
        return await self._transfer(box, target, self.random.choice([None, box.account_id, *box.viewers]))

    async def _transfer(self, box: Box, target: Box, actor: int | None) -> list[Box]:
        lo, hi = self._ranges(box)
        move = self.random.random() < 0.5
        row = await self.conn.fetchrow(
            f"SELECT * FROM {'move' if move else 'copy'}_messages($1, $2, $3, $4, $5, $6, $7, 'node')",
            box.account_id, box.mailbox_id, target.account_id, target.mailbox_id, lo, hi, actor,
        )  # fmt: skip
        chosen = self._selected(box, lo, hi)
        originals = [box.live[uid] for uid in chosen]
        self._map_keywords(box, target, originals)
        assert row["uidvalidity"] == target.uidvalidity
        assert row["source_uids"] == chosen
        assert row["target_uids"] == list(range(target.uid_next, target.uid_next + len(chosen)))
        if chosen:
            target.modseq += 1
            if move and box is not target:
                box.modseq += 1
            from_viewer = actor if actor in box.viewers else None
            to_viewer = actor if actor in target.viewers else None
            for original in originals:
                copy = Message(set(), target.modseq, original.hash, original.size)
                seen = original.seen_from(from_viewer) & {0}
                copy.set_from(to_viewer, seen | self._renumbered(box, target, original.flags - {0}))
                target.add(copy)
            if move:
                box.remove(chosen)
        assert (row["source_modseq"], row["target_modseq"]) == (box.modseq, target.modseq)
        return [box, target]

    def _map_keywords(self, box: Box, target: Box, originals: list[Message]) -> None:
        """The keywords that these messages bring are made in the target's account, by their number in the source's."""
        names = self.names[target.account_id]
        for number in sorted({f for m in originals for f in m.flags if f >= 16}):
            if self.names[box.account_id][number] not in names.values():
                names[max(names) + 1] = self.names[box.account_id][number]

    def _renumbered(self, box: Box, target: Box, flags: set[int]) -> set[int]:
        numbers = {name: number for number, name in self.names[target.account_id].items()}
        return {f if f < 16 else numbers[self.names[box.account_id][f]] for f in flags}

    async def do_trim(self) -> list[Box]:
        """The cleaner after the grace period, in small batches."""
        box = self.random.choice(self.boxes)
        limit = self.random.randint(1, 40)
        removed = await self.conn.fetchval(
            "SELECT trim_expunges($1, $2, clock() + interval '1 s', $3)", box.account_id, box.mailbox_id, limit
        )
        expected = 0
        while box.log and expected < limit:
            modseq, uids = box.log[0]
            taken = min(limit - expected, len(uids) - box.trimmed)
            expected += taken
            box.trimmed += taken
            box.floor = modseq
            if box.trimmed == len(uids):  # otherwise the entry stays until its last message is gone
                box.log.pop(0)
                box.trimmed = 0
        assert removed == expected
        return [box]

    async def do_jump(self) -> list[Box]:
        """A UID out of the row, as an import that preserves UIDs makes it: often at the edge of a block."""
        box = self.random.choice(self.boxes)
        contents = [(h, c) for (a, h), c in self.contents.items() if a == box.account_id]
        if not contents:
            return []
        hash_, content_id = self.random.choice(contents)
        edge = (box.uid_next + 1023) // 1024 * 1024 + self.random.choice([-2, -1, 0, 1])
        uid = max(box.uid_next, self.random.choice([edge, edge, box.uid_next + self.random.randint(0, 3000)]))
        await self.conn.execute(
            """
            INSERT INTO messages
              (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size, initial_flags)
            SELECT $1, $2, $3, $4, highest_modseq + 1, clock(), 5, '{3}' FROM mailbox_stats
            WHERE account_id = $1 AND mailbox_id = $2
            """,
            box.account_id, box.mailbox_id, uid, content_id,
        )  # fmt: skip
        box.modseq += 1
        box.live[uid] = Message({3}, box.modseq, hash_, 5)
        box.uid_next = uid + 1
        return [box]

    async def do_rebuild(self) -> list[Box]:
        """Repair of what is not broken changes nothing but the modseq."""
        box = self.random.choice(self.boxes)
        box.modseq += 1
        assert await self.conn.fetchval("SELECT rebuild_mailbox($1, $2)", box.account_id, box.mailbox_id) == box.modseq
        row = await self._delta(box, box.modseq - 1, None)
        planes = Planes()
        planes.apply(row)
        assert planes.flags().keys() == box.live.keys(), "a session must read every block again"
        return [box]

    async def do_compact(self) -> list[Box]:
        """Compaction that finds nothing to merge."""
        box = self.random.choice(self.boxes)
        await self.conn.fetch("SELECT compact_journal($1, $2, 1)", box.account_id, box.mailbox_id)
        return [box]

    def _ranges(self, box: Box) -> tuple[list[int], list[int]]:
        lo = [self.random.randint(1, box.uid_next) for _ in range(self.random.randint(1, 5))]
        if box.live and self.random.random() < 0.7:
            lo.append(self.random.choice(list(box.live)))
        return lo, [min(low + self.random.choice([0, 0, 3, 20, 1500, TOP]), TOP) for low in lo]

    def _selected(self, box: Box, lo: list[int], hi: list[int]) -> list[int]:
        return sorted(uid for uid in box.live if any(low <= uid <= high for low, high in zip(lo, hi, strict=True)))

    # ── comparison ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def compare(self, box: Box) -> None:
        """Everything that can be read of a mailbox, against the model."""
        await self._compare_numbers(box)
        await self._compare_counters(box)
        await self._compare_modseqs(box)
        await self._compare_views(box)
        await self._compare_log(box)
        wrong = await self.conn.fetch("SELECT * FROM check_mailbox($1, $2)", box.account_id, box.mailbox_id)
        assert wrong == []

    async def _compare_numbers(self, box: Box) -> None:
        rows = await self.conn.fetch(
            """
            SELECT q.uid, q.seqnum, q.flags, c.content_hash, m.size
            FROM message_sequence_numbers q JOIN messages m USING (account_id, mailbox_id, uid)
            JOIN message_contents c USING (account_id, content_id)
            WHERE q.account_id = $1 AND q.mailbox_id = $2 ORDER BY q.uid
            """,
            box.account_id, box.mailbox_id,
        )  # fmt: skip
        found = [(r["uid"], r["seqnum"], set(r["flags"] or []), r["content_hash"], r["size"]) for r in rows]
        uids = sorted(box.live)
        assert found == [
            (uid, i, box.live[uid].flags, box.live[uid].hash, box.live[uid].size) for i, uid in enumerate(uids, 1)
        ]
        for uid in [*self.random.sample(uids, min(2, len(uids))), box.uid_next]:
            seq = await self.conn.fetchval("SELECT seq_of_uid($1, $2, $3)", box.account_id, box.mailbox_id, uid)
            assert seq == (uids.index(uid) + 1 if uid in box.live else 0)

    async def _compare_counters(self, box: Box) -> None:
        row = await self.conn.fetchrow(
            """
            SELECT uid_next, highest_modseq, expunge_floor, message_count, unseen_count, deleted_count, total_size
            FROM mailbox_stats WHERE account_id = $1 AND mailbox_id = $2
            """,
            box.account_id, box.mailbox_id,
        )  # fmt: skip
        messages = box.live.values()
        assert tuple(row) == (
            box.uid_next, box.modseq, box.floor, len(messages), sum(0 not in m.flags for m in messages),
            sum(3 in m.flags for m in messages), sum(m.size for m in messages),
        )  # fmt: skip

    async def _compare_modseqs(self, box: Box) -> None:
        since = self.random.randint(0, box.modseq)
        rows = await self.conn.fetch("SELECT * FROM changed_since($1, $2, $3)", box.account_id, box.mailbox_id, since)
        expected = {uid: m.modseq for uid, m in box.live.items() if m.modseq > since}
        assert {row["uid"]: row["modseq"] for row in rows} == expected
        row = await self.conn.fetchrow("SELECT * FROM modseqs($1, $2, $3)", box.account_id, box.mailbox_id, since)
        known, uids = (
            ModSeqs(since, row["highest_modseq"], row["created"], row["changes"]),
            UidSet.from_numbers(box.live),
        )
        assert known.highest == box.modseq
        assert set(known.newer(uids, since, known.highest)) == expected.keys()
        changed = UidSet.from_numbers(expected)
        assert dict(zip(changed, memoryview(known.of(changed, known.highest)).cast("q"), strict=True)) == expected

    async def _compare_views(self, box: Box) -> None:
        for viewer in (None, self.random.choice(box.viewers)):
            planes = box.views[viewer]
            expected = {uid: message.seen_from(viewer) for uid, message in box.live.items()}
            counters = (box.uid_next, box.modseq, len(expected), sum(0 not in flags for flags in expected.values()))
            delta = await self._delta(box, planes.since, viewer)
            planes.apply(delta)
            assert planes.flags() == expected, "delta"
            fresh = Planes()
            state = await self.conn.fetchrow(
                "SELECT * FROM mailbox_state($1, $2, $3)", box.account_id, box.mailbox_id, viewer
            )
            fresh.apply(state)
            assert fresh.flags() == expected, "state"
            assert tuple(delta)[:4] == tuple(state)[:4] == counters

    async def _delta(self, box: Box, since: int, viewer: int | None) -> Any:
        return await self.conn.fetchrow(
            "SELECT * FROM mailbox_delta($1, $2, $3, $4)", box.account_id, box.mailbox_id, since, viewer
        )

    async def _compare_log(self, box: Box) -> None:
        since = self.random.randint(0, box.modseq)
        row = await self.conn.fetchrow(
            "SELECT * FROM expunged_since($1, $2, $3)", box.account_id, box.mailbox_id, since
        )
        assert row["complete"] == (since >= box.floor)
        assert row["uids"] == sorted(uid for modseq, uids in box.log if modseq > since for uid in uids)
