"""QUOTA (RFC 9208): what an account uses and may. Each account is one quota root, with the empty name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.errors import NoPermission, NotFound
from sora.wire import imap_quota as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.protocols.imap.session import Session
    from sora.store.accounts import Quota

ROOT: Final = b""


async def getquota(s: Session, cmd: wire.GetQuota) -> None:
    """RFC 9208 §4.1.1.

    Raises:
        NotFound: There is no such root.
    """
    if cmd.root != ROOT:
        raise NotFound("No such quota root")
    await _write_quota(s)


async def getquotaroot(s: Session, cmd: wire.GetQuotaRoot) -> None:
    """RFC 9208 §4.1.2: the mailbox need not exist, a client may ask before it creates one."""
    s.write(wire.quotaroot_line(cmd.mailbox, [ROOT], utf8=s.utf8))
    await _write_quota(s)


async def setquota(_s: Session, _cmd: wire.SetQuota) -> None:
    """RFC 9208 §4.1.3: limits are the administrator's to set."""
    raise NoPermission("Only the administrator sets quotas")


async def _write_quota(s: Session) -> None:
    s.write(wire.quota_line(ROOT, resources(await s.node.store.accounts.get_quota(s.account_id))))


def resources(quota: Quota) -> Iterator[wire.Resource]:
    """The resources that have a limit; what has none is not under quota."""
    if quota.bytes_limit is not None:
        yield wire.Resource("STORAGE", -(-quota.bytes_used // 1024), quota.bytes_limit // 1024)
    if quota.messages_limit is not None:
        yield wire.Resource("MESSAGE", quota.messages_used, quota.messages_limit)
    if quota.mailboxes_limit is not None:
        yield wire.Resource("MAILBOX", quota.mailboxes_used, quota.mailboxes_limit)
