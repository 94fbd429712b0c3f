"""Access control lists: what rights follow from which entries, who sees what, and what becomes of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sora.errors import NotFound
from sora.store.acl import ANYONE, AUTHENTICATED, Entry
from sora.types import ALL_RIGHTS, NO_RIGHTS, AccountId, MailboxId, Rights
from tests.support.imap import ImapWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from pathlib import Path

    from sora.store.store import Store
    from tests.support.transcripts import Link

KEPT = Rights.LOOKUP | Rights.ADMINISTER
NAMES = ("ann@example.com", "bob@example.com", "eve@other.org")


class House:
    """Ann, who owns the mailboxes, Bob of her domain, and Eve of another one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.accounts: dict[str, AccountId] = {}
        self.inbox = MailboxId(0)

    async def open(self) -> House:
        for name in NAMES:
            self.accounts[name] = await self.store.accounts.create(name)
        self.inbox = (await self.store.mailboxes.get(self.ann, "INBOX")).mailbox_id
        return self

    @property
    def ann(self) -> AccountId:
        return self.accounts[NAMES[0]]

    @property
    def bob(self) -> AccountId:
        return self.accounts[NAMES[1]]

    async def set(self, who: str, rights: Rights, *, negative: bool = False, mode: str = "=") -> int | None:
        grantee = await self.store.acl.find_grantee(who)
        return await self.store.acl.set(self.ann, self.inbox, grantee, Entry(who, rights, negative), mode)

    async def rights(self, who: str, name: str = "INBOX") -> Rights:
        found = await self.store.mailboxes.find(self.ann, name, self.accounts[who])
        assert found is not None
        return found.rights


@pytest.fixture
async def house(store: Store) -> House:
    return await House(store).open()


some_rights = st.integers(0, 2047).map(Rights)
entries = st.lists(
    st.tuples(st.sampled_from([*NAMES, "anyone", "authenticated"]), st.booleans(), some_rights, st.sampled_from("=+-")),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=entries)
async def test_rights_are_what_is_given_less_what_is_taken(
    house: House, changes: list[tuple[str, bool, Rights, str]]
) -> None:
    await house.store.db.execute("DELETE FROM mailbox_acl")
    model: dict[tuple[str, bool], Rights] = {}
    for who, negative, rights, mode in changes:
        before = model.get((who, negative), ALL_RIGHTS if (who, negative) == (NAMES[0], False) else NO_RIGHTS)
        after = {"=": rights, "+": before | rights, "-": before & ~rights}[mode]
        after |= KEPT if (who, negative) == (NAMES[0], False) else NO_RIGHTS
        changed = await house.set(who, rights, negative=negative, mode=mode)
        assert (changed is not None) == (after != before)
        model[who, negative] = after
    for who in NAMES:
        everybody = () if who == NAMES[2] else ("anyone", "authenticated")
        given_ = ALL_RIGHTS if who == NAMES[0] and (who, False) not in model else NO_RIGHTS
        taken = NO_RIGHTS
        for identifier in (who, *everybody):
            given_ |= model.get((identifier, False), NO_RIGHTS)
            taken |= model.get((identifier, True), NO_RIGHTS)
        expected = given_ & ~taken | (KEPT if who == NAMES[0] else NO_RIGHTS)
        assert await house.rights(who) == expected, (who, model)
        shared = await house.store.acl.list_shared(house.accounts[who])
        visible = who != NAMES[0] and bool(expected & Rights.LOOKUP)
        assert [(box.owner, box.name, box.rights) for box in shared] == (
            [(NAMES[0], "INBOX", expected)] if visible else []
        )
    listed = {
        (entry.identifier, entry.negative): entry.rights
        for entry in await house.store.acl.entries(house.ann, house.inbox)
    }
    assert listed == {(NAMES[0], False): ALL_RIGHTS} | {key: rights for key, rights in model.items() if rights}


async def test_a_change_raises_the_modseq_and_is_told_to_both(house: House) -> None:
    db = house.store.db
    before = (await house.store.messages.state(house.ann, house.inbox)).highest_modseq
    modseq = await house.set(NAMES[1], Rights.LOOKUP | Rights.READ)
    assert modseq == before + 1
    state = await house.store.messages.state(house.ann, house.inbox, house.bob)
    assert (state.highest_modseq, state.rights) == (modseq, Rights.LOOKUP | Rights.READ)
    rows = await db.fetch("SELECT account_id, mailbox_id, name FROM account_changes WHERE kind = 'acl' ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        (house.ann, house.inbox, "INBOX"), (house.bob, house.inbox, "INBOX"),
    ]  # fmt: skip
    assert await house.set(NAMES[1], Rights.READ, mode="+") is None
    assert (await house.store.messages.state(house.ann, house.inbox)).highest_modseq == modseq


