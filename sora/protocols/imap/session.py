"""One IMAP session: pulls commands from the scanner, runs their rows, answers in order.

The loop knows no command. It decides about literals before a byte of them is read, checks the row's states, turns
every error into a tagged response, and brings the client's picture of its mailbox up to date after each command.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sora import log, metrics
from sora._native.imapscan import Command as Line
from sora._native.imapscan import NeedLiteral, Scanner
from sora._native.seqset import UidSet
from sora.errors import (
    BadSyntax,
    LimitExceeded,
    LiteralTooBig,
    NotFound,
    OutcomeUnknown,
    PeerGone,
    SoraError,
    Unavailable,
    WireError,
)
from sora.net.connection import Connection
from sora.protocols.imap import append, modes, notify
from sora.protocols.imap.capability import capabilities
from sora.protocols.imap.commands import COMMANDS
from sora.protocols.imap.enable import UIDONLY
from sora.protocols.imap.finding.results import Results
from sora.protocols.imap.finding.texts import TextCache
from sora.protocols.imap.messagelimit import save_limit
from sora.protocols.imap.places import NOT_SHARED, look_again
from sora.protocols.imap.replies import (
    ANSWERED,
    BAD,
    GOING_DOWN,
    IDLE_TOO_LONG,
    OK,
    OUTCOME_UNKNOWN,
    SERVER_BUG,
    Reply,
    UidRequired,
    printable,
    reply_to,
)
from sora.protocols.imap.state import AUTHENTICATED, LOGOUT, NOT_AUTHENTICATED, SELECTED
from sora.protocols.imap.tree import Sources, Trees
from sora.protocols.imap.views.columns import ColumnCache
from sora.protocols.imap.views.keywords import KeywordRegistry
from sora.protocols.imap.views.modseqs import modseqs_for
from sora.protocols.imap.views.rows import RecentRows
from sora.protocols.imap.views.view import Views
from sora.types import Rights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Counter, Histogram

    from sora._native.seqset import SeqSet
    from sora.net.listener import Listener
    from sora.protocols.imap.commands import Command
    from sora.protocols.imap.progress import Clock, Progress
    from sora.protocols.imap.state import State
    from sora.protocols.imap.views.selection import Selection
    from sora.services.logins.auth import Identity
    from sora.services.logins.limits import Slot
    from sora.services.node import Node
    from sora.tables import LimitsTable
    from sora.types import AccountId, MailboxId, ModSeq

_log = log.get(__name__)

NO_COMMAND: Final = "none"
"""Metric label of what is no command."""


@cache
def _count(label: str, status: bytes) -> Counter:
    """`labels` of a metric costs as much as a small command, so each combination is looked up once."""
    return metrics.commands.labels(Session.protocol, label, status.decode())


@cache
def _seconds(label: str) -> Histogram:
    return metrics.command_seconds.labels(Session.protocol, label)


class ImapServer:
    """What all IMAP sessions of a worker share.

    Attributes:
        rows: Of messages that were fetched lately.
        columns: Dates and sizes of messages that were searched or sorted lately.
        texts: Texts of messages that were sorted or threaded lately.
        trees: Mailboxes of accounts with NOTIFY sessions.
        views: Selected mailboxes.
        clock: Calls back when a command takes long; None: the event loop.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.clock: Clock | None = None
        self.keywords = KeywordRegistry(node.store.mailboxes)
        self.rows = RecentRows(node.store.messages)
        self.columns = ColumnCache(node.store.search)
        self.texts = TextCache(node.store.search)
        self.trees = Trees(Sources(node.store.mailboxes, node.store.acl, node.store.trees, node.changes))
        self.views = Views(node.store.messages, node.store.mailboxes, node.changes, self.keywords)


