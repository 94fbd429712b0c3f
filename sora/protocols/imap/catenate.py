"""The octets that a URL of CATENATE stands for (RFC 4469 §3): those that FETCH BODY.PEEK would give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import BadSyntax, BlobDown, InvalidName, NoPermission, NotFound
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

_NOT_TEXT: Final = re.compile(rb"[^ -\\^-~]")
"""What cannot stand in a response code (RFC 4469 §5: url-resp-text)."""


async def octets_of(s: Session, url: bytes) -> bytes | memoryview:
    """The octets, one message at a time in memory.

    Raises:
        Coded: BADURL (§4.1): it is no URL of a message that the session may read, or there is no such part.
        BlobDown: The body cannot be had now.
    """
    try:
        return await _octets_of(s, parse_url(url))
    except (BadSyntax, NotFound, NoPermission, InvalidName) as error:
        raise bad_url(url, error.text) from None


def bad_url(url: bytes, why: str) -> Coded:
    """BADURL, with the URL as the client can recognise it."""
    return Coded(b"BADURL " + _NOT_TEXT.sub(lambda match: b"%%%02X" % match[0][0], url), why)


async def _octets_of(s: Session, url: MessageUrl) -> bytes | memoryview:
    account_id, mailbox_id = await _mailbox_of(s, url)
    rows = s.node.store.messages.rows(
        account_id, mailbox_id, UidSet.from_numbers([url.uid]), [*BODY_COLUMNS, "expunged_at"]
    )
    found = [row async for chunk in rows for row in chunk if row["expunged_at"] is None]
    if not found:
        raise NotFound("There is no such message")
    row = found[0]
    try:
        body = await s.node.bodies.get(BlobRef(account_id, row["content_id"], row["content_hash"], row["size"]))
    except BlobDown as error:
        raise BlobDown("A message of this command is temporarily unavailable", detail=str(error)) from error
    section = url.section
    message = mime.parse(body) if section.path or section.text else None
    data = section_data(section, body, message)
    if data is None:
        raise NotFound("There is no such part")
    return _cut(memoryview(data), url.partial)


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
