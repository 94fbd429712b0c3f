"""LMTP server (RFC 2033 with 5321, 1870, 2034, 2920, 3030, 3207, 6152, 6531, 9422): a verb table and one session for
each connection.

Replies gather and leave when the session would wait, so a pipelining client gets them in one piece. RCPT is answered
late for the same reason: the recipients of one pipelined group are looked up by one query, just before the first other
command or before waiting. The order of the replies is that of the commands.

A message is answered once for each accepted recipient (RFC 2033 §4.2), each with its own outcome. Whatever may pass by
itself is a 4xx: a 5xx makes the sender give up.

Chunks (BDAT) are message octets whatever the answer is: they are read to their end before the command fails. A chunk
that fails spoils the message: the rest is drained and gets the same reply, and the last chunk is answered once for
each recipient like that of any other message, because a client that pipelines counts the replies.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Final

from msgspec import Struct
from msgspec.structs import replace

from sora import errors, log, metrics
from sora.crashpoints import crash_point
from sora.errors import LimitExceeded, PeerGone, SoraError, TooBig, WireError
from sora.net.connection import Connection
from sora.protocols.lmtp_replies import (
    BYE,
    CHUNK_OK,
    GO_AHEAD,
    GREETED,
    IDLE,
    INTERNAL_ERROR,
    NO_MAIL,
    NO_RECIPIENTS,
    NOT_VERIFIED,
    READY_FOR_TLS,
    RECIPIENT_OK,
    SENDER_OK,
    SHUTTING_DOWN,
    STORED,
    TOO_MANY_ERRORS,
    NotAllowed,
    NotTrusted,
    OutOfOrder,
    TooManyRecipients,
    TooSlow,
    UnknownCommand,
    reply_to,
)
from sora.services.delivery import MailEnvelope
from sora.services.intake import Intake
from sora.wire import lmtp, xclient
from sora.wire.lmtp import Rcpt, Reply
from sora.wire.xclient import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from sora.net.listener import Listener
    from sora.services.logins.limits import Slot
    from sora.services.node import Node
    from sora.services.recipients import Recipient
    from sora.store.diskfile import Octets
    from sora.wire.lmtp import Path

_log = log.get(__name__)

NOBODY: Final = Client()
NO_COMMAND: Final = "none"
"""Metric label of what is no command."""


# ---------------------------------------------------------------------------------------------------- the session


class LmtpServer:
    """What all LMTP sessions of a worker share."""

    def __init__(self, node: Node) -> None:
        self.node = node


def connection_factory(node: Node, listener: Listener) -> Callable[[], Session]:
    """What a listener's `create_server` calls for each connection."""
    server = LmtpServer(node)
    return lambda: Session(server, listener)