class Session(Connection):
    """One connection.

    Attributes:
        state: See RFC 9051 §3.
        identity: Who logged in.
        selection: The selected mailbox as the client knows it.
        results: What is remembered of the searches in it.
        progress: How far the command in hand is, while it computes; else None.
        notifying: What the client wants to hear between commands; None: it never said NOTIFY.
        enabled: Extensions that the client has shown to understand (see `enable`).
        tag: Of the command in hand.
        appending: The APPEND whose literals are being read.
    """

    protocol: ClassVar[str] = "imap"
    __slots__ = (
        "_account_slot", "_bad_in_a_row", "_commands", "_failed", "_heard_mono", "_stalled_s",
        "appending", "enabled", "identity", "notifying", "progress", "results",
        "scanner", "selection", "server", "state", "tag",
    )  # fmt: skip

    def __init__(self, server: ImapServer, listener: Listener) -> None:
        super().__init__(listener, server.node.connections)
        self.server = server
        self.scanner = Scanner(self.limits.command_line)
        self.state: State = NOT_AUTHENTICATED
        self.identity: Identity | None = None
        self.selection: Selection | None = None
        self.results = Results()
        self.progress: Progress | None = None
        self.notifying: notify.Interest | None = None
        self.enabled: set[str] = set()
        self.tag = b"*"
        self.appending: append.Appending | None = None
        self._account_slot: Slot | None = None
        self._bad_in_a_row = 0
        self._commands = 0
        self._failed = 0
        self._heard_mono = time.monotonic()
        self._stalled_s = 0.0

    # ------------------------------------------------------------------ what handlers use

    @property
    def node(self) -> Node:
        """The services of the worker."""
        return self.server.node

    @property
    def limits(self) -> LimitsTable:
        """The limits as they are now: a reload may change them."""
        return self.server.node.config.limits

    @property
    def account_id(self) -> AccountId:
        """The account that is logged in; the command table lets nobody else come here."""
        assert self.identity is not None
        return self.identity.account_id

    @property
    def utf8(self) -> bool:
        """Names of mailboxes and quoted strings are UTF-8, both ways."""
        return self.scanner.utf8

    @property
    def view(self) -> Selection:
        """The selected mailbox; only for commands of the selected state."""
        assert self.selection is not None
        return self.selection

    def capabilities(self) -> bytes:
        """What is advertised in the present state."""
        return capabilities(
            self.state,
            tls=self.tls,
            can_start_tls=self.listener.tls is not None,
            allow_cleartext=self.node.config.auth.allow_cleartext,
            append_limit=self.limits.message_size,
            message_limit=self.limits.imap_messages,
            save_limit=save_limit(self),
            sieve_url=self.node.imapsieve.url,
            compressed=self.compressed,
        )

    def offers(self, capability: str) -> bool:
        """The capability is advertised now."""
        return capability.encode() in self.capabilities().split()

    def log_in(self, identity: Identity) -> None:
        """Enter the authenticated state.

        Raises:
            LimitExceeded: The account has as many connections as it may have.
        """
        self._account_slot = self.node.limits.login(identity.account_id)
        self.identity = identity
        self.owner = identity.account_id
        self.state = AUTHENTICATED
        log.bind(account_id=identity.account_id, login=identity.address)

    def log_out(self) -> None:
        """Enter the not authenticated state again (RFC 8437); nothing is left of who was here."""
        self.unselect()
        if self.notifying is not None:
            self.notifying.close()
            self.notifying = None
        if self._account_slot is not None:
            self._account_slot.release()
            self._account_slot = None
        self.identity = None
        self.owner = None
        self.enabled = set()
        modes.adapt(self)
        self.state = NOT_AUTHENTICATED
        log.bind(account_id=None, login=None)

    def select(self, selection: Selection) -> None:
        """Enter the selected state."""
        selection.enabled = self.enabled
        self.guest_of = None if selection.view.viewer_id is None else selection.view.account_id
        self.selection = selection
        self.state = SELECTED
        modes.adapt(self)
        if self.notifying is not None:
            self.notifying.apply_to_selection()

    def unselect(self) -> None:
        """Leave the selected state, if it is that."""
        if self.selection is not None:
            self.server.views.close(self.selection)
            self.selection = None
            self.guest_of = None
            self.results = Results()
            self.state = AUTHENTICATED

    def uids(self, messages: SeqSet | UidSet) -> UidSet:
        """UIDs of the messages that a command names, in the client's picture; unknown UIDs are skipped.

        Raises:
            BadSyntax: A sequence number that no message has (RFC 9051 §6.4: the client errs).
        """
        told = self.view.told
        if messages.is_saved:
            return told.present(self.results.saved)
        if isinstance(messages, UidSet):
            return told.present(messages)
        if UIDONLY in self.enabled:
            raise UidRequired
        if not messages.has_star and messages.last > len(told):
            raise BadSyntax("No message has that sequence number")
        return told.uids(messages)

    async def bring_up_to_date(self, *, hold: bool = False, with_uid: bool = False) -> None:
        """Tell the client what happened to its mailbox.

        A database that is away changes nothing about the command in hand: the news come with the next one.
        """
        selection = self.view
        if selection.view.stale:
            try:
                await selection.view.refresh()
            except NotFound:
                pass  # the view knows that it is gone
            except Unavailable as error:
                _log.info("mailbox not refreshed", extra={"detail": str(error)})
        if selection.view.gone:
            self.bye(b"[UNAVAILABLE] The selected mailbox was deleted")
            return
        if not selection.view.rights & Rights.READ:
            self.bye(NOT_SHARED)
            return
        try:
            known = await modseqs_for(selection)
        except NotFound:
            return  # the next command finds out that it is gone
        except Unavailable as error:
            _log.info("modseqs not read", extra={"detail": str(error)})
            return
        selection.freeze(self.write, frozen=self.node.store.db.read_only)
        contexts = self.results.contexts
        if contexts:
            contexts.before(self, hold=hold)
        first_new = selection.told.uid_next
        if selection.sync(self.write, hold=hold, with_uid=with_uid, modseqs=known):
            self.server.views.claim_later(selection.view)
        if self.notifying is not None and selection.told.uid_next > first_new:
            await self.notifying.tell_arrived(first_new)
        if contexts:  # RFC 5465 §5.1, §7: the FETCH comes before the ESEARCH
            await contexts.after(self)

    async def tell_news(self, *, hold: bool = False, with_uid: bool = False) -> None:
        """Tell the client what it wants to hear: of its mailbox, and of others if it has asked for that (NOTIFY)."""
        if self.selection is not None:
            await self.bring_up_to_date(hold=hold, with_uid=with_uid)
        if self.notifying is not None and self.state is not LOGOUT:
            await self.notifying.tell()

    def publish(self, owner_id: AccountId, mailbox_id: MailboxId, modseq: ModSeq, uids: Iterable[int] = ()) -> None:
        """Tell everybody of a change that this session has made; its own client knows (NOTIFY).

        Args:
            uids: Of messages that are new by it.
        """
        if self.notifying is not None:
            self.notifying.wrote(mailbox_id, modseq, uids)
        self.node.changes.publish(owner_id, mailbox_id, modseq)

    def did(self, owner_id: AccountId, kind: str, name: str) -> None:
        """This session has changed a name, as `account_changes` says it; its own client knows (NOTIFY)."""
        if self.notifying is not None:
            self.notifying.did(owner_id, kind, name)

    @property
    def octets_in(self) -> int:
        """What the client has sent so far."""
        return self._bytes_in

    async def read_line(self, max_line: int) -> bytes:
        """A line that is no command: the response to a challenge.

        Raises:
            LineTooLong: It is thrown away.
            PeerGone: It does not come, or the server is going down; the client has been told.
        """
        while (line := self.scanner.take_line(max_line)) is None:
            await self.more()
        return line

    async def more(self) -> None:
        """Wait for octets in the middle of something.

        Raises:
            PeerGone: They do not come, or the server is going down; the client has been told.
        """
        if self.stopping:
            self.bye(GOING_DOWN)
            raise PeerGone(detail="stopped")
        try:
            await self.wait(self._patience())
        except TimeoutError:
            self.bye(IDLE_TOO_LONG)
            raise PeerGone(detail="timeout") from None

    def tell(self, response: bytes) -> None:
        """Send a response at once, between two others."""
        self.write(response)
        self._send()

    def bye(self, text: bytes) -> None:
        """End the session after the command in hand."""
        self.write(b"* BYE %s\r\n" % text)
        self.unselect()
        self.state = LOGOUT

    # ------------------------------------------------------------------ what the connection calls

    def received(self, data: bytes) -> None:
        """See `Connection`."""
        self.scanner.feed(data)

    def discard_input(self) -> None:
        """See `Connection`."""
        self.scanner.clear()

    def totals(self) -> dict[str, Any]:
        """See `Connection`."""
        return {"commands": self._commands, "failed": self._failed}

    async def breathe(self) -> None:
        """See `Connection`; the time in which the peer does not read, or others work, is not the command's."""
        started_mono = time.monotonic()
        await super().breathe()
        self._stalled_s += time.monotonic() - started_mono

    async def wait(self, timeout: float | None) -> None:
        """See `Connection`; nor is the time in which it says nothing (IDLE, AUTHENTICATE)."""
        started_mono, before_s = time.monotonic(), self._stalled_s
        try:
            await super().wait(timeout)
        finally:
            self._stalled_s = before_s + time.monotonic() - started_mono  # whatever flush has added inside

    async def serve(self) -> None:
        """Greeting, commands, farewell."""
        try:
            with self.node.limits.connect(self.peer):
                self.write(b"* OK [CAPABILITY %s] Sora ready\r\n" % self.capabilities())
                while self.state is not LOGOUT:
                    await self._step()
        except LimitExceeded as error:
            self.write(b"* BYE [LIMIT] %s\r\n" % printable(error.text))
        finally:
            self.unselect()
            if self.notifying is not None:
                self.notifying.close()
            self._forget_append()
            if self._account_slot is not None:
                self._account_slot.release()

    # ------------------------------------------------------------------ the loop

    async def _step(self) -> None:
        """One command, or the reason why there is none."""
        await self.breathe()
        try:
            line = await self._next_line()
        except TimeoutError:
            self.bye(IDLE_TOO_LONG)
        except WireError as error:
            self._finish(NO_COMMAND, self.scanner.tag or b"*", reply_to(error))
        else:
            if line is not None:
                await self._run_line(line)

    async def _next_line(self) -> Line | None:
        """The next whole command; None if the session ends or a literal was refused (and answered)."""
        while True:
            step = self.scanner.next()
            if isinstance(step, Line):
                if self.appending is not None and self.appending.reader is not None:
                    self.appending.reader.rewind()
                return step
            if isinstance(step, NeedLiteral):
                if not await self._decide_literal(step):
                    return None
            elif self.stopping:
                self.bye(GOING_DOWN)
                return None
            elif self.state is LOGOUT:  # the selected mailbox is gone, and the client has been told
                return None
            else:
                await (self.wait(self._patience()) if self.notifying is None else notify.listen(self))
                self.scanner.max_line = self.limits.command_line  # a reload may have changed it

    def _patience(self) -> float:
        """Before login only whole commands count: a peer that drips octets is idle too."""
        if self.state is NOT_AUTHENTICATED:
            return max(0.0, self._heard_mono + self.limits.login_timeout - time.monotonic())
        return self.limits.imap_idle_timeout

    async def _decide_literal(self, literal: NeedLiteral) -> bool:
        """Take the announced literal or refuse its command, before a byte of it is read."""
        await self.breathe()
        line = self.scanner.partial()
        assert line is not None, "a literal is announced inside a command"
        appending: append.Appending | None = None
        try:
            row = self._row(line)
            if row.takes_messages:
                appending = await append.decide(self, line, literal)
            if appending is None:
                self._check_size(literal)
        except PeerGone:
            raise
        except SoraError as error:
            reply = reply_to(error)
        except Exception:
            _log.exception("command failed", extra={"command": line.name.decode("ascii", "replace")})
            reply = SERVER_BUG
        else:
            await self._take_literal(literal, appending)
            return True
        self.scanner.discard()
        self._finish(self._label(line), line.tag, reply)
        return False

    async def _take_literal(self, literal: NeedLiteral, appending: append.Appending | None) -> None:
        """Ask for a literal if the client waits for that; a message is received at once, all else by the scanner."""
        if literal.synchronizing:
            self.write(b"+ OK\r\n")
        if appending is None:
            self.scanner.accept()
        else:
            self.scanner.stream()
            await appending.receive(self, binary=literal.binary)

    def _forget_append(self) -> None:
        """Let go of the messages of an APPEND that comes to nothing."""
        if self.appending is not None:
            self.appending.close()
            self.appending = None

    def _check_size(self, literal: NeedLiteral) -> None:
        limits = self.limits
        limit = limits.literal_before_login if self.state is NOT_AUTHENTICATED else limits.literal
        if self.scanner.held + literal.size > limit:
            raise LiteralTooBig(f"Literals of this command may have {limit} octets")

    def _row(self, line: Line) -> Command:
        row = COMMANDS.get(line.name)
        if row is None:
            raise BadSyntax("Unknown command")
        if not row.states & self.state:
            raise BadSyntax(f"{row.name} is not allowed now")
        return row

    async def _run_line(self, line: Line) -> None:
        """Run a command and answer it."""
        started_mono = time.monotonic()
        self._stalled_s = 0.0
        self.tag = line.tag
        label = self._label(line)
        try:
            reply = await self._execute(line)
        except PeerGone:
            raise
        except OutcomeUnknown as error:
            # The end of the connection is the only answer that makes a client look before it tries again.
            _log.warning("command with unknown outcome", extra={"command": label, "detail": str(error)})
            self.bye(OUTCOME_UNKNOWN)
            return
        except SoraError as error:
            reply = reply_to(error)
            if error.detail:
                _log.info("command refused", extra={"command": label, "detail": str(error)})
        except Exception:
            _log.exception("command failed", extra={"command": label})
            reply = SERVER_BUG
        if reply.status is not BAD:
            row = COMMANDS[line.name]
            await self.tell_news(hold=row.holds_expunges(line.uid), with_uid=line.uid)
        self._finish(label, line.tag, reply)
        elapsed = time.monotonic() - started_mono - self._stalled_s
        _seconds(label).observe(max(0.0, elapsed))

    async def _execute(self, line: Line) -> Reply:
        row = self._row(line)
        if UIDONLY in self.enabled and row.speaks_of_seqs(line.uid):
            raise UidRequired
        arguments = row.parse(line.cursor)
        if row.states is SELECTED:
            await look_again(self)
        reply = await row.run(self, arguments)
        if reply is None or (not reply.text and reply is not ANSWERED):
            done = b"%s completed" % line.name
            return Reply(OK, done) if reply is None else Reply(reply.status, done, reply.code)
        return reply

    def _label(self, line: Line) -> str:
        """The metric label; never the peer's own words."""
        return line.name.decode() if line.name in COMMANDS else NO_COMMAND

    def _finish(self, label: str, tag: bytes, reply: Reply) -> None:
        """Write the tagged response, count it, and lose patience with a client that only errs."""
        self._forget_append()
        code = b"[%s] " % reply.code if reply.code else b""
        if reply is not ANSWERED:
            self.write(b"%s %s %s%s\r\n" % (tag, reply.status, code, reply.text))
        self._heard_mono = time.monotonic()
        self._commands += 1
        self._failed += reply.status is not OK
        _count(label, reply.status).inc()
        self._bad_in_a_row = self._bad_in_a_row + 1 if reply.status is BAD else 0
        if self._bad_in_a_row >= self.limits.bad_commands and self.state is not LOGOUT:
            self.bye(b"[CLIENTBUG] Too many bad commands")
