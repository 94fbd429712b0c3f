"""Search results that are remembered and kept up to date, while several sessions change one mailbox."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sora._native.imapscan import Scanner
from sora._native.seqset import SeqSet, UidSet
from sora.errors import DatabaseDown
from sora.protocols.imap.finding import search
from sora.protocols.imap.finding.contexts import runs_within
from sora.protocols.imap.finding.results import to_save
from sora.protocols.imap.finding.sort import sorted_uids
from sora.wire.imap_search import parse_search
from sora.wire.imap_sort import parse_sort
from tests.support.imap import ImapWorld, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.protocols.imap.session import Session
    from sora.services.node import Node
    from tests.support.transcripts import Link

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEARCHES = (
    "FLAGGED", "UNSEEN", "UNDELETED KEYWORD kw", 'OR FLAGGED SUBJECT "message 1"', "NOT (SEEN LARGER 195)",
    "UID 2:9 NOT DELETED", "ALL", "RECENT", "OLDER 1",
)  # fmt: skip
SORTS = ("(REVERSE ARRIVAL) UTF-8 UNFLAGGED", "(SUBJECT) UTF-8 ALL", "(REVERSE SUBJECT DATE) UTF-8 NOT SEEN")
FLAGS = (r"\Flagged", r"\Seen", r"\Deleted", "kw")
SESSIONS = 3
STEP = st.one_of(
    st.tuples(st.just("store"), st.integers(0, 9), st.sampled_from("+-"), st.sampled_from(FLAGS), st.booleans()),
    st.tuples(st.just("expunge")),
    st.tuples(st.just("append")),
    st.tuples(st.just("noop")),
    st.tuples(st.just("fetch"), st.booleans()),
    st.tuples(st.just("move"), st.integers(0, 9)),
    st.tuples(st.just("update"), st.sampled_from(SEARCHES + SORTS), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("save"), st.sampled_from(SEARCHES)),
)
SCRIPT = st.lists(st.tuples(st.integers(0, SESSIONS - 1), STEP), min_size=5, max_size=40)


class Client:
    """What a client that believes every line knows.

    Attributes:
        uids: UIDs of its messages, by sequence number.
        contexts: By tag: the search, whether it speaks of UIDs, and the results in their order, as the updates made
            them. A search that begins with a parenthesis is that of a SORT.
        saved: UIDs that `$` must stand for.
    """

    def __init__(self, link: Link, session: Session) -> None:
        self.link = link
        self.session = session
        self.uids: list[int] = []
        self.contexts: dict[str, tuple[str, bool, list[int]]] = {}
        self.saved: set[int] = set()
        self._commands = 0

    async def ask(self, command: str, *, literal: bytes | None = None) -> list[str]:
        """Send a command; believe all that is said. Returns the untagged lines."""
        self._commands += 1
        tag = f"t{self._commands}"
        await self.link.send(f"{tag} {command}\r\n".encode())
        if literal is not None:
            assert (await self.link.read_line()).startswith(b"+")
            await self.link.send(literal + b"\r\n")
        said = []
        while not (line := (await self.link.read_line()).decode()).startswith(f"{tag} "):
            said.append(line)
        assert line.startswith((f"{tag} OK", f"{tag} NO [EXPUNGEISSUED]")), line
        for heard in said:
            self._believe(heard)
        return said

    def _believe(self, line: str) -> None:
        if match := re.fullmatch(r"\* (\d+) EXPUNGE", line):
            number = int(match[1])
            gone = self.uids.pop(number - 1)
            self.saved.discard(gone)
            for tag, (key, uid, found) in self.contexts.items():
                assert (gone if uid else number) not in found, "it must have left before"
                if not uid:
                    self.contexts[tag] = key, uid, [n - (n > number) for n in found]
        elif match := re.fullmatch(r"\* (\d+) EXISTS", line):
            # Messages come at the end; their UIDs are what the session says later on.
            told = list(self.session.view.told.all_uids())
            self.uids += told[len(told) - (int(match[1]) - len(self.uids)) :]
        elif match := re.fullmatch(r'\* ESEARCH \(TAG "(t\d+)"\)( UID)? (ADDTO|REMOVEFROM) \((.*)\)', line):
            self._update(match[1], bool(match[2]), match[3], match[4])
        elif match := re.fullmatch(r'\* ESEARCH \(TAG "(t\d+)"\)( UID)?(?: ALL (\S+))?', line):
            key, uid, found = self.contexts[match[1]]
            assert uid == bool(match[2])
            assert not found, "the result comes before its updates"
            self.contexts[match[1]] = key, uid, numbers_of(match[3]) if match[3] else []

    def _update(self, tag: str, uid: bool, what: str, pairs: str) -> None:
        key, by_uid, found = self.contexts[tag]
        assert uid == by_uid
        words = pairs.split()
        for position, text in zip(map(int, words[::2]), words[1::2], strict=True):
            numbers = numbers_of(text)
            assert uid or max(numbers) <= len(self.uids)
            assert (position > 0) == key.startswith("(")
            if what == "ADDTO":
                assert set(numbers).isdisjoint(found), pairs
                place = position - 1 if position else len(found)
                found = found[:place] + numbers + found[place:]
            else:
                place = position - 1 if position else 0
                assert set(numbers) <= set(found), pairs
                assert not position or found[place : place + len(numbers)] == numbers, pairs
                found = [number for number in found if number not in numbers]
        self.contexts[tag] = key, uid, found if key.startswith("(") else sorted(found)

    async def check(self) -> None:
        """Each result that is kept up to date is what the search would find now."""
        assert self.uids == list(self.session.view.told.all_uids())
        newest = self.session.view.view.newest
        for tag, (text, uid, found) in self.contexts.items():
            fresh = await matching(self.session, text)
            have = found if uid else [self.uids[number - 1] for number in found]
            there = newest.all_uids()  # what is gone, though it was not told, is found by flags and not by texts
            assert [n for n in have if n in there] == [n for n in fresh if n in there], (tag, text)

    async def check_saved(self) -> None:
        """`$` is what was saved, without what the client was told is gone."""
        before = set(self.saved)
        said = await self.ask("UID SEARCH $")
        found = next(line for line in said if line.startswith("* SEARCH"))
        assert {int(number) for number in found.split()[2:]} == before


def numbers_of(text: str) -> list[int]:
    """The numbers of a sequence-set, in its order."""
    return [number for part in text.split(",") for number in SeqSet.parse(part.encode())]


async def matching(session: Session, text: str) -> list[int]:
    """What a search finds now, without telling the client anything."""
    scanner = Scanner()
    scanner.feed(f"a UID {'SORT' if text.startswith('(') else 'SEARCH'} {text}\r\n".encode())
    command: Any = scanner.next()
    if text.startswith("("):
        sort = parse_sort(command.cursor)
        return await sorted_uids(session, sort.search.key, sort.criteria)
    key = parse_search(command.cursor).key
    return list(await search.matching(session, key, session.view.told.all_uids()))


async def perform(client: Client, step: tuple[Any, ...]) -> None:
    """One step; of sequence numbers and tags only those that the client has."""
    match step:
        case ("store", index, sign, flag, by_uid) if client.uids:
            index %= len(client.uids)
            what = f"UID STORE {client.uids[index]}" if by_uid else f"STORE {index + 1}"
            await client.ask(f"{what} {sign}FLAGS.SILENT ({flag})")
        case ("append",):
            data = plain(len(client.uids) % 3 + 1)
            await client.ask(f"APPEND INBOX {{{len(data)}}}", literal=data)
        case ("fetch", by_uid) if client.uids:
            await client.ask(f"{'UID ' if by_uid else ''}FETCH 1:* (FLAGS)")
        case ("move", index) if client.uids:
            await client.ask(f"UID MOVE {client.uids[index % len(client.uids)]} Other")
        case ("update", text, uid) if len(client.contexts) < 4:
            tag = f"t{client._commands + 1}"
            client.contexts[tag] = text, uid, []
            name = "SORT" if text.startswith("(") else "SEARCH"
            said = await client.ask(f"{'UID ' if uid else ''}{name} RETURN (UPDATE ALL) {text}")
            assert any(f'(TAG "{tag}")' in line for line in said)
        case ("cancel", index) if index < len(client.contexts):
            tag = list(client.contexts)[index]
            del client.contexts[tag]
            await client.ask(f'CANCELUPDATE "{tag}"')
        case ("save", text):
            client.saved = set(await matching(client.session, text))
            tag = f'"t{client._commands + 1}"'
            assert not [line for line in await client.ask(f"SEARCH RETURN (SAVE) {text}") if tag in line]
        case ("expunge",) | ("noop",):
            await client.ask(step[0].upper())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    [
        (0, ("update", "UNSEEN", False)), (0, ("update", "ALL", True)), (1, ("save", "ALL")),
        (1, ("store", 1, "+", r"\Deleted", False)), (1, ("expunge",)), (2, ("append",)), (0, ("fetch", False)),
        (0, ("store", 2, "+", r"\Seen", False)), (0, ("noop",)), (1, ("noop",)),
    ]
)  # fmt: skip
@given(SCRIPT)
async def test_results_follow_the_mailbox(shared_node: Node, script: list[tuple[int, tuple[Any, ...]]]) -> None:
    world = ImapWorld(shared_node)
    await world.given("alice: INBOX=4 Other=0")
    try:
        clients = []
        for number in range(SESSIONS):
            link = await world.connect(number)
            clients.append(Client(link, world.sessions[-1]))
            await clients[-1].ask("SELECT INBOX")
            clients[-1].uids = list(clients[-1].session.view.told.all_uids())
        for number, step in script:
            await perform(clients[number], step)
            await clients[number].check()
        for client in clients:
            await client.check_saved()
            await client.ask("NOOP")
            await client.check()
            assert not client.session.view.behind
    finally:
        for client in clients:
            await client.link.hang_up()
        for account_id in world.accounts.values():
            await shared_node.store.accounts.delete(account_id)


@pytest_asyncio.fixture(loop_scope="module")
async def client(shared_node: Node) -> AsyncIterator[Client]:
    world = ImapWorld(shared_node)
    await world.given("alice: INBOX=4")
    client = Client(await world.connect(1), world.sessions[0])
    await client.ask("SELECT INBOX")
    yield client
    await client.link.hang_up()
    for account_id in world.accounts.values():
        await shared_node.store.accounts.delete(account_id)


async def test_a_database_that_is_away_empties_what_should_be_saved(
    client: Client, shared_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> UidSet:
        raise DatabaseDown

    await client.ask("SEARCH RETURN (SAVE) 2")
    with monkeypatch.context() as patch:
        patch.setattr(shared_node.store.search, "header", away)
        await client.link.send(b"a SEARCH SUBJECT message\r\n")
        assert (await client.link.read_line()).startswith(b"a NO [UNAVAILABLE]")
        assert await client.ask("SEARCH $") == ["* SEARCH 2"]
        await client.link.send(b"b SEARCH RETURN (SAVE) SUBJECT message\r\n")
        assert (await client.link.read_line()).startswith(b"b NO [UNAVAILABLE]")
    assert await client.ask("SEARCH $") == ["* SEARCH"]


async def test_what_cannot_be_found_out_now_is_told_later(
    client: Client, shared_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> UidSet:
        raise DatabaseDown

    client.contexts["t2"] = "FLAGGED SUBJECT message", True, []
    await client.ask("UID SEARCH RETURN (UPDATE) FLAGGED SUBJECT message")
    with monkeypatch.context() as patch:
        patch.setattr(shared_node.store.search, "header", away)
        assert await client.ask(r"STORE 2 +FLAGS.SILENT (\Flagged)") == []
    assert await client.ask("NOOP") == ['* ESEARCH (TAG "t2") UID ADDTO (0 2)']
    assert await client.ask("NOOP") == []


async def test_flags_alone_cost_no_statement(client: Client, shared_node: Node, statements: list[str]) -> None:
    client.contexts["t2"] = "FLAGGED", True, []
    await client.ask("UID SEARCH RETURN (UPDATE) FLAGGED")
    statements.clear()
    said = await client.ask(r"STORE 1:2 +FLAGS.SILENT (\Flagged)")
    assert said == ['* ESEARCH (TAG "t2") UID ADDTO (0 1:2)']
    assert len(statements) == 1, "the STORE itself"


@pytest.fixture
def statements(shared_node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Statements that the store's repositories run."""
    seen: list[str] = []
    database = shared_node.store.db

    def counted(run: Any) -> Any:
        def count(query: str, *args: Any, **kwargs: Any) -> Any:
            seen.append(query)
            return run(query, *args, **kwargs)

        return count

    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        monkeypatch.setattr(database, name, counted(getattr(database, name)))
    return seen


