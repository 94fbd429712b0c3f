"""What a client is told adds up to what is there, whatever others do and whenever it hears of it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sora._native.seqset import UidSet
from sora.errors import DatabaseDown, NotFound
from sora.protocols.imap.views.keywords import KeywordRegistry
from sora.protocols.imap.views.selection import FlagEdit
from sora.protocols.imap.views.view import Views
from sora.services.changes import GONE
from sora.types import ALL_RIGHTS, AccountId, MailboxId, Rights

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from sora.protocols.imap.views.selection import Selection

ACCOUNT = AccountId(7)
MAILBOX = MailboxId(9)
NAME = "9"
BLOCK = 1024


class State(NamedTuple):
    uid_next: int
    highest_modseq: int
    message_count: int
    state: bytes | None
    uidvalidity: int = 5
    rights: Rights = ALL_RIGHTS


class Opened(NamedTuple):
    mailbox_id: MailboxId
    recent_uid: int
    whole: bool
    state: State


class Change(NamedTuple):
    modseq: int
    blocks: list[tuple[int, bytes, bytes, bytes]]


class Truth:
    """A mailbox as PostgreSQL would hold it, and its `store.messages`, `store.mailboxes` and change feed."""

    def __init__(self) -> None:
        self.flags: dict[int, set[int]] = {}
        self.uid_next = 1
        self.modseq = 1
        self.touched: dict[int, int] = {}
        self.claimed = 0
        self.statements: list[str] = []
        self.gate: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.watchers: list[Callable[..., None]] = []
        self.keywords: dict[int, str] = {}
        self.miscount = 0
        self.names: dict[str, int] = {}

    # ------------------------------------------------ the repositories

    async def state(self, _account: int, _mailbox: int, _viewer: int | None = None, /) -> State:
        return await self._answer("state", self.touched)

    async def delta(self, _account: int, _mailbox: int, since: int, _viewer: int | None = None, /) -> State:
        return await self._answer("delta", {block for block, modseq in self.touched.items() if modseq > since})

    async def open(
        self, account: int, name: str, known: tuple[MailboxId, int] | None, _viewer: int | None, /, *, claim: bool
    ) -> Opened:
        mailbox_id, before = MailboxId(self.names.get(name, int(name))), self.claimed
        whole = known is None or known[0] != mailbox_id
        state = await (self.state(account, mailbox_id) if whole else self.delta(account, mailbox_id, known[1]))
        self.statements[-1] = f"open {self.statements[-1]}"
        if claim:
            self.claimed = max(self.claimed, state.uid_next - 1)
        return Opened(mailbox_id, before, whole, state)

    async def claim_recent(self, _account: int, _mailbox: int, up_to: int, /) -> int:
        before, self.claimed = self.claimed, max(self.claimed, up_to)
        self.statements.append("claim")
        return before

    async def list_keywords(self, _account: int, /) -> Mapping[int, str]:
        self.statements.append("keywords")
        return dict(self.keywords)

    async def register_keywords(self, _account: int, names: Sequence[str], /) -> Mapping[str, int]:
        for name in names:
            if name.lower() not in {known.lower() for known in self.keywords.values()}:
                self.keywords[16 + len(self.keywords)] = name
        return {known: number for number, known in self.keywords.items()}

    def watch(self, _account: int, _mailbox: int, callback: Callable[..., None], /) -> Callable[[], None]:
        self.watchers.append(callback)
        return lambda: self.watchers.remove(callback)

    async def _answer(self, what: str, blocks: Iterable[int]) -> State:
        """One statement: what it sees is fixed when it starts, and the answer may take its time."""
        self.statements.append(what)
        records = b"".join(self._records(block) for block in blocks)
        answer = State(self.uid_next, self.modseq, len(self.flags) + self.miscount, records or None)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return answer

    def _records(self, block: int) -> bytes:
        here = {uid: flags for uid, flags in self.flags.items() if uid // BLOCK == block}
        numbers = {number for flags in here.values() for number in flags}
        planes = [(-1, here.keys()), *((n, [u for u, flags in here.items() if n in flags]) for n in numbers)]
        return b"".join(
            block.to_bytes(4, "big") + number.to_bytes(2, "big", signed=True) + (1024).to_bytes(4, "big") + bits(uids)
            for number, uids in planes
        )

    # ------------------------------------------------ what happens to it

    def deliver(self, count: int = 1, gap: int = 0) -> None:
        self.modseq += 1
        self.uid_next += gap
        for _ in range(count):
            self.flags[self.uid_next] = set()
            self.touched[self.uid_next // BLOCK] = self.modseq
            self.uid_next += 1

    def store(self, uids: Iterable[int], edit: FlagEdit) -> Change:
        live = [uid for uid in uids if uid in self.flags]
        after = {uid: (set() if edit.replace else self.flags[uid] - set(edit.clear)) | set(edit.set) for uid in live}
        really = [uid for uid in live if after[uid] != self.flags[uid]]
        if really:
            self.modseq += 1
            for uid in live:
                self.flags[uid] = after[uid]
                self.touched[uid // BLOCK] = self.modseq
        blocks = sorted({uid // BLOCK for uid in live})
        masks = ((b, [bits([uid for uid in uids if uid // BLOCK == b]) for uids in (live, really, [])]) for b in blocks)
        return Change(self.modseq, [(block, *three) for block, three in masks])

    def expunge(self, uids: Iterable[int]) -> list[int]:
        live = [uid for uid in uids if uid in self.flags]
        if live:
            self.modseq += 1
            for uid in live:
                del self.flags[uid]
                self.touched[uid // BLOCK] = self.modseq
        return live


def bits(uids: Iterable[int]) -> bytes:
    """A block's bitmap: the first UID is the highest bit of the first octet."""
    mask = bytearray(BLOCK // 8)
    for uid in uids:
        mask[uid % BLOCK // 8] |= 0x80 >> uid % 8
    return bytes(mask)


def views_of(truth: Truth, **options: int) -> Views:
    return Views(truth, truth, truth, KeywordRegistry(truth), **options)


class Client:
    """A client that knows nothing but the lines it was sent."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.flags: list[frozenset[bytes]] = []
        self.lines: list[bytes] = []
        self.fetch_new()

    def write(self, data: bytes) -> None:
        for line in data.split(b"\r\n")[:-1]:
            self.lines.append(line)
            self.understand(line)

    def understand(self, line: bytes) -> None:
        if match := re.fullmatch(rb"\* (\d+) EXPUNGE", line):
            del self.flags[int(match[1]) - 1]
        elif match := re.fullmatch(rb"\* (\d+) EXISTS", line):
            assert int(match[1]) >= len(self.flags), "EXISTS never takes messages away"
            self.flags += [frozenset()] * (int(match[1]) - len(self.flags))
        elif match := re.fullmatch(rb"\* (\d+) FETCH \((?:UID \d+ )?FLAGS \((.*)\)\)", line):
            self.flags[int(match[1]) - 1] = frozenset(match[2].split()) - {rb"\Recent"}
        else:
            assert re.match(rb"\* (\d+ RECENT|FLAGS |OK \[PERMANENTFLAGS )", line), line

    def fetch_new(self) -> None:
        """What a real client does after EXISTS: ask for the flags of what it does not know."""
        told = self.selection.told
        self.flags += [frozenset()] * (len(told) - len(self.flags))
        for chunk in told.write_fetch_flags(told.all_uids(), self.selection.names, False):
            self.write(chunk)

    def sync(self, *, hold: bool) -> list[bytes]:
        self.lines = []
        self.selection.sync(self.write, hold=hold)
        return self.lines


EDITS = st.builds(
    lambda mode, flags: (FlagEdit(flags), FlagEdit(clear=flags), FlagEdit(flags, replace=True))[mode],
    st.integers(0, 2),
    st.sets(st.integers(0, 4), max_size=3).map(tuple),
)
PICKS = st.lists(st.integers(0, 10**6), min_size=1, max_size=4)


class ViewMachine(RuleBasedStateMachine):
    """Three clients of one view, and changes from elsewhere that are announced, or not yet."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.truth = Truth()

    def run(self, work: Coroutine[None, None, None]) -> None:
        self.runner.run(work)

    @initialize(count=st.integers(0, 5), gap=st.sampled_from([0, 1020, 5000]))
    def select(self, count: int, gap: int) -> None:
        self.truth.deliver(count, gap)

        async def open_all() -> list[Client]:
            views = views_of(self.truth)
            return [Client(await views.select(ACCOUNT, NAME, read_only=False)) for _ in range(3)]

        self.clients = self.runner.run(open_all())
        self.view = self.clients[0].selection.view

    def announce(self, heard: bool) -> None:
        if heard:
            self.view.signal(ACCOUNT, MAILBOX, self.truth.modseq)

    def pick(self, known: Iterable[int], picks: list[int]) -> list[int]:
        known = sorted(known)
        return sorted({known[pick % len(known)] for pick in picks}) if known else []

    @rule(count=st.integers(1, 3), gap=st.sampled_from([0, 0, 0, 1, 1500]), heard=st.booleans())
    def somebody_delivers(self, count: int, gap: int, heard: bool) -> None:
        self.truth.deliver(count, gap)
        self.announce(heard)

    @rule(picks=PICKS, edit=EDITS, heard=st.booleans())
    def somebody_stores(self, picks: list[int], edit: FlagEdit, heard: bool) -> None:
        self.truth.store(self.pick(self.truth.flags, picks), edit)
        self.announce(heard)

    @rule(picks=PICKS, heard=st.booleans())
    def somebody_expunges(self, picks: list[int], heard: bool) -> None:
        self.truth.expunge(self.pick(self.truth.flags, picks))
        self.announce(heard)

    @rule(who=st.integers(0, 2), picks=PICKS, edit=EDITS, silent=st.booleans())
    def client_stores(self, who: int, picks: list[int], edit: FlagEdit, silent: bool) -> None:
        client = self.clients[who]
        told = client.selection.told
        uids = self.pick(told.all_uids(), picks)
        if not uids:
            return
        change = self.truth.store(uids, edit)
        wanted = UidSet.from_numbers(uid for uid in uids if uid in self.truth.flags)
        client.selection.changed(change, edit, UidSet.empty() if silent else wanted)
        if silent:
            self.believe(client, uids, edit)
        lines = client.sync(hold=True)
        assert not any(b" EXPUNGE" in line for line in lines)
        if not silent:
            told = client.selection.told
            for seq in told.seqs(wanted):
                assert sum(line.startswith(b"* %d FETCH " % seq) for line in lines) == 1, "told exactly once"
        client.fetch_new()

    def believe(self, client: Client, uids: list[int], edit: FlagEdit) -> None:
        """The client of a silent STORE changes its own picture; of messages that are gone it hears NO."""
        names = client.selection.names
        for uid in (uid for uid in uids if uid in self.truth.flags):
            index = client.selection.told.seq(uid) - 1
            kept = frozenset() if edit.replace else client.flags[index] - {names[n] for n in edit.clear}
            client.flags[index] = kept | {names[n] for n in edit.set}

    @rule(who=st.integers(0, 2), picks=PICKS)
    def client_expunges(self, who: int, picks: list[int]) -> None:
        client = self.clients[who]
        gone = self.truth.expunge(self.pick(client.selection.told.all_uids(), picks))
        if gone:
            self.view.expunged(self.truth.modseq, gone)
        client.sync(hold=False)
        client.fetch_new()

    @rule(who=st.integers(0, 2), hold=st.booleans())
    def client_runs_a_command(self, who: int, hold: bool) -> None:
        client = self.clients[who]
        if self.view.stale:
            self.run(self.view.refresh())
        lines = client.sync(hold=hold)
        assert not (hold and any(b" EXPUNGE" in line for line in lines))
        client.fetch_new()

    @rule(who=st.integers(0, 2))
    def client_polls(self, who: int) -> None:
        """After a poll the client knows everything."""
        self.run(self.view.refresh())
        client = self.clients[who]
        client.sync(hold=False)
        client.fetch_new()
        names = client.selection.names
        assert client.flags == [frozenset(names[n] for n in self.truth.flags[uid]) for uid in sorted(self.truth.flags)]
        assert client.sync(hold=False) == []

    @invariant()
    def each_client_knows_what_the_session_thinks(self) -> None:
        for client in getattr(self, "clients", ()):
            told, names = client.selection.told, client.selection.names
            assert client.flags == [frozenset(names[n] for n in told.flags(uid)) for uid in told.all_uids()]

    def teardown(self) -> None:
        self.runner.close()


TestViewMachine = ViewMachine.TestCase
TestViewMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---------------------------------------------------------------------------------------------------- single flights


async def opened(truth: Truth, *, read_only: bool = False) -> tuple[Views, Selection]:
    views = views_of(truth)
    return views, await views.select(ACCOUNT, NAME, read_only=read_only)


async def test_a_first_select_loads_and_a_second_asks_for_the_difference() -> None:
    truth = Truth()
    truth.deliver(3)
    views, first = await opened(truth)
    assert truth.statements == ["open state", "delta"], "what came before the watch is not missed"
    views.close(first)
    second = await views.select(ACCOUNT, NAME, read_only=False)
    assert truth.statements == ["open state", "delta", "open delta"]
    assert first.recent_count() == 3
    assert second.recent_count() == 0


async def test_examine_claims_nothing() -> None:
    truth = Truth()
    truth.deliver(2)
    _, selection = await opened(truth, read_only=True)
    assert selection.recent_count() == 2
    assert truth.claimed == 0


async def test_of_all_who_are_told_together_one_claims() -> None:
    truth = Truth()
    views, first = await opened(truth)
    selections = [first, *[await views.select(ACCOUNT, NAME, read_only=False) for _ in range(4)]]
    for count in (1, 2):
        truth.deliver()
        await first.view.refresh()
        for selection in selections:
            if selection.sync(lambda _: None, hold=False):
                views.claim_later(first.view)
        await asyncio.gather(*first.view._tasks)
        assert truth.statements.count("claim") == count
    assert truth.claimed == 2


async def test_those_who_ask_together_share_statements() -> None:
    truth = Truth()
    truth.deliver()
    _, selection = await opened(truth)
    view = selection.view
    truth.statements.clear()
    truth.gate = asyncio.Event()
    first = asyncio.create_task(view.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    truth.deliver()  # after the first statement has its snapshot
    others = [asyncio.create_task(view.refresh()) for _ in range(10)]
    await asyncio.sleep(0)
    truth.gate.set()
    await asyncio.gather(first, *others)
    assert truth.statements == ["delta", "delta"]
    assert len(view.newest) == 2, "who asked after the change must see it"


async def test_an_impatient_session_takes_nothing_from_the_others() -> None:
    truth = Truth()
    truth.deliver()
    _, selection = await opened(truth)
    truth.gate = asyncio.Event()
    truth.deliver()
    gone, stays = (asyncio.create_task(selection.view.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    truth.gate.set()
    await stays
    assert len(selection.view.newest) == 2


async def test_a_late_answer_does_not_turn_the_clock_back() -> None:
    truth = Truth()
    truth.deliver(2)
    _, selection = await opened(truth)
    view = selection.view
    truth.gate = asyncio.Event()
    refresh = asyncio.create_task(view.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    edit = FlagEdit((0,))
    selection.changed(truth.store([1], edit), edit, UidSet.empty())
    truth.gate.set()
    await refresh
    assert view.newest.flags(1) == (0,)
    assert view.newest.highest_modseq == truth.modseq


async def test_an_error_reaches_all_who_wait_and_the_next_one_tries_again() -> None:
    truth = Truth()
    _, selection = await opened(truth)
    truth.failure = DatabaseDown()
    results = await asyncio.gather(*(selection.view.refresh() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [DatabaseDown] * 3
    truth.failure = None
    truth.deliver()
    await selection.view.refresh()
    assert len(selection.view.newest) == 1


async def test_a_picture_that_does_not_add_up_is_loaded_again() -> None:
    truth = Truth()
    truth.deliver(2)
    _, selection = await opened(truth)
    del truth.flags[1]  # removed behind everybody's back
    truth.modseq += 1
    truth.statements.clear()
    await selection.view.refresh()
    assert truth.statements == ["delta", "state"]
    assert list(selection.view.newest.all_uids()) == [2]


async def test_a_failed_select_leaves_nothing_behind() -> None:
    truth = Truth()
    truth.failure = NotFound()
    views = views_of(truth)
    with pytest.raises(NotFound):
        await views.select(ACCOUNT, NAME, read_only=False)
    assert truth.watchers == []
    truth.failure = None
    await views.select(ACCOUNT, NAME, read_only=False)
    assert len(truth.watchers) == 1


async def test_idle_views_are_few_and_the_oldest_goes() -> None:
    truth = Truth()
    truth.deliver()
    views = views_of(truth, idle=1)
    for mailbox in (1, 2):
        views.close(await views.select(ACCOUNT, str(mailbox), read_only=True))
    truth.statements.clear()
    await views.select(ACCOUNT, "2", read_only=True)
    await views.select(ACCOUNT, "1", read_only=True)
    assert truth.statements == ["open delta", "open state", "delta"]


async def test_a_name_may_mean_another_mailbox_tomorrow() -> None:
    truth = Truth()
    truth.deliver(2)
    views, first = await opened(truth)
    views.close(first)
    truth.names[NAME] = 10
    second = await views.select(ACCOUNT, NAME, read_only=True)
    assert second.view is not first.view
    assert second.view.mailbox_id == 10
    assert len(second.told) == 2
    assert len(truth.watchers) == 1, "of the mailbox that is open"


async def test_a_change_during_the_statement_is_not_missed() -> None:
    truth = Truth()
    truth.deliver(2)
    views, first = await opened(truth)
    views.close(first)
    truth.gate = asyncio.Event()
    selecting = asyncio.ensure_future(views.select(ACCOUNT, NAME, read_only=True))
    await asyncio.sleep(0)
    truth.deliver()
    for watcher in truth.watchers:
        watcher(ACCOUNT, MAILBOX, truth.modseq)
    truth.gate.set()
    selection = await selecting
    assert len(selection.told) == 2
    assert selection.view.stale


async def test_idlers_are_woken_when_there_is_news() -> None:
    truth = Truth()
    _, selection = await opened(truth)
    woken = asyncio.Event()
    selection.wake = woken.set
    truth.deliver()
    selection.view.signal(ACCOUNT, MAILBOX, truth.modseq)
    await asyncio.wait_for(woken.wait(), 5)
    lines: list[bytes] = []
    assert selection.sync(lines.append, hold=False), "new messages, to be claimed"
    assert lines == [b"* 1 EXISTS\r\n* 1 RECENT\r\n"]


async def test_without_idlers_a_notice_costs_nothing() -> None:
    truth = Truth()
    _, selection = await opened(truth)
    truth.statements.clear()
    truth.deliver()
    selection.view.signal(ACCOUNT, MAILBOX, truth.modseq)
    await asyncio.sleep(0)
    assert truth.statements == []
    assert selection.view.stale


async def test_a_deleted_mailbox_wakes_and_is_gone() -> None:
    truth = Truth()
    _, selection = await opened(truth)
    woken = asyncio.Event()
    selection.wake = woken.set
    truth.failure = NotFound()
    selection.view.signal(ACCOUNT, MAILBOX, GONE)
    await asyncio.wait_for(woken.wait(), 5)
    assert selection.view.gone


async def test_a_keyword_of_others_is_named_before_it_is_used() -> None:
    truth = Truth()
    truth.deliver()
    _, selection = await opened(truth)
    truth.keywords[16] = "$Work"
    truth.store([1], FlagEdit((16,)))
    await selection.view.refresh()
    lines: list[bytes] = []
    selection.sync(lines.append, hold=False)
    assert lines == [
        rb"* FLAGS (\Seen \Answered \Flagged \Deleted \Draft $Work)" + b"\r\n",
        rb"* OK [PERMANENTFLAGS (\Seen \Answered \Flagged \Deleted \Draft $Work \*)] Flags permitted" + b"\r\n",
        rb"* 1 FETCH (FLAGS (\Recent $Work))" + b"\r\n",
    ]
