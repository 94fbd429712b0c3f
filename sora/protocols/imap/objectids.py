"""Names that stay with a thing whatever becomes of it (OBJECTID, RFC 8474).

A mailbox is named by its number, which no rename changes and no second mailbox gets. A message is named by the hash of
its octets: every copy of it in the account has the same one, and no other message has it. A thread is named by the
first message that was known of it.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any, Final

from sora._native.seqset import UidSet
from sora.errors import BadSyntax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.protocols.imap.session import Session
    from sora.types import MailboxId
    from sora.wire.imap_search import ByObjectId

MAX_BIGINT: Final = (1 << 63) - 1
HASH_OCTETS: Final = 32
_OBJECT_ID: Final = re.compile(rb"[A-Za-z0-9_-]{1,255}")
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,18}")


def mailbox_id(number: MailboxId) -> bytes:
    """What stands behind MAILBOXID (§4)."""
    return b"(F%d)" % number


def email_id(row: Mapping[str, Any]) -> bytes:
    """What stands behind EMAILID (§5.1); the alphabet of base64url is that of `objectid`."""
    return b"(M%s)" % urlsafe_b64encode(row["content_hash"]).rstrip(b"=")


def thread_id(row: Mapping[str, Any]) -> bytes:
    """What stands behind THREADID (§5.2)."""
    return b"(T%d)" % row["thread_id"]


async def by_object_id(s: Session, key: ByObjectId, within: UidSet) -> UidSet:
    """EMAILID and THREADID as search keys (§6); a name that we never gave is nobody's.

    Raises:
        BadSyntax: It is no name at all.
    """
    if not _OBJECT_ID.fullmatch(key.object_id):
        raise BadSyntax("An object id consists of letters, digits, _ and -")
    view = s.view.view
    ids = s.node.store.object_ids
    if key.thread:
        thread = _thread_of(key.object_id)
        found = [] if thread is None else await ids.of_thread(view.account_id, view.mailbox_id, thread)
    else:
        content_hash = _hash_of(key.object_id)
        found = [] if content_hash is None else await ids.of_content(view.account_id, view.mailbox_id, content_hash)
    return within & UidSet.from_numbers(found)


def _thread_of(object_id: bytes) -> int | None:
    if object_id[:1] != b"T" or not _NUMBER.fullmatch(object_id, 1):
        return None
    number = int(object_id[1:])
    return number if number <= MAX_BIGINT else None


def _hash_of(object_id: bytes) -> bytes | None:
    """The hash in an EMAILID; None unless it is the one spelling that `email_id` gives."""
    encoded = object_id[1:]
    if object_id[:1] != b"M" or len(encoded) != (HASH_OCTETS * 8 + 5) // 6:
        return None
    octets = urlsafe_b64decode(encoded + b"=")
    return octets if urlsafe_b64encode(octets).rstrip(b"=") == encoded else None
