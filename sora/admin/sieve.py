"""Admin operations on Sieve scripts; `check` needs neither a server nor a database. See also `trials`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sora.admin.context import FILE, Address, AdminContext, Done
from sora.config import Config  # noqa: TC001 — as `AdminContext`
from sora.errors import BadScript
from sora.services.filters.scripts import quota_of
from sora.sieve.script import compile
from sora.store.scripts import ScriptInfo  # noqa: TC001 — the table of operations reads the annotations
from sora.tables import SieveTable

Name = Annotated[str, Meta(description="name of the script", min_length=1, max_length=512)]
Text = Annotated[str, Meta(description="the script", extra=FILE)]


class OneAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names an account."""

    address: Address


class OneScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names a script of an account."""

    address: Address
    name: Name


class PutScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `sieve put`."""

    address: Address
    name: Name
    script: Text
    activate: Annotated[bool, Meta(description="make it the active one")] = False


class CheckScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `sieve check`."""

    script: Text


class ScriptText(Struct, frozen=True):
    """A script as it was put."""

    name: str
    script: str


class Problem(Struct, frozen=True):
    """What is wrong or odd at one place of a script."""

    kind: str
    line: int
    column: int
    text: str


class Checked(Struct, frozen=True):
    """What `sieve check` found; `requires`: extensions of the script."""

    valid: bool
    requires: list[str]
    problems: list[Problem]


async def list_scripts(ctx: AdminContext, req: OneAccount) -> list[ScriptInfo]:
    """List the scripts of an account."""
    account = await ctx.store.accounts.get(req.address)
    return await ctx.store.scripts.list_scripts(account.account_id)


async def show(ctx: AdminContext, req: OneScript) -> ScriptText:
    """Show a script."""
    account = await ctx.store.accounts.get(req.address)
    script = await ctx.store.scripts.get(account.account_id, req.name)
    return ScriptText(script.name, script.content.decode("utf-8", "replace"))


async def put(ctx: AdminContext, req: PutScript) -> Done:
    """Store a script that has no errors, in place of the one of that name."""
    content = req.script.encode()
    limits = ctx.config.sieve
    compile(content, max_bytes=limits.max_script_size, max_nesting=limits.max_nesting)
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.put(account.account_id, req.name, content, quota_of(ctx.config.sieve))
    if req.activate:
        await ctx.store.scripts.set_active(account.account_id, req.name)
    return Done()


async def activate(ctx: AdminContext, req: OneScript) -> Done:
    """Make a script the active one of its account."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.set_active(account.account_id, req.name)
    return Done()


async def deactivate(ctx: AdminContext, req: OneAccount) -> Done:
    """Let no script of an account run; all of them stay."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.set_active(account.account_id, "")
    return Done()


async def delete(ctx: AdminContext, req: OneScript) -> Done:
    """Delete a script that is not active."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.delete(account.account_id, req.name)
    return Done()


async def check(config: Config | None, req: CheckScript) -> Checked:
    """Say what is wrong with a script; needs no server.

    Its bounds are those of the configuration, if there is one.
    """
    table = SieveTable() if config is None else config.sieve
    try:
        script = compile(req.script.encode(), max_bytes=table.max_script_size, max_nesting=table.max_nesting)
    except BadScript as error:
        return Checked(False, [], _problems("error", error.errors))
    return Checked(True, sorted(script.required), _problems("warning", script.warnings))


def _problems(kind: str, places: tuple[tuple[int, int, str], ...]) -> list[Problem]:
    return [Problem(kind, line, column, text) for line, column, text in places]
