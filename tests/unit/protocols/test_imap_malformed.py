"""Every command of the table with arguments that are none: BAD, at once, and nothing else happens.

What is right is taken from the transcripts, so a new command comes with its examples; what is wrong is made of it
mechanically. `broken` makes texts that no grammar allows: they must be BAD. `other` makes texts that may be right by
chance: they must be answered, and where the answer is no OK, nothing may have happened either.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from sora.protocols.imap.commands import COMMANDS, Command
from sora.protocols.imap.state import AUTHENTICATED, NOT_AUTHENTICATED, SELECTED
from tests.unit.protocols.test_imap_transcripts import FOLDER, world
from tests.views.client import Answer, Client, LinkCarrier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.protocols.imap.session import Session
    from tests.support.imap import ImapWorld

__all__ = ["world"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = 12
"""Of each command, those that differ most in shape."""
MOST = 160
"""Texts of each kind for a command."""
SEED = 20_261
SETS = [
    b"0",
    b"00",
    b"4294967296",
    b"99999999999999999999",
    b"1:",
    b":1",
    b"1,,2",
    b"1:2:3",
    b"x",
    b"-1",
    b'""',
    b"(1)",
]
TAILS = [b" )", b" (", b' "abc', b" {abc}", b" {-1}", b" {1", b" {99999999999999999999}", b" \x01", b"  x", b" {}"]
"""None of these can end a command; a space alone is overlooked."""
NO_AT_ONCE = (b"[BADCHARSET", b"[TOOBIG]", b"[BADEVENT")
"""Said before the rest is read: texts in that charset, a message of that size (RFC 9051 §6.4.4, RFC 7889 §4)."""
NOT_PLAYED = frozenset({"IDLE", "LOGOUT", "STARTTLS", "COMPRESS", "AUTHENTICATE", "LOGIN", "UNAUTHENTICATE"})
"""What these do when they are right after all ends the test."""
WITH_LITERALS = {
    b"APPEND": [rb"INBOX (\Seen \Flagged)", b'INBOX "01-Jan-2000 00:00:00 +0000"', rb'"Two" (\Seen) "rubbish"'],
    b"REPLACE": [rb"1 INBOX (\Seen)", b'1 "Two" "01-Jan-2000 00:00:00 +0000"'],
    b"UID REPLACE": [rb"1 INBOX (\Seen)"],
}
"""Commands that end with a literal, without it: so they are wrong already."""
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[()]|[^\s()"]+')


@functools.cache
def examples(name: bytes) -> tuple[bytes, ...]:
    """Arguments that the transcripts have for a command, the shapes most unlike each other first."""
    found: dict[bytes, bytes] = {}
    pattern = re.compile(rb"C\d*: \S+ " + name + rb"(?: (.*))?", re.IGNORECASE)
    for path in sorted(FOLDER.glob("*.txt")):
        for line in path.read_bytes().splitlines():
            match = pattern.fullmatch(line)
            text = (match and match[1]) or b""
            if match and not re.search(rb"[{<]|[^ -~]", text) and text.count(b"(") == text.count(b")"):
                found.setdefault(re.sub(rb"\w+", b"w", text), text)
    return (*WITH_LITERALS.get(name, ()), *itertools.islice(found.values(), EXAMPLES))


def takes_set(name: bytes, row: Command) -> bool:
    """The first argument is a set of messages."""
    return row.uid and row.name != "SEARCH" and (row.name != "EXPUNGE" or name.startswith(b"UID "))


def broken(name: bytes, row: Command) -> Iterator[bytes]:
    """Arguments that are wrong whatever they are meant to be."""
    texts = examples(name)
    if not any(texts):
        yield b" x"
    yield b"" if all(texts) else b" )"
    for text in texts:
        yield from ((b" " + text if text else b"") + tail for tail in TAILS)
        if not text:
            continue
        yield b"  " + text
        yield b" \x01" + text[1:]
        yield from _unbalanced(text)
        if takes_set(name, row):
            rest = text.partition(b" ")[2]
            yield from (b" " + numbers + (b" " + rest if rest else b"") for numbers in SETS)


def _unbalanced(text: bytes) -> Iterator[bytes]:
    """One parenthesis less, or one more."""
    for match in TOKEN.finditer(text):
        if match[0] in (b"(", b")"):
            yield b" " + text[: match.start()] + text[match.end() :]
            yield b" " + text[: match.start()] + match[0] + text[match.start() :]


def other(name: bytes, _row: Command) -> Iterator[bytes]:
    """Each token left out, doubled, or replaced by something of another kind."""
    for text in examples(name):
        for match in TOKEN.finditer(text):
            before, after = text[: match.start()], text[match.end() :]
            for new in (b"", match[0] + b" " + match[0], b"99999999999999999999", b"NIL", b'"\\"x"', b"()", b"*", b"%"):
                changed = re.sub(rb" +", b" ", before + new + after).strip()
                if changed != text and not re.search(rb"\{\d+\+?\}$", changed):
                    yield b" " + changed


def chosen(texts: Iterator[bytes]) -> list[bytes]:
    """So many of them, always the same."""
    different = list(dict.fromkeys(texts))
    return different if len(different) <= MOST else random.Random(SEED).sample(different, MOST)


class Bench:
    """A session on which commands are tried, and what must not change by them."""

    def __init__(self, world: ImapWorld, client: Client, session: Session) -> None:
        self.client = client
        self._world = world
        self._session = session

    @classmethod
    async def open(cls, world: ImapWorld, row: Command) -> Bench:
        """A session in a state in which the command is allowed, selected if it may be."""
        if SELECTED not in row.states and AUTHENTICATED not in row.states:
            await world.given("nobody")
        client = Client("t", LinkCarrier(await world.connect(1)))
        session = world.sessions[-1]
        if SELECTED in row.states and row.states != NOT_AUTHENTICATED and world.sessions[-1].state is AUTHENTICATED:
            assert await client.select("INBOX")
            await client.learn()
        return cls(world, client, session)

    def now(self) -> tuple[object, ...]:
        """The session: its state, what its client has been told, what is switched on."""
        s = self._session
        told = (
            None if s.selection is None else [(uid, s.selection.told.flags(uid)) for uid in s.selection.told.all_uids()]
        )
        return s.state, told, frozenset(s.enabled), s.identity

    async def stored(self) -> list[Any]:
        """The account: mailboxes with their counters, and every message."""
        account_id = self._world.accounts["alice"]
        fetch = self._world.node.store.db.fetch
        return [
            await fetch("SELECT * FROM mailboxes WHERE account_id = $1 ORDER BY mailbox_id", account_id),
            await fetch("SELECT * FROM messages WHERE account_id = $1 ORDER BY mailbox_id, uid", account_id),
            await fetch("SELECT * FROM message_flags WHERE account_id = $1 ORDER BY 2, 3, 4", account_id),
            await fetch("SELECT * FROM account_keywords WHERE account_id = $1 ORDER BY flag_no", account_id),
        ]

    async def close(self) -> None:
        """End the session."""
        await self.client.close()


async def prepared(world: ImapWorld, row: Command) -> Bench:
    """An account with two mailboxes, and a session."""
    await world.given("limits: bad_commands=1000000 connections_per_account=1000")
    await world.given("alice: INBOX=3 Two=1")
    return await Bench.open(world, row)


def answered(answer: Answer, command: bytes) -> None:
    """It was no bug."""
    assert b"SERVERBUG" not in answer.text, command


@pytest.mark.parametrize("name", COMMANDS, ids=bytes.decode)
async def test_every_command_has_examples(name: bytes) -> None:
    assert examples(name), f"no transcript shows {name.decode()} without a literal"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", COMMANDS, ids=bytes.decode)
async def test_what_no_grammar_allows_is_bad_and_costs_nothing(name: bytes, world: ImapWorld) -> None:
    bench = await prepared(world, COMMANDS[name])
    before, stored = bench.now(), await bench.stored()
    for arguments in chosen(broken(name, COMMANDS[name])):
        answer = await bench.client.try_(name + arguments)
        answered(answer, name + arguments)
        assert answer.status == b"BAD" or answer.text.startswith(NO_AT_ONCE), (name + arguments, answer)
        assert bench.now() == before, name + arguments
    assert await bench.stored() == stored
    await bench.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [n for n, row in COMMANDS.items() if row.name not in NOT_PLAYED], ids=bytes.decode)
async def test_what_is_refused_costs_nothing(name: bytes, world: ImapWorld) -> None:
    bench = await prepared(world, COMMANDS[name])
    before, stored = bench.now(), await bench.stored()
    for arguments in chosen(other(name, COMMANDS[name])):
        answer = await bench.client.try_(name + arguments)
        answered(answer, name + arguments)
        if answer.status == b"OK":  # right by chance
            before, stored = bench.now(), await bench.stored()
            continue
        if COMMANDS[name].name not in ("SELECT", "EXAMINE"):  # these leave the mailbox that was open
            # Who only asks for modseqs has CONDSTORE from then on, whatever the answer is (RFC 7162 §3.1).
            assert bench.now()[:2] == before[:2], (name + arguments, answer)
        before = bench.now()
        if answer.status == b"NO":
            assert await bench.stored() == stored, (name + arguments, answer)
    assert await bench.stored() == stored
    await bench.close()


@pytest.mark.parametrize("name", COMMANDS, ids=bytes.decode)
async def test_what_is_right_is_bad_in_the_wrong_state(name: bytes, world: ImapWorld) -> None:
    row = COMMANDS[name]
    for state, given in ((NOT_AUTHENTICATED, "nobody"), (AUTHENTICATED, "")):
        if state in row.states:
            continue
        await world.given("limits: bad_commands=1000000")
        await world.given("alice: INBOX=1")
        if given:
            await world.given(given)
        client = Client("t", LinkCarrier(await world.connect(1)))
        for text in examples(name):
            answer = await client.try_(name + (b" " + text if text else b""))
            assert answer.status == b"BAD", (state, name, text, answer)
        assert world.sessions[-1].state is state
        await client.close()
        world._nobody = False
