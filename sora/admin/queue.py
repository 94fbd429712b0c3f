"""Admin operations on the mail that leaves: what waits for the smarthost, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import Unavailable
from sora.store.account_keys import open_sealers
from sora.store.keyring import open_keyring
from sora.store.outbound import CHANNEL, Params, QueuedMail, Unreached

if TYPE_CHECKING:
    from sora.store.outbound import Claimed

MAX_HEADER: Final = 16 * 1024
"""Characters of a header that are shown."""

Number = Annotated[int, Meta(description="number of the mail, as `queue list` shows it", ge=1)]


class ListQueue(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `queue list`."""

    account: Annotated[str, Meta(description="only mail of the account with this address", max_length=320)] = ""
    recipient: Annotated[str, Meta(description="only mail to this address", max_length=320)] = ""
    after: Annotated[int, Meta(description="only mail with a higher number, for the next page", ge=0)] = 0
    limit: Annotated[int, Meta(description="at most so many", ge=1, le=10000)] = 100


class QueueNumber(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `queue show` and `queue delete`."""

    queue_id: Number


class RetryQueue(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `queue retry`."""

    queue_id: Annotated[int, Meta(description="number of the mail; 0: all that waits", ge=0)] = 0


class Queue(Struct, frozen=True):
    """The mail that leaves.

    Attributes:
        smarthost: Where it goes; empty: none is configured, and all of it waits.
        pending: All that is in the queue, whatever was asked for.
        failing: Those of it that failed at least once.
        oldest_s: Age of the oldest.
        unreached: Nodes that cannot reach the smarthost, and why.
    """

    smarthost: str
    pending: int
    failing: int
    oldest_s: float
    unreached: list[Unreached]
    mails: list[QueuedMail]


class ShownMail(Struct, frozen=True):
    """One mail of the queue.

    Attributes:
        parameters: What the smarthost is asked for besides (RFC 3461, RFC 2852).
        header: Of the mail, with the fields that are put on top of it.
    """

    mail: QueuedMail
    smtputf8: bool
    parameters: Params
    header: str


class RetriedMail(Struct, frozen=True):
    """How many mails were in a pause, and are due at once."""

    mails: int


async def list_queue(ctx: AdminContext, req: ListQueue) -> Queue:
    """List the mail that waits for the smarthost, in the order in which it was queued."""
    backlog = await ctx.store.outbound.backlog()
    return Queue(
        smarthost=ctx.config.outbound.host,
        pending=backlog.pending,
        failing=backlog.failing,
        oldest_s=backlog.oldest_s,
        unreached=await ctx.store.outbound.unreached(),
        mails=await ctx.store.outbound.list_mail(req.account, req.recipient, req.after, req.limit),
    )


async def show(ctx: AdminContext, req: QueueNumber) -> ShownMail:
    """Show one mail of the queue with its header."""
    shown, mail = await ctx.store.outbound.get(req.queue_id)
    return ShownMail(shown, mail.smtputf8, mail.params, await _header(ctx, mail))


async def retry(ctx: AdminContext, req: RetryQueue) -> RetriedMail:
    """Try one mail, or all that waits, at once instead of after its pause; how many were in one.

    While the smarthost cannot be reached mails have no pauses: they wait for it.

    Raises:
        NotFound: That one is not in the queue (any more).
    """
    if req.queue_id:
        await ctx.store.outbound.get(req.queue_id)
    due = await ctx.store.outbound.retry(req.queue_id or None)
    await ctx.store.db.execute("SELECT pg_notify($1, '')", CHANNEL)
    return RetriedMail(due)


async def delete(ctx: AdminContext, req: QueueNumber) -> QueuedMail:
    """Remove a mail from the queue; nobody is told.

    One that is being sent at this moment may arrive all the same.
    """
    return await ctx.store.outbound.delete(req.queue_id)


async def _header(ctx: AdminContext, mail: Claimed) -> str:
    """Of a content the database knows it; a mail of the queue itself is opened."""
    octets = b""
    if mail.body is None:
        octets = await ctx.store.db.fetchval(
            "SELECT header FROM message_contents WHERE account_id = $1 AND content_id = $2",
            mail.account_id,
            mail.ref.content_id if mail.ref else 0,
        )
    elif mail.ref is not None:
        sealers = open_sealers(open_keyring(ctx.config), ctx.store.db)
        try:
            octets = (await sealers.reader(mail.ref, mail.body)).open(mail.ref, mail.body) or b""
        except Unavailable as error:
            return f"(cannot be read: {error})"
    text = (mail.header + (octets or b"")).decode("utf-8", "replace").replace("\r\n", "\n")
    return text.partition("\n\n")[0][:MAX_HEADER]
