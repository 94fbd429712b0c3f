"""POP3 logins: what they must never show, how long they are believed, how often they may fail."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from sora import log
from sora.net.listener import Listener
from sora.net.tls import server_context
from sora.protocols import pop3
from sora.services.logins import passwords
from sora.services.logins.auth import Auth
from sora.wire import sasl
from tests.support.certificates import write_certificate
from tests.support.pop3 import PASSWORD, Pop3World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node
    from tests.support.transcripts import Link

CHEAP: Final = passwords.HashCost(memory_kib=8, passes=1, lanes=1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared_node: Node) -> AsyncIterator[Pop3World]:
    config, auth = shared_node.config, shared_node.auth
    world = Pop3World(shared_node)
    await world.open()
    yield world
    await world.close()
    shared_node.take_live(config)
    shared_node.auth = auth


async def ask(link: Link, data: bytes, replies: int = 1) -> list[bytes]:
    await link.send(data)
    return [await link.read_line() for _ in range(replies)]


async def ended(link: Link) -> None:
    """Hang up and let the session end, and with it its lease."""
    await link.hang_up()
    await link.protocol._task  # type: ignore[attr-defined]


async def log_in(world: Pop3World, name: str, password: str) -> bytes:
    """The answer to a login on a connection of its own."""
    link = await world.connect(1)
    answer = (await ask(link, f"USER {name}@example.com\r\nPASS {password}\r\n".encode(), 2))[1]
    await ended(link)
    return answer


async def test_a_response_has_a_limit_of_its_own(world: Pop3World) -> None:
    link = await world.connect(1)
    fits = b"A" * (sasl.MAX_LINE - 4) + b"\r\n"
    assert await ask(link, b"AUTH PLAIN\r\n" + fits, 2) == [
        b"+ ",
        b"-ERR The response is not authzid NUL authcid NUL password",
    ]
    assert await ask(link, b"AUTH PLAIN\r\n" + b"A" * (sasl.MAX_LINE + 1), 2) == [b"+ ", b"-ERR Line too long"]
    assert await ask(link, b"A" * 100_000 + b"\r\n" + b"x" * 600 + b"\r\nQUIT\r\n", 2) == [
        b"-ERR Line too long",
        b"+OK Bye",
    ]


async def test_a_response_that_does_not_come_ends_the_session(world: Pop3World) -> None:
    world.limit(login_timeout=0.05)
    link = await world.connect(1)
    assert await ask(link, b"AUTH PLAIN\r\n") == [b"+ "]
    await link.read_close()
    assert link.output == b""


async def test_a_stop_ends_an_exchange(world: Pop3World) -> None:
    link = await world.connect(1)
    assert await ask(link, b"AUTH LOGIN\r\n") == [b"+ VXNlcm5hbWU6"]
    link.protocol.stop()  # type: ignore[attr-defined]
    assert await link.read_line() == b"-ERR [SYS/TEMP] Server is going down, try again later"
    assert await link.read_line() == b"-ERR [SYS/TEMP] Server is going down, try again later"
    await link.read_close()


async def test_no_password_is_in_any_line_of_the_log(
    world: Pop3World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.account("alice", "1")
    account_id = world.accounts["alice"]
    await world.node.store.accounts.set_password(account_id, passwords.hash_password("Tr0ub4dor", CHEAP))
    guesses = ["Tr0ub4dor", "Tr0ub4dor-almost"]
    with caplog.at_level(logging.DEBUG):
        for guess in guesses:
            plain = base64.b64encode(f"\0alice@example.com\0{guess}".encode())
            other = base64.b64encode(f"bob\0alice@example.com\0{guess}".encode())
            encoded = base64.b64encode(guess.encode())
            for data in (
                f"USER alice@example.com\r\nPASS {guess}\r\n".encode(),
                f"PASS {guess}\r\n".encode(),
                f"PASS {guess} {'x' * 600}\r\n".encode(),
                f"PASSW {guess}\r\n".encode(),
                b"AUTH PLAIN " + plain + b"\r\n",
                b"AUTH PLAIN " + other + b"\r\n",
                b"AUTH PLAIN\r\n" + plain + b"\r\n",
                b"AUTH LOGIN\r\nYWxpY2VAZXhhbXBsZS5jb20=\r\n" + encoded + b"\r\n",
                b"AUTH " + guess.encode() + b" " + guess.encode() + b"\r\n",
            ):
                link = await world.connect(1)
                await link.send(data + b"QUIT\r\n")
                await link.read_close()
                await ended(link)
        monkeypatch.setattr(world.node.auth, "_accounts", None)  # a bug with a traceback
        assert await log_in(world, "alice", "Tr0ub4dor") == b"-ERR [SYS/TEMP] Internal error, try again later"
    formats = log.JsonFormatter(), log.TextFormatter()
    text = "\n".join(form.format(record) for record in caplog.records for form in formats)
    assert text.count("login refused") == 2 * 4
    assert "Traceback" in text
    for guess in ("Tr0ub4dor", "VHIwdWI0ZG9y", base64.b64encode(b"\0alice@example.com\0Tr0ub4dor").decode()[20:]):
        assert guess not in text


async def test_a_verified_login_is_believed_for_a_minute_at_most(world: Pop3World) -> None:
    now = 1000.0
    accounts = world.node.store.accounts
    world.node.auth = Auth(accounts, cost=CHEAP, clock=lambda: now)
    await world.account("alice", "0")
    account_id = world.accounts["alice"]
    good, bad = b"+OK 0 messages (0 octets)", b"-ERR [AUTH] Authentication failed"
    assert await log_in(world, "alice", PASSWORD) == good
    await accounts.set_password(account_id, passwords.hash_password("other", CHEAP))
    now += 60
    assert await log_in(world, "alice", PASSWORD) == bad
    assert await log_in(world, "alice", "other") == good
    await accounts.set_password(account_id, passwords.hash_password("third", CHEAP))
    assert await log_in(world, "alice", "third") == good
    assert await log_in(world, "alice", "other") == bad
    await accounts.set_disabled(account_id, True)
    now += 60
    assert await log_in(world, "alice", "third") == bad
    await world.node.auth.close()


async def test_failures_block_with_the_text_of_a_wrong_password(world: Pop3World) -> None:
    world.limit(exempt_networks=(), login_delay=0.0, login_failures_per_account=3, bad_commands=99)
    await world.account("carol", "0")
    bad = b"-ERR [AUTH] Authentication failed"
    for name in ("carol", "Carol", "nobody", "NOBODY"):
        assert await log_in(world, name, "wrong") == bad
    plain = base64.b64encode(b"\0CAROL@example.com\0wrong")
    link = await world.connect(1)
    assert await ask(link, b"AUTH PLAIN " + plain + b"\r\n") == [bad]
    await ended(link)
    assert await log_in(world, "carol", PASSWORD) == bad
    world.limit(exempt_networks=("127.0.0.0/8",))
    assert await log_in(world, "carol", PASSWORD) == b"+OK 0 messages (0 octets)"


async def test_a_success_forgets_failures(world: Pop3World) -> None:
    world.limit(exempt_networks=(), login_delay=0.0, login_failures_per_account=3)
    await world.account("dave", "0")
    for _ in range(3):
        for _ in range(2):
            assert (await log_in(world, "dave", "wrong")).startswith(b"-ERR [AUTH]")
        assert await log_in(world, "dave", PASSWORD) == b"+OK 0 messages (0 octets)"


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    certificate, key = write_certificate(tmp_path)
    return server_context(certificate, key)


@pytest.mark.parametrize(
    "behind",
    [
        b"AUTH PLAIN AGFsaWNlQGV4YW1wbGUuY29tAHNlY3JldCB3b3Jk\r\nSTAT\r\n",
        b"USER alice@example.com\r\nPASS secret word\r\n",
        b"CAPA\r\nQUIT\r\n",
        b"QUI",
        b"\r\n" * 1000,
        b"x" * 5000,
    ],
)
async def test_nothing_behind_stls_is_carried_into_tls(
    world: Pop3World, context: ssl.SSLContext, behind: bytes
) -> None:
    await world.account("alice", "1")
    await world.given("cleartext: no")
    listener = Listener("pop3", "127.0.0.1:110", tls=context)
    server = await asyncio.get_running_loop().create_server(pop3.connection_factory(world.node, listener), "127.0.0.1")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.readline() == b"+OK Sora ready\r\n"
        writer.write(b"STLS\r\n" + behind)
        assert await reader.readline() == b"+OK Begin TLS\r\n"
        await writer.start_tls(trust)
        writer.write(b"STAT\r\nAUTH LOGIN YWxpY2VAZXhhbXBsZS5jb20=\r\nc2VjcmV0IHdvcmQ=\r\nCAPA\r\nQUIT\r\n")
        answers = (await reader.read()).split(b"\r\n")
        assert answers[:3] == [
            b"-ERR Not in this state",
            b"+ UGFzc3dvcmQ6",
            b"+OK 1 messages (%d octets)" % world.total,
        ]
        assert b"STLS" not in answers
        assert answers[-2:] == [b"+OK Bye", b""]
        writer.close()
        await writer.wait_closed()


async def test_a_name_that_came_in_plaintext_is_forgotten_with_stls(world: Pop3World, context: ssl.SSLContext) -> None:
    await world.account("alice", "utf8")
    listener = Listener("pop3", "127.0.0.1:110", tls=context)
    server = await asyncio.get_running_loop().create_server(pop3.connection_factory(world.node, listener), "127.0.0.1")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"UTF8\r\nUSER alice@example.com\r\nSTLS\r\n")
        assert [await reader.readline() for _ in range(4)][2:] == [b"+OK\r\n", b"+OK Begin TLS\r\n"]
        await writer.start_tls(trust)
        writer.write(b"PASS secret word\r\nUSER alice@example.com\r\nPASS secret word\r\nTOP 1 0\r\nQUIT\r\n")
        answers = (await reader.read()).split(b"\r\n")
        assert answers[0] == b"-ERR USER comes first"
        assert answers[4].startswith(b"Subject: =?utf-8?")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("allowed", [False, True])
async def test_passwords_need_tls_unless_cleartext_is_allowed(world: Pop3World, allowed: bool) -> None:
    await world.account("alice", "1")
    await world.given(f"cleartext: {'yes' if allowed else 'no'}")
    answer = await log_in(world, "alice", PASSWORD)
    assert answer == (b"+OK 1 messages (%d octets)" % world.total if allowed else b"-ERR Use TLS first")
