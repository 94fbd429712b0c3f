"""Admin operations on logins: who is blocked after too many wrong passwords, on all nodes."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Meta, Struct

from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import NotFound
from sora.services.logins.auth import canonical_login
from sora.services.logins.limits import site_of
from sora.store.blocks import AuthBlock, AuthBlocks


class Unblock(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `auth unblock`."""

    who: Annotated[str, Meta(description="IP address, or address of an account", min_length=1, max_length=320)]


async def blocked(ctx: AdminContext) -> list[AuthBlock]:
    """List who is blocked after too many failed logins."""
    return await AuthBlocks(ctx.store.db).list_blocks()


async def unblock(ctx: AdminContext, req: Unblock) -> list[AuthBlock]:
    """End all blocks of a client's address, or of an account under all its names; list those that held."""
    site = _site(req.who)
    login = None if site else canonical_login(req.who, ctx.config.auth.default_domain)
    lifted = await AuthBlocks(ctx.store.db).lift(site=site, login=login)
    if not lifted:
        raise NotFound(f"{req.who} is not blocked")
    return lifted


def _site(who: str) -> str | None:
    """What an address, or a network as `auth blocked` shows it, is counted under."""
    try:
        return site_of(str(ipaddress.ip_network(who, strict=False).network_address))
    except ValueError:
        return site_of(who)
