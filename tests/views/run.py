"""Random commands of several clients, each with a strict picture, against a store on PostgreSQL.

A run is made of rounds. In a run of the kind `exact` one client after the other says something, and a book is kept of
what the mailboxes must hold: a sequence number that meant another message is seen in it. In the kind `at once` all
clients speak at the same time, which no book can follow. At the end of each chapter of rounds everybody is quiet: one
NOOP, and each picture must be what the database holds, which must be what the book says.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.net.listener import Listener
from sora.protocols.imap import connection_factory
from sora.services.delivery import AppendItem
from sora.services.logins.auth import Identity
from sora.types import SYSTEM_FLAGS
from tests.support.imap import FIRST_DATE, plain
from tests.support.node import open_node
from tests.support.transcripts import Link
from tests.views.client import Answer, Bye, Client, LinkCarrier, flags_of
from tests.views.picture import Wrong, numbers_of, set_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

    from sora.services.node import Node
    from sora.types import AccountId

CLIENTS: Final = 4
ROUNDS: Final = 25
"""Of a chapter."""
CHAPTERS: Final = 6
MOST: Final = 40
"""Messages of a mailbox, about."""
FLAGS: Final = (rb"\Seen", rb"\Answered", rb"\Flagged", rb"\Deleted", rb"\Deleted", rb"\Draft", b"$Work", b"Later")
MODES: Final = ((), ("CONDSTORE",), ("QRESYNC",), ("IMAP4rev2",), ("QRESYNC", "IMAP4rev2"), ("UIDONLY",))
"""What clients switch on; those that are not offered are left out."""
PATIENCE_S: Final = 5.0
"""How long a change of one worker may take to the other before it is called lost."""

TRUTH: Final = """
SELECT m.uid, coalesce((SELECT array_agg(f.flag_no) FROM message_flags f
                        WHERE f.account_id = m.account_id AND f.mailbox_id = m.mailbox_id AND f.block_no = m.uid / 1024
                          AND get_bit(f.bits, (m.uid % 1024)::int) = 1), '{}') AS flags
