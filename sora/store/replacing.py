"""A message that goes in the transaction which stores another one (REPLACE, RFC 8508)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import Expunged
from sora.types import AccountId, MailboxId, ModSeq, Uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.store.db import Connection


class Replaced(Struct, frozen=True):
    """The message that goes.

    Attributes:
        size: its octets.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    uid: Uid
    size: int


async def take_away(
    conn: Connection, replaced: Replaced, accounts: Sequence[AccountId], mailboxes: Sequence[MailboxId | None]
) -> ModSeq:
    """Expunge a message before others are stored: a quota then counts the difference (RFC 8508 §3.4).

    All locks are taken first and in the order that holds everywhere, quotas before mailboxes.

    Args:
        accounts: those that get the others.
        mailboxes: where they go.

    Returns:
        The modseq of the mailbox it was in.

    Raises:
        NotFound: its mailbox is gone.
        Expunged: it is not there any more.
    """
    await conn.execute(_LOCK_QUOTAS, accounts)
    await conn.execute(_LOCK_MAILBOXES, [replaced.mailbox_id, *mailboxes])
    row = await conn.fetchrow(_EXPUNGE, replaced.account_id, replaced.mailbox_id, [replaced.uid])
    assert row is not None, "expunge() always answers with one row"
    if not row["uids"]:
        raise Expunged("The message to replace no longer exists")
    return ModSeq(row["modseq"])


_LOCK_QUOTAS: Final = "SELECT set_config('lock_timeout', '10s', true), lock_quotas($1)"
_LOCK_MAILBOXES: Final = "SELECT lock_mailboxes($1)"
_EXPUNGE: Final = "SELECT * FROM expunge($1, $2, $3, $3, false)"
