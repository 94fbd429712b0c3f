"""POP3 server (RFC 1939 with 2449, 2595, 3206, 5034): a verb table and one session for each connection.

What a client sees and locks is a `services.maildrop.Maildrop`; here is the conversation about it. Listings and messages
leave slice by slice at the peer's pace, and the lease is renewed meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import enum
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from msgspec import Struct

from sora import errors, log, metrics
from sora.errors import AuthFailed, BadSyntax, LimitExceeded, PeerGone, SoraError, WireError
from sora.net.connection import Connection
from sora.services.maildrop import RENEW_S, Maildrop
from sora.wire import pop3, sasl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from sora.net.listener import Listener
    from sora.services.limits import Slot
    from sora.services.node import Node

_log = log.get(__name__)

MAX_SASL_LINE: Final = 12_288
NO_COMMAND: Final = "none"
"""Metric label of what is no command."""


# ---------------------------------------------------------------------------------------------------- errors → replies


class WrongState(BadSyntax):
    """The verb is known, but not in this state (RFC 1939 §3)."""

    default_text = "Not in this state"


class PrivacyRequired(errors.NoPermission):
    """Passwords are not taken without TLS."""

    default_text = "Use TLS first"


CODES: Final[Mapping[type[SoraError], str]] = {
    errors.WireError: "",
    errors.Refused: "",
    errors.AuthFailed: "AUTH",
    errors.InUse: "IN-USE",
    errors.LimitExceeded: "SYS/TEMP",
    errors.Unavailable: "SYS/TEMP",
    errors.SoraError: "SYS/TEMP",
}
"""Response code of each error (RFC 2449 §8.1, RFC 3206 §4)."""


def reply_to(error: SoraError) -> bytes:
    """The reply for an error: the code of its class, or of its nearest ancestor."""
    return pop3.write_error(error.text, code_of(error))


def code_of(error: SoraError) -> str:
    """The response code for an error, without brackets; empty for none."""
    return next(CODES[ancestor] for ancestor in type(error).__mro__ if ancestor in CODES)


# ---------------------------------------------------------------------------------------------------- the session


class State(enum.Flag):
    """RFC 1939 §3; the UPDATE state is the inside of QUIT."""

    AUTHORIZATION = enum.auto()
    TRANSACTION = enum.auto()


AUTHORIZATION: Final = State.AUTHORIZATION
TRANSACTION: Final = State.TRANSACTION
BOTH: Final = AUTHORIZATION | TRANSACTION


def connection_factory(node: Node, listener: Listener) -> Callable[[], Session]:
    """What a listener's `create_server` calls for each connection."""
    return lambda: Session(node, listener)


