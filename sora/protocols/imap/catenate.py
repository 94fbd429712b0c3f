"""The octets that a URL of CATENATE stands for (RFC 4469 §3): those that FETCH BODY.PEEK would give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import BadSyntax, BlobDown, InvalidName, LimitExceeded, NoPermission, NotFound
from sora.mime import message as mime
from sora.protocols.imap.bodies import BODY_COLUMNS
from sora.protocols.imap.messages import section_data
from sora.protocols.imap.places import find, look_again
from sora.protocols.imap.replies import Coded
from sora.store.blobs import BlobRef
from sora.types import Rights
from sora.wire.imap_url import parse_url

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.types import AccountId, MailboxId
    from sora.wire.imap_url import MessageUrl

MAX_URLS: Final = 1000
"""Of one command: more than anybody puts together by hand."""
MAX_READ_BYTES: Final = 1024**3
"""All messages that the URLs of one command are cut out of."""
_NOT_TEXT: Final = re.compile(rb"[^ -\\^-~]")
"""What cannot stand in a response code (RFC 4469 §5: url-resp-text)."""


class Urls:
    """The URLs of one command.

    The message that was read last stays at hand: many parts of it cost one body and not many. What a command may make
    the server read is bounded, because a URL of twenty octets may stand for fifty megabytes of which it takes one.
    """

    __slots__ = ("_body", "_count", "_message", "_place", "_read")

    def __init__(self) -> None:
        self._count = 0
        self._read = 0
        self._place: tuple[AccountId, MailboxId, int] | None = None
        self._body = b""
        self._message: mime.Message | None = None

    def forget(self) -> None:
        """Let go of the message: the next URL may be long in coming."""
        self._place, self._body, self._message = None, b"", None

    async def octets(self, s: Session, url: bytes) -> bytes | memoryview:
        """What a URL stands for; one message at a time is in memory.

        Raises:
            Coded: BADURL (§4.1): it is no URL of a message that the session may read, or there is no such part.
            BlobDown: The body cannot be had now.
            LimitExceeded: It is one too many, or too much is read for it.
        """
        self._count += 1
        if self._count > MAX_URLS:
            raise LimitExceeded(f"One command may have {MAX_URLS} URLs")
        try:
            return await self._octets(s, parse_url(url))
        except (BadSyntax, NotFound, NoPermission, InvalidName) as error:
            raise bad_url(url, error.text) from None

    async def _octets(self, s: Session, url: MessageUrl) -> bytes | memoryview:
        await self._go_to(s, *await _mailbox_of(s, url), url.uid)
        section = url.section
        if self._message is None and (section.path or section.text):
            self._message = mime.parse(self._body)
        data = section_data(section, self._body, self._message)
        if data is None:
            raise NotFound("There is no such part")
        return _cut(memoryview(data), url.partial)

    async def _go_to(self, s: Session, account_id: AccountId, mailbox_id: MailboxId, uid: int) -> None:
        """Have a message at hand."""
        if self._place == (account_id, mailbox_id, uid):
            await s.breathe()
            return
        self.forget()
        rows = s.node.store.messages.rows(
            account_id, mailbox_id, UidSet.from_numbers([uid]), [*BODY_COLUMNS, "expunged_at"]
        )
        found = [row async for chunk in rows for row in chunk if row["expunged_at"] is None]
        if not found:
            raise NotFound("There is no such message")
        row = found[0]
        self._read += row["size"]
        if self._read > MAX_READ_BYTES:
            raise LimitExceeded(f"The URLs of one command may read {MAX_READ_BYTES} octets")
        try:
            self._body = await s.node.bodies.get(
                BlobRef(account_id, row["content_id"], row["content_hash"], row["size"])
            )
        except BlobDown as error:
            raise BlobDown("A message of this command is temporarily unavailable", detail=str(error)) from error
        self._place = account_id, mailbox_id, uid


def bad_url(url: bytes, why: str) -> Coded:
    """BADURL, with the URL as the client can recognise it."""
    return Coded(b"BADURL " + _NOT_TEXT.sub(lambda match: b"%%%02X" % match[0][0], url), why)


async def _mailbox_of(s: Session, url: MessageUrl) -> tuple[AccountId, MailboxId]:
    if url.mailbox is None:
        if s.selection is None:
            raise NotFound("No mailbox is selected")
        await look_again(s)
        view = s.view.view
        place = view.account_id, view.mailbox_id
        uidvalidity = s.view.uidvalidity
    else:
        found = await find(s, url.mailbox, Rights.READ)
        place = found.place.owner_id, found.mailbox.mailbox_id
        uidvalidity = found.mailbox.uidvalidity
    if url.uidvalidity not in (None, uidvalidity):
        raise NotFound("The UIDVALIDITY is another one")
    return place


def _cut(data: memoryview, partial: tuple[int, int | None] | None) -> memoryview:
    """`;PARTIAL=` (RFC 5550 §3.1, RFC 5092 §6); what lies behind the end is nothing, as in FETCH."""
    if partial is None:
        return data
    first, count = partial
    return data[first:] if count is None else data[first : first + count]
