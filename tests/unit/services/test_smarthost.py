"""The SMTP client: what it says, what it makes of the replies, and when it does not ask at all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sora.errors import ConfigError
from sora.net.tls import client_context
from sora.services.smarthost import Breaker, Parcel, Smarthost, SmarthostDown, xtext
from sora.store.outbound import NO_PARAMS, Params
from sora.tables import OutboundTable
from tests.support.certificates import write_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PARCEL = Parcel("a@example.org", "b@example.org", b"Subject: x\r\n\r\n.y\r\n", False, NO_PARAMS)
ALL = ("SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN", "DELIVERBY 240", "ENHANCEDSTATUSCODES")


class Server:
    """Speaks SMTP on loopback.

    Attributes:
        offers: EHLO keywords; `tls_offers` those under TLS.
        replies: By verb (`end`: the end of data), instead of the good ones; None: it hangs up.
        heard: Commands, of all connections.
        connections: So far.
    """

    def __init__(self) -> None:
        self.offers: tuple[str, ...] = ALL
        self.tls_offers: tuple[str, ...] = ALL
        self.replies: dict[str, str | None] = {}
        self.greeting: str | None = "220 sink.example"
        self.heard: list[str] = []
        self.data = b""
        self.connections = 0
        self.port = 0
        self.context: ssl.SSLContext | None = None
        self.silent = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await self._session(reader, writer)
        writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.greeting is None:
            return
        writer.write(f"{self.greeting}\r\n".encode())
        while line := await reader.readline():
            command = line.decode().rstrip("\r\n")
            self.heard.append(command)
            verb = command.partition(" ")[0].upper()
            if verb == self.silent:
                await asyncio.Event().wait()
            reply = self.replies.get(verb, self._good(verb, writer))
            if reply is None:
                return
            writer.write(f"{reply}\r\n".encode("utf-8", "surrogateescape"))
            if verb == "QUIT":
                return
            if verb == "STARTTLS" and reply.startswith("220"):
                await writer.drain()
                assert self.context is not None
                await writer.start_tls(self.context)
            if verb == "DATA" and reply.startswith("354"):
                self.data = await reader.readuntil(b"\r\n.\r\n")
                end = self.replies.get("end", "250 2.0.0 taken")
                if end is None:
                    return
                writer.write(f"{end}\r\n".encode("utf-8", "surrogateescape"))

    def _good(self, verb: str, writer: asyncio.StreamWriter) -> str:
        if verb == "EHLO":
            offers = self.tls_offers if writer.get_extra_info("sslcontext") else self.offers
            return "\r\n".join([*(f"250-{line}" for line in ("sink.example", *offers)), "250 HELP"])
        return {"DATA": "354 go on", "STARTTLS": "220 go on", "AUTH": "235 2.7.0 in", "QUIT": "221 bye"}.get(
            verb, "250 OK"
        )

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(server: Server, implicit: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=implicit)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.hang_up()
        listener.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(Server()) as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Smarthost]]:
    """A smarthost by its port; closed at the end."""
    made: list[Smarthost] = []

    def make(port: int, **table: Any) -> Smarthost:
        settings = {"host": "localhost", "port": port, "tls": "none", "timeout": 5.0, **table}
        smarthost = Smarthost(OutboundTable(**settings), "me.example")
        made.append(smarthost)
        return smarthost

    yield make
    for smarthost in made:
        await smarthost.close()


Make = Any


async def test_a_mail_with_all_that_can_be_asked_for(server: Server, connect: Make) -> None:
    params = Params(notify="FAILURE,DELAY", ret="HDRS", envid="a+b=c d", orcpt="rfc822;x+y@example.org", by_mode="NT")
    outcome = await connect(server.port).send(replace(PARCEL, params=params, by_s=90))
    assert (outcome.result, outcome.text, outcome.relayed) == ("sent", "2.0.0 taken", False)
    assert server.heard == [
        "EHLO me.example",
        "MAIL FROM:<a@example.org> SIZE=18 BY=90;NT RET=HDRS ENVID=a+2Bb+3Dc+20d",
        "RCPT TO:<b@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x+2By@example.org",
        "DATA",
    ]
    assert server.data == b"Subject: x\r\n\r\n..y\r\n.\r\n"


async def test_nothing_is_asked_for_that_is_not_offered(server: Server, connect: Make) -> None:
    server.offers = ()
    params = Params(notify="FAILURE", ret="HDRS", envid="e", orcpt="rfc822;x@y", by_mode="N")
    outcome = await connect(server.port).send(replace(PARCEL, sender="", params=params, by_s=90))
    assert (outcome.result, outcome.relayed) == ("sent", True)
    assert server.heard[1:] == ["MAIL FROM:<>", "RCPT TO:<b@example.org>", "DATA"]


async def test_an_old_server_knows_no_ehlo(server: Server, connect: Make) -> None:
    server.replies = {"EHLO": "502 what?"}
    assert (await connect(server.port).send(PARCEL)).result == "sent"
    assert server.heard[:2] == ["EHLO me.example", "HELO me.example"]


async def test_eight_bits_and_utf8(server: Server, connect: Make) -> None:
    parcel = replace(PARCEL, recipient="jörg@example.org", data="Subject: ü\r\n\r\n".encode(), smtputf8=True)
    assert (await connect(server.port).send(parcel)).result == "sent"
    assert server.heard[1:3] == [
        "MAIL FROM:<a@example.org> SIZE=15 BODY=8BITMIME SMTPUTF8",
        "RCPT TO:<jörg@example.org>",
    ]


@pytest.mark.parametrize(
    ("parcel", "offers", "status"),
    [
        (replace(PARCEL, smtputf8=True), ("8BITMIME",), "5.6.7"),
        (replace(PARCEL, data=b"\xe4\r\n"), ("SMTPUTF8",), "5.6.3"),
        (replace(PARCEL, data=b"x" * 1001), ALL, "5.3.4"),
        (replace(PARCEL, by_s=0, params=Params(by_mode="R")), ALL, "5.4.7"),
        (replace(PARCEL, by_s=9, params=Params(by_mode="R")), (), "5.3.3"),
        (replace(PARCEL, recipient="jörg@example.org"), ALL, "5.1.3"),
        (replace(PARCEL, recipient="a@b> ORCPT=x\r\nDATA"), ALL, "5.1.3"),
    ],
)
async def test_what_cannot_be_sent_is_not_tried(
    server: Server, connect: Make, parcel: Parcel, offers: tuple[str, ...], status: str
) -> None:
    server.offers = offers
    outcome = await connect(server.port).send(parcel)
    assert (outcome.result, outcome.status, outcome.remote) == ("refused", status, False)
    assert not any(command.startswith("DATA") for command in server.heard)


async def test_no_size_is_any_size(server: Server, connect: Make) -> None:
    server.offers = ("SIZE 0",)
    assert (await connect(server.port).send(replace(PARCEL, data=b"x" * 5000))).result == "sent"


@pytest.mark.parametrize(
    ("verb", "reply", "result", "status"),
    [
        ("MAIL", "550 5.7.1 no", "refused", "5.7.1"),
        ("RCPT", "550 no such user", "refused", "5.0.0"),
        ("RCPT", "452 4.2.2 full", "deferred", "4.2.2"),
        ("RCPT", "450 5.2.2 odd", "deferred", "4.2.2"),
        ("DATA", "554 5.5.1 no", "refused", "5.5.1"),
        ("end", "451 4.3.0 later", "deferred", "4.3.0"),
        ("end", "554 5.6.0 spam", "refused", "5.6.0"),
        ("MAIL", "530 5.7.0 log in", "deferred", "5.7.0"),
        ("MAIL", "421 4.3.2 going down", "deferred", "4.3.2"),
    ],
)
async def test_replies(server: Server, connect: Make, verb: str, reply: str, result: str, status: str) -> None:
    server.replies = {verb: reply}
    smarthost = connect(server.port)
    outcome = await smarthost.send(PARCEL)
    step = "DATA" if verb == "end" else verb
    assert (outcome.result, outcome.status, outcome.text, outcome.stage) == (result, status, reply, step)
    server.replies = {}
    assert (await smarthost.send(PARCEL)).result == "sent", "the next mail is not touched by that"
    assert server.connections == (2 if reply.startswith("421") else 1)


@pytest.mark.parametrize("verb", ["RCPT", "end"])
async def test_what_a_server_says_can_be_written_down(server: Server, connect: Make, verb: str) -> None:
    """The database takes neither NUL nor what is no UTF-8; a mail must not wait a day because of that."""
    server.replies[verb] = "450-4.2.0 bo\udceete\r\n450 4.2.0 ple\0ine\x1b"
    outcome = await connect(server.port).send(PARCEL)
    assert (outcome.result, outcome.status) == ("deferred", "4.2.0")
    assert outcome.text.endswith("450 4.2.0 bo?te 4.2.0 ple ine")


@pytest.mark.parametrize("verb", ["RCPT", "DATA", "end"])
async def test_a_lost_connection_is_the_mails_matter(server: Server, connect: Make, verb: str) -> None:
    server.replies = {verb: None}
    outcome = await connect(server.port).send(PARCEL)
    assert (outcome.result, outcome.status, outcome.remote) == ("deferred", "4.4.2", False)


async def test_silence_ends(server: Server, connect: Make) -> None:
    server.silent = "RCPT"
    smarthost = connect(server.port, timeout=0.2)
    outcome = await smarthost.send(PARCEL)
    assert (outcome.result, outcome.stage) == ("deferred", "RCPT")
    server.silent = ""
    assert (await smarthost.send(PARCEL)).result == "sent"
    assert server.connections == 2, "a reply that comes too late is nobody else's"


async def test_connections_are_used_again(server: Server, connect: Make) -> None:
    smarthost = connect(server.port)
    for _ in range(3):
        assert (await smarthost.send(PARCEL)).result == "sent"
    assert server.connections == 1
    server.hang_up()  # as a smarthost does after some idle time
    assert (await smarthost.send(PARCEL)).result == "sent"
    assert server.connections == 2


async def test_idle_connections_are_closed(server: Server, connect: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    smarthost = connect(server.port)
    await smarthost.send(PARCEL)
    await smarthost.tidy()
    assert server.heard[-1] == "DATA"
    monkeypatch.setattr("sora.services.smarthost.IDLE_S", 0.0)
    await smarthost.tidy()
    assert server.heard[-1] == "QUIT"


@pytest.mark.parametrize("greeting", ["554 no service", "421 too busy", None])
async def test_no_welcome(server: Server, connect: Make, greeting: str | None) -> None:
    server.greeting = greeting
    smarthost = connect(server.port)
    with pytest.raises(SmarthostDown):
        await smarthost.send(PARCEL)
    assert smarthost.breaker.open
    server.greeting = "220 hello"
    await smarthost.probe()
    assert not smarthost.breaker.open
    assert (await smarthost.send(PARCEL)).result == "sent"
    assert server.connections == 2, "the connection of the probe is used"


async def test_login(server: Server, connect: Make) -> None:
    server.offers = (*ALL, "AUTH PLAIN LOGIN")
    smarthost = connect(server.port, user="me", password="secret")
    assert (await smarthost.send(PARCEL)).result == "sent"
    (login,) = [command for command in server.heard if command.startswith("AUTH")]
    assert base64.b64decode(login.split()[-1]) == b"\0me\0secret"
    server.replies = {"AUTH": "535 5.7.8 no"}
    other = connect(server.port, user="me", password="wrong")
    with pytest.raises(SmarthostDown):
        await other.send(PARCEL)
    assert "MAIL" not in [command.partition(" ")[0] for command in server.heard[server.heard.index("DATA") + 1 :]]


class Certificates:
    def __init__(self, folder: Path) -> None:
        (folder / "client").mkdir()
        self.cert, self.key = write_certificate(folder)
        self.client_cert, self.client_key = write_certificate(folder / "client", "me.example")

    def context(self, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_cert)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_starttls_comes_before_the_login(server: Server, connect: Make, certificates: Certificates) -> None:
    server.context = certificates.context()
    server.offers, server.tls_offers = ("STARTTLS",), ("DSN", "AUTH PLAIN")
    smarthost = connect(server.port, tls="starttls", tls_ca=certificates.cert, user="me", password="secret")
    outcome = await smarthost.send(replace(PARCEL, params=Params(ret="FULL")))
    assert outcome.result == "sent"
    assert [command.partition(" ")[0] for command in server.heard] == [
        "EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA",
    ]  # fmt: skip
    assert server.heard[4].endswith(" RET=FULL"), "what was offered under TLS counts"


async def test_starttls_is_never_left_out(server: Server, connect: Make) -> None:
    smarthost = connect(server.port, tls="starttls", user="me", password="secret")
    with pytest.raises(SmarthostDown):
        await smarthost.send(PARCEL)
    assert [command.partition(" ")[0] for command in server.heard] == ["EHLO"]


async def test_an_unknown_certificate_is_not_trusted(server: Server, connect: Make, certificates: Certificates) -> None:
    server.context = certificates.context()
    server.offers = ("STARTTLS",)
    with pytest.raises(SmarthostDown):
        await connect(server.port, tls="starttls").send(PARCEL)
    with pytest.raises(SmarthostDown):
        await connect(server.port, tls="starttls", tls_ca=certificates.cert, host="127.0.0.1").send(PARCEL)
    assert not any(command.startswith("MAIL") for command in server.heard)


async def test_tls_with_a_client_certificate(connect: Make, certificates: Certificates) -> None:
    async with serving(Server(), certificates.context(wants_client=True)) as server:
        known = {"tls": "tls", "tls_ca": certificates.cert}
        with pytest.raises(SmarthostDown):
            await connect(server.port, **known).send(PARCEL)
        smarthost = connect(server.port, **known, tls_cert=certificates.client_cert, tls_key=certificates.client_key)
        assert (await smarthost.send(PARCEL)).result == "sent"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        client_context(str(tmp_path / "missing"), "", "")
    (tmp_path / "bad").write_text("no certificate")
    with pytest.raises(ConfigError):
        client_context("", str(tmp_path / "bad"), "")


def test_the_breaker_waits_longer_and_longer() -> None:
    now = 100.0
    breaker = Breaker(lambda: now)
    assert (breaker.open, breaker.wait_s) == (False, 0.0)
    pauses = []
    for _ in range(8):
        breaker.failed("refused")
        breaker.failed("refused")  # of several that fail together one counts
        pauses.append(breaker.wait_s)
        now += breaker.wait_s
        assert (breaker.open, breaker.wait_s) == (True, 0.0)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert breaker.error == "refused"
    breaker.worked()
    assert (breaker.open, breaker.error) == (False, "")
    breaker.failed("refused")
    assert breaker.wait_s == 1


def test_xtext() -> None:
    assert xtext("a+b=c ü") == "a+2Bb+3Dc+20+C3+BC"