FROM messages m WHERE m.account_id = $1 AND m.mailbox_id = $2 AND m.expunged_modseq IS NULL ORDER BY m.uid
"""
"""Made of the tables themselves, not of the functions that sessions use."""

SELECTED: Final = "SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND uidvalidity = $2 AND deleted_at IS NULL"

Box = dict[int, frozenset[bytes]]
"""Flags by UID."""


class Outcome(Struct, frozen=True):
    """What a run did.

    Attributes:
        commands: How many.
        compared: Pictures that were held against the database.
        modes: Extensions that were switched on by somebody.
    """

    commands: int
    compared: int
    modes: frozenset[str]


class Run:
    """One run.

    Attributes:
        books: What each mailbox must hold; None: nobody can tell (`at once`).
    """

    def __init__(self, nodes: list[Node], account_id: AccountId, address: str, seed: int, *, exact: bool) -> None:
        self.rnd = random.Random(seed)
        self.nodes = nodes
        self.books: dict[str, Box] | None = {"INBOX": {}, "Two": {}} if exact else None
        self.clients: list[Client] = []
        self.commands = 0
        self.compared = 0
        self.modes: dict[str, tuple[str, ...]] = {}
        self._account_id = account_id
        self._identity = Identity(account_id, address)
        self._letters = 0

    # ------------------------------------------------------------------ the course of it

    async def go(self, chapters: int = CHAPTERS) -> Outcome:
        """All chapters.

        Raises:
            Wrong: A picture is not what it must be; the text holds the client's last lines.
        """
        await self.nodes[0].store.mailboxes.create(self._account_id, "Two")
        for _ in range(self.rnd.randint(0, 12)):
            await deliver(self)
        for number in range(CLIENTS):
            client = Client("abcdefgh"[number], await self._carrier(number))
            await client.greeted()
            await self._enable(client)
            self.clients.append(client)
        try:
            for _ in range(chapters):
                await self._chapter()
        finally:
            for client in self.clients:
                await client.close()
        return Outcome(self.commands, self.compared, frozenset(mode for modes in self.modes.values() for mode in modes))

    async def _chapter(self) -> None:
        for _ in range(ROUNDS):
            if self.books is None:
                busy = self.rnd.sample(self.clients, self.rnd.randint(2, CLIENTS))
                done = await asyncio.gather(*(self._turn(client) for client in busy), return_exceptions=True)
                for error in filter(None, done):
                    raise error
            else:
                await self._turn(self.rnd.choice(self.clients))
            if self.rnd.random() < 0.2:
                await deliver(self)
        for client in self.clients:
            await self._told(client, self._settle(client))

    async def _turn(self, client: Client) -> None:
        await self._told(client, self._say(client))

    async def _told(self, client: Client, work: Awaitable[None]) -> None:
        """What a client runs into, with what it heard."""
        try:
            await work
        except Bye as bye:
            if "deleted" not in str(bye):
                raise self._with_talk(client, str(bye)) from bye
            await self._reconnect(client)
        except AssertionError as wrong:
            raise self._with_talk(client, str(wrong)) from wrong

    def _with_talk(self, client: Client, text: str) -> Wrong:
        lines = "\n    ".join(line.decode(errors="replace") for line in client.talk)
        return Wrong(f"client {client.name} {'+'.join(self.modes[client.name])}: {text}\n    {lines}")

    async def _say(self, client: Client) -> None:
        self.commands += 1
        if client.idling:
            await client.done()
            return
        if not client.mailbox:
            await select(self, client)
            return
        await client.learn()
        names, weights = zip(*WEIGHTS.items(), strict=True)
        (act,) = self.rnd.choices(names, weights)
        await act(self, client)

    async def _settle(self, client: Client) -> None:
        """Nobody says anything now, so one NOOP makes the picture true; two workers need a moment to hear of it."""
        if client.idling:
            await client.done()
        if not client.mailbox:
            return
        await client.noop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (PATIENCE_S if len(self.nodes) > 1 else 0.0)
        while (true := await self.truth(client)) is None or client.picture.state() != list(true.items()):
            if loop.time() > deadline and true is None:
                raise Wrong("the selected mailbox was deleted, and nothing is said")
            if loop.time() > deadline:
                raise Wrong(f"the picture is\n  {client.picture.state()}\nand should be\n  {list(true.items())}")
            await client.noop()
        if self.books is not None and true != self.books[client.mailbox]:
            raise Wrong(f"{client.mailbox} holds\n  {true}\nand should hold\n  {self.books[client.mailbox]}")
        self.compared += 1

    async def truth(self, client: Client) -> Box | None:
        """What the tables hold of the mailbox that a client has selected; None if it was deleted.

        It is known by its UIDVALIDITY, which no other mailbox ever has: its name may mean another one by now.
        """
        store = self.nodes[0].store
        mailbox_id = await store.db.fetchval(SELECTED, self._account_id, client.picture.uidvalidity)
        if mailbox_id is None:
            return None
        rows = await store.db.fetch(TRUTH, self._account_id, mailbox_id)
        names = dict(
            await store.db.fetch("SELECT flag_no, name FROM account_keywords WHERE account_id = $1", self._account_id)
        )
        flags = SYSTEM_FLAGS | {number: name.encode() for number, name in names.items()}
        return {row["uid"]: frozenset(flags[number] for number in row["flags"]) for row in rows}

    # ------------------------------------------------------------------ connections

    async def _carrier(self, number: int) -> LinkCarrier:
        node = self.nodes[number % len(self.nodes)]
        session = connection_factory(node, Listener("imap", "127.0.0.1:143"))()
        link = Link(session)
        session.log_in(self._identity)
        return LinkCarrier(link)

    async def _reconnect(self, client: Client) -> None:
        """As one whose mailbox was deleted, or who comes back from a tunnel."""
        await client.reconnect(await self._carrier(self.clients.index(client)))
        await client.greeted()
        await self._enable(client, self.modes[client.name])

    async def _enable(self, client: Client, chosen: tuple[str, ...] | None = None) -> None:
        if chosen is None:
            answer = await client.ask(b"CAPABILITY")
            offered = answer.untagged[0].decode().split()
            possible = [modes for modes in MODES if all(mode in offered for mode in modes)]
            chosen = self.rnd.choice(possible)
        self.modes[client.name] = chosen
        if chosen:
            await client.enable(*chosen)

    def next_letter(self) -> bytes:
        """A message that is not like the others."""
        self._letters += 1
        return plain(self._letters)

    async def append(self, mailbox: str) -> None:
        """As a delivery by another process."""
        node = self.rnd.choice(self.nodes)
        found = await node.store.mailboxes.find(self._account_id, mailbox)
        if found is not None:
            done = await node.delivery.append(
                self._account_id, found.mailbox_id, [AppendItem(self.next_letter(), (), FIRST_DATE)]
            )
            if self.books is not None:
                self.books[mailbox].update((uid, frozenset()) for uid in done.uids)

    def box(self, client: Client) -> Box:
        """The book of the mailbox that a client has selected; where there are no books, an empty one."""
        return self.books[client.mailbox] if self.books is not None else {}


# ---------------------------------------------------------------------------------------------------- what clients do


async def deliver(run: Run) -> None:
    """Mail comes in."""
    await run.append(run.rnd.choice(("INBOX", "INBOX", "Two")))


def some(run: Run, client: Client) -> tuple[bytes, bytes, list[int]]:
    """`UID ` or nothing, a set, and the UIDs that the client means by it; b"" for the set if there is no message."""
    messages = client.picture.messages
    if not messages:
        return b"", b"", []
    by_uid = client.by_uid or run.rnd.random() < 0.4
    count = len(messages)
    first = run.rnd.randint(1, count)
    last = min(count, first + run.rnd.choice((0, 0, 1, 2, 5, 100)))
    seqs = set(range(first, last + 1)) | set(run.rnd.sample(range(1, count + 1), min(count, run.rnd.randint(0, 2))))
    uids = [messages[seq - 1].uid for seq in sorted(seqs)]
    if run.rnd.random() < 0.1:
        return (b"UID " if by_uid else b""), b"*", [messages[-1].uid]
    if by_uid:
        unknown = [uid for uid in (run.rnd.randint(1, 200),) if uid not in set(client.picture.uids)]
        return b"UID ", set_of([*uids, *(u for u in unknown if run.rnd.random() < 0.2 and u < uids[-1])]), uids
    return b"", set_of(seqs), uids


def there(run: Run, client: Client, uids: Iterable[int]) -> list[int]:
    """Those of the UIDs that the book still has."""
    box = run.box(client)
    return [uid for uid in uids if uid in box]


def require(run: Run, answer: Answer, wanted: bytes | None, what: str) -> None:
    """The status, where it is known.

    Raises:
        Bye: The mailbox was deleted by one who spoke at the same time; the session does not know of it yet.
        Wrong: It is another one.
    """
    if run.books is None and answer.text.startswith(b"[NONEXISTENT]"):
        raise Bye("the mailbox was deleted")
    if wanted is not None and answer.status != wanted:
        raise Wrong(f"{what}: {answer.status!r} {answer.text!r}, not {wanted!r}")


def gone_or_ok(run: Run, client: Client, prefix: bytes, uids: list[int]) -> bytes | None:
    """A sequence number of a message that is gone is NO, a UID is skipped; None: nobody knows."""
    if run.books is None:
        return None
    return b"OK" if prefix or len(there(run, client, uids)) == len(uids) else b"NO"


async def fetch(run: Run, client: Client) -> None:
    """UID and FLAGS of some messages: each is answered, whatever became of it meanwhile."""
    prefix, numbers, uids = some(run, client)
    if not numbers:
        return
    items = run.rnd.choice((b"(UID FLAGS)", b"(FLAGS UID)", b"(UID)"))
    require(run, await client.ask(b"%bFETCH %b %b" % (prefix, numbers, items)), b"OK", "FETCH")
    if missing := set(uids) - client.picture.answered:
        raise Wrong(f"FETCH {numbers!r} did not answer UIDs {sorted(missing)}")


async def read(run: Run, client: Client) -> None:
    """The text of some messages, which sets \\Seen."""
    prefix, numbers, uids = some(run, client)
    if not numbers:
        return
    peek = run.rnd.random() < 0.5
    # Who knows a message as seen marks it no second time, though somebody may have unmarked it a moment ago.
    unseen = [m.uid for m in client.picture.messages if m.uid in uids and rb"\Seen" not in (m.flags or ())]
    # Expunged messages stay readable until their purge, so there is no NO here.
    answer = await client.ask(b"%bFETCH %b (UID BODY%b[TEXT])" % (prefix, numbers, b".PEEK" if peek else b""))
    require(run, answer, b"OK", "FETCH of a body")
    if missing := set(uids) - client.picture.answered:
        raise Wrong(f"FETCH {numbers!r} did not answer UIDs {sorted(missing)}")
    if not peek and not client.read_only:
        for uid in there(run, client, unseen):
            run.box(client)[uid] |= {rb"\Seen"}


async def store(run: Run, client: Client) -> None:
    """Flags come, go or are replaced, aloud or silently."""
    prefix, numbers, uids = some(run, client)
    if not numbers:
        return
    sign = run.rnd.choice((b"+", b"+", b"-", b""))
    flags = frozenset(run.rnd.sample(FLAGS, run.rnd.randint(0 if not sign else 1, 2)))
    silent = run.rnd.random() < 0.4
    verb = b"%bFLAGS%b" % (sign, b".SILENT" if silent else b"")
    answer = await client.ask(b"%bSTORE %b %b %b" % (prefix, numbers, verb, flags_of(flags)))
    if client.read_only:
        require(run, answer, b"NO", "STORE in EXAMINE")
        return
    require(run, answer, gone_or_ok(run, client, prefix, uids), "STORE")
    for uid in there(run, client, uids):
        run.box(client)[uid] = changed(run.box(client)[uid], sign, flags)
    if answer.status == b"OK" and not silent and not prefix and (lacking := set(uids) - client.picture.answered):
        if run.books is None:
            await client.ask(b"NOOP")  # says so, where the mailbox was deleted between the change and the answer
        raise Wrong(f"STORE {numbers!r} did not tell the flags of {sorted(lacking)}")
    if silent:
        believe(client, uids, sign, flags, sure=answer.status == b"OK")


def believe(client: Client, uids: list[int], sign: bytes, flags: frozenset[bytes], *, sure: bool) -> None:
    """A silent STORE is no news for who said it, but for what it was told of the same messages meanwhile."""
    for message in client.picture.messages:
        if message.uid not in uids or message.uid in client.picture.told:
            continue
        message.flags = changed(message.flags, sign, flags) if sure and message.flags is not None else None


def changed(old: frozenset[bytes], sign: bytes, flags: frozenset[bytes]) -> frozenset[bytes]:
    """What STORE makes of flags."""
    return old | flags if sign == b"+" else old - flags if sign == b"-" else flags


async def expunge(run: Run, client: Client) -> None:
    """All that is \\Deleted, or of some UIDs."""
    messages = client.picture.messages
    uids: list[int] | None = None
    if messages and (client.by_uid or run.rnd.random() < 0.4):
        _, _, uids = some(run, client)
    answer = await client.ask(b"EXPUNGE" if uids is None else b"UID EXPUNGE " + set_of(uids))
    require(run, answer, b"NO" if client.read_only else b"OK", "EXPUNGE")
    if not client.read_only:
        remove_deleted(run.box(client), uids)


def remove_deleted(box: Box, uids: list[int] | None = None) -> None:
    """What EXPUNGE does."""
    for uid in [uid for uid, flags in box.items() if rb"\Deleted" in flags and (uids is None or uid in uids)]:
        del box[uid]


async def transfer(run: Run, client: Client, verb: bytes) -> None:
    """COPY or MOVE of some messages, now and then into the same mailbox."""
    prefix, numbers, uids = some(run, client)
    target = run.rnd.choice(("INBOX", "Two"))
    if not numbers or (len(client.picture) > MOST and verb == b"COPY"):
        return
    answer = await client.ask(b"%b%b %b %b" % (prefix, verb, numbers, target.encode()))
    if run.books is None:
        return
    if verb == b"MOVE" and client.read_only:
        require(run, answer, b"NO", "MOVE in EXAMINE")
        return
    if len(run.nodes) == 1:  # another worker hears of an expunge a moment later, and takes what is left
        require(run, answer, gone_or_ok(run, client, prefix, uids), verb.decode())
    if answer.status == b"OK" and (still := there(run, client, uids)):
        note_transfer(run, client, target, still, answer, moved=verb == b"MOVE")


def note_transfer(run: Run, client: Client, target: str, uids: list[int], answer: Answer, *, moved: bool) -> None:
    """The book of it: COPYUID says which became which (RFC 4315 §3)."""
    assert run.books is not None
    code = answer.code(b"COPYUID")
    if code is None:
        raise Wrong("no COPYUID")
    _, sources, targets = code.split()
    if numbers_of(sources) != uids or len(numbers_of(targets)) != len(uids):
        raise Wrong(f"COPYUID {code!r} of {uids}")
    box = run.box(client)
    flags = [box.pop(uid) if moved else box[uid] for uid in uids]
    run.books[target].update(zip(numbers_of(targets), flags, strict=True))


async def copy(run: Run, client: Client) -> None:
    """COPY."""
    await transfer(run, client, b"COPY")


async def move(run: Run, client: Client) -> None:
    """MOVE."""
    await transfer(run, client, b"MOVE")


async def append(run: Run, client: Client) -> None:
    """A message of the client's own."""
    target = run.rnd.choice(("INBOX", "Two"))
    flags = frozenset(run.rnd.sample(FLAGS, run.rnd.randint(0, 2)))
    answer = await client.ask(b"APPEND %b %b" % (target.encode(), flags_of(flags)), literal=run.next_letter())
    if run.books is not None:
        require(run, answer, b"OK", "APPEND")
        code = answer.code(b"APPENDUID")
        assert code is not None
        run.books[target][int(code.split()[1])] = flags


