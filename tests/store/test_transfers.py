"""COPY and MOVE into another account: every body is the target's own, whatever becomes of the source."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sora._native.seqset import UidSet
from sora.errors import BlobDown, OverQuota
from sora.services.delivery import AppendItem
from sora.store import keyring, sealing
from sora.store.blobs import BlobRef
from sora.store.copies import BodyCopies
from sora.store.transfers import Transfer
from sora.types import ALL_RIGHTS, AccountId, ContentId, MailboxId, Rights
from tests.support import transcripts
from tests.support.imap import ImapWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.services.node import Node

KINDS = ("plain", "sealed", "copied", "sealed and copied")
SMALL = b"Subject: small\r\n\r\nhello\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 200_000
WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class House:
    """Two accounts on a node, the messages of one of them in its INBOX."""

    def __init__(self, node: Node, kind: str) -> None:
        self.node = node
        self.kind = kind
        self.ann = self.bob = AccountId(0)
        self.inboxes: dict[AccountId, MailboxId] = {}

    async def fill(self, *bodies: bytes, flags: tuple[int, ...] = ()) -> None:
        accounts = self.node.store.accounts
        self.ann = await accounts.create("ann@example.com")
        self.bob = await accounts.create("bob@example.com")
        for account_id in (self.ann, self.bob):
            self.inboxes[account_id] = (await self.node.store.mailboxes.get(account_id, "INBOX")).mailbox_id
        items = [AppendItem(body, flags, WHEN) for body in bodies]
        await self.node.delivery.append(self.ann, self.inboxes[self.ann], items)

    def transfer(self, *, move: bool = False, rights: Rights = ALL_RIGHTS) -> Transfer:
        return Transfer(
            self.ann, self.inboxes[self.ann], self.bob, self.inboxes[self.bob], self.bob, rights, move
        )  # fmt: skip

    async def rows(self, account_id: AccountId) -> list[tuple[int, BlobRef]]:
        found = []
        uids = UidSet.from_ranges([(1, 1000)])
        columns = ("content_id", "content_hash", "size", "expunged_at", "internal_date")
        async for rows in self.node.store.messages.rows(account_id, self.inboxes[account_id], uids, columns):
            for row in rows:
                assert row["internal_date"] == WHEN
                ref = BlobRef(account_id, ContentId(row["content_id"]), row["content_hash"], row["size"])
                found += [(row["uid"], ref)] if row["expunged_at"] is None else []
        return found

    async def bodies(self, account_id: AccountId) -> list[bytes]:
        """What a reader gets that has nothing in memory."""
        return [await self.node.bodies.get(ref) for _, ref in await self.rows(account_id)]


@pytest.fixture(params=KINDS)
async def house(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    tables: dict[str, dict[str, object]] = {}
    if "sealed" in request.param:
        keyring.add_key(tmp_path / "keyring.toml")
        tables["encryption"] = {"keyring_file": str(tmp_path / "keyring.toml")}
    if "copied" in request.param:
        tables["uploader"] = {"durability": "database"}
    async with open_node(dsn, tmp_path, **tables) as node:
        yield House(node, request.param)


async def pending(house: House, account_id: AccountId) -> list[tuple[int, bytes]]:
    rows = await house.node.store.db.fetch(
        "SELECT content_id, content_hash FROM pending_uploads WHERE account_id = $1 AND instance_id = $2 ORDER BY 1",
        account_id, house.node.instance_id,
    )  # fmt: skip
    return [(row["content_id"], row["content_hash"]) for row in rows]


async def test_a_copy_is_the_other_accounts_own(house: House) -> None:
    await house.fill(SMALL, LARGE, SMALL)
    done = await house.node.transfers.transfer(house.transfer(), UidSet.from_ranges([(1, 3)]))
    assert (done.source_uids, done.target_uids) == ([1, 2, 3], [1, 2, 3])
    rows = await house.rows(house.bob)
    assert len({ref.content_id for _, ref in rows}) == 2, "the same body is stored once"
    theirs = {ref.content_hash for _, ref in await house.rows(house.ann)}
    own = {ref.content_hash for _, ref in rows}
    assert own.isdisjoint(theirs) if "sealed" in house.kind else own == theirs
    house.node.bodies.forget_all()
    assert await house.bodies(house.bob) == [SMALL, LARGE, SMALL]
    assert await pending(house, house.bob) == sorted({(ref.content_id, ref.content_hash) for _, ref in rows})
    for _, ref in rows:
        stored = house.node.staging.path(house.bob, ref.content_hash).read_bytes()
        assert sealing.is_sealed(stored) == ("sealed" in house.kind)


async def test_a_copy_outlives_its_source_and_the_sources_key(house: House) -> None:
    """Nothing of the source's account is needed to read it."""
    await house.fill(SMALL)
    await house.node.transfers.transfer(house.transfer(move=True), UidSet.from_ranges([(1, 1)]))
    assert await house.rows(house.ann) == []
    await house.node.staging.remove_account(house.ann)
    if "sealed" in house.kind:
        await house.node.store.db.execute("DELETE FROM account_keys WHERE account_id = $1", house.ann)
    house.node.bodies.forget_all()
    assert await house.bodies(house.bob) == [SMALL]


