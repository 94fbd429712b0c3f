"""Admin operations on accounts, credentials, aliases, domains and quotas."""

from __future__ import annotations

import asyncio
import getpass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from sora import log
from sora.admin.context import SECRET, SIZE, Address, AdminContext, Done, Password
from sora.services.logins import passwords
from sora.store import domains  # noqa: TC001 — the table of operations reads the annotations
from sora.store.accounts import Account, Credential, Quota  # noqa: TC001

_logger = log.get(__name__)

Domain = Annotated[str, Meta(description="domain name", min_length=1, max_length=255)]
Limit = Annotated[int, Meta(ge=0)]


class CreateAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts create`."""

    address: Address
    password: Annotated[str, Meta(description="the password", max_length=1024, extra=SECRET)] | None = None
    quota_bytes: Annotated[Limit | None, Meta(description="octets, 0 = unlimited", extra=SIZE)] = None
    quota_messages: Annotated[Limit | None, Meta(description="messages, 0 = unlimited")] = None


class ListAccounts(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts list`."""

    domain: Annotated[str | None, Meta(description="only of this domain")] = None
    deleted: Annotated[bool, Meta(description="deleted ones that can be restored")] = False
    after: Annotated[str, Meta(description="begin behind this address")] = ""
    limit: Annotated[int, Meta(description="at most so many", ge=1, le=100_000)] = 1000


class OneAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names an account."""

    address: Address


class HoldAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts hold`."""

    address: Address
    reason: Annotated[str, Meta(description="why, for the log of holds", max_length=1000)] = ""
    deleted: Annotated[bool, Meta(description="the deleted account of this address")] = False


class ReleaseAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts release`."""

    address: Address
    reason: Annotated[str, Meta(description="why, for the log of holds", max_length=1000)] = ""
    deleted: Annotated[bool, Meta(description="the deleted account of this address")] = False


class SetPassword(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts set-password`."""

    address: Address
    password: Password


