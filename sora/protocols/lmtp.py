"""LMTP server (RFC 2033 with 5321, 1870, 2034, 2920, 6152, 6531): a verb table and one session for each connection.

Replies gather and leave when the session would wait, so a pipelining client gets them in one piece. RCPT is answered
late for the same reason: the recipients of one pipelined group are looked up by one query, just before the first other
command or before waiting. The order of the replies is that of the commands.

A message is answered once for each accepted recipient (RFC 2033 §4.2), each with its own outcome. Whatever may pass by
itself is a 4xx: a 5xx makes the sender give up.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Final

from msgspec import Struct

from sora import errors, log, metrics
from sora.crashpoints import crash_point
from sora.errors import BadSyntax, LimitExceeded, PeerGone, SoraError, TooBig, WireError
from sora.net.connection import Connection
from sora.services.delivery import MailEnvelope, MailLoop
from sora.wire import lmtp
from sora.wire.lmtp import Path, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sora.net.listener import Listener
    from sora.services.delivery import Recipient
    from sora.services.node import Node

_log = log.get(__name__)

MAX_BAD_COMMANDS: Final = 20
"""Commands in a row that cannot be understood, before the session ends: the peer speaks something else."""
NO_COMMAND: Final = "none"
"""Metric label of what is no command."""


# ---------------------------------------------------------------------------------------------------- errors → replies


class UnknownCommand(BadSyntax):
    """No row of the table has this verb."""

    default_text = "Unknown command"


class OutOfOrder(BadSyntax):
    """The verb is known, but not now (RFC 5321 §4.1.4)."""

    default_text = "Bad sequence of commands"


class TooManyRecipients(LimitExceeded):
    """This transaction has as many recipients as it may (RFC 5321 §4.5.3.1.10)."""

    default_text = "Too many recipients"


class NotAllowed(errors.NoPermission):
    """Whoever reaches an LMTP port can deliver, so strangers are sent away."""

    default_text = "You may not deliver here"


ERRORS: Final[Mapping[type[SoraError], tuple[int, str]]] = {
    # what the peer sent
    errors.WireError: (500, "5.5.2"),
    errors.LineTooLong: (500, "5.5.2"),
    UnknownCommand: (500, "5.5.1"),
    OutOfOrder: (503, "5.5.1"),
    lmtp.BadArgument: (501, "5.5.4"),
    lmtp.BadSender: (501, "5.1.7"),
    lmtp.BadRecipient: (501, "5.1.3"),
    lmtp.UnknownParameter: (555, "5.5.4"),
    lmtp.Utf8Needed: (553, "5.6.7"),
    # what is refused
    errors.Refused: (554, "5.0.0"),
    errors.NotFound: (550, "5.1.1"),
    errors.InvalidName: (550, "5.1.1"),
    errors.NoPermission: (550, "5.7.1"),
    NotAllowed: (554, "5.7.1"),
    errors.OverQuota: (552, "5.2.2"),
    errors.TooBig: (552, "5.3.4"),
    MailLoop: (554, "5.4.6"),
    errors.LimitExceeded: (421, "4.7.0"),
    TooManyRecipients: (452, "4.5.3"),
    # what may pass
    errors.StagingFull: (452, "4.3.1"),
    errors.SoraError: (451, "4.3.0"),
}

GREETED: Final = Reply(250, "2.0.0", ("OK",))
SENDER_OK: Final = Reply(250, "2.1.0", ("Sender OK",))
RECIPIENT_OK: Final = Reply(250, "2.1.5", ("Recipient OK",))
STORED: Final = Reply(250, "2.0.0", ("Stored",))
GO_AHEAD: Final = Reply(354, "", ("End data with <CR><LF>.<CR><LF>",))
NO_RECIPIENTS: Final = Reply(503, "5.5.1", ("No valid recipients",))
NOT_VERIFIED: Final = Reply(252, "2.5.0", ("Cannot verify, send some mail",))
BYE: Final = Reply(221, "2.0.0", ("Bye",))
IDLE: Final = Reply(421, "4.4.2", ("Idle for too long",))
SHUTTING_DOWN: Final = Reply(421, "4.3.2", ("Server is going down, try again later",))
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", ("Too many bad commands",))
INTERNAL_ERROR: Final = Reply(451, "4.3.0", ("Internal error, try again later",))


def reply_to(error: SoraError) -> Reply:
    """The reply for an error: the row of its class, or of its nearest ancestor."""
    code, status = next(ERRORS[ancestor] for ancestor in type(error).__mro__ if ancestor in ERRORS)
    return Reply(code, status, (error.text,))


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
        mail: The open transaction; None: no MAIL yet.
        recipients: Accepted ones, in the order of their commands.
        ended: True once the farewell is written.
    """

    protocol: ClassVar[str] = "lmtp"
    __slots__ = (
        "_asked", "_bad_in_a_row", "_commands", "_deadline_mono", "_messages", "_refused",
        "ended", "hello", "mail", "recipients", "scanner", "server",
    )  # fmt: skip

    def __init__(self, server: LmtpServer, listener: Listener) -> None:
        super().__init__(listener, server.node.connections)
        self.server = server
        self.scanner = lmtp.Scanner()
        self.hello = ""
        self.mail: lmtp.Mail | None = None
        self.recipients: list[Recipient] = []
        self.ended = False
        self._asked: list[Path | SoraError] = []
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

    def ask(self, path: Path | SoraError) -> None:
        """Queue a recipient for look-up, or its refusal, so that the replies keep their order."""
        self._asked.append(path)

    @property
    def recipients_asked(self) -> int:
        """Recipients accepted or not looked up yet."""
        return len(self.recipients) + len(self._asked)

    def forget_transaction(self) -> None:
        """Back to where MAIL is expected (RFC 5321 §4.1.1.5)."""
        self.mail = None
        self.recipients = []

    def reply(self, reply: Reply) -> None:
        """Gather a reply."""
        self.write(lmtp.write_reply(reply))

    def end(self, reply: Reply) -> None:
        """Say the last word."""
        self.reply(reply)
        self.ended = True

    async def receive_message(self) -> bytes:
        """Message data up to its end.

        Raises:
            TooBig: It was over the limit; all of it was read and thrown away.
            TimeoutError, PeerGone: The rest never came.
        """
        self.scanner.start_data(self.node.config.limits.message_size)
        while (data := self.scanner.message()) is None:
            await self.wait(self.node.config.limits.lmtp_idle_timeout)
        return data

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
            with self.node.limits.connect(self.peer):
                self.reply(Reply(220, "", (f"{self.node.delivery.host} LMTP Sora ready",)))
                await self._converse()
        except (LimitExceeded, NotAllowed) as error:
            self.end(reply_to(error))

    def _check_peer(self) -> None:
        if self.peer != "unix" and not ip_address(self.peer).is_loopback and not self.listener.trusts(self.peer):
            raise NotAllowed

    # ------------------------------------------------------------------ the loop

    async def _converse(self) -> None:
        self._be_patient()
        while not self.ended:
            if self.stopping:
                await self._answer_recipients()
                self.end(SHUTTING_DOWN)
                return
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
        self._bad_in_a_row = self._bad_in_a_row + 1 if bad else 0
        if self._bad_in_a_row >= MAX_BAD_COMMANDS and not self.ended:
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
        found = iter(await self._find_recipients([path for path in asked if isinstance(path, Path)]))
        for path in asked:
            if self.ended:
                return
            answer = path if isinstance(path, SoraError) else next(found)
            if isinstance(answer, SoraError):
                self._finish("RCPT", reply_to(answer), bad=isinstance(answer, WireError))
            else:
                self.recipients.append(answer)
                self._finish("RCPT", RECIPIENT_OK)

    async def _find_recipients(self, paths: list[Path]) -> list[Recipient | SoraError]:
        try:
            return await self.node.delivery.find_recipients(paths)
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
        _log.info(
            "message",
            extra={
                "transaction": f"{self.session}-{self._messages}",
                "sender": self.mail.sender.text,
                "size": size,
                "recipients": len(outcomes),
                "refused": refused,
            },
        )

    @property
    def message_id(self) -> str:
        """Names the next message of this session in the log and in its Received header."""
        return f"{self.session}-{self._messages + 1}"


