"""One ManageSieve session: pulls commands from the scanner, runs their rows, answers in order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sora import log
from sora.errors import BadSyntax, Busy, LimitExceeded, SoraError, WireError
from sora.net.connection import Connection
from sora.protocols.managesieve.login import say_capabilities
from sora.protocols.managesieve.replies import code_of, reply_to
from sora.protocols.managesieve.state import KNOWN, STRANGER, State
from sora.protocols.managesieve.verbs import VERBS
from sora.protocols.tally import NO_COMMAND, Tally
from sora.wire import managesieve as wire
from sora.wire import sasl
from sora.wire.managesieve import Code

if TYPE_CHECKING:
    from sora.net.listener import Listener
    from sora.services.logins.limits import Slot
    from sora.services.node import Node
    from sora.types import AccountId
    from sora.wire.managesieve import Word

_log = log.get(__name__)

GOING_DOWN: Final = "Server is going down, try again later"
SILENT: Final = "You were silent for too long"
NAME_ROOM: Final = 4096
"""Octets of literals beside the script: names may be literals, too."""


class Session(Connection):
    """One connection.

    Attributes:
        address: Primary address of the account that is logged in; empty: nobody.
        ended: True once the farewell is written.
        stored: Scripts that were put.
    """

    protocol: ClassVar[str] = "managesieve"
    __slots__ = (
        "_account_slot", "_deadline_mono", "_tally",
        "address", "ended", "node", "scanner", "stored",
    )  # fmt: skip

    def __init__(self, node: Node, listener: Listener) -> None:
        super().__init__(listener, node.connections)
        self.node = node
        self.scanner = wire.Scanner(node.config.limits.literal_before_login)
        self.address = ""
        self.ended = False
        self.stored = 0
        self._account_slot: Slot | None = None
        self._tally = Tally(self.protocol)
        self._deadline_mono = 0.0

    # ------------------------------------------------------------------ what handlers use

    @property
    def state(self) -> State:
        """Before or after login."""
        return STRANGER if self.owner is None else KNOWN

    @property
    def account_id(self) -> AccountId:
        """Who is logged in; the verb table lets nobody here before login."""
        assert self.owner is not None
        return self.owner

    @property
    def private(self) -> bool:
        """May a password come over this connection?"""
        return self.tls or self.node.config.auth.allow_cleartext

    @property
    def can_start_tls(self) -> bool:
        """Is there TLS to be had that is not active yet?"""
        return not self.tls and self.listener.tls is not None and self.state is STRANGER

    def ok(self, text: str = "") -> None:
        """Gather a positive response."""
        self.write(wire.write_ok(text))

    async def log_in(self, name: str, password: str) -> None:
        """Verify a password.

        Raises:
            AuthFailed: One text, whatever the reason.
            LimitExceeded: The account has as many connections as it may have.
            Unavailable: PostgreSQL is away.
        """
        identity = await self.node.auth.login(name, password, peer=self.peer, protocol=self.protocol)
        self._account_slot = self.node.limits.login(identity.account_id)
        self.owner, self.address = identity.account_id, identity.address
        log.bind(account_id=identity.account_id, login=identity.address)

    def log_out(self) -> None:
        """Be a stranger again."""
        if self._account_slot is not None:
            self._account_slot.release()
        self._account_slot = None
        self.owner, self.address = None, ""
        log.bind(account_id=None, login=None)

    def end(self, reply: bytes = b"") -> None:
        """Say the last word."""
        self.write(reply)
        self.ended = True

    async def ask(self, challenge: bytes) -> bytes:
        """Send a SASL challenge and read the response (RFC 5804 §2.1).

        Raises:
            BadSyntax: It is no string of base64, or the client gives up.
            WireError: It is thrown away.
            Busy: The server is going down.
            TimeoutError: It does not come.
        """
        self.write(wire.write_challenge(challenge))
        while (words := self.scanner.words()) is None:
            if self.stopping:
                raise Busy(GOING_DOWN)
            try:
                await self.wait(max(0.0, self._deadline_mono - time.monotonic()))
            except TimeoutError:
                self.end(wire.write_bye(SILENT))
                raise
        return sasl.decode_response(wire.parse_response(words))

    # ------------------------------------------------------------------ what the connection calls

    def received(self, data: bytes) -> None:
        """See `Connection`."""
        self.scanner.feed(data)

    def discard_input(self) -> None:
        """See `Connection`."""
        self.scanner.clear()

    def totals(self) -> dict[str, Any]:
        """See `Connection`."""
        return {"commands": self._tally.commands, "stored": self.stored}

    async def serve(self) -> None:
        """Greeting, commands, farewell."""
        try:
            with self.node.limits.connect(self.peer):
                say_capabilities(self)
                self.ok("Sora ready")
                self._be_patient()
                while not self.ended:
                    await self._step()
        except LimitExceeded as error:
            self.end(wire.write_bye(error.text, code_of(error)))
        finally:
            if self._account_slot is not None:
                self._account_slot.release()

    # ------------------------------------------------------------------ the loop

    async def _step(self) -> None:
        """One command, or the reason why there is none."""
        await self.breathe()
        limits = self.node.config.limits
        known = self.state is KNOWN
        self.scanner.max_literal = (
            self.node.config.sieve.max_script_size + NAME_ROOM if known else limits.literal_before_login
        )
        try:
            words = self.scanner.words()
        except WireError as error:
            self._tally.note(self.scanner.verb if self.scanner.verb in VERBS else NO_COMMAND, error)
            self._refuse(error)
            return
        if words is not None:
            await self._command(words)
            self._be_patient()
        elif self.stopping:
            self.end(wire.write_bye(GOING_DOWN, Code.TRY_LATER))
        else:
            await self._wait_for_more()

    def _be_patient(self) -> None:
        """The idle time begins now. Only whole commands count: a peer that drips octets is idle too."""
        limits = self.node.config.limits
        patience = limits.login_timeout if self.state is STRANGER else limits.managesieve_idle_timeout
        self._deadline_mono = time.monotonic() + patience

    async def _wait_for_more(self) -> None:
        """Wait for bytes; whoever sends none for too long is told so (RFC 5804 §1.3)."""
        left = self._deadline_mono - time.monotonic()
        if left > 0:
            try:
                await self.wait(left)
                return
            except TimeoutError:
                pass
        self.end(wire.write_bye(SILENT))

    async def _command(self, words: list[Word]) -> None:
        """Run one command and answer it."""
        with self._tally.command() as outcome:
            command = wire.parse_command(words)
            row = VERBS.get(command.verb)
            if row is None:
                raise BadSyntax("Unknown command")
            outcome.label = command.verb
            await row.run(self, *row.read(self.state, command.arguments))
        if outcome.failure is not None:
            self._refuse(outcome.failure)

    def _refuse(self, failure: SoraError) -> None:
        """Answer a failure, and lose patience with a peer that only errs."""
        self.write(reply_to(failure))
        if self._tally.bad_in_a_row >= self.node.config.limits.bad_commands:
            self.end(wire.write_bye("Too many bad commands"))
