"""The session's loop: faults, limits, silence, slow peers, and how little the light commands cost."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sora import errors
from sora._native.seqset import UidSet
from sora.errors import DatabaseDown
from sora.mime.digest import HEADER_LIMIT
from sora.net.listener import Listener
from sora.protocols.imap import connection_factory
from sora.protocols.imap.capability import capabilities
from sora.protocols.imap.commands import COMMANDS, ROWS
from sora.protocols.imap.replies import BAD, ERRORS, NO, OUTCOME_UNKNOWN, printable, reply_to
from sora.protocols.imap.state import AUTHENTICATED, NOT_AUTHENTICATED, SELECTED
from tests.support.imap import SAMPLES, ImapWorld, plain
from tests.support.transcripts import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.protocols.imap.session import Session
    from sora.services.node import Node


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    world = ImapWorld(node)
    await world.given("alice: INBOX=3")
    return world


@asynccontextmanager
async def connected(world: ImapWorld) -> AsyncIterator[Talk]:
    talk = Talk(await world.connect(1))
    try:
        yield talk
    finally:
        await talk.link.hang_up()


@asynccontextmanager
async def stranger(world: ImapWorld) -> AsyncIterator[Talk]:
    """Connected, but not logged in."""
    await world.given("nobody")
    async with connected(world) as talk:
        yield talk


class Talk:
    """A connection, one command at a time."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def session(self) -> Session:
        return self.link.protocol  # type: ignore[return-value]

    async def ask(self, command: str) -> list[bytes]:
        """All lines of the answer, the tagged one last and without its tag."""
        await self.link.send(f"t {command}\r\n".encode())
        return await self.answer()

    async def answer(self) -> list[bytes]:
        lines = [await self.link.read_line()]
        while not lines[-1].startswith(b"t "):
            lines.append(await self.link.read_line())
        lines[-1] = lines[-1][2:]
        return lines


def set_limits(node: Node, **changes: object) -> None:
    node.config = msgspec.structs.replace(node.config, limits=msgspec.structs.replace(node.config.limits, **changes))


# ---------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("error", [c for _, c in inspect.getmembers(errors, inspect.isclass)])
def test_every_error_has_a_reply(error: type[Exception]) -> None:
    if not issubclass(error, errors.SoraError):
        return
    reply = reply_to(error())
    assert reply.status in (NO, BAD)
    assert reply.text
    if issubclass(error, errors.Unavailable):
        assert reply.code == b"UNAVAILABLE", "a temporary fault says so"
    assert (reply.status == BAD) == issubclass(error, errors.WireError)


def test_no_two_refusals_look_alike() -> None:
    codes = [code for status, code in ERRORS.values() if status == NO and code]
    assert len(codes) == len(set(codes)) + 1, "CANNOT is both an invalid name and an impossible wish"


@pytest.mark.parametrize("text", ["a\r\nb OK done", "näme", "\x00\x1b", "", "   "])
def test_a_text_is_one_printable_line(text: str) -> None:
    line = printable(text)
    assert line
    assert all(0x20 <= octet <= 0x7E for octet in line)


def test_capabilities_fit_the_state() -> None:
    def names(state: Any, **facts: bool) -> set[bytes]:
        asked = {"tls": False, "can_start_tls": True, "allow_cleartext": False, **facts}
        return set(capabilities(state, append_limit=5, message_limit=7, save_limit=6, **asked).split())

    plain_text = names(NOT_AUTHENTICATED)
    assert {b"STARTTLS", b"LOGINDISABLED", b"SASL-IR"} <= plain_text
    assert not any(name.startswith(b"AUTH=") for name in plain_text)
    encrypted = names(NOT_AUTHENTICATED, tls=True)
    assert b"AUTH=PLAIN" in encrypted
    assert not {b"STARTTLS", b"LOGINDISABLED"} & encrypted
    assert b"AUTH=PLAIN" in names(NOT_AUTHENTICATED, allow_cleartext=True)
    assert b"STARTTLS" not in names(NOT_AUTHENTICATED, can_start_tls=False)
    for state in (AUTHENTICATED, SELECTED):
        after = names(state)
        assert {b"IDLE", b"MOVE", b"UIDPLUS", b"NAMESPACE", b"UNSELECT", b"UNAUTHENTICATE"} <= after
        assert {b"APPENDLIMIT=5", b"MESSAGELIMIT=7", b"SAVELIMIT=6"} <= after
        assert {b"IMAP4rev1", b"IMAP4rev2"} <= after
        assert not {b"STARTTLS", b"LOGINDISABLED"} & after
        assert {b"CONDSTORE", b"QRESYNC", b"UIDONLY"} <= after


