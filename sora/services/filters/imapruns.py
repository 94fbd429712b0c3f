"""One message after another through the script of an event (RFC 6785), and what is done for each.

The message is in its mailbox already. `keep`, implicit or not, leaves it there as it is: what a script edits is seen
only by what it files and sends (§3.1). Without a `keep` the message gets \\Deleted (§2.2.4). `fileinto` always makes a
new message, in the same mailbox too (§3.3).
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sora import log, metrics
from sora._native.seqset import UidSet
from sora.crashpoints import crash_point
from sora.errors import NotFound, Refused
from sora.services.delivery import Filed
from sora.services.filters.carrying import FULL, REDIRECTED_FROM, QueueRoom, find_mailbox, flag_numbers, params_of
from sora.services.filters.runs import limits_of, run
from sora.sieve.actions import FileInto, Keep, Redirect, Send
from sora.sieve.interpreter import Environment, Step
from sora.sieve.mail import Mail
from sora.store.blobs import BlobRef
from sora.store.deliveries import HELD
from sora.store.outbound import Outgoing
from sora.types import DELETED, FIRST_KEYWORD, SYSTEM_FLAGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sora.services.filters.answers import Answers
    from sora.services.node import Node
    from sora.sieve.actions import Outcome
    from sora.sieve.script import Script
    from sora.store.events import Event, Owner, Subject
    from sora.types import MailboxId

_log = log.get(__name__)

NOWHERE: Final = ""
"""No name of a mailbox: filing a message where it is is not the same as keeping it."""


class EventRun:
    """Runs the script of one event.

    Args:
        mailbox: Name of the mailbox, as its owner says it.
    """

    def __init__(self, node: Node, event: Event, owner: Owner, answers: Answers, mailbox: str, script: Script) -> None:
        self._node = node
        self._event = event
        self._owner = owner
        self._answers = answers
        self._mailbox = mailbox
        self._step = Step(script, event.script)
        self._names: Mapping[int, str] = {}

    async def one(self, subject: Subject) -> bool:
        """Run it for one message, and do what it wants; False: nothing was to be done.

        Raises:
            Unavailable: Something is away; nothing was done, or it is done again without doubling anything.
        """
        mail = Mail(await self._body(subject))
        environment = await self._environment(subject)
        filters = self._node.filters
        key = self._answers.delivery = _key(self._event, subject)
        outcome = await run("imap", [self._step], mail, environment, limits_of(filters.table), self._answers)
        try:
            if outcome.error:
                raise Refused(outcome.error)
            return await Doing(self._node, self._event, self._owner, self._answers, subject, key).all(outcome)
        except Refused as error:
            tell(self._event, self._owner, f"{self._mailbox} {subject.uid}: {error.text}")
            return False

    async def _body(self, subject: Subject) -> bytes:
        ref = BlobRef(self._event.account_id, subject.content_id, subject.content_hash, subject.size)
        return self._node.bodies.get_now(ref) or await self._node.bodies.get(ref)

    async def _environment(self, subject: Subject) -> Environment:
        """RFC 6785 §4: there is no envelope, and whoever gave the command is known."""
        event, filters = self._event, self._node.filters
        items = filters.items("MS", "post")
        items |= {
            "imap.user": event.login,
            "imap.email": event.login,
            "imap.cause": event.cause,
            "imap.mailbox": self._mailbox,
            "imap.changedflags": event.changed_flags,
        }
        return Environment(
            now=datetime.now().astimezone(),
            owner=self._owner.address,
            addresses=(await self._answers.tree()).addresses,
            items=items,
            external_id=secrets.token_hex(12),
            imap=True,
            mailbox=NOWHERE,
            flags=await self._flags(subject),
            settings=filters.settings(),
        )

    async def _flags(self, subject: Subject) -> tuple[str, ...]:
        """Names of the flags that the message has now (§2.2.3: after the change)."""
        if not all(number < FIRST_KEYWORD or number in self._names for number in subject.flags):
            self._names = await self._node.store.mailboxes.list_keywords(self._event.account_id)
        names = (
            SYSTEM_FLAGS[number].decode() if number in SYSTEM_FLAGS else self._names.get(number, "")
            for number in subject.flags
        )
        return tuple(filter(None, names))


class Doing:
    """What a script wants for one message: first what is new, in one transaction, then the flags of the message.

    Args:
        key: What another try for the same message has in common with this one.
    """

    def __init__(self, node: Node, event: Event, owner: Owner, answers: Answers, subject: Subject, key: bytes) -> None:
        self._node = node
        self._event = event
        self._owner = owner
        self._answers = answers
        self._subject = subject
        self._key = key
        self._filed: list[Filed] = []
        self._held: dict[int, int] = {}
        self._outgoing: list[Outgoing] = []
        self._room = QueueRoom(node.store, event.account_id, node.filters.table.max_queued)

    async def all(self, outcome: Outcome) -> bool:
        """Do it; False: there is nothing.

        Raises:
            Refused: Something cannot be done; the message is as it was.
        """
        keep = next((action for action in outcome.actions if isinstance(action, Keep)), None)
        for action in outcome.actions:
            metrics.sieve_actions.labels(type(action).__name__.lower()).inc()
            if isinstance(action, FileInto):
                await self._file(action)
            elif isinstance(action, Redirect):
                await self._redirect(action)
            elif isinstance(action, Send):
                await self._send(action)
        new = bool(self._filed or self._outgoing or outcome.remembered)
        if new:
            await self._node.delivery.file(
                self._event.account_id, self._filed, self._key, self._outgoing, outcome.remembered
            )
            crash_point("imapsieve.stored")
        return await self._mark(keep) or new

    async def _file(self, action: FileInto) -> None:
        mailbox, error = await find_mailbox(self._answers, self._node.store, action)
        if mailbox is None:
            raise NotFound(f'{action.where}: fileinto "{action.mailbox}": {error}')
        flags = await flag_numbers(self._answers, self._node.store, action.flags or ())
        self._add(mailbox.mailbox_id, action.mail, flags)

    def _add(self, mailbox_id: MailboxId, mail: Mail, flags: Sequence[int] = ()) -> int:
        self._filed.append(Filed(mailbox_id, mail.data, tuple(flags), self._subject.internal_date))
        return len(self._filed) - 1

    async def _redirect(self, action: Redirect) -> None:
        """§3.4: the sender is the owner of the mailbox, for nobody else is known."""
        owner = self._owner.address
        if owner.lower() in (value.lower() for value in action.mail.header(REDIRECTED_FROM)):
            raise Refused(f"redirect to {action.address}: the message was redirected from here before")
        if not await self._room.take():
            raise Refused(f"redirect to {action.address}: {FULL}")
        place = self._held.get(id(action.mail))
        if place is None:
            place = self._held[id(action.mail)] = self._add(HELD, action.mail)
        self._outgoing.append(
            Outgoing(
                kind="redirect",
                sender=owner,
                recipient=action.address,
                letter=place,
                header=f"{REDIRECTED_FROM}: {owner}\r\n".encode(),
                smtputf8=not (owner + action.address).isascii() or not action.mail.head.isascii(),
                params=params_of(action, datetime.now().astimezone()),
            )
        )

    async def _send(self, action: Send) -> None:
        for address in action.recipients:
            if not await self._room.take():
                raise Refused(f"{action.kind} to {address}: {FULL}")
            utf8 = not (action.sender + address).isascii()
            self._outgoing.append(
                Outgoing(kind="notify", sender=action.sender, recipient=address, data=action.data, smtputf8=utf8)
            )
        if action.recipients and action.copy is not None:
            await self._file(action.copy)

    async def _mark(self, keep: Keep | None) -> bool:
        r"""The flags that `keep` leaves, or \Deleted; those that differ, for others may change meanwhile."""
        have = set(self._subject.flags)
        if keep is None:
            wanted = have | {DELETED}
        elif keep.flags is None:
            return False
        else:
            wanted = set(await flag_numbers(self._answers, self._node.store, keep.flags))
        changed = wanted != have
        if changed:
            event, store = self._event, self._node.store.messages
            uids = UidSet.from_numbers([self._subject.uid])
            change = await store.store_flags(
                event.account_id, event.mailbox_id, uids, sorted(wanted - have), sorted(have - wanted),
                viewer_id=event.viewer_id,
            )  # fmt: skip
            self._node.changes.publish(event.account_id, event.mailbox_id, change.modseq)
            crash_point("imapsieve.flagged")
        if keep is None and self._node.filters.table.expunge_discarded:
            await self._expunge()
        return changed

    async def _expunge(self) -> None:
        """§2.2.4: as if a client had given UID EXPUNGE for this message alone."""
        event = self._event
        uids = UidSet.from_numbers([self._subject.uid])
        gone = await self._node.store.messages.expunge(event.account_id, event.mailbox_id, uids)
        self._node.changes.publish(event.account_id, event.mailbox_id, gone.modseq)


def _key(event: Event, subject: Subject) -> bytes:
    """What another try for the same message has in common with this one."""
    unique = f"{event.event_id}" if event.event_id else secrets.token_hex()
    return hashlib.blake2b(f"imapsieve {unique} {subject.uid}".encode(), digest_size=32).digest()


def tell(event: Event, owner: Owner, error: str) -> None:
    """Whoever runs the site can see what went wrong; the message is as it was."""
    metrics.sieve_errors.inc()
    fields: dict[str, Any] = {"account": owner.address, "script": event.script, "cause": event.cause, "error": error}
    _log.warning("script failed", extra=fields)