class Session(Connection):
    """One connection.

    Attributes:
        name: What USER gave; empty: nothing.
        ended: True once the farewell is written.
        retrieved: Messages sent whole.
    """

    protocol: ClassVar[str] = "pop3"
    __slots__ = (
        "_account_slot", "_bad_in_a_row", "_commands", "_deadline_mono", "_drop",
        "ended", "name", "node", "retrieved", "scanner",
    )  # fmt: skip

    def __init__(self, node: Node, listener: Listener) -> None:
        super().__init__(listener, node.connections)
        self.node = node
        self.scanner = pop3.Scanner()
        self.name = ""
        self.ended = False
        self._drop: Maildrop | None = None
        self._account_slot: Slot | None = None
        self._bad_in_a_row = 0
        self._commands = 0
        self.retrieved = 0
        self._deadline_mono = 0.0

    # ------------------------------------------------------------------ what handlers use

    @property
    def state(self) -> State:
        """Before or after login."""
        return AUTHORIZATION if self._drop is None else TRANSACTION

    @property
    def drop(self) -> Maildrop:
        """The maildrop; the verb table lets nobody here before login."""
        assert self._drop is not None
        return self._drop

    @property
    def private(self) -> bool:
        """May a password come over this connection?"""
        return self.tls or self.node.config.auth.allow_cleartext

    @property
    def can_start_tls(self) -> bool:
        """Is STLS of use now?"""
        return self.state is AUTHORIZATION and not self.tls and self.listener.tls is not None

    def ok(self, text: str = "") -> None:
        """Gather a positive reply."""
        self.write(pop3.write_ok(text))

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Send a long response at the peer's pace."""
        for piece in pieces:
            self.write(piece)
            await self.flush()
            if self._drop is not None:
                await self._drop.keep()

    async def log_in(self, name: str, password: str) -> None:
        """Verify a password, and lock and open the maildrop (RFC 1939 §4).

        Raises:
            AuthFailed: One text, whatever the reason.
            InUse: Another session has the maildrop.
            LimitExceeded: The account has as many connections as it may have.
            Unavailable: PostgreSQL is away.
        """
        identity = await self.node.auth.login(name, password, peer=self.peer, protocol=self.protocol)
        slot = self.node.limits.login(identity.account_id)
        try:
            self._drop = await Maildrop.open(self.node, identity.account_id)
        except BaseException:
            slot.release()
            raise
        self._account_slot = slot
        log.bind(account_id=identity.account_id, login=identity.address)

    def end(self, reply: bytes = b"") -> None:
        """Say the last word."""
        self.write(reply)
        self.ended = True

    async def read_response(self) -> bytes:
        """The client's line after a challenge.

        Raises:
            LineTooLong: It is thrown away.
            TimeoutError: It does not come.
        """
        limit, self.scanner.max_line = self.scanner.max_line, MAX_SASL_LINE
        try:
            while (line := self.scanner.line()) is None:
                await self.wait(max(0.0, self._deadline_mono - time.monotonic()))
            return line
        finally:
            self.scanner.max_line = limit

    # ------------------------------------------------------------------ what the connection calls

    def received(self, data: bytes) -> None:
        """See `Connection`."""
        self.scanner.feed(data)

    def discard_input(self) -> None:
        """See `Connection`."""
        self.scanner.clear()

    def totals(self) -> dict[str, Any]:
        """See `Connection`."""
        marked = len(self._drop.marked) if self._drop is not None else 0
        return {"commands": self._commands, "retrieved": self.retrieved, "marked": marked}

    async def serve(self) -> None:
        """Greeting, commands, farewell."""
        try:
            with self.node.limits.connect(self.peer):
                self.ok("Sora ready")
                self._be_patient()
                while not self.ended:
                    await self._step()
        except LimitExceeded as error:
            self.end(reply_to(error))
        finally:
            if self._account_slot is not None:
                self._account_slot.release()
            if self._drop is not None:
                await self._drop.close()

    # ------------------------------------------------------------------ the loop

    async def _step(self) -> None:
        """One command, or the reason why there is none."""
        try:
            line = self.scanner.line()
        except WireError as error:
            self._finish(NO_COMMAND, error)
            return
        if line is not None:
            await self._command(line)
            self._be_patient()
        elif self.stopping:
            self.end(pop3.write_error("Server is going down, try again later", "SYS/TEMP"))
        else:
            await self._wait_for_more()

    def _be_patient(self) -> None:
        """The idle time begins now (RFC 1939 §3). Only whole commands count: a peer that drips octets is idle too."""
        limits = self.node.config.limits
        patience = limits.login_timeout if self.state is AUTHORIZATION else limits.pop3_idle_timeout
        self._deadline_mono = time.monotonic() + patience

    async def _wait_for_more(self) -> None:
        """Wait for bytes, and renew the lease meanwhile. An idle session ends without a word and without its UPDATE."""
        left = self._deadline_mono - time.monotonic()
        if left <= 0:
            self.end()
            return
        try:
            await self.wait(min(left, RENEW_S) if self._drop is not None else left)
        except TimeoutError:
            if self._drop is not None:
                await self._drop.keep()

    async def _command(self, line: bytes) -> None:
        """Run one command and answer it."""
        started_mono = time.monotonic()
        label: str = NO_COMMAND
        failure: SoraError | None = None
        try:
            command = pop3.parse_command(line)
            row = VERBS.get(command.verb)
            if row is None:
                raise BadSyntax("Unknown command")
            label = command.verb
            row.check(self.state, command.argument)
            await row.run(self, command.argument)
        except (PeerGone, TimeoutError):
            raise
        except SoraError as error:
            failure = error
        except Exception:
            _log.exception("command failed", extra={"command": label})
            failure = errors.Unavailable("Internal error, try again later")
        metrics.command_seconds.labels(self.protocol, label).observe(time.monotonic() - started_mono)
        self._finish(label, failure)

    def _finish(self, label: str, failure: SoraError | None) -> None:
        """Answer a failure, count the command, and lose patience with a peer that only errs."""
        self._commands += 1
        result = "ok" if failure is None else "failed" if isinstance(failure, errors.Unavailable) else "refused"
        metrics.commands.labels(self.protocol, label, result).inc()
        if failure is None:
            self._bad_in_a_row = 0
            return
        self.write(reply_to(failure))
        if isinstance(failure, errors.Unavailable):
            _log.warning("command not done", extra={"command": label, "detail": str(failure)})
        if isinstance(failure, WireError | AuthFailed):
            self._bad_in_a_row += 1
            if self._bad_in_a_row >= self.node.config.limits.bad_commands:
                self.end(pop3.write_error("Too many bad commands"))