# ---------------------------------------------------------------------------------------------------- verbs


async def hello(s: Session, arguments: bytes) -> Reply:
    """LHLO (RFC 2033 §4.1): name the client, and start over."""
    s.hello = lmtp.parse_hello(arguments)
    s.forget_transaction()
    return Reply(
        250,
        "",
        (
            s.node.delivery.host,
            "PIPELINING",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "SMTPUTF8",
            f"SIZE {s.node.config.limits.message_size}",
        ),
    )


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
        path = lmtp.parse_recipient(arguments, s.mail.utf8)
        if s.recipients_asked >= s.node.config.limits.recipients:
            raise TooManyRecipients
    except SoraError as error:
        s.ask(error)
    else:
        s.ask(path)


async def data(s: Session, arguments: bytes) -> Reply | None:
    """DATA (RFC 5321 §4.1.1.4, RFC 2033 §4.2): take the message, answer for each recipient."""
    if arguments:
        raise lmtp.BadArgument("DATA has no arguments")
    if s.mail is None:
        raise OutOfOrder("MAIL comes first")
    if not s.recipients:
        return NO_RECIPIENTS
    s.reply(GO_AHEAD)
    outcomes: list[SoraError | None]
    size = 0
    try:
        message = await s.receive_message()
    except TooBig as error:
        outcomes = [error] * len(s.recipients)
    else:
        size = len(message)
        outcomes = await _store(s, s.mail, message)
    for outcome in outcomes:
        reply = STORED if outcome is None else reply_to(outcome)
        s.reply(reply)
        s.count("DATA", reply)
    s.delivered(size, outcomes)
    s.forget_transaction()
    await s.flush()
    crash_point("lmtp.replied")
    return None


async def _store(s: Session, command: lmtp.Mail, message: bytes) -> list[SoraError | None]:
    """One outcome for each recipient, whatever happens: the client counts the replies."""
    envelope = MailEnvelope(
        sender=command.sender.text,
        recipients=tuple(s.recipients),
        hello=s.hello,
        peer="local" if s.peer == "unix" else s.peer,
        tls=s.tls,
        utf8=command.utf8,
        id=s.message_id,
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
    "RSET": Verb(reset),
    "NOOP": Verb(noop),
    "VRFY": Verb(verify),
    "QUIT": Verb(leave),
}