def test_only_commands_with_numbers_hold_expunges() -> None:
    held = {row.name for row in ROWS if row.holds_expunges(by_uid=False)}
    assert held == {"FETCH", "STORE", "SEARCH", "ESEARCH", "SORT", "THREAD"}
    assert not any(row.holds_expunges(by_uid=True) for row in ROWS)
    assert {name for name in COMMANDS if name.startswith(b"UID ")} == {
        b"UID FETCH", b"UID STORE", b"UID SEARCH", b"UID COPY", b"UID MOVE", b"UID EXPUNGE", b"UID REPLACE",
        b"UID SORT", b"UID THREAD",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- round trips


class Counting:
    """Counts the statements of a database."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("fetch", "fetchrow", "fetchval", "execute"):
            monkeypatch.setattr(node.store.db, name, self._counted(getattr(node.store.db, name)))

    def _counted(self, run: Any) -> Any:
        async def counted(*args: Any) -> Any:
            self.count += 1
            return await run(*args)

        return counted


async def test_noop_tells_what_was_committed_before_it(world: ImapWorld, node: Node) -> None:
    """Also what another process did that nobody has told of yet, right behind another NOOP."""
    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        view = talk.session.view.view
        for flag in (1, 2, 4):
            assert (await talk.ask("NOOP"))[-1].startswith(b"OK")
            await node.store.messages.store_flags(
                view.account_id, view.mailbox_id, UidSet.from_numbers([2]), [flag], viewer_id=None
            )
            assert any(line.startswith(b"* 2 FETCH") for line in await talk.ask("NOOP"))


async def test_light_commands_take_few_round_trips(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(world) as talk, connected(world) as other:
        counting = Counting(node, monkeypatch)

        async def cost(command: str) -> int:
            counting.count = 0
            assert (await talk.ask(command))[-1].startswith(b"OK")
            return counting.count

        assert await cost("SELECT INBOX") == 2, "and once what happened before the worker listened"
        assert await cost("SELECT INBOX") == 1
        assert await cost("FETCH 1:* (UID FLAGS)") == 0
        assert await cost("FETCH 2 UID") == 0
        assert await cost("STORE 1 +FLAGS (\\Seen)") == 1
        assert await cost("STORE 1:3 -FLAGS.SILENT (\\Seen)") == 1
        assert await cost("FETCH 1 (RFC822.SIZE ENVELOPE)") == 1
        assert await cost("SEARCH UNSEEN 2:3") == 0
        assert await cost('LIST "" *') == 1
        assert await cost("NOOP") == 1
        assert await cost("UID EXPUNGE 1") == 1
        # changes of a session of the same worker need no statement either
        assert (await other.ask("SELECT INBOX"))[-1].startswith(b"OK")
        await other.ask("STORE 1 +FLAGS (\\Answered)")
        counting.count = 0
        assert await talk.ask("FETCH 3 UID") == [
            b"* 3 FETCH (UID 3)", rb"* 1 FETCH (FLAGS (\Answered))", b"OK FETCH completed",
        ]  # fmt: skip
        assert counting.count == 0


# ---------------------------------------------------------------------------------------------------- faults


async def test_a_database_that_is_away_is_said_to_be_so(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        with monkeypatch.context() as patch:
            for name in ("fetch", "fetchrow", "fetchval", "execute"):
                patch.setattr(node.store.db, name, down)
            assert (await talk.ask("STATUS INBOX (MESSAGES)"))[-1].startswith(b"NO [UNAVAILABLE] ")
            assert (await talk.ask("STORE 1 +FLAGS (\\Seen)"))[-1].startswith(b"NO [UNAVAILABLE] ")
            assert (await talk.ask("FETCH 1 FLAGS"))[-1] == b"OK FETCH completed", "the picture needs nobody"
            assert await talk.ask("NOOP") == [b"OK NOOP completed"]
            assert (await talk.ask("SELECT INBOX"))[-1].startswith(b"NO [UNAVAILABLE] ")
        assert (await talk.ask("SELECT INBOX"))[-1].startswith(b"OK [READ-WRITE]")


@pytest.mark.parametrize(
    ("command", "method"),
    [("COPY 1 Archive", "copy"), ("MOVE 1 Archive", "move"), ("APPEND INBOX {1+}\r\nx", "append")],
)
@pytest.mark.parametrize("maybe_done", [True, False])
async def test_no_is_said_only_where_nothing_was_done(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch, command: str, method: str, maybe_done: bool
) -> None:
    """RFC 9051 §6.3.12, §6.4.7: after NO a client tries again. If the answer was lost, it has to look first."""

    async def lost(*_: Any) -> Any:
        raise DatabaseDown(detail="gone fishing", maybe_done=maybe_done)

    async with connected(world) as talk:
        await talk.ask("CREATE Archive")
        await talk.ask("SELECT INBOX")
        monkeypatch.setattr(node.delivery if method == "append" else node.store.messages, method, lost)
        if maybe_done:
            await talk.link.send(f"t {command}\r\n".encode())
            assert await talk.link.read_line() == b"* BYE " + OUTCOME_UNKNOWN
            with pytest.raises(AssertionError, match="connection closed; unread: b''"):
                await talk.link.read_line()
        else:
            assert (await talk.ask(command))[-1].startswith(b"NO [UNAVAILABLE] ")


async def test_a_fetch_that_fails_leaves_no_change_of_flags_under_way(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows cannot be read while the flag is still being stored."""
    store, reading = node.store.messages.store_flags, asyncio.Event()
    running = 0

    async def slow(*args: Any, **rest: Any) -> Any:
        nonlocal running
        running += 1
        await reading.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        change = await store(*args, **rest)
        running -= 1
        return change

    async def no_rows(*_: Any) -> Any:
        reading.set()
        raise DatabaseDown

    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        monkeypatch.setattr(node.store.messages, "store_flags", slow)
        monkeypatch.setattr(talk.session.server.rows, "get", no_rows)
        assert (await talk.ask("FETCH 1 BODY[]"))[-1].startswith(b"NO [UNAVAILABLE]")
        assert running == 0
        assert (await talk.ask("FETCH 1 FLAGS"))[0] == b"* 1 FETCH (FLAGS (\\Recent))", "nobody has seen it"


async def down(*_: Any) -> Any:
    raise DatabaseDown(detail="gone fishing")


async def test_a_bug_is_logged_and_the_session_goes_on(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a secret of the inside")

    async with connected(world) as talk:
        monkeypatch.setattr(node.store.acl, "list_all", buggy)
        assert await talk.ask('LIST "" *') == [b"NO [SERVERBUG] Internal error"]
        assert await talk.ask("NOOP") == [b"OK NOOP completed"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


async def test_a_body_that_is_away_is_never_an_empty_one(world: ImapWorld, node: Node, tmp_path: Path) -> None:
    """A client keeps an empty message for ever: what can be had is answered, the rest is NO, nothing else is \\Seen."""
    node.bodies._recent._limit = 0
    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        staged = [path for path in (tmp_path / "staging").rglob("*.eml") if path.read_bytes() == plain(2)]
        assert len(staged) == 1
        data = staged[0].read_bytes()
        staged[0].unlink()
        for path in (tmp_path / "cache").rglob("*.eml"):
            path.unlink()
        lines = await talk.ask("FETCH 1:3 BODY[TEXT]")
        assert lines[-1] == b"NO [UNAVAILABLE] Some message bodies are temporarily unavailable"
        assert b"Body of message 1." in lines
        assert b"Body of message 3." in lines
        assert not any(line.startswith(b"* 2 FETCH (BODY") for line in lines)
        assert await talk.ask("SEARCH SEEN") == [b"* SEARCH 1 3", b"OK SEARCH completed"]
        staged[0].write_bytes(data)
        lines = await talk.ask("FETCH 2 BODY[TEXT]")
        assert lines[-1] == b"OK FETCH completed"
        assert b"Body of message 2." in lines


async def test_messages_that_were_expunged_stay_readable(world: ImapWorld) -> None:
    async with connected(world) as talk, connected(world) as other:
        await talk.ask("SELECT INBOX")
        await other.ask("SELECT INBOX")
        await other.ask("STORE 2 +FLAGS.SILENT (\\Deleted)")
        await other.ask("EXPUNGE")
        lines = await talk.ask("FETCH 2 (RFC822.SIZE BODY.PEEK[TEXT])")
        assert b"Body of message 2." in lines
        assert lines[-1] == b"OK FETCH completed"
        assert await talk.ask("NOOP") == [b"* 2 EXPUNGE", b"OK NOOP completed"]


async def test_messages_that_are_purged_are_said_to_be_gone(world: ImapWorld, node: Node) -> None:
    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        await node.store.db.execute(
            "UPDATE messages SET expunged_at = now(), expunged_modseq = 99 WHERE uid = 2 AND expunged_at IS NULL"
        )
        await node.store.db.execute("DELETE FROM messages WHERE uid = 2")
        lines = await talk.ask("FETCH 1:3 RFC822.SIZE")
        assert [line[:10] for line in lines[:2]] == [b"* 1 FETCH ", b"* 3 FETCH "]
        assert lines[-1].startswith(b"NO [EXPUNGEISSUED] ")


# --------------------------------------------------------------------------------------------------- silence and limits


async def test_silence_ends_the_session(world: ImapWorld, node: Node) -> None:
    set_limits(node, imap_idle_timeout=0.05)
    async with connected(world) as talk:
        await talk.ask("NOOP")
        assert (await talk.link.read_line()).startswith(b"* BYE [UNAVAILABLE] Autologout")
        await talk.link.read_close()


async def test_idle_says_now_and_then_that_it_lives_and_ends_too(world: ImapWorld, node: Node) -> None:
    set_limits(node, imap_idle_timeout=0.1, imap_keepalive=0.03)
    async with connected(world) as talk:
        await talk.link.send(b"t IDLE\r\n")
        assert await talk.link.read_line() == b"+ idling"
        assert await talk.link.read_line() == b"* OK Still here"
        lines = await talk.answer()
        assert lines[-2].startswith(b"* BYE [UNAVAILABLE] Autologout")
        await talk.link.read_close()


async def test_a_challenge_is_not_waited_for_for_ever(world: ImapWorld, node: Node, caplog: Any) -> None:
    set_limits(node, login_timeout=0.05)
    async with stranger(world) as talk:
        await talk.link.send(b"t AUTHENTICATE PLAIN\r\n")
        assert await talk.link.read_line() == b"+ "
        assert (await talk.link.read_line()).startswith(b"* BYE [UNAVAILABLE] Autologout")
        await talk.link.read_close()
    assert "command failed" not in caplog.text


async def test_a_stop_ends_a_challenge(world: ImapWorld) -> None:
    async with stranger(world) as talk:
        await talk.link.send(b"t AUTHENTICATE PLAIN\r\n")
        assert await talk.link.read_line() == b"+ "
        talk.session.stop()
        assert (await talk.link.read_line()).startswith(b"* BYE [UNAVAILABLE] Server is going down")
        await talk.link.read_close()


async def test_dripping_octets_before_login_are_silence(world: ImapWorld, node: Node) -> None:
    set_limits(node, login_timeout=0.1)
    async with stranger(world) as talk:
        closed = asyncio.ensure_future(talk.link.read_line())
        while not closed.done():
            await talk.link.send(b"x")
            await asyncio.wait((closed,), timeout=0.02)
        assert closed.result().startswith(b"* BYE [UNAVAILABLE] Autologout")


async def test_a_stop_ends_an_idle_session_and_lets_a_command_finish(world: ImapWorld) -> None:
    async with connected(world) as talk, connected(world) as idler:
        await idler.link.send(b"t IDLE\r\n")
        assert await idler.link.read_line() == b"+ idling"
        idler.session.stop()
        assert (await idler.answer())[0].startswith(b"* BYE [UNAVAILABLE] Server is going down")
        await idler.link.read_close()
        await talk.link.send(b"t SELECT INBOX\r\n")
        talk.session.stop()
        assert (await talk.answer())[-1].startswith(b"OK [READ-WRITE]")
        assert (await talk.link.read_line()).startswith(b"* BYE [UNAVAILABLE] Server is going down")


async def test_an_account_has_so_many_connections(world: ImapWorld, node: Node) -> None:
    set_limits(node, connections_per_account=1)
    node.take_live(node.config)
    await world.given("nobody")
    async with connected(world) as first, connected(world) as second:
        assert (await first.ask("LOGIN alice@example.com secret"))[-1].startswith(b"OK")
        assert (await second.ask("LOGIN alice@example.com secret"))[-1].startswith(b"NO [LIMIT] ")
        await first.ask("LOGOUT")
        await first.link.read_close()
        await asyncio.wait_for(first.session._task, 5)  # type: ignore[arg-type]
        assert (await second.ask("LOGIN alice@example.com secret"))[-1].startswith(b"OK")


async def test_an_address_has_so_many_connections(world: ImapWorld, node: Node) -> None:
    set_limits(node, connections_per_address=1, exempt_networks=())
    node.take_live(node.config)
    async with connected(world):
        link = Link(connection_factory(node, Listener("imap", "127.0.0.1:143"))())
        assert (await link.read_line()).startswith(b"* BYE [LIMIT] ")
        await link.read_close()


async def test_a_line_without_end_is_thrown_away(world: ImapWorld, node: Node) -> None:
    set_limits(node, command_line=100)
    async with connected(world) as talk:
        await talk.link.send(b"t NOOP " + b"x" * 1000)
        assert (await talk.answer())[-1].startswith(b"BAD ")
        await talk.link.send(b"x" * 1000 + b"\r\n")
        assert await talk.ask("NOOP") == [b"OK NOOP completed"]


async def test_a_client_that_does_not_read_is_waited_for(world: ImapWorld) -> None:
    """A large answer leaves in slices, and none while the transport says stop."""
    await world.given("alice: Big=big,big,big")
    async with connected(world) as talk:
        await talk.ask("SELECT Big")
        talk.session.pause_writing()
        await talk.link.send(b"t FETCH 1:3 BODY.PEEK[]\r\n")
        while not talk.link.output:
            await talk.link._change()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(talk.link.output) < len(SAMPLES["big"])
        talk.session.resume_writing()
        lines = await talk.answer()
        assert lines[-1] == b"OK FETCH completed"
        assert sum(line.startswith(b"0123456789abcdef") for line in lines) == 3


async def test_the_end_of_a_session_is_one_line_with_its_totals(
    world: ImapWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connected(world) as talk:
        await talk.ask("NOOP")
        await talk.ask("NONSENSE")
        await talk.ask("LOGOUT")
        await asyncio.wait_for(talk.session._task, 5)  # type: ignore[arg-type]
    ends = [record for record in caplog.records if record.getMessage() == "session ended"]
    assert len(ends) == 1
    assert (ends[0].commands, ends[0].failed) == (3, 1)


async def test_a_session_leaves_nothing_behind(world: ImapWorld, node: Node) -> None:
    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        server = talk.session.server
        task = talk.session._task
    assert task is not None
    await asyncio.wait_for(task, 5)
    assert not server.views._active
    assert len(node.connections) == 0


async def test_a_header_too_long_to_stand_in_the_row_comes_from_the_body(world: ImapWorld) -> None:
    header = b"Subject: long\r\nX-Filler: " + b"x" * HEADER_LIMIT + b"\r\n\r\n"
    await world.append("alice", "INBOX", header + b"text\r\n")
    await world.append("alice", "INBOX", b"Subject: short\r\n\r\ntext\r\n")
    async with connected(world) as talk:
        await talk.ask("SELECT INBOX")
        answer = b"".join(await talk.ask("FETCH 4:5 (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])"))
        assert b"Subject: long" in answer
        assert b"Subject: short" in answer
        assert b"BODY[HEADER] {%d}" % len(header) in b"".join(await talk.ask("FETCH 4 BODY.PEEK[HEADER]"))