# ---------------------------------------------------------------------------------------------------- verbs


async def capa(s: Session, _argument: bytes) -> None:
    """RFC 2449 §5: what works now."""
    s.ok("Capabilities")
    await s.send(pop3.write_listing(_capabilities(s)))


def _capabilities(s: Session) -> Iterator[bytes]:
    yield from (b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING")
    if s.state is TRANSACTION:
        yield b"IMPLEMENTATION Sora"
        return
    if s.can_start_tls:
        yield b"STLS"
    if s.private:
        yield b"USER"
        yield b"SASL PLAIN"


async def stls(s: Session, _argument: bytes) -> None:
    """RFC 2595 §4: what came in plaintext behind the command is thrown away, and so is a name."""
    if not s.can_start_tls:
        raise WrongState("TLS is active" if s.tls else "No TLS here")
    s.ok("Begin TLS")
    s.name = ""
    await s.start_tls()


async def user(s: Session, argument: bytes) -> None:
    """RFC 1939 §7: any name is fine, so that nobody learns which exist."""
    _require_privacy(s)
    s.name = pop3.parse_text(argument.strip())
    s.ok()


async def password(s: Session, argument: bytes) -> None:
    """PASS (RFC 1939 §7); after a failure the client begins with USER again."""
    _require_privacy(s)
    name, s.name = s.name, ""
    if not name:
        raise WrongState("USER comes first")
    await s.log_in(name, pop3.parse_text(argument))
    _say_totals(s)


async def auth(s: Session, argument: bytes) -> None:
    """AUTH (RFC 5034 §4), PLAIN only."""
    _require_privacy(s)
    mechanism, _, initial = argument.strip().partition(b" ")
    if mechanism.upper() != b"PLAIN":
        raise BadSyntax("Unknown authentication mechanism")
    if not initial:
        s.write(b"+ \r\n")
        initial = await s.read_response()
    if initial == b"*":
        raise BadSyntax("Authentication cancelled")
    try:
        plain = sasl.parse_plain(base64.b64decode(initial, validate=True))
    except binascii.Error:
        raise BadSyntax("The response is not base64") from None
    if plain.authzid and plain.authzid != plain.authcid:
        raise AuthFailed(detail="authorization identity of somebody else")
    await s.log_in(plain.authcid, plain.password)
    _say_totals(s)


def _require_privacy(s: Session) -> None:
    if not s.private:
        raise PrivacyRequired


def _say_totals(s: Session) -> None:
    count, size = s.drop.totals()
    s.ok(f"{count} messages ({size} octets)")


async def stat(s: Session, _argument: bytes) -> None:
    """RFC 1939 §5: marked messages count in neither number."""
    count, size = s.drop.totals()
    s.ok(f"{count} {size}")


async def list_sizes(s: Session, argument: bytes) -> None:
    """LIST (RFC 1939 §5)."""
    await _list(s, argument, lambda number: b"%d %d" % (number, s.drop.size(number)))


async def list_unique_ids(s: Session, argument: bytes) -> None:
    """UIDL (RFC 1939 §7)."""
    await _list(
        s, argument, lambda number: b"%d %b" % (number, pop3.write_unique_id(s.drop.uidvalidity, s.drop.uid(number)))
    )


async def _list(s: Session, argument: bytes, line: Callable[[int], bytes]) -> None:
    """One message's line, or those of all."""
    if argument:
        s.ok(line(s.drop.check(pop3.parse_number(argument))).decode())
        return
    _say_totals(s)
    await s.send(pop3.write_listing(map(line, s.drop.numbers())))


async def retrieve(s: Session, argument: bytes) -> None:
    """RETR (RFC 1939 §5)."""
    number = s.drop.check(pop3.parse_number(argument))
    data = await s.drop.body(number)
    s.ok(f"{len(data)} octets")
    await s.send(pop3.write_message(data))
    s.retrieved += 1


async def top(s: Session, argument: bytes) -> None:
    """RFC 1939 §7: the header and so many lines of the body."""
    number, lines = pop3.parse_top(argument)
    data = await s.drop.body(s.drop.check(number))
    s.ok()
    await s.send(pop3.write_message(data, pop3.top_end(data, lines)))


async def delete(s: Session, argument: bytes) -> None:
    """DELE (RFC 1939 §5): marks only."""
    number = s.drop.check(pop3.parse_number(argument))
    s.drop.marked.add(number)
    s.ok(f"Message {number} marked")


async def reset(s: Session, _argument: bytes) -> None:
    """RSET (RFC 1939 §5): nothing is marked any more."""
    s.drop.marked.clear()
    _say_totals(s)


async def noop(s: Session, _argument: bytes) -> None:
    """RFC 1939 §5."""
    s.ok()


async def leave(s: Session, _argument: bytes) -> None:
    """QUIT (RFC 1939 §4 and §6): the session ends, whatever becomes of the marked messages."""
    if s.state is TRANSACTION:
        try:
            await s.drop.remove_marked()
        except SoraError as error:
            _log.warning("marked messages not removed", extra={"detail": str(error)})
            s.end(pop3.write_error("Marked messages were not removed", code_of(error)))
            return
    s.end(pop3.write_ok("Bye"))


class Verb(Struct, frozen=True):
    """One row.

    Attributes:
        states: Where it is allowed.
        arguments: How many words may follow, at least and at most.
    """

    run: Callable[[Session, bytes], Awaitable[None]]
    states: State
    arguments: tuple[int, int] = (0, 0)

    def check(self, state: State, argument: bytes) -> None:
        """Refuse what the row does not allow.

        Raises:
            WrongState: Not in this state.
            BadSyntax: Too few or too many arguments.
        """
        if state not in self.states:
            raise WrongState
        least, most = self.arguments
        if not least <= len(argument.split()) <= most:
            raise BadSyntax("Wrong number of arguments")


ANY: Final = 1 << 16
"""Names and passwords may have spaces in them."""

VERBS: Final[Mapping[str, Verb]] = {
    "CAPA": Verb(capa, BOTH),
    "STLS": Verb(stls, AUTHORIZATION),
    "USER": Verb(user, AUTHORIZATION, (1, ANY)),
    "PASS": Verb(password, AUTHORIZATION, (0, ANY)),
    "AUTH": Verb(auth, AUTHORIZATION, (1, 2)),
    "STAT": Verb(stat, TRANSACTION),
    "LIST": Verb(list_sizes, TRANSACTION, (0, 1)),
    "UIDL": Verb(list_unique_ids, TRANSACTION, (0, 1)),
    "RETR": Verb(retrieve, TRANSACTION, (1, 1)),
    "TOP": Verb(top, TRANSACTION, (2, 2)),
    "DELE": Verb(delete, TRANSACTION, (1, 1)),
    "RSET": Verb(reset, TRANSACTION),
    "NOOP": Verb(noop, TRANSACTION),
    "QUIT": Verb(leave, BOTH),
}