async def test_the_database_has_a_copy_where_every_body_has_one(house: House) -> None:
    await house.fill(SMALL, LARGE)
    await house.node.transfers.transfer(house.transfer(), UidSet.from_ranges([(1, 2)]))
    copies = BodyCopies(house.node.store.db)
    for _, ref in await house.rows(house.bob):
        stored = house.node.staging.path(house.bob, ref.content_hash).read_bytes()
        assert await copies.read(ref) == (stored if "copied" in house.kind else None)


async def test_what_does_not_fit_is_not_even_staged(house: House) -> None:
    await house.fill(SMALL)
    await house.node.store.db.execute("UPDATE accounts SET quota_bytes = 10 WHERE account_id = $1", house.bob)
    with pytest.raises(OverQuota):
        await house.node.transfers.transfer(house.transfer(move=True), UidSet.from_ranges([(1, 1)]))
    assert len(await house.rows(house.ann)) == 1
    assert await house.rows(house.bob) == []
    assert all(file.account_id == house.ann for file in await house.node.staging.list_files())


async def test_too_many_messages_are_refused_by_the_commit(house: House) -> None:
    await house.fill(SMALL)
    await house.node.store.db.execute("UPDATE accounts SET quota_messages = 1 WHERE account_id = $1", house.bob)
    await house.node.transfers.transfer(house.transfer(), UidSet.from_ranges([(1, 1)]))
    with pytest.raises(OverQuota):
        await house.node.transfers.transfer(house.transfer(), UidSet.from_ranges([(1, 1)]))
    assert len(await house.rows(house.bob)) == 1


async def test_a_body_that_cannot_be_had_stops_all(house: House) -> None:
    await house.fill(SMALL, LARGE)
    (_, ref), _ = await house.rows(house.ann)
    house.node.staging.path(house.ann, ref.content_hash).unlink()
    await house.node.store.db.execute("DELETE FROM body_copies")
    house.node.bodies.forget_all()
    with pytest.raises(BlobDown):
        await house.node.transfers.transfer(house.transfer(), UidSet.from_ranges([(1, 2)]))
    assert await house.rows(house.bob) == []


async def test_flags_go_along_by_name_as_far_as_rights_allow(house: House) -> None:
    await house.fill(SMALL)
    store = house.node.store
    await store.mailboxes.register_keywords(house.bob, ["Other", "Work"])
    numbers = await store.mailboxes.register_keywords(house.ann, ["Work"])
    inbox = house.inboxes[house.ann]
    one = UidSet.from_ranges([(1, 1)])
    await store.messages.store_flags(house.ann, inbox, one, [0, 2, 3, numbers["Work"]])
    await store.messages.store_flags(house.ann, inbox, one, [0], viewer_id=house.bob)
    limits = (ALL_RIGHTS, Rights.INSERT | Rights.WRITE, Rights.INSERT | Rights.SEEN, Rights.INSERT)
    for rights in limits:
        await house.node.transfers.transfer(house.transfer(rights=rights), one)
    names = await store.mailboxes.list_keywords(house.bob)
    rows = await store.db.fetch(
        "SELECT uid, initial_flags FROM messages WHERE account_id = $1 AND mailbox_id = $2 ORDER BY uid",
        house.bob, house.inboxes[house.bob],
    )  # fmt: skip
    flags = [{names.get(number, number) for number in row["initial_flags"] or ()} for row in rows]
    assert flags == [{0, 2, 3, "Work"}, {2, "Work"}, {0}, set()]


async def test_inside_an_account_nothing_is_read(house: House) -> None:
    await house.fill(SMALL)
    archive = (await house.node.store.mailboxes.get(house.ann, "Archive")).mailbox_id
    house.node.staging.path(house.ann, (await house.rows(house.ann))[0][1].content_hash).unlink()
    inside = Transfer(house.ann, house.inboxes[house.ann], house.ann, archive, house.ann, ALL_RIGHTS)
    done = await house.node.transfers.transfer(inside, UidSet.from_ranges([(1, 1)]))
    assert done.target_uids == [1]


async def test_the_conversation_is_the_same(house: House) -> None:
    """With seals and copies as without: sharing, appending, copying and moving between accounts."""
    folder = Path(__file__).parents[1] / "transcripts" / "imap"
    for name in ("shared.txt", "shared_copy.txt"):
        world = ImapWorld(house.node)
        await transcripts.play(folder / name, world, "whole")
        for account_id in world.accounts.values():
            await house.node.store.accounts.delete(account_id)
