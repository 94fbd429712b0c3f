"""QUOTA (RFC 9208): what an account uses and may. Each account is one quota root.

The root of a session's own account has the empty name, those of others the address of their owner. Limits are set by
the accounts of `auth.quota_admins` alone: the right a of RFC 9208 §6 is every owner's, who could lift them with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import BadSyntax, InvalidName, NoPermission, NotFound
from sora.protocols.imap.places import find, is_shared, owner_of
from sora.protocols.imap.replies import Cannot
from sora.store.addresses import fold_address
from sora.types import Rights
from sora.wire import imap_quota as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.protocols.imap.session import Session
    from sora.store.accounts import Quota
    from sora.types import AccountId

_log = log.get(__name__)

OWN_ROOT: Final = b""
MOST: Final = (1 << 63) - 1
UNITS: Final = {"STORAGE": 1024, "MESSAGE": 1, "MAILBOX": 1}
"""Resources, and of how much one unit is."""


async def getquota(s: Session, cmd: wire.GetQuota) -> None:
    """RFC 9208 §4.1.1.

    Raises:
        NotFound: There is no such root, or what it holds is nothing that the session may know (§8).
    """
    await _write_quota(s, cmd.root, await _account_of(s, cmd.root))


async def getquotaroot(s: Session, cmd: wire.GetQuotaRoot) -> None:
    """RFC 9208 §4.1.2: the mailbox need not exist, a client may ask before it creates one.

    Raises:
        NotFound: A mailbox of somebody else that the session may not see.
        NoPermission: One that it may not read (§6).
    """
    root, account_id = OWN_ROOT, s.account_id
    if is_shared(cmd.mailbox):
        place = (await find(s, cmd.mailbox, Rights.READ)).place
        root, account_id = owner_of(place).encode(), place.owner_id
    s.write(wire.quotaroot_line(cmd.mailbox, [root], utf8=s.utf8))
    await _write_quota(s, root, account_id)


async def setquota(s: Session, cmd: wire.SetQuota) -> None:
    """RFC 9208 §4.1.3: what is not named has no limit any more.

    Raises:
        NoPermission: The session is no quota administrator's.
        NotFound: There is no such root.
        Cannot: A limit that cannot be set.
    """
    if not _is_admin(s):
        raise NoPermission("Only a quota administrator sets quotas")
    limits = dict(cmd.limits)
    if len(limits) < len(cmd.limits):
        raise BadSyntax("A resource is named twice")
    values = {name: _limit(name, limit) for name, limit in limits.items()}
    account_id = await _account_of(s, cmd.root)
    await s.node.store.accounts.set_quota(
        account_id,
        quota_bytes=values.get("STORAGE", 0),
        quota_messages=values.get("MESSAGE", 0),
        quota_mailboxes=values.get("MAILBOX", 0),
    )
    _log.info("quota set", extra={"of_account_id": account_id, "limits": values})
    await _write_quota(s, cmd.root, account_id)


def _limit(name: str, limit: int) -> int:
    """A limit as it is stored, where 0 is none at all."""
    unit = UNITS.get(name)
    if unit is None:
        raise Cannot("There is no such resource")
    if not 0 < limit <= MOST // unit:
        raise Cannot("Such a limit cannot be set")
    return limit * unit


def _is_admin(s: Session) -> bool:
    assert s.identity is not None
    return fold_address(s.identity.address) in map(fold_address, s.node.config.auth.quota_admins)


async def _account_of(s: Session, root: bytes) -> AccountId:
    """Whose root it is: the session's own, that of somebody who lets it read a mailbox; for administrators any."""
    if root == OWN_ROOT:
        return s.account_id
    try:
        owner_id = await s.node.store.acl.find_owner(root.decode())
    except (UnicodeDecodeError, InvalidName):
        owner_id = None
    if owner_id is None or not (_is_admin(s) or await _shares(s, owner_id)):
        raise NotFound("No such quota root")
    return owner_id


async def _shares(s: Session, owner_id: AccountId) -> bool:
    shared = await s.node.store.acl.list_shared(s.account_id)
    return any(box.owner_id == owner_id and box.rights & Rights.READ for box in shared)


async def _write_quota(s: Session, root: bytes, account_id: AccountId) -> None:
    s.write(wire.quota_line(root, resources(await s.node.store.accounts.get_quota(account_id))))


def resources(quota: Quota) -> Iterator[wire.Resource]:
    """The resources that have a limit; what has none is not under quota."""
    if quota.bytes_limit is not None:
        yield wire.Resource("STORAGE", -(-quota.bytes_used // 1024), quota.bytes_limit // 1024)
    if quota.messages_limit is not None:
        yield wire.Resource("MESSAGE", quota.messages_used, quota.messages_limit)
    if quota.mailboxes_limit is not None:
        yield wire.Resource("MAILBOX", quota.mailboxes_used, quota.mailboxes_limit)