class Session(Connection):
    """One connection.

    Attributes:
        hello: What the client called itself; empty before LHLO.
        client: What a trusted proxy said of the client (XCLIENT).
        trusted: The peer may speak for others.
        mail: The open transaction; None: no MAIL yet.
        recipients: Accepted ones, in the order of their commands.
        chunks: The message that comes in chunks; None: no BDAT yet.
        ended: True once the farewell is written.
    """

    protocol: ClassVar[str] = "lmtp"
    __slots__ = (
        "_asked", "_bad_in_a_row", "_commands", "_deadline_mono", "_messages", "_own_address", "_refused", "_slot",
        "chunks", "client", "ended", "hello", "mail", "recipients", "scanner", "server", "trusted",
    )  # fmt: skip

    def __init__(self, server: LmtpServer, listener: Listener) -> None:
        super().__init__(listener, server.node.connections)
        self.server = server
        self.scanner = lmtp.Scanner()
        self.hello = ""
        self.client = NOBODY
        self.trusted = False
        self.mail: lmtp.Mail | None = None
        self.recipients: list[Recipient] = []
        self.chunks: Intake | None = None
        self.ended = False
        self._own_address = ("", 0)
        self._slot: Slot | None = None
        self._asked: list[Rcpt | SoraError] = []
        self._bad_in_a_row = 0
        self._commands = 0
        self._messages = 0
        self._refused = 0
        self._deadline_mono = 0.0

    # ------------------------------------------------------------------ what handlers use

    @property
    def node(self) -> Node:
        """The services of the worker."""
        return self.server.node

    def ask(self, command: Rcpt | SoraError) -> None:
        """Queue a recipient for look-up, or its refusal, so that the replies keep their order."""
        self._asked.append(command)

    @property
    def recipients_asked(self) -> int:
        """Recipients accepted or not looked up yet."""
        return len(self.recipients) + len(self._asked)

    def forget_transaction(self) -> None:
        """Back to where MAIL is expected (RFC 5321 §4.1.1.5)."""
        self.mail = None
        self.recipients = []
        if self.chunks is not None:
            self.chunks.close()
            self.chunks = None

    def start_over(self) -> None:
        """Back to where LHLO is expected."""
        self.forget_transaction()
        self.hello = ""

    def speak_for(self, client: Client) -> None:
        """Go on with the client that the peer speaks for; with NOBODY, with the peer itself.

        Raises:
            LimitExceeded: This client holds as many connections as it may.
        """
        self.start_over()
        self.client = client
        own, own_port = self._own_address
        self.peer, self.peer_port = (client.address, client.port) if client.address else (own, own_port)
        log.bind(peer=self.peer)
        self._take_slot()

    def _take_slot(self) -> None:
        """Count the connection for the client's address, and no longer for the one before."""
        if self._slot is not None:
            self._slot.release()
        self._slot = self.node.limits.connect(self.peer)

    def reply(self, reply: Reply) -> None:
        """Gather a reply."""
        self.write(lmtp.write_reply(reply))

    def end(self, reply: Reply) -> None:
        """Say the last word."""
        self.reply(reply)
        self.ended = True

    def intake(self) -> Intake:
        """Room for a message."""
        return Intake(self.node.staging, self.node.config.limits.message_size)

    async def receive(self, intake: Intake | None) -> None:
        """Take message octets up to their end; without an intake they are thrown away.

        Raises:
            TimeoutError, PeerGone: The rest never came.
            TooSlow: It comes, but not in time.
        """
        limits = self.node.config.limits
        began_mono = time.monotonic() if intake is None else intake.began_mono
        while True:
            octets = self.scanner.take()
            if intake is not None:
                intake.add(octets)
                await intake.settle()
            if time.monotonic() - began_mono >= limits.lmtp_message_timeout:
                raise TooSlow
            if not self.scanner.receiving:
                return
            await self.wait(limits.lmtp_idle_timeout)

    # ------------------------------------------------------------------ what the connection calls

    def received(self, data: bytes) -> None:
        """See `Connection`."""
        self.scanner.feed(data)

    def discard_input(self) -> None:
        """See `Connection`."""
        self.scanner.clear()

    def totals(self) -> dict[str, Any]:
        """See `Connection`."""
        return {"commands": self._commands, "messages": self._messages, "refused": self._refused}

    async def serve(self) -> None:
        """Greeting, commands, farewell."""
        try:
            self._check_peer()
            self._take_slot()
            self.reply(greeting(self))
            await self._converse()
        except (LimitExceeded, NotAllowed) as error:
            self.end(reply_to(error))
        finally:
            self.forget_transaction()
            if self._slot is not None:
                self._slot.release()

    def _check_peer(self) -> None:
        """Who may deliver: a proxy answers for its clients, but a client speaks for others only if trusted itself."""
        near = self.via or self.peer
        if near != "unix" and not ip_address(near).is_loopback and not self.listener.trusts(near):
            raise NotAllowed
        self._own_address = (self.peer, self.peer_port)
        self.trusted = self.listener.trusts(self.peer)

    # ------------------------------------------------------------------ the loop

    async def _converse(self) -> None:
        self._be_patient()
        while not self.ended:
            if self.stopping:
                await self._answer_recipients()
                self.end(SHUTTING_DOWN)
                return
            await self.breathe()
            try:
                line = self.scanner.line()
            except WireError as error:
                await self._answer_recipients()
                self._finish(NO_COMMAND, reply_to(error), bad=True)
                continue
            if line is None:
                await self._answer_recipients()
                await self._wait_for_more()
            else:
                await self._command(line)
                self._be_patient()

    def _be_patient(self) -> None:
        """The idle time begins now. Only whole commands count: a peer that drips octets is idle too."""
        self._deadline_mono = time.monotonic() + self.node.config.limits.lmtp_idle_timeout

    async def _wait_for_more(self) -> None:
        try:
            await self.wait(max(0.0, self._deadline_mono - time.monotonic()))
        except TimeoutError:
            self.end(IDLE)

    async def _command(self, line: bytes) -> None:
        """Run one command and answer it."""
        started_mono = time.monotonic()
        label, bad = NO_COMMAND, False
        try:
            verb, arguments = lmtp.parse_command(line)
            row = VERBS.get(verb)
            if row is None:
                raise UnknownCommand
            label = verb
            if row.run is not recipient:
                await self._answer_recipients()
            reply = await row.run(self, arguments)
        except PeerGone:
            raise
        except SoraError as error:
            await self._answer_recipients()
            reply, bad = reply_to(error), isinstance(error, WireError)
        except TimeoutError:
            self.end(IDLE)
            return
        except Exception:
            _log.exception("command failed", extra={"command": label})
            await self._answer_recipients()
            reply = INTERNAL_ERROR
        metrics.command_seconds.labels(self.protocol, label).observe(time.monotonic() - started_mono)
        if reply is not None:
            self._finish(label, reply, bad=bad)

    def _finish(self, label: str, reply: Reply, *, bad: bool = False) -> None:
        """Answer a command, count it, and lose patience with a peer that only errs."""
        self.reply(reply)
        self.count(label, reply)
        self.ended = self.ended or reply.code == 421  # RFC 5321 §3.8: the connection is closed behind it
        self._bad_in_a_row = self._bad_in_a_row + 1 if bad else 0
        if self._bad_in_a_row >= self.node.config.limits.bad_commands and not self.ended:
            self.end(TOO_MANY_ERRORS)

    def count(self, label: str, reply: Reply) -> None:
        """Put a command and its outcome into the metrics."""
        self._commands += 1
        result = "ok" if reply.code < 400 else "refused" if reply.permanent else "failed"
        metrics.commands.labels(self.protocol, label, result).inc()

    async def _answer_recipients(self) -> None:
        """Look up the recipients that were asked for, and answer each."""
        if not self._asked:
            return
        asked, self._asked = self._asked, []
        found = iter(await self._find_recipients([command.path for command in asked if isinstance(command, Rcpt)]))
        for command in asked:
            if self.ended:
                return
            answer = next(found) if isinstance(command, Rcpt) else command
            if isinstance(answer, SoraError):
                self._finish("RCPT", reply_to(answer), bad=isinstance(answer, WireError))
                continue
            if isinstance(command, Rcpt) and command.forward:
                answer = replace(answer, forward=command.forward)
            self.recipients.append(answer)
            self._finish("RCPT", RECIPIENT_OK)

    async def _find_recipients(self, paths: list[Path]) -> list[Recipient | SoraError]:
        try:
            return await self.node.recipients.find(paths, self.mail.size if self.mail else 0)
        except SoraError as error:
            _log.warning("recipients not looked up", extra={"error": str(error)})
            return [error for _ in paths]
        except Exception:
            _log.exception("recipients not looked up")
            return [errors.Unavailable() for _ in paths]

    def delivered(self, size: int, outcomes: list[SoraError | None]) -> None:
        """Count a message and log what became of it."""
        assert self.mail is not None
        refused = [str(outcome) for outcome in outcomes if outcome is not None]
        self._messages += 1
        self._refused += len(refused)
        fields = {
            "transaction": f"{self.session}-{self._messages}",
            "sender": self.mail.sender.text,
            "size": size,
            "recipients": len(outcomes),
            "refused": refused,
        }
        if self.client.login:
            fields["login"] = self.client.login
        _log.info("message", extra=fields)

    @property
    def message_id(self) -> str:
        """Names the next message of this session in the log and in its Received header."""
        return f"{self.session}-{self._messages + 1}"