async def test_new_mailboxes_inherit_and_old_ones_keep(house: House) -> None:
    boxes = house.store.mailboxes
    await house.set(NAMES[1], Rights.LOOKUP | Rights.READ)
    await boxes.create(house.ann, "INBOX/a/b")
    assert await house.rights(NAMES[1], "INBOX/a") == await house.rights(NAMES[1], "INBOX/a/b")
    await house.set(NAMES[1], NO_RIGHTS)
    assert await house.rights(NAMES[1], "INBOX/a/b") == Rights.LOOKUP | Rights.READ
    await boxes.rename(house.ann, "INBOX/a/b", "Other/c")
    assert await house.rights(NAMES[1], "Other/c") == Rights.LOOKUP | Rights.READ
    assert await house.rights(NAMES[1], "Other") == NO_RIGHTS
    await boxes.create(house.ann, "INBOX/a/b")
    await boxes.delete(house.ann, "INBOX/a")
    assert await house.rights(NAMES[1], "INBOX/a") == Rights.LOOKUP | Rights.READ, "the name above others keeps them"
    await boxes.delete(house.ann, "Other/c")
    await boxes.create(house.ann, "Other/c")
    assert await house.rights(NAMES[1], "Other/c") == NO_RIGHTS, "a new mailbox has nothing of an old one"


async def test_identifiers(house: House) -> None:
    acl = house.store.acl
    assert await acl.find_grantee("Bob@Example.COM") == house.bob
    assert (await acl.find_grantee("ANYONE"), await acl.find_grantee("authenticated")) == (ANYONE, AUTHENTICATED)
    for nobody in ("bob", "joe@example.com", "$group", ""):
        with pytest.raises(NotFound):
            await acl.find_grantee(nobody)
    assert await acl.find_owner("a\0b@example.com") is None


async def test_a_deleted_account_shares_nothing_and_is_given_nothing(house: House) -> None:
    accounts, acl = house.store.accounts, house.store.acl
    await house.set(NAMES[1], Rights.LOOKUP)
    await accounts.delete(house.bob)
    assert [entry.identifier for entry in await acl.entries(house.ann, house.inbox)] == [NAMES[0]]
    with pytest.raises(NotFound):
        await acl.find_grantee(NAMES[1])
    await accounts.restore(house.bob)
    assert len(await acl.list_shared(house.bob)) == 1
    await accounts.delete(house.ann)
    assert await acl.list_shared(house.bob) == []
    assert await acl.find_owner(NAMES[0]) is None
    with pytest.raises(NotFound):
        await acl.set(house.ann, house.inbox, house.bob, Entry(NAMES[1], ALL_RIGHTS))


_READ = (
    "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int FROM pg_stat_xact_user_tables"
    " WHERE schemaname = 'sora' AND relname IN ('accounts', 'mailbox_acl')"
)


async def test_a_list_looks_at_no_other_accounts_and_nothing_of_other_domains(house: House) -> None:
    await house.set("bob@example.com", Rights.LOOKUP)
    await house.set("anyone", Rights.READ | Rights.LOOKUP)
    boxes = house.store.mailboxes
    for number in range(30):
        await house.store.accounts.create(f"idle{number}@example.com")
        other = await house.store.accounts.create(f"public{number}@other.org")
        inbox = (await boxes.get(other, "INBOX")).mailbox_id
        await house.store.acl.set(other, inbox, ANYONE, Entry("anyone", Rights.LOOKUP))
    async with house.store.db.transaction() as conn:
        await conn.execute("ANALYZE accounts, mailbox_acl")
        before = await conn.fetchval(_READ)
        rows = await conn.fetch("SELECT rights FROM list_shared($1)", house.bob)
        read = await conn.fetchval(_READ) - before
    assert [row["rights"] for row in rows] == [Rights.READ | Rights.LOOKUP]
    assert read < 15


async def test_another_node_knows_at_the_next_command(dsn: str, tmp_path: Path) -> None:
    """Rights travel with the notices of changes: Ann is on one node, Bob has the mailbox selected on another."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with open_node(dsn, folders[0]) as one, open_node(dsn, folders[1]) as two:
        ann, bob = ImapWorld(one), ImapWorld(two)
        await ann.given("ann: INBOX=1")
        await ann.given("bob")
        bob.accounts = ann.accounts
        await bob.given("link 2: bob")
        owner = ann.accounts["ann"]
        inbox = (await one.store.mailboxes.get(owner, "INBOX")).mailbox_id
        first, second = await ann.connect(1), await bob.connect(2)
        heard = asyncio.Event()
        two.changes.watch(owner, inbox, lambda *_: heard.set())

        async def run(link: Link, command: str) -> list[bytes]:
            await link.send(b"t " + command.encode() + b"\r\n")
            lines = [await link.read_line()]
            while not lines[-1].startswith(b"t "):
                lines.append(await link.read_line())
            return lines

        async def revoke(rights: str) -> None:
            heard.clear()
            await run(first, f"SETACL INBOX bob@example.com {rights}")
            await heard.wait()

        await two.changes.listening.wait()
        await revoke("lrw")
        assert (await run(second, "SELECT Shared/ann@example.com/INBOX"))[-1].startswith(b"t OK [READ-WRITE]")
        assert (await run(second, "STORE 1 +FLAGS (\\Flagged)"))[-1].startswith(b"t OK")
        await revoke("lr")
        assert (await run(second, "STORE 1 -FLAGS (\\Flagged)"))[-1] == b"t NO [NOPERM] Permission denied"
        await revoke("l")
        assert (await run(second, "FETCH 1 (FLAGS)"))[0].startswith(b"* BYE [NOPERM]")