class SetQuota(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `quota set`; what is not given goes back to the domain's default."""

    address: Address
    quota_bytes: Annotated[Limit | None, Meta(description="octets, 0 = unlimited", extra=SIZE)] = None
    quota_messages: Annotated[Limit | None, Meta(description="messages, 0 = unlimited")] = None
    quota_mailboxes: Annotated[Limit | None, Meta(description="mailboxes, 0 = unlimited")] = None


class AddCredential(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `credentials add`."""

    address: Address
    name: Annotated[str, Meta(description="what it is for, such as a device", min_length=1, max_length=100)]
    expires_in_days: Annotated[Annotated[int, Meta(ge=1, le=36500)] | None, Meta(description="days it is valid")] = None


class AppPassword(Struct, frozen=True):
    """The one time an app password is shown."""

    credential_id: int
    name: str
    password: str


class RemoveCredential(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `credentials remove`."""

    address: Address
    credential_id: Annotated[int, Meta(description="from `credentials list`", ge=1)]


class AddAlias(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `aliases add`."""

    alias: Annotated[str, Meta(description="the further address", min_length=3, max_length=320)]
    address: Address
    login: Annotated[bool, Meta(description="the account may log in with it")] = True


class ListAliases(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `aliases list`."""

    address: Annotated[str | None, Meta(description="only of this account")] = None


class RemoveAlias(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `aliases remove`."""

    alias: Annotated[str, Meta(description="the further address", min_length=3, max_length=320)]


class OneDomain(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names a domain."""

    domain: Domain


class SetCatchAll(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `domains set-catch-all`."""

    domain: Domain
    address: Annotated[str | None, Meta(description="account that gets mail for unknown names; none: nobody")] = None


async def create(ctx: AdminContext, req: CreateAccount) -> Account:
    """Create an account with INBOX, Sent, Drafts, Archive, Junk and Trash."""
    hashed = None if req.password is None else await _hash(ctx, req.password)
    await ctx.store.accounts.create(
        req.address, password_hash=hashed, quota_bytes=req.quota_bytes, quota_messages=req.quota_messages
    )
    return await ctx.store.accounts.get(req.address)


async def list_accounts(ctx: AdminContext, req: ListAccounts) -> list[Account]:
    """List accounts in the order of their addresses."""
    return await ctx.store.accounts.list_accounts(
        domain=req.domain, deleted=req.deleted, after=req.after, limit=req.limit
    )


async def show(ctx: AdminContext, req: OneAccount) -> Account:
    """Show one account, by its primary address or an alias."""
    return await ctx.store.accounts.get(req.address)


async def disable(ctx: AdminContext, req: OneAccount) -> Account:
    """Refuse logins and mail of an account; its mail stays."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.accounts.set_disabled(account.account_id, True)
    return await ctx.store.accounts.get(req.address)


async def enable(ctx: AdminContext, req: OneAccount) -> Account:
    """Undo `disable`."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.accounts.set_disabled(account.account_id, False)
    return await ctx.store.accounts.get(req.address)


async def delete(ctx: AdminContext, req: OneAccount) -> Done:
    """Delete an account; until the grace period has passed, `restore` brings it back."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.accounts.delete(account.account_id)
    return Done()


async def restore(ctx: AdminContext, req: OneAccount) -> Account:
    """Bring a deleted account back with its mail."""
    account = await ctx.store.accounts.get(req.address, deleted=True)
    await ctx.store.accounts.restore(account.account_id)
    return await ctx.store.accounts.get(req.address)


async def hold(ctx: AdminContext, req: HoldAccount) -> Account:
    """Put a legal hold on an account: nothing of it is removed until `release`."""
    return await _set_hold(ctx, req, held=True)


async def release(ctx: AdminContext, req: ReleaseAccount) -> Account:
    """Release a legal hold: what is past its grace period goes with the next cleanup."""
    return await _set_hold(ctx, req, held=False)


async def _set_hold(ctx: AdminContext, req: HoldAccount | ReleaseAccount, *, held: bool) -> Account:
    account = await ctx.store.accounts.get(req.address, deleted=req.deleted)
    actor = getpass.getuser()
    await ctx.store.accounts.set_hold(account.account_id, held, req.reason, actor)
    _logger.warning(
        "legal hold put" if held else "legal hold released",
        extra={"account_id": account.account_id, "address": account.address, "reason": req.reason, "actor": actor},
    )
    return await ctx.store.accounts.get(req.address, deleted=req.deleted)


async def set_password(ctx: AdminContext, req: SetPassword) -> Done:
    """Set the password of an account; logins with the old one end within a minute."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.accounts.set_password(account.account_id, await _hash(ctx, req.password))
    return Done()


async def show_quota(ctx: AdminContext, req: OneAccount) -> Quota:
    """Show what an account uses and what it may."""
    account = await ctx.store.accounts.get(req.address)
    return await ctx.store.accounts.get_quota(account.account_id)


async def set_quota(ctx: AdminContext, req: SetQuota) -> Quota:
    """Set the limits of an account; what is not given goes back to the domain's default."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.accounts.set_quota(
        account.account_id,
        quota_bytes=req.quota_bytes,
        quota_messages=req.quota_messages,
        quota_mailboxes=req.quota_mailboxes,
    )
    return await ctx.store.accounts.get_quota(account.account_id)


async def add_credential(ctx: AdminContext, req: AddCredential) -> AppPassword:
    """Make an app password; it is shown this once."""
    account = await ctx.store.accounts.get(req.address)
    password = passwords.new_app_password()
    days = req.expires_in_days
    credential_id = await ctx.store.accounts.add_app_password(
        account.account_id,
        req.name,
        passwords.hash_app_password(password),
        None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    return AppPassword(credential_id, req.name, password)


async def list_credentials(ctx: AdminContext, req: OneAccount) -> list[Credential]:
    """List the password and app passwords of an account, without their secrets."""
    account = await ctx.store.accounts.get(req.address)
    return await ctx.store.accounts.list_credentials(account.account_id)


async def remove_credential(ctx: AdminContext, req: RemoveCredential) -> Done:
    """Remove a password or app password; logins with it end within a minute."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.accounts.remove_credential(account.account_id, req.credential_id)
    return Done()


async def add_alias(ctx: AdminContext, req: AddAlias) -> Done:
    """Give an account a further address."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.domains.add_alias(req.alias, account.account_id, login=req.login)
    return Done()


async def list_aliases(ctx: AdminContext, req: ListAliases) -> list[domains.Alias]:
    """List further addresses, of one account or all."""
    if req.address is None:
        return await ctx.store.domains.list_aliases()
    account = await ctx.store.accounts.get(req.address)
    return await ctx.store.domains.list_aliases(account.account_id)


async def remove_alias(ctx: AdminContext, req: RemoveAlias) -> Done:
    """Take a further address away."""
    await ctx.store.domains.remove_alias(req.alias)
    return Done()


async def add_domain(ctx: AdminContext, req: OneDomain) -> Done:
    """Add a domain (creating an account adds its domain too)."""
    await ctx.store.domains.add(req.domain)
    return Done()


async def list_domains(ctx: AdminContext) -> list[domains.Domain]:
    """List domains with the number of their accounts."""
    return await ctx.store.domains.list_domains()


async def remove_domain(ctx: AdminContext, req: OneDomain) -> Done:
    """Remove a domain that has no accounts, with its aliases."""
    await ctx.store.domains.remove(req.domain)
    return Done()


async def set_catch_all(ctx: AdminContext, req: SetCatchAll) -> Done:
    """Say which account gets mail for unknown names of a domain."""
    account = None if req.address is None else await ctx.store.accounts.get(req.address)
    await ctx.store.domains.set_catch_all(req.domain, None if account is None else account.account_id)
    return Done()


async def _hash(ctx: AdminContext, password: str) -> str:
    return await asyncio.to_thread(passwords.hash_password, password, ctx.cost)