# ---------------------------------------------------------------------------------------------------- verbs


def greeting(s: Session) -> Reply:
    """What a session begins with (RFC 5321 §4.2), after XCLIENT too."""
    return Reply(220, "", (f"{s.node.delivery.host} LMTP Sora ready",))


async def hello(s: Session, arguments: bytes) -> Reply:
    """LHLO (RFC 2033 §4.1): name the client, and start over."""
    s.hello = lmtp.parse_hello(arguments)
    s.forget_transaction()
    return Reply(250, "", (s.node.delivery.host, *_extensions(s)))


def _extensions(s: Session) -> Iterator[str]:
    yield from ("PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME")
    if s.listener.tls is not None and not s.tls:
        yield "STARTTLS"
    if s.trusted:
        yield "XCLIENT " + " ".join(xclient.ATTRIBUTES)
        yield "XRCPTFORWARD"
    yield f"LIMITS RCPTMAX={s.node.config.limits.recipients}"
    yield f"SIZE {s.node.config.limits.message_size}"


async def smtp_hello(s: Session, arguments: bytes) -> Reply:
    """HELO and EHLO get an error here (RFC 2033 §4.1), so that no MTA takes LMTP for SMTP."""
    raise UnknownCommand("This is LMTP, say LHLO")


async def mail(s: Session, arguments: bytes) -> Reply:
    """MAIL (RFC 5321 §4.1.1.2): open a transaction."""
    if not s.hello:
        raise OutOfOrder("Say LHLO first")
    if s.mail is not None:
        raise OutOfOrder("A transaction is open")
    command = lmtp.parse_mail(arguments)
    if command.size > s.node.config.limits.message_size:
        raise TooBig
    s.mail = command
    return SENDER_OK


