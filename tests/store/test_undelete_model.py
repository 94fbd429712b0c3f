"""Deleted mail against a model: whatever is done in whatever order, nothing is lost, and nothing is there twice.

The model is a few dictionaries: what each mailbox shows, what went from it and when. After every step all of it is
asked of the database: what is live, what can be restored, and, after a look, what `Deleted/` shows, under UIDs that
never mean another message.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from sora._native.seqset import UidSet
from tests.store.test_undelete import WHEN, flags_of, live

if TYPE_CHECKING:
    from sora.store.store import Store
    from sora.types import AccountId, MailboxId

GRACE = timedelta(days=14)
NAMES = ("INBOX", "Work")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["deliver", "expunge", "move", "copy", "restore", "again"]), st.integers(0, 1),
                  st.integers(0, 7)),
        st.tuples(st.sampled_from(["trim", "look", "back", "delete", "undelete"]), st.integers(0, 1),
                  st.integers(0, 3)),
    ),
    min_size=5, max_size=25,
)  # fmt: skip


class Message(Struct):
    """One row.

    Attributes:
        body: Its content; the same message in two places has the same.
        gone: When it was expunged, by the number of the step; 0: it was not.
        flags: Without \\Deleted.
    """

    body: int
    flags: frozenset[int]
    gone: int = 0


class Box(Struct):
    """A mailbox, there or deleted."""

    mailbox_id: MailboxId
    name: str
    messages: dict[int, Message]
    top: int = 0
    deleted: int = 0

    @property
    def shown(self) -> dict[int, Message]:
        """What is to be seen in it."""
        return {} if self.deleted else {uid: m for uid, m in self.messages.items() if not m.gone}

    @property
    def lost(self) -> dict[int, Message]:
        """What is to be restored of it."""
        return {uid: m for uid, m in self.messages.items() if m.gone or self.deleted}


class World:
    """One account and the model of it."""

    def __init__(self, store: Store, account_id: AccountId) -> None:
        self.store = store
        self.account_id = account_id
        self.boxes: list[Box] = []
        self.step = 0
        self.meant: dict[tuple[str, int], int] = {}

    async def open(self) -> World:
        inbox = await self.store.mailboxes.get(self.account_id, "INBOX")
        self.boxes = [Box(inbox.mailbox_id, "INBOX", {})]
        await self._there("Work")
        return self

    async def _there(self, name: str) -> Box:
        """The mailbox of a name, made if it is missing."""
        for box in self.boxes:
            if box.name == name and not box.deleted:
                return box
        made = await self.store.mailboxes.create(self.account_id, name)
        self.boxes.append(Box(made.mailbox_id, name, {}))
        return self.boxes[-1]

    def kept(self) -> set[int]:
        return {m.body for box in self.boxes for m in box.shown.values()}

    async def go(self, what: str, place: int, number: int) -> None:
        self.step += 1
        name = NAMES[place]
        await getattr(self, f"do_{what}")(await self._there(name), number)
        await self.check()

    # ------------------------------------------------------------------ steps

    async def do_deliver(self, box: Box, number: int) -> None:
        """A new body each time, but for one of them that comes again and again."""
        body = 1 if number >= 6 else self.step + 10
        box.top += 1
        flags = frozenset(n for n in (1, 2, 17) if number & n)
        await self.store.db.execute(
            """
            INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size,
              initial_flags)
            SELECT $1, $2, $3, $4, s.highest_modseq + 1, $5, 100, $6
            FROM mailbox_stats s WHERE s.account_id = $1 AND s.mailbox_id = $2
            """,
            self.account_id, box.mailbox_id, box.top, await self._body(body), WHEN,
            [*flags, 3] if number > 4 else [*flags],
        )  # fmt: skip
        box.messages[box.top] = Message(body, flags)

    async def _body(self, body: int) -> int:
        number = self.account_id * 10**9 + body
        await self.store.db.execute(
            """
            INSERT INTO message_contents (account_id, content_id, content_hash, size, thread_id, envelope,
              body_structure)
            VALUES ($1, $2, decode(lpad(to_hex($2::bigint), 64, '0'), 'hex'), 100, 1, ''::bytea, ''::bytea)
            ON CONFLICT DO NOTHING
            """,
            self.account_id, number,
        )  # fmt: skip
        return number

    async def do_expunge(self, box: Box, number: int) -> None:
        uids = list(box.shown)[number % 3 :: 2]
        if uids:
            await self.store.messages.expunge(
                self.account_id, box.mailbox_id, UidSet.from_numbers(uids), only_deleted=False
            )
        for uid in uids:
            box.messages[uid].gone = self.step

    async def do_copy(self, box: Box, number: int) -> None:
        await self._transfer(box, number, moved=False)

    async def do_move(self, box: Box, number: int) -> None:
        await self._transfer(box, number, moved=True)

    async def _transfer(self, box: Box, number: int, *, moved: bool) -> None:
        target = await self._there(NAMES[box.name == NAMES[0]])
        uids = list(box.shown)[number % 4 :: 2]
        if not uids:
            return
        work = self.store.messages.move if moved else self.store.messages.copy
        await work(self.account_id, box.mailbox_id, UidSet.from_numbers(uids), target.mailbox_id)
        for uid in uids:
            target.top += 1
            target.messages[target.top] = Message(box.messages[uid].body, box.messages[uid].flags)
            if moved:
                box.messages[uid].gone = self.step

    async def do_restore(self, box: Box, number: int) -> None:
        await self._restore(box, number, again=False)

    async def do_again(self, box: Box, number: int) -> None:
        await self._restore(box, number, again=True)

    async def _restore(self, box: Box, number: int, *, again: bool) -> None:
        """Of every mailbox that has or had the name, all or a few, as `messages restore` does."""
        for source in [b for b in self.boxes if b.name == box.name and b.deleted] + [box]:
            uids = [uid for uid in sorted(source.lost) if number % 2 or uid % 3]
            wanted: list[int] = []
            for uid in uids:
                body = source.messages[uid].body
                later = any(source.messages[other].body == body for other in uids if other > uid)
                if again or (not later and body not in self.kept()):
                    wanted.append(uid)
            found: list[int] = []
            skipped = 0
            if uids:
                chosen = UidSet.from_numbers(uids)
                async for step in self.store.undelete.restore(
                    self.account_id, source.mailbox_id, box.mailbox_id, uids=chosen, again=again
                ):
                    found += step.uids
                    skipped += step.skipped
            assert found == list(range(box.top + 1, box.top + 1 + len(wanted)))
            assert skipped == len(uids) - len(wanted)
            for uid, old in zip(found, [source.messages[uid] for uid in wanted], strict=True):
                box.messages[uid] = Message(old.body, old.flags)
                assert await flags_of(self.store, self.account_id, box.mailbox_id, uid) == old.flags
            box.top += len(wanted)

    async def do_trim(self, box: Box, number: int) -> None:
        """The oldest of what was expunged is past its grace."""
        done = await self.store.db.fetchval(
            "SELECT trim_expunges($1, $2, 'infinity', $3)", self.account_id, box.mailbox_id, number + 1
        )
        gone = sorted((m.gone, uid) for uid, m in box.messages.items() if m.gone)[: number + 1]
        assert done == len(gone)
        for _, uid in gone:
            del box.messages[uid]

    async def do_look(self, box: Box, _number: int) -> None:
        await self.look(box.name)

    async def do_back(self, box: Box, number: int) -> None:
        """COPY of some of what `Deleted/` shows, as the user does; also if the picture is an old one."""
        shadow = await self.store.mailboxes.find(self.account_id, f"Deleted/{box.name}")
        if shadow is None:
            return
        shown = await live(self.store, self.account_id, shadow.mailbox_id)
        uids = list(shown)[number::2]
        if not uids:
            return
        flags = [await flags_of(self.store, self.account_id, shadow.mailbox_id, uid) for uid in uids]
        await self.store.messages.copy(self.account_id, shadow.mailbox_id, UidSet.from_numbers(uids), box.mailbox_id)
        for uid, flag in zip(uids, flags, strict=True):
            box.top += 1
            box.messages[box.top] = Message(shown[uid] % 10**9, frozenset(flag))

    async def do_delete(self, box: Box, _number: int) -> None:
        if box.name != "INBOX":
            await self.store.mailboxes.delete(self.account_id, box.name)
            box.deleted = self.step

    async def do_undelete(self, box: Box, number: int) -> None:
        """Under another name, because this one is taken; then that is deleted, and so on."""
        gone = [b for b in self.boxes if b.deleted]
        if gone:
            chosen = gone[number % len(gone)]
            chosen.name = f"Back {self.step}"
            back = await self.store.undelete.restore_mailbox(self.account_id, chosen.mailbox_id, chosen.name)
            chosen.deleted = 0
            assert back.message_count == len(chosen.shown)

    # ------------------------------------------------------------------ what must be true

    async def check(self) -> None:
        for box in self.boxes:
            if not box.deleted:
                there = await live(self.store, self.account_id, box.mailbox_id)
                assert {uid: body % 10**9 for uid, body in there.items()} == {u: m.body for u, m in box.shown.items()}
                for uid, message in box.shown.items():
                    flags = await flags_of(self.store, self.account_id, box.mailbox_id, uid)
                    assert flags - {3} == message.flags
        listed = {
            (m.mailbox_id, m.uid, m.kept) async for page in self.store.undelete.messages(self.account_id) for m in page
        }
        kept = self.kept()
        assert listed == {(box.mailbox_id, uid, m.body in kept) for box in self.boxes for uid, m in box.lost.items()}

    async def look(self, name: str) -> None:
        """Each body once that went from a mailbox of the name and is nowhere else, as it went first."""
        await self.store.undelete.refresh(self.account_id, name, f"Deleted/{name}", GRACE)
        shadow = await self.store.mailboxes.find(self.account_id, f"Deleted/{name}")
        found = {} if shadow is None else await live(self.store, self.account_id, shadow.mailbox_id)
        kept = self.kept()
        expected = {m.body for box in self.boxes if box.name == name for m in box.lost.values()} - kept
        assert sorted(body % 10**9 for body in found.values()) == sorted(expected)
        for uid, body in found.items():
            assert self.meant.setdefault((name, uid), body) == body
        names = await self.store.undelete.names(self.account_id, "Deleted/", GRACE)
        everything = {box.name for box in self.boxes if {m.body for m in box.lost.values()} - kept}
        assert set(names) == everything

    async def finish(self) -> None:
        """All of it is brought back: nothing that was not purged is lost."""
        wanted = {m.body for box in self.boxes for m in box.messages.values()}
        for name in sorted({box.name for box in self.boxes}):
            await self._restore(await self._there(name), 1, again=False)
        assert self.kept() == wanted
        await self.check()
        for name in NAMES:
            await self.look(name)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_nothing_is_lost_and_nothing_is_there_twice(store: Store, steps: list[tuple[str, int, int]]) -> None:
    number = await store.db.fetchval("SELECT count(*) FROM accounts")
    world = await World(store, await store.accounts.create(f"a{number}@example.com")).open()
    for what, place, value in steps:
        await world.go(what, place, value)
    await world.finish()
