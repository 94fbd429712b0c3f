r"""A client that comes back with QRESYNC knows what a fresh SELECT shows, whatever happened and whatever log was cut.

The client believes every modseq it sees: the greatest is what it comes back with. It may leave at any moment, also
while an EXPUNGE is held back from it. Meanwhile another session stores, expunges and moves, mail is delivered, the
expunge log is trimmed and the journal of flags merged at any place.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sora._native.seqset import UidSet
from tests.support.imap import ImapWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Cluster
    from tests.support.transcripts import Link

FETCH = re.compile(rb"\* (\d+) FETCH \(UID (\d+)(?: FLAGS \(([^)]*)\))?(?: MODSEQ \((\d+)\))?\)")
VANISHED = re.compile(rb"\* VANISHED (?:\(EARLIER\) )?(\S+)")
HIGHEST = re.compile(rb"(?:\*|t) OK \[HIGHESTMODSEQ (\d+)\]")
VALIDITY = re.compile(rb"\* OK \[UIDVALIDITY (\d+)\]")

NUMBERS = st.integers(1, 12)
FLAGS = st.sampled_from(("\\Seen", "\\Flagged", "\\Deleted", "kw"))
OTHERS = st.one_of(
    st.tuples(st.just("deliver"), NUMBERS),
    st.tuples(st.just("store"), NUMBERS, st.sampled_from("+-"), FLAGS),
    st.tuples(st.just("expunge"), NUMBERS),
    st.tuples(st.just("move"), NUMBERS),
    st.tuples(st.just("trim"), NUMBERS),
    st.tuples(st.just("compact"), NUMBERS),
    st.tuples(st.just("cut"), NUMBERS),
)
OWN = st.one_of(
    st.tuples(st.just("noop")),
    st.tuples(st.just("own store"), NUMBERS, st.sampled_from("+-"), FLAGS, st.sampled_from(("", ".SILENT"))),
    st.tuples(st.just("own uid store"), NUMBERS, st.sampled_from("+-"), FLAGS),
    st.tuples(st.just("conditional store"), NUMBERS, FLAGS),
    st.tuples(st.just("own expunge")),
    st.tuples(st.just("fetch"), NUMBERS),
    st.tuples(st.just("uid fetch")),
    st.tuples(st.just("held"), NUMBERS, NUMBERS, FLAGS),
    st.tuples(st.just("merged"), NUMBERS, NUMBERS),
    st.tuples(st.just("reconnect"), st.sampled_from(("", "known", "match"))),
)
STEPS = st.lists(st.one_of(OTHERS, OTHERS, OWN), min_size=3, max_size=30)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def world(runner: asyncio.Runner, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImapWorld]:
    name = runner.run(cluster.create())
    opened = open_node(cluster.dsn(name), tmp_path_factory.mktemp("node"))
    world = ImapWorld(runner.run(opened.__aenter__()))
    runner.run(world.given("alice: Other=0"))
    yield world
    runner.run(opened.__aexit__(None, None, None))
    runner.run(cluster.drop(name))


class Client:
    """What a careful client keeps.

    Attributes:
        flags: Of each message that it knows.
        modseq: The greatest that it has seen.
        looked_to: The UID up to which it has asked for every message; of later ones it may know some.
    """

    def __init__(self, world: ImapWorld, mailbox: str) -> None:
        self._world = world
        self._mailbox = mailbox
        self.flags: dict[int, frozenset[bytes]] = {}
        self.modseqs: dict[int, int] = {}
        self.modseq = 0
        self.validity = 0
        self.looked_to = 0
        self.link: Link

    async def ask(self, command: str) -> list[bytes]:
        """Send a command and believe the answer."""
        await self.link.send(f"t {command}\r\n".encode())
        lines = [await self.link.read_line()]
        while not lines[-1].startswith(b"t "):
            lines.append(await self.link.read_line())
        for line in lines:
            self._hear(line)
        if command.startswith("UID FETCH") and ":*" in command:
            self.looked_to = max(self.flags, default=0)
        return lines

    def _hear(self, line: bytes) -> None:
        if match := HIGHEST.match(line):
            self.modseq = max(self.modseq, int(match[1]))
        elif match := VALIDITY.match(line):
            self.validity = int(match[1])
        elif match := VANISHED.match(line):
            gone = UidSet.parse(match[1])
            self.flags = {uid: flags for uid, flags in self.flags.items() if uid not in gone}
        elif match := FETCH.fullmatch(line):
            uid = int(match[2])
            if match[3] is not None:
                self.flags[uid] = frozenset(match[3].split()) - {b"\\Recent"}
            if match[4] is not None:
                self.modseqs[uid] = int(match[4])
                self.modseq = max(self.modseq, int(match[4]))
        else:
            assert b" EXPUNGE" not in line or line.startswith(b"t "), "an EXPUNGE after ENABLE QRESYNC"

    async def connect(self, how: str | None = None) -> None:
        """Select; with what is known, unless `how` is None."""
        self.link = await self._world.connect(1)
        await self.ask("ENABLE QRESYNC")
        if how is None or not self.modseq:
            self.flags.clear()
            await self.ask(f"SELECT {self._mailbox}")
            await self.ask("UID FETCH 1:* (FLAGS)")
            return
        known = UidSet.from_numbers(self.flags)
        text = f" {bytes(known).decode()}" if how and known else ""
        if how == "match" and known:
            text += f" (1:{len(known)} {bytes(known).decode()})"
        before = self.modseq
        self.modseq = 0
        await self.ask(f"SELECT {self._mailbox} (QRESYNC ({self.validity} {before}{text}))")
        await self.ask(f"UID FETCH {self.looked_to + 1}:* (FLAGS)")

    async def leave(self) -> None:
        """Hang up without a word."""
        await self.link.hang_up()


class Others:
    """Everybody else, on a session without extensions."""

    def __init__(self, world: ImapWorld, mailbox: str, link: Link) -> None:
        self._world = world
        self._mailbox = mailbox
        self._link = link

    async def ask(self, command: str) -> None:
        """A command that may fail: there may be no such message."""
        await self._link.send(f"t {command}\r\n".encode())
        while not (await self._link.read_line()).startswith(b"t "):
            pass

    async def do(self, what: str, number: int, sign: str = "+", flag: str = "\\Seen") -> None:
        """One step."""
        db, account = self._world.node.store.db, self._world.accounts["alice"]
        if what == "deliver":
            await self._world.append("alice", self._mailbox, b"Subject: %d\r\n\r\n" % number)
            return
        if what == "cut":
            await self.do("expunge", number)
            await self.do("trim", 1000)
        elif what == "store":
            await self.ask("NOOP")
            await self.ask(f"STORE {number} {sign}FLAGS.SILENT ({flag})")
        elif what in ("expunge", "move"):
            await self.ask("NOOP")
            await self.ask(f"STORE {number} +FLAGS.SILENT (\\Deleted)")
            await self.ask("EXPUNGE" if what == "expunge" else f"MOVE {number} Other")
        else:
            box = await self._world.node.store.mailboxes.get(account, self._mailbox)
            call = "trim_expunges($1, $2, 'infinity', $3)" if what == "trim" else "compact_journal($1, $2, $3)"
            await db.execute(f"SELECT {call}", account, box.mailbox_id, number)


async def own(client: Client, what: str, *arguments: str | int) -> None:
    """A step of the client itself."""
    if what == "noop":
        await client.ask("NOOP")
    elif what == "own store":
        number, sign, flag, silent = arguments
        await client.ask(f"STORE {number} {sign}FLAGS{silent} ({flag})")
        if silent:  # a client that does so knows what it has done; this one looks
            await client.ask("UID FETCH 1:* (FLAGS)")
    elif what == "own uid store":
        number, sign, flag = arguments
        await client.ask(f"UID STORE {number} {sign}FLAGS ({flag})")
    elif what == "conditional store":
        await conditional(client, *arguments)
    elif what == "own expunge":
        await client.ask("EXPUNGE")
    elif what == "fetch":
        await client.ask(f"FETCH {arguments[0]} (UID FLAGS)")
    elif what == "uid fetch":
        await client.ask("UID FETCH 1:* (FLAGS)")
    else:
        await client.leave()
        await client.connect(str(arguments[0]))


async def conditional(client: Client, number: str | int, flag: str | int) -> None:
    """What fails succeeds once the client has looked again: nobody else changes anything meanwhile."""
    uids = sorted(client.flags)
    if not uids:
        return
    uid = uids[int(number) % len(uids)]
    for _ in range(3):
        answer = await client.ask(f"UID STORE {uid} (UNCHANGEDSINCE {client.modseqs[uid]}) +FLAGS ({flag})")
        if b"[MODIFIED" not in answer[-1]:
            return
        await client.ask(f"UID FETCH {uid} (FLAGS MODSEQ)")
    raise AssertionError(f"UNCHANGEDSINCE fails for ever: {answer}")


async def held(client: Client, others: Others, gone: int, number: int, flag: str) -> None:
    """It leaves with a change of its own that came after an expunge which it could not be told of."""
    await client.ask("NOOP")
    await others.do("expunge", gone)
    await client.ask(f"STORE {number} +FLAGS ({flag})")
    await client.leave()
    await client.connect("")


async def merged(client: Client, others: Others, one: int, two: int) -> None:
    """The journal is merged behind its back, so a message has a later modseq than it was told."""
    for sign in "+-":
        await others.do("store", one, sign, "merged")
        await others.do("store", two, sign, "merged")
    await client.ask("UID FETCH 1:* (FLAGS MODSEQ)")
    await others.do("compact", 1000)
    await conditional(client, one - 1, "\\Answered")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 8), STEPS, st.sampled_from(("", "known", "match")), st.booleans())
@pytest.mark.timeout(120)
def test_it_comes_back(
    runner: asyncio.Runner, world: ImapWorld, count: int, steps: list[tuple[object, ...]], how: str, forgetful: bool
) -> None:
    runner.run(story(world, count, steps, how, forgetful))


async def story(world: ImapWorld, count: int, steps: list[tuple[object, ...]], how: str, forgetful: bool) -> None:
    """Everything that happens, and the picture at its end.

    Args:
        forgetful: The client has gone away before the last half of it.
    """
    mailbox = f"box{len(world.sessions)}"
    await world.given(f"alice: {mailbox}={count}")
    link = await world.connect(2)
    others = Others(world, mailbox, link)
    await others.ask(f"SELECT {mailbox}")
    client = Client(world, mailbox)
    await client.connect()
    for place, (what, *arguments) in enumerate(steps):
        away = forgetful and place >= len(steps) // 2
        if what in ("deliver", "store", "expunge", "move", "trim", "compact", "cut"):
            await others.do(what, *arguments)  # type: ignore[arg-type]
        elif what in ("held", "merged"):
            if not away:
                await (held if what == "held" else merged)(client, others, *arguments)  # type: ignore[arg-type]
        elif not away:
            await own(client, str(what), *arguments)  # type: ignore[arg-type]
    await client.leave()
    await client.connect(how)
    fresh = Client(world, mailbox)
    await fresh.connect()
    assert client.flags == fresh.flags
    assert client.modseq <= max(fresh.modseq, 1)
    for each in (client.link, fresh.link, link):
        await each.hang_up()
