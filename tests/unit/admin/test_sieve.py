"""Admin operations on scripts: checks without a server, the rest on a real store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora.admin import sieve, trials
from sora.admin.context import AdminContext
from sora.admin.operations import OPERATIONS
from sora.config import Config
from sora.errors import BadScript, InvalidName, NotFound
from sora.store.scripts import NoScript, ScriptActive, TooManyScripts
from sora.tables import SieveTable

if TYPE_CHECKING:
    from sora.store.store import Store

ANN = "ann@example.com"


def test_errors_and_warnings_have_places() -> None:
    found = asyncio.run(sieve.check(None, sieve.CheckScript(script='keep\n:x;\nfileinto "a";')))
    assert not found.valid
    assert [(one.kind, one.line, one.column) for one in found.problems] == [("error", 2, 1), ("error", 3, 1)]
    row = next(row for row in OPERATIONS if row.name == "sieve.check")
    assert row.failed(found) == 1
    found = asyncio.run(sieve.check(None, sieve.CheckScript(script='require ["vacation", "copy"];')))
    assert (found.valid, found.requires, found.problems) == (True, ["copy", "vacation"], [])
    assert row.failed(found) == 0


def test_bounds_are_those_of_the_configuration() -> None:
    script = "if true { if true { if true { keep; } } }"
    config = Config(sieve=SieveTable(max_nesting=2, max_actions=1))
    assert asyncio.run(sieve.check(None, sieve.CheckScript(script=script))).valid
    assert not asyncio.run(sieve.check(config, sieve.CheckScript(script=script))).valid
    with pytest.raises(BadScript):
        asyncio.run(trials.test(config, trials.TestScript(script=script, mail=b"")))
    script = 'redirect "a@example.org"; redirect "b@example.org";'
    asked = trials.TestScript(script=script, mail=b"")
    assert asyncio.run(trials.test(None, asked)).error == ""
    assert asyncio.run(trials.test(config, asked)).error == "line 1: More than 1 actions"


@pytest.fixture
def context(store: Store) -> AdminContext:
    config = Config(sieve=SieveTable(max_scripts=2, max_script_size=100))
    return AdminContext(config=config, dsn="", store=store, blobs=None, cost=None)  # type: ignore[arg-type]


async def test_blocks_in_blocks_are_bounded(store: Store) -> None:
    config = Config(sieve=SieveTable(max_nesting=2))
    context = AdminContext(config=config, dsn="", store=store, blobs=None, cost=None)  # type: ignore[arg-type]
    await store.accounts.create(ANN)
    await sieve.put(context, sieve.PutScript(ANN, "a", "if true { if true {} }"))
    with pytest.raises(BadScript, match="nest deeper than 2"):
        await sieve.put(context, sieve.PutScript(ANN, "b", "if true { if true { if true {} } }"))


async def test_scripts_of_an_account(context: AdminContext) -> None:
    account = await context.store.accounts.create(ANN)
    await sieve.put(context, sieve.PutScript(ANN, "a", "keep; # ä"))
    await sieve.put(context, sieve.PutScript(ANN, "b", "discard;", activate=True))
    shown = await sieve.show(context, sieve.OneScript(ANN, "a"))
    assert (shown.name, shown.script) == ("a", "keep; # ä")

    async def listed() -> dict[str, bool]:
        return {one.name: one.active for one in await sieve.list_scripts(context, sieve.OneAccount(ANN))}

    assert await listed() == {"a": False, "b": True}
    await sieve.activate(context, sieve.OneScript(ANN, "a"))
    assert await listed() == {"a": True, "b": False}
    with pytest.raises(ScriptActive):
        await sieve.delete(context, sieve.OneScript(ANN, "a"))
    await sieve.deactivate(context, sieve.OneAccount(ANN))
    await sieve.delete(context, sieve.OneScript(ANN, "a"))
    assert await listed() == {"b": False}
    assert (await context.store.scripts.get(account, "b")).content == b"discard;"


async def test_refusals(context: AdminContext) -> None:
    await context.store.accounts.create(ANN)
    for call, error in (
        (sieve.put(context, sieve.PutScript(ANN, "a", "no")), BadScript),
        (sieve.put(context, sieve.PutScript(ANN, "a", "#" * 101)), BadScript),
        (sieve.put(context, sieve.PutScript(ANN, "a\n", "keep;")), InvalidName),
        (sieve.put(context, sieve.PutScript("bob@example.com", "a", "keep;")), NotFound),
        (sieve.show(context, sieve.OneScript(ANN, "a")), NoScript),
        (sieve.activate(context, sieve.OneScript(ANN, "a")), NoScript),
        (sieve.list_scripts(context, sieve.OneAccount("bob@example.com")), NotFound),
    ):
        with pytest.raises(error):
            await call
    for name in "ab":
        await sieve.put(context, sieve.PutScript(ANN, name, "keep;"))
    with pytest.raises(TooManyScripts):
        await sieve.put(context, sieve.PutScript(ANN, "c", "keep;"))