@pytest.mark.parametrize(
    ("returns", "saved"),
    [
        ({"SAVE"}, [7, 3, 9, 5]),
        ({"SAVE", "MIN"}, [7]),
        ({"SAVE", "MAX"}, [5]),
        ({"SAVE", "MIN", "MAX"}, [7, 5]),
        ({"SAVE", "MIN", "ALL"}, [7, 3, 9, 5]),
        ({"SAVE", "MAX", "COUNT"}, [7, 3, 9, 5]),
        ({"SAVE", "PARTIAL"}, [3, 9]),
        ({"SAVE", "PARTIAL", "MIN"}, [7, 3, 9]),
        ({"SAVE", "PARTIAL", "COUNT", "MAX"}, [7, 3, 9, 5]),
        ({"SAVE", "UPDATE"}, [7, 3, 9, 5]),
    ],
)
async def test_what_is_saved_of_a_sorted_result(returns: set[str], saved: list[int]) -> None:
    partial = (2, 3) if "PARTIAL" in returns else None
    assert to_save([7, 3, 9, 5], returns, partial) == UidSet.from_numbers(saved)
    assert to_save([], returns, partial) == UidSet.empty()


@given(st.permutations(range(1, 12)), st.sets(st.integers(1, 11)))
async def test_runs_give_the_positions_that_a_client_needs(order: list[int], some: set[int]) -> None:
    uids, rest = UidSet.from_numbers(some), [uid for uid in order if uid not in some]
    shown = list(order)
    for position, run in runs_within(order, uids, removed=True):
        assert shown[position - 1 : position - 1 + len(run)] == list(run)
        del shown[position - 1 : position - 1 + len(run)]
    assert shown == rest
    for position, run in runs_within(order, uids, removed=False):
        shown[position - 1 : position - 1] = run
    assert shown == list(order)