async def recipient(s: Session, arguments: bytes) -> None:
    """RCPT (RFC 5321 §4.1.1.3): parsed now, looked up and answered with its group."""
    try:
        if s.mail is None:
            raise OutOfOrder("MAIL comes first")
        if s.chunks is not None:
            raise OutOfOrder("The message has begun")
        command = lmtp.parse_recipient(arguments, s.mail.utf8, s.trusted)
        if s.recipients_asked >= s.node.config.limits.recipients:
            raise TooManyRecipients
    except SoraError as error:
        s.ask(error)
    else:
        s.ask(command)


async def data(s: Session, arguments: bytes) -> Reply | None:
    """DATA (RFC 5321 §4.1.1.4, RFC 2033 §4.2): take the message, answer for each recipient."""
    if arguments:
        raise lmtp.BadArgument("DATA has no arguments")
    if s.mail is None:
        raise OutOfOrder("MAIL comes first")
    if s.chunks is not None:
        raise OutOfOrder("The message comes in chunks")
    if s.mail.body == "BINARYMIME":
        raise OutOfOrder("BINARYMIME needs BDAT")  # RFC 3030 §3
    if not s.recipients:
        return NO_RECIPIENTS
    s.reply(GO_AHEAD)
    s.scanner.start_data()
    intake = s.intake()
    try:
        await s.receive(intake)
        await _deliver(s, s.mail, intake, "DATA")
    finally:
        intake.close()
    return None


async def chunk(s: Session, arguments: bytes) -> Reply | None:
    """BDAT (RFC 3030 §2): take a chunk; after the last one, answer for each recipient."""
    try:
        command = lmtp.parse_chunk(arguments)
    except lmtp.BadArgument as error:
        # Nobody knows where the octets end that follow, and commands must not be read out of a message.
        s.end(reply_to(error))
        s.count("BDAT", reply_to(error))
        return None
    s.scanner.start_chunk(command.size)
    if s.mail is None or not s.recipients:
        # No command that cannot be understood: a client that pipelines sends all chunks before it learns of it.
        await s.receive(None)
        return NO_RECIPIENTS if s.mail is not None else NO_MAIL
    intake = s.chunks = s.chunks or s.intake()
    await s.receive(intake)
    if command.last:
        await _deliver(s, s.mail, intake, "BDAT")
        return None
    return CHUNK_OK if intake.error is None else reply_to(intake.error)