async def search(run: Run, client: Client) -> None:
    """ALL is what the client has; other keys find some of it."""
    by_uid = client.by_uid or run.rnd.random() < 0.5
    key = run.rnd.choice((b"ALL", b"ALL", b"UNSEEN", b"DELETED", b"NOT KEYWORD $Work", b"SUBJECT Message"))
    everything = client.picture.uids if by_uid else list(range(1, len(client.picture) + 1))
    require(run, await client.ask(b"%bSEARCH %b" % (b"UID " if by_uid else b"", key)), b"OK", "SEARCH")
    if key == b"ALL" and client.picture.numbers != everything:
        raise Wrong(f"SEARCH ALL finds {client.picture.numbers} of {everything}")


async def noop(run: Run, client: Client) -> None:
    """NOOP or CHECK."""
    await client.ask(run.rnd.choice((b"NOOP", b"NOOP", b"CHECK")))


async def idle(run: Run, client: Client) -> None:
    """IDLE, until it is this client's turn again."""
    await client.idle()


async def select(run: Run, client: Client) -> None:
    """Another mailbox, or the same again; where QRESYNC is on, mostly from what is remembered."""
    mailbox = run.rnd.choice(("INBOX", "INBOX", "Two"))
    resync = "QRESYNC" in client.picture.enabled and run.rnd.random() < 0.8
    if resync:
        await client.noop()
    opened = await client.select(mailbox, read_only=run.rnd.random() < 0.1, resync=resync)
    if not opened and run.books is not None:
        raise Wrong(f"{mailbox} cannot be selected")


