"""One POP3 session: pulls command lines from the scanner, runs their rows, answers in order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sora import log
from sora.errors import BadSyntax, Busy, LimitExceeded, PeerGone, SoraError, WireError
from sora.net.connection import Connection
from sora.protocols.pop3.replies import reply_to
from sora.protocols.pop3.state import AUTHORIZATION, TRANSACTION, State
from sora.protocols.pop3.verbs import VERBS
from sora.protocols.tally import NO_COMMAND, Tally
from sora.services.maildrop import RENEW_S, Maildrop
from sora.wire import pop3, sasl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora.net.listener import Listener
    from sora.services.logins.limits import Slot
    from sora.services.node import Node

_log = log.get(__name__)

GOING_DOWN: Final = "Server is going down, try again later"


class Session(Connection):
    """One connection.

    Attributes:
        name: What USER gave; empty: nothing.
        ended: True once the farewell is written.
        retrieved: Messages sent whole.
        utf8: The client reads headers in UTF-8 (RFC 6856).
    """

    protocol: ClassVar[str] = "pop3"
    __slots__ = (
        "_account_slot", "_deadline_mono", "_drop", "_tally",
        "ended", "name", "node", "retrieved", "scanner", "utf8",
    )  # fmt: skip

    def __init__(self, node: Node, listener: Listener) -> None:
        super().__init__(listener, node.connections)
        self.node = node
        self.scanner = pop3.Scanner()
        self.name = ""
        self.ended = False
        self.utf8 = False
        self._drop: Maildrop | None = None
        self._account_slot: Slot | None = None
        self._tally = Tally(self.protocol)
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
        """Is there TLS to be had that is not active yet?"""
        return not self.tls and self.listener.tls is not None

    def ok(self, text: str = "") -> None:
        """Gather a positive reply."""
        self.write(pop3.write_ok(text))

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Gather a long response; what is too much for one write leaves at the peer's pace.

        Raises:
            PeerGone: Nobody reads it.
        """
        for piece in pieces:
            self.write(piece)
            await self.breathe()
            if not self.alive:
                raise PeerGone
            if self._drop is not None:
                await self._drop.keep()

    async def log_in(self, name: str, password: str) -> None:
        """Verify a password, and lock and open the maildrop (RFC 1939 §4).

        Raises:
            AuthFailed: One text, whatever the reason.
            InUse: Another session has the maildrop.
            TooSoon: The last login of the account was less than `limits.pop3_login_delay` ago.
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
        self.node.warmup.login(identity.account_id)
        self.owner = identity.account_id
        log.bind(account_id=identity.account_id, login=identity.address)

    def end(self, reply: bytes = b"") -> None:
        """Say the last word."""
        self.write(reply)
        self.ended = True

    async def ask(self, challenge: bytes) -> bytes:
        """Send a SASL challenge and read the response (RFC 5034 §4).

        Raises:
            BadSyntax: It is no base64, or the client gives up.
            LineTooLong: It is thrown away.
            Busy: The server is going down.
            TimeoutError: It does not come.
        """
        self.write(b"+ %b\r\n" % sasl.encode_challenge(challenge))
        limit, self.scanner.max_line = self.scanner.max_line, sasl.MAX_LINE
        try:
            while (line := self.scanner.line()) is None:
                if self.stopping:
                    raise Busy(GOING_DOWN)
                await self.wait(max(0.0, self._deadline_mono - time.monotonic()))
        finally:
            self.scanner.max_line = limit
        return sasl.decode_response(line)

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
        return {"commands": self._tally.commands, "retrieved": self.retrieved, "marked": marked}

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
        await self.breathe()
        try:
            line = self.scanner.line()
        except WireError as error:
            self._tally.note(NO_COMMAND, error)
            self._refuse(error)
            return
        if line is not None:
            await self._command(line)
            self._be_patient()
        elif self.stopping:
            self.end(pop3.write_error(GOING_DOWN, "SYS/TEMP"))
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
        with self._tally.command() as outcome:
            command = pop3.parse_command(line)
            row = VERBS.get(command.verb)
            if row is None:
                raise BadSyntax("Unknown command")
            outcome.label = command.verb
            row.check(self.state, command.argument)
            await row.run(self, command.argument)
        if outcome.failure is not None:
            self._refuse(outcome.failure)

    def _refuse(self, failure: SoraError) -> None:
        """Answer a failure, and lose patience with a peer that only errs."""
        self.write(reply_to(failure))
        if self._tally.bad_in_a_row >= self.node.config.limits.bad_commands:
            self.end(pop3.write_error("Too many bad commands"))
