"""Names for the numbers that flow through Sora.

Every one is a plain `int` at run time; the type checker keeps a UID from being used as a sequence number.
"""

from __future__ import annotations

import enum
from typing import Final, NewType

AccountId = NewType("AccountId", int)
MailboxId = NewType("MailboxId", int)
ContentId = NewType("ContentId", int)
Uid = NewType("Uid", int)
"""1 .. 4294967295, never reused inside a mailbox (RFC 9051 §2.3.1.1)."""
SeqNum = NewType("SeqNum", int)
"""1 .. number of messages in the session's own view (RFC 9051 §2.3.1.2)."""
ModSeq = NewType("ModSeq", int)
"""Per mailbox; its order is commit order (RFC 7162 §3.1)."""
UidValidity = NewType("UidValidity", int)

MAX_UID: Final = 4_294_967_295


class Rights(enum.IntFlag):
    """What somebody may do in a mailbox (RFC 4314 §2.1); the bits are those of the database."""

    LOOKUP = 1
    READ = 2
    SEEN = 4
    WRITE = 8
    INSERT = 16
    POST = 32
    CREATE = 64
    DELETE_MAILBOX = 128
    DELETE_MESSAGES = 256
    EXPUNGE = 512
    ADMINISTER = 1024


ALL_RIGHTS: Final = Rights(2047)
NO_RIGHTS: Final = Rights(0)

# Flag numbers are the bitmap planes of `message_flags`: system flags first, keywords of the account from 16 on.
SEEN: Final = 0
ANSWERED: Final = 1
FLAGGED: Final = 2
DELETED: Final = 3
DRAFT: Final = 4
FIRST_KEYWORD: Final = 16

SYSTEM_FLAGS: Final[dict[int, bytes]] = {
    SEEN: rb"\Seen",
    ANSWERED: rb"\Answered",
    FLAGGED: rb"\Flagged",
    DELETED: rb"\Deleted",
    DRAFT: rb"\Draft",
}