async def leave(run: Run, client: Client) -> None:
    """CLOSE or UNSELECT."""
    client.remember()
    close = run.rnd.random() < 0.5
    require(run, await client.ask(b"CLOSE" if close else b"UNSELECT"), b"OK", "CLOSE")
    if close and not client.read_only:
        remove_deleted(run.box(client))
    client.mailbox = ""
    client.picture.forget()


async def drop(run: Run, client: Client) -> None:
    """The connection breaks."""
    await run._reconnect(client)


async def rename(run: Run, client: Client) -> None:
    """The other mailbox goes by another name for a while; who has it selected keeps it."""
    for old, new in (("Two", "Three"), ("Three", "Two")):
        answer = await client.ask(b"RENAME %b %b" % (old.encode(), new.encode()))
        if run.books is not None:
            require(run, answer, b"OK", "RENAME")


async def delete(run: Run, client: Client) -> None:
    """The other mailbox is deleted and made again: it is another one then."""
    if client.mailbox == "Two":
        return
    answers = [await client.ask(b"%b Two" % verb) for verb in (b"DELETE", b"CREATE")]
    if run.books is None:
        return
    for answer in answers:
        require(run, answer, b"OK", "DELETE and CREATE")
    run.books["Two"] = {}
    for other in run.clients:
        if other.mailbox == "Two":
            await _is_told_of_the_end(other, PATIENCE_S if len(run.nodes) > 1 else 0.0)
            await run._reconnect(other)


