"""Sieve scripts on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest

from sora.errors import InvalidName, NotFound, SoraError
from sora.services.changes import Changes
from sora.services.recipients import Recipients
from sora.store.scripts import (
    CHANNEL,
    NoScript,
    Quota,
    ScriptActive,
    ScriptExists,
    ScriptsTooLarge,
    ScriptTooLarge,
    TooManyScripts,
    check_name,
    version_of,
)
from sora.types import AccountId
from sora.wire import lmtp

if TYPE_CHECKING:
    from sora.store.store import Store

QUOTA: Final = Quota(scripts=3, size=20, storage=40)


@pytest.fixture
async def ann(store: Store) -> AccountId:
    return await store.accounts.create("ann@example.com")


async def script_of(store: Store, address: str = "ann@example.com") -> int:
    """What a delivery learns."""
    (found,) = await store.accounts.find_recipients([address])
    assert found is not None
    return found.script


async def names(store: Store, account_id: AccountId) -> dict[str, bool]:
    return {script.name: script.active for script in await store.scripts.list_scripts(account_id)}


async def test_what_was_put_is_there(store: Store, ann: AccountId) -> None:
    bob = await store.accounts.create("bob@example.com")
    await store.scripts.put(ann, "b", b"keep;\0\xff", QUOTA)
    await store.scripts.put(ann, "a", b"", QUOTA)
    found = await store.scripts.list_scripts(ann)
    assert [(script.name, script.size, script.active) for script in found] == [("a", 0, False), ("b", 7, False)]
    script = await store.scripts.get(ann, "b")
    assert (script.name, script.content, script.version) == ("b", b"keep;\0\xff", version_of(b"keep;\0\xff"))
    assert await names(store, bob) == {}
    with pytest.raises(NoScript):
        await store.scripts.get(bob, "b")
    assert await store.scripts.find(bob, "b") is None


async def test_there_is_one_active_script_or_none(store: Store, ann: AccountId) -> None:
    for name in "abc":
        await store.scripts.put(ann, name, b"keep;", QUOTA)
    assert await store.scripts.find_active(ann) is None
    for name in "abba":
        await store.scripts.set_active(ann, name)
        assert await names(store, ann) == {other: other == name for other in "abc"}
        active = await store.scripts.find_active(ann)
        assert active is not None
        assert active.name == name
    with pytest.raises(NoScript):
        await store.scripts.set_active(ann, "d")
    assert (await names(store, ann))["a"], "what failed has changed nothing"
    await store.scripts.set_active(ann, "")
    assert await names(store, ann) == dict.fromkeys("abc", False)


async def test_the_database_bears_no_second_active_script(store: Store, ann: AccountId) -> None:
    for name in "ab":
        await store.scripts.put(ann, name, b"keep;", QUOTA)
    async with store.db.acquire() as conn:
        with pytest.raises(asyncpg.UniqueViolationError):
            await conn.execute("UPDATE sieve_scripts SET active = true WHERE account_id = $1", ann)


async def test_an_active_script_stays_so_when_it_is_replaced_or_renamed(store: Store, ann: AccountId) -> None:
    await store.scripts.put(ann, "a", b"keep;", QUOTA)
    await store.scripts.set_active(ann, "a")
    await store.scripts.put(ann, "a", b"discard;", QUOTA)
    await store.scripts.rename(ann, "a", "b")
    assert await names(store, ann) == {"b": True}
    active = await store.scripts.find_active(ann)
    assert active is not None
    assert active.content == b"discard;"
    with pytest.raises(ScriptActive):
        await store.scripts.delete(ann, "b")
    with pytest.raises(NoScript):
        await store.scripts.delete(ann, "a")
    await store.scripts.set_active(ann, "")
    await store.scripts.delete(ann, "b")
    assert await names(store, ann) == {}


async def test_names_are_not_taken_twice(store: Store, ann: AccountId) -> None:
    for name in "ab":
        await store.scripts.put(ann, name, b"keep;", QUOTA)
    for name, to, error in (("a", "b", ScriptExists), ("a", "a", ScriptExists), ("x", "b", NoScript)):
        with pytest.raises(error):
            await store.scripts.rename(ann, name, to)
    await store.scripts.rename(ann, "a", "A")
    assert await names(store, ann) == {"A": False, "b": False}


async def test_quotas(store: Store, ann: AccountId) -> None:
    put, have = store.scripts.put, store.scripts.have_space
    await put(ann, "a", b"x" * 20, QUOTA)
    await put(ann, "b", b"x" * 20, QUOTA)
    for name, size, error in (("c", 1, ScriptsTooLarge), ("a", 21, ScriptTooLarge)):
        with pytest.raises(error):
            await have(ann, name, size, QUOTA)
        with pytest.raises(error):
            await put(ann, name, b"x" * size, QUOTA)
    await have(ann, "a", 20, QUOTA)  # what it replaces counts no more
    await put(ann, "c", b"", QUOTA)
    with pytest.raises(TooManyScripts):
        await have(ann, "d", 0, QUOTA)
    with pytest.raises(TooManyScripts):
        await put(ann, "d", b"", QUOTA)
    await put(ann, "c", b"", QUOTA)
    assert await names(store, ann) == dict.fromkeys("abc", False)


async def test_two_at_a_time_do_not_pass_the_quota(store: Store, ann: AccountId) -> None:
    results = await asyncio.gather(
        *(store.scripts.put(ann, f"s{number}", b"x" * 10, QUOTA) for number in range(8)), return_exceptions=True
    )
    assert sum(result is None for result in results) == 3
    assert {type(result) for result in results} == {type(None), TooManyScripts}


@pytest.mark.parametrize(
    "name", ["", "a\0", "a\x1f", "\x7f", "\x85", "\u2028", "\u2029", "x" * 513, "𝄞" * 129, "\ud800"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "x" * 512, "𝄞" * 128, "../x", "a b", " ", "%s", "Grüße", "\xa0"])
def test_what_is_a_name(name: str) -> None:
    assert check_name(name) == name


async def test_names_are_compared_in_nfc(store: Store, ann: AccountId) -> None:
    await store.scripts.put(ann, "Cafe\u0301", b"keep;", QUOTA)
    assert (await store.scripts.get(ann, "Café")).name == "Café"
    await store.scripts.set_active(ann, "Cafe\u0301")
    await store.scripts.put(ann, "Café", b"discard;", QUOTA)
    assert await names(store, ann) == {"Café": True}


async def test_a_delivery_learns_of_every_change_and_of_nothing_else(store: Store, ann: AccountId) -> None:
    scripts = store.scripts
    assert await script_of(store) == 0
    await scripts.put(ann, "a", b"keep;", QUOTA)
    assert await script_of(store) == 0
    await scripts.set_active(ann, "a")
    seen = [await script_of(store)]
    for change in (
        lambda: scripts.put(ann, "a", b"discard;", QUOTA),
        lambda: scripts.put(ann, "included", b"keep;", QUOTA),
        lambda: scripts.rename(ann, "included", "other"),
        lambda: scripts.delete(ann, "other"),
        lambda: scripts.rename(ann, "a", "b"),
    ):
        await change()
        seen.append(await script_of(store))
    assert seen == sorted(set(seen))
    assert seen[0] > 0
    await scripts.set_active(ann, "b")
    await scripts.put(ann, "b", b"discard;", QUOTA)
    assert await script_of(store) == seen[-1], "the same again is no change"
    await scripts.set_active(ann, "")
    assert await script_of(store) == 0
    await scripts.set_active(ann, "b")
    assert await script_of(store) > seen[-1]


async def test_other_processes_are_told(store: Store, dsn: str, ann: AccountId) -> None:
    """What a worker remembers of a recipient ends with the notice, and not with its five seconds."""
    recipients = Recipients(store, clock=lambda: 0.0)
    changes = Changes(dsn)
    heard = asyncio.Event()

    def hear(payload: str) -> None:
        recipients.forget(AccountId(int(payload, 16)))
        heard.set()

    changes.hear(CHANNEL, hear)
    changes.start()
    await changes.listening.wait()
    path = lmtp.parse_recipient(b"TO:<ann@example.com>", utf8=False).path
    await store.scripts.put(ann, "a", b"keep;", QUOTA)
    await heard.wait()
    heard.clear()
    (before,) = await recipients.find([path])
    await store.scripts.set_active(ann, "a")
    await asyncio.wait_for(heard.wait(), 10)
    (after,) = await recipients.find([path])
    assert not isinstance(before, SoraError)
    assert not isinstance(after, SoraError)
    assert before.script == 0
    assert after.script > 0
    await changes.close()


async def test_scripts_come_back_with_their_account(store: Store, ann: AccountId) -> None:
    await store.scripts.put(ann, "a", b"keep;", QUOTA)
    await store.scripts.set_active(ann, "a")
    before = await script_of(store)
    await store.accounts.delete(ann)
    await store.accounts.restore(ann)
    assert await names(store, ann) == {"a": True}
    assert await script_of(store) == before


async def test_scripts_go_with_their_account(store: Store, ann: AccountId) -> None:
    await store.scripts.put(ann, "a", b"keep;", QUOTA)
    await store.scripts.set_active(ann, "a")
    await store.accounts.delete(ann)
    assert await store.db.fetchval("SELECT count(*) FROM sieve_scripts") == 1
    await store.db.execute("UPDATE accounts SET deleted_at = clock() - interval '1 year'")
    await store.db.execute("DELETE FROM mailboxes")
    while await store.db.fetchval("SELECT purge_account($1, '1 d')", ann):
        pass
    assert await store.db.fetchval("SELECT count(*) FROM accounts") == 0
    assert await store.db.fetchval("SELECT count(*) FROM sieve_scripts") == 0


async def test_nobody_has_scripts_without_an_account(store: Store) -> None:
    for call in (
        store.scripts.put(AccountId(99), "a", b"keep;", QUOTA),
        store.scripts.set_active(AccountId(99), ""),
        store.scripts.rename(AccountId(99), "a", "b"),
        store.scripts.delete(AccountId(99), "a"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_shredding_takes_the_scripts_and_lets_none_in(store: Store, ann: AccountId) -> None:
    await store.scripts.put(ann, "a", b"keep;", QUOTA)
    await store.scripts.set_active(ann, "a")
    await store.db.execute("SELECT create_account_key($1, 'k1', '\\x01', '\\x0a', '\\x0b')", ann)
    await store.db.execute("SELECT begin_shredding($1)", ann)
    with pytest.raises(NotFound):
        await store.scripts.put(ann, "b", b"keep;", QUOTA)
    while await store.db.fetchval("SELECT shred_rows($1)", ann):
        pass
    assert await names(store, ann) == {}
    with pytest.raises(NotFound):
        await store.scripts.put(ann, "b", b"keep;", QUOTA)


class Model:
    """The same in a dict."""

    def __init__(self) -> None:
        self.scripts: dict[str, bytes] = {}
        self.active = ""

    def put(self, name: str, content: bytes) -> None:
        others = {other: text for other, text in self.scripts.items() if other != name}
        if len(content) > QUOTA.size:
            raise ScriptTooLarge
        if len(others) + 1 > QUOTA.scripts:
            raise TooManyScripts
        if sum(map(len, others.values())) + len(content) > QUOTA.storage:
            raise ScriptsTooLarge
        self.scripts[name] = content

    def set_active(self, name: str) -> None:
        if name and name not in self.scripts:
            raise NoScript
        self.active = name

    def rename(self, name: str, to: str) -> None:
        if name not in self.scripts:
            raise NoScript
        if to in self.scripts:
            raise ScriptExists
        self.scripts[to] = self.scripts.pop(name)
        self.active = to if self.active == name else self.active

    def delete(self, name: str) -> None:
        if name not in self.scripts:
            raise NoScript
        if name == self.active:
            raise ScriptActive
        del self.scripts[name]


@pytest.mark.parametrize("seed", range(4))
async def test_any_sequence_of_changes_ends_as_the_model_says(store: Store, ann: AccountId, seed: int) -> None:
    choose, model = random.Random(seed), Model()
    for _ in range(80):
        name, to = choose.choices("abcd", k=2)
        content = b"x" * choose.choice((0, 5, 15, 20, 21))
        change, arguments = choose.choice(
            [
                ("put", (name, content)),
                ("put", (name, content)),
                ("set_active", (choose.choice(("", name)),)),
                ("rename", (name, to)),
                ("delete", (name,)),
            ]
        )
        expected = await outcome(getattr(model, change), *arguments)
        quota = (QUOTA,) if change == "put" else ()
        assert await outcome(getattr(store.scripts, change), ann, *arguments, *quota) is expected
        found = {script.name: (await store.scripts.get(ann, script.name)).content
                 for script in await store.scripts.list_scripts(ann)}  # fmt: skip
        assert found == model.scripts
        assert [n for n, active in (await names(store, ann)).items() if active] == list(filter(None, [model.active]))
        assert bool(await script_of(store)) == bool(model.active)


async def outcome(call: object, *arguments: object) -> type[SoraError] | None:
    """The class of what is raised."""
    try:
        result = call(*arguments)  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            await result
    except SoraError as error:
        return type(error)
    return None