async def _deliver(s: Session, command: lmtp.Mail, intake: Intake, label: str) -> None:
    """Store what was taken in, answer for each recipient, and end the transaction."""
    outcomes: list[SoraError | None]
    try:
        message = await intake.finish()
    except SoraError as error:
        outcomes = [error] * len(s.recipients)
    else:
        outcomes = await _store(s, command, message)
    for outcome in outcomes:
        reply = STORED if outcome is None else reply_to(outcome)
        s.reply(reply)
        s.count(label, reply)
    s.delivered(intake.size, outcomes)
    s.forget_transaction()
    await s.flush()
    crash_point("lmtp.replied")


async def _store(s: Session, command: lmtp.Mail, message: Octets) -> list[SoraError | None]:
    """One outcome for each recipient, whatever happens: the client counts the replies."""
    envelope = MailEnvelope(
        sender=command.sender.text,
        recipients=tuple(s.recipients),
        hello=s.client.hello or s.hello,
        peer="local" if s.peer == "unix" else s.peer,
        tls=s.tls,
        utf8=command.utf8,
        id=s.message_id,
        peer_name=s.client.name if s.client.address else "",
    )
    try:
        return await s.node.delivery.deliver(message, envelope)
    except SoraError as error:
        return [error] * len(s.recipients)
    except Exception:
        _log.exception("delivery failed", extra={"transaction": s.message_id})
        return [errors.Unavailable()] * len(s.recipients)


async def reset(s: Session, arguments: bytes) -> Reply:
    """RSET (RFC 5321 §4.1.1.5): forget the transaction."""
    if arguments:
        raise lmtp.BadArgument("RSET has no arguments")
    s.forget_transaction()
    return GREETED


async def noop(s: Session, arguments: bytes) -> Reply:
    """NOOP (RFC 5321 §4.1.1.9): any argument is ignored."""
    return GREETED


async def verify(s: Session, arguments: bytes) -> Reply:
    """VRFY (RFC 5321 §3.5.3): nobody is told who lives here."""
    if not arguments:
        raise lmtp.BadArgument("VRFY needs a name")
    return NOT_VERIFIED


async def start_tls(s: Session, arguments: bytes) -> None:
    """STARTTLS (RFC 3207 §4): nothing that was said before counts, least of all what was sent behind the command."""
    if arguments:
        raise lmtp.BadArgument("STARTTLS has no arguments")
    if s.tls:
        raise OutOfOrder("TLS is active")
    if s.listener.tls is None:
        raise UnknownCommand
    s.reply(READY_FOR_TLS)
    s.count("STARTTLS", READY_FOR_TLS)
    await s.start_tls()
    s.speak_for(NOBODY)


async def speak_for(s: Session, arguments: bytes) -> Reply:
    """XCLIENT (Postfix XCLIENT_README): a trusted peer says who the client is, and the session begins anew."""
    if not s.trusted:
        raise NotTrusted
    if s.mail is not None:
        raise OutOfOrder("A transaction is open")
    s.speak_for(xclient.parse_xclient(arguments, s.client))
    return greeting(s)


async def leave(s: Session, arguments: bytes) -> None:
    """QUIT (RFC 5321 §4.1.1.10)."""
    if arguments:
        raise lmtp.BadArgument("QUIT has no arguments")
    s.end(BYE)
    s.count("QUIT", BYE)


class Verb(Struct, frozen=True):
    """One row: what runs. None as its answer means that it has answered, or will."""

    run: Callable[[Session, bytes], Awaitable[Reply | None]]


VERBS: Final[Mapping[str, Verb]] = {
    "LHLO": Verb(hello),
    "HELO": Verb(smtp_hello),
    "EHLO": Verb(smtp_hello),
    "MAIL": Verb(mail),
    "RCPT": Verb(recipient),
    "DATA": Verb(data),
    "BDAT": Verb(chunk),
    "RSET": Verb(reset),
    "NOOP": Verb(noop),
    "VRFY": Verb(verify),
    "STARTTLS": Verb(start_tls),
    "XCLIENT": Verb(speak_for),
    "QUIT": Verb(leave),
}