async def _is_told_of_the_end(client: Client, patience_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    try:
        if client.idling:
            await client.done()
        while True:
            await client.ask(b"NOOP")
            if loop.time() > deadline:
                break
    except Bye:
        return
    raise Wrong("the selected mailbox was deleted, and nothing is said")


async def beyond(run: Run, client: Client) -> None:
    """A number that no message has is the client's error, and costs nothing."""
    if client.by_uid:
        return
    answer = await client.try_(b"FETCH %d (FLAGS)" % (len(client.picture) + 1))
    require(run, answer, b"BAD", "FETCH of a number too high")


WEIGHTS: Final[dict[Callable[[Run, Client], Awaitable[None]], int]] = {
    fetch: 10, read: 4, store: 16, expunge: 9, copy: 5, move: 6, append: 7, search: 6, noop: 8, idle: 8, select: 7,
    leave: 3, drop: 3, rename: 1, delete: 1, beyond: 1,
}  # fmt: skip


async def play(dsn: str, folder: Path, seed: int, *, chapters: int = CHAPTERS) -> Outcome:
    """The run of a seed: every second one exact, every third on two workers.

    Raises:
        Wrong: See `Run.go`.
    """
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(_node(dsn, folder)) for _ in range(1 + (seed % 3 == 2))]
        address = f"seed{seed}@example.com"
        account_id = await nodes[0].store.accounts.create(address)
        return await Run(nodes, account_id, address, seed, exact=seed % 2 == 0).go(chapters)


def _node(dsn: str, folder: Path) -> AsyncIterator[Node]:
    return open_node(dsn, folder, limits={"connections_per_account": 1000})  # type: ignore[return-value]
