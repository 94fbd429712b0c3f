"""The database built anew from the bucket has all that the old one had, and gives out no number of it again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sora import crashpoints, metrics
from sora._native.seqset import UidSet
from sora.errors import BlobDown, Busy, ConfigError, Refused
from sora.server import prepare
from sora.services.delivery import AppendItem
from sora.services.recovery import rebuild as rebuild_module
from sora.services.shredding import Shredding
from sora.store import journal, keyring
from sora.store.blobs import BlobRef
from sora.store.db import Database
from sora.store.readings import AHEAD
from sora.store.rebuilding import Rebuilding
from sora.store.shreddings import Shreddings
from sora.store.store import Store
from tests.support.letters import letter
from tests.support.rebuilding import (
    House,
    modseqs,
    open_house,
    picture,
    problems,
    rebuilding,
    rebuilt,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.types import AccountId, MailboxId
    from tests.support.postgres import Cluster

GRACE = timedelta(days=14)
WHEN = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)


class Died(BaseException):
    """What stands for SIGKILL."""


def die(point: str) -> None:
    """At the first crash point."""
    raise Died(point)


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
async def house(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> AsyncIterator[House]:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_house(cluster, tmp_path, encrypted=request.param) as house:
        yield house


@pytest.fixture
async def ann(house: House) -> AccountId:
    return await house.store.accounts.create("ann@example.com")


@pytest.fixture
async def inbox(house: House, ann: AccountId) -> MailboxId:
    return (await house.store.mailboxes.get(ann, "INBOX")).mailbox_id


async def append(
    house: House, account_id: AccountId, mailbox_id: MailboxId, *letters: bytes, flags: tuple[int, ...] = ()
) -> list[int]:
    items = [AppendItem(data, flags, WHEN) for data in letters]
    return list((await house.node.delivery.append(account_id, mailbox_id, items)).uids)


async def flag(house: House, account_id: AccountId, mailbox_id: MailboxId, number: int, *uids: int) -> None:
    await house.store.messages.store_flags(account_id, mailbox_id, UidSet.from_numbers(uids), [number])


async def expunge(house: House, account_id: AccountId, mailbox_id: MailboxId, *uids: int) -> None:
    await house.store.messages.expunge(account_id, mailbox_id, UidSet.from_numbers(uids), only_deleted=False)


async def furnish(house: House, ann: AccountId, inbox: MailboxId) -> None:
    """An account with a little of everything."""
    store = house.store
    bob = await store.accounts.create("bob@example.com")
    await store.accounts.set_quota(ann, quota_bytes=10**9, quota_messages=None)
    await store.db.execute(
        "INSERT INTO credentials (account_id, kind, hash) VALUES ($1, 'password', '$argon2id$x')", ann
    )
    await store.db.execute("INSERT INTO aliases (address, account_id) VALUES ('a@example.com', $1)", ann)
    await store.db.execute("UPDATE domains SET catch_all_account_id = $1", bob)
    await store.db.execute("SELECT set_legal_hold($1, true, 'case 7', 'root')", bob)
    work = await store.mailboxes.create(ann, "Work", special_use="\\Important")
    gone = await store.mailboxes.create(ann, "Gone")
    await store.db.execute("SELECT * FROM register_keywords($1, $2)", ann, ["$Label1", "other"])
    await append(house, ann, inbox, *(letter() for _ in range(5)), flags=(0, 16))
    await append(house, ann, work.mailbox_id, letter(headers="In-Reply-To: <1@example.com>\r\n"), flags=(17,))
    await append(house, ann, gone.mailbox_id, letter())
    await store.mailboxes.delete(ann, "Gone")
    await store.messages.store_flags(ann, inbox, UidSet.from_numbers([2]), [0], viewer_id=bob)
    await store.db.execute("INSERT INTO mailbox_acl VALUES ($1, $2, $3, false, 7, NULL)", ann, inbox, bob)
    await store.db.execute("INSERT INTO metadata VALUES ($1, $2, 0, '/shared/comment', 'x')", ann, inbox)
    await store.db.execute("INSERT INTO subscriptions VALUES ($1, 'Old name') ON CONFLICT DO NOTHING", ann)
    await store.db.execute(
        "INSERT INTO sieve_scripts (account_id, name, content, version, active) VALUES ($1, 'x', 'keep;', $2, true)",
        ann, bytes(32),
    )  # fmt: skip
    await store.db.execute(
        """
        INSERT INTO outbound_queue (account_id, kind, sender, recipient, body, body_hash, size)
        VALUES ($1, 'dsn', '', 'eve@example.net', 'x', 'y', 1)
        """,
        bob,
    )
    await flag(house, ann, inbox, 1, 1, 3)
    await expunge(house, ann, inbox, 4)


async def test_all_of_it_comes_back(house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId) -> None:
    await furnish(house, ann, inbox)
    await house.upload()
    await house.write_journal()
    before = await picture(house.store)
    name, report = await rebuilt(house, cluster)
    assert report.whole
    assert (report.accounts, report.messages) == (2, 6)
    db = await Database.open(cluster.dsn(name))
    try:
        after = await picture(Store(db))
        for what, rows in before.items():
            assert after[what] == rows, what
        recent = await db.fetchval("SELECT recent_uid FROM mailbox_recent WHERE mailbox_id = $1", inbox)
        assert recent == 5, "what was there is no news"
        assert await problems(Store(db)) == []
    finally:
        await db.close()


async def test_numbers_go_on_above_what_was_promised(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    await append(house, ann, inbox, letter(), letter())
    await house.upload()
    await house.write_journal()
    await append(house, ann, inbox, letter())  # of which nobody will know: it is only staged, and that is lost too
    for path in (house.node.staging.path(ann, bytes(32)).parent).glob("*.eml"):
        path.unlink()
    old = await modseqs(house.store, ann, inbox)
    content = await house.store.db.fetchval("SELECT max(content_id) FROM message_contents")
    validity = await house.store.db.fetchval("SELECT max(uidvalidity) FROM mailboxes")
    name, _ = await rebuilt(house, cluster)
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        uid_next, highest, floor = await modseqs(again.store, ann, inbox)
        assert uid_next == old[0] - 1 + AHEAD, "as the journal promised when UIDNEXT was one less"
        assert highest > old[1] + AHEAD // 2
        assert floor == highest
        assert await append(again, ann, inbox, letter()) == [uid_next]
        assert await again.store.db.fetchval("SELECT max(content_id) FROM message_contents") > content
        box = await again.store.mailboxes.create(ann, "New")
        assert (box.uidvalidity > validity, box.mailbox_id > 1000) == (True, True)
        assert await again.store.accounts.create("new@example.com") > 1000
        changed = await again.store.db.fetchval(
            "SELECT count(*) FROM changed_since($1, $2, $3)", ann, inbox, old[1] + 1
        )
        assert changed == 3, "the flags of all messages are told once more"
        assert await problems(again.store) == []


async def test_what_came_after_the_last_segment(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    """Under the UID that its object names; what is only staged comes as new mail."""
    await append(house, ann, inbox, letter())
    await house.upload()
    await house.write_journal()
    await house.store.db.execute("SELECT * FROM register_keywords($1, $2)", ann, ["late"])
    assert await append(house, ann, inbox, letter("Second"), flags=(1, 16)) == [2]
    late = await house.store.mailboxes.create(ann, "Late")
    assert await append(house, ann, late.mailbox_id, letter("In a mailbox that no segment knows")) == [1]
    await house.upload()
    assert await append(house, ann, inbox, letter("Staged")) == [3]
    name, report = await rebuilt(house, cluster)
    assert report.whole
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        rows = await again.store.db.fetch(
            """
            SELECT b.name, m.uid, c.subject, m.internal_date, m.initial_flags FROM messages m
            JOIN mailboxes b USING (account_id, mailbox_id) JOIN message_contents c USING (account_id, content_id)
            ORDER BY b.name, m.uid
            """
        )
        known = await modseqs(again.store, ann, inbox)
        assert [(row["name"], row["subject"]) for row in rows] == [
            ("INBOX", rows[0]["subject"]),
            ("INBOX", "Second"),
            ("INBOX", "Staged"),
            ("Late", "In a mailbox that no segment knows"),
        ]
        assert [row["uid"] for row in rows] == [1, 2, 1 + AHEAD + 1, 1]
        assert known[0] == 1 + AHEAD + 2
        assert (rows[1]["internal_date"], rows[1]["initial_flags"]) == (WHEN, [1, 16])
        keyword = await again.store.db.fetchval("SELECT name FROM account_keywords WHERE account_id = $1", ann)
        assert keyword == "late"
        made = await again.store.mailboxes.get(ann, "Late")
        assert made.uidvalidity != late.uidvalidity
        assert await problems(again.store) == []
        assert await again.upload() == 0, "the rebuild has brought it into the bucket"
        async for entry in again.node.blobs.list(f"{ann:016x}/"):
            assert entry.size


async def test_expunged_mail_does_not_come_back(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    """Not even if its object is still there when its row is gone."""
    await append(house, ann, inbox, letter(), letter())
    await house.upload()
    await expunge(house, ann, inbox, 1)
    await house.store.db.execute("SELECT trim_expunges($1, $2, now() + interval '1 d')", ann, inbox)
    await house.write_journal()
    name, report = await rebuilt(house, cluster)
    assert (report.whole, report.messages) == (True, 1)
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        rows = await again.store.db.fetch("SELECT uid FROM messages")
        assert [row[0] for row in rows] == [2]


async def test_a_body_that_is_nowhere_is_reported(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    await append(house, ann, inbox, letter(), letter("Lost"))
    await house.upload()
    await house.write_journal()
    row = await house.store.db.fetchrow("SELECT content_id, content_hash FROM message_contents WHERE subject = 'Lost'")
    assert row is not None
    await house.node.blobs.delete(BlobRef(ann, row["content_id"], row["content_hash"], 0).key)
    _, report = await rebuilt(house, cluster)
    assert not report.whole
    assert (report.messages, report.missing) == (1, 1)
    (missing,) = report.missing_messages
    assert (missing.address, missing.mailbox, missing.uid) == ("ann@example.com", "INBOX", 2)


async def test_a_journal_that_was_off_is_no_witness_of_uids(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    await append(house, ann, inbox, letter())
    await house.upload()
    await house.write_journal()
    await house.node.blobs.put(journal.STOPPED, b"2026-03-04T05:06:07+00:00")
    old = (await house.store.mailboxes.get(ann, "INBOX")).uidvalidity
    name, _ = await rebuilt(house, cluster)
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        assert (await again.store.mailboxes.get(ann, "INBOX")).uidvalidity > old


async def test_segments_and_snapshots_are_one_story(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    """Many small segments, spilled groups, snapshots of some accounts."""
    for turn in range(6):
        await append(house, ann, inbox, *(letter() for _ in range(40)))
        await flag(house, ann, inbox, turn % 3, turn * 40 + 1, turn * 20 + 2)
        if turn > 2:
            await expunge(house, ann, inbox, turn * 30)
        await house.upload()
        await house.write_journal(segment_bytes=2000, most_segments=3, least_bytes=1)
    before = await picture(house.store)
    name, report = await rebuilt(house, cluster)
    assert report.whole
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        after = await picture(again.store)
        assert after["messages"] == before["messages"]
        assert after["flags"] == before["flags"]
        assert await problems(again.store) == []
        # and once more, from what the new database has written
        await again.write_journal(segment_bytes=2000, most_segments=3, least_bytes=1)
        name, report = await rebuilt(again, cluster)
        async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as third:
            assert (await picture(third.store))["messages"] == before["messages"]


async def test_only_an_empty_database_is_filled(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    await house.write_journal()
    async with rebuilding(house, cluster, house.name) as rebuild:
        await house.store.db.execute("UPDATE instances SET stopped_at = now()")
        with pytest.raises(Refused, match="not empty"):
            await rebuild.run()
    name, _ = await rebuilt(house, cluster)
    async with rebuilding(house, cluster, name) as rebuild:
        with pytest.raises(Refused, match="already"):
            await rebuild.run()


async def test_no_server_may_run(house: House, cluster: Cluster, ann: AccountId) -> None:
    await house.write_journal()
    name = await cluster.create()
    db = await Database.open(cluster.dsn(name))
    try:
        await Store(db).leases.register("node-7", host="mail7")
    finally:
        await db.close()
    async with rebuilding(house, cluster, name) as rebuild:
        with pytest.raises(Refused, match="mail7"):
            await rebuild.run()


async def test_no_server_starts_on_half_a_database_nor_on_none(
    house: House, cluster: Cluster, ann: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.write_journal()
    config = house.node.config
    await prepare.require_known_journal(config, cluster.dsn(house.name))
    name = await cluster.create()
    with pytest.raises(ConfigError, match="journal of another"):
        await prepare.require_known_journal(config, cluster.dsn(name))
    monkeypatch.setattr(rebuild_module, "crash_point", die)
    async with rebuilding(house, cluster, name) as rebuild:
        with pytest.raises(Died):
            await rebuild.run()
    with pytest.raises(ConfigError, match="to its end"):
        await prepare.require_whole(cluster.dsn(name))
    monkeypatch.undo()
    async with rebuilding(house, cluster, name) as rebuild:
        await rebuild.run()
    await prepare.require_whole(cluster.dsn(name))
    await prepare.require_known_journal(config, cluster.dsn(name))


async def test_a_damaged_segment_stops_it_unless_asked(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    await append(house, ann, inbox, letter())
    await house.upload()
    await house.write_journal()
    await append(house, ann, inbox, letter())
    await house.upload()
    await house.write_journal()
    *_, last = [entry.key async for entry in house.node.blobs.list(journal.PREFIX)]
    await house.node.blobs.put(last, (await house.node.blobs.get(last))[:-1] + b"?")
    name = await cluster.create()
    async with rebuilding(house, cluster, name) as rebuild:
        with pytest.raises(Refused, match="damaged"):
            await rebuild.run()
    async with rebuilding(house, cluster, name) as rebuild:
        rebuild.damaged = True
        assert (await rebuild.run()).messages == 2, "its object says where the second one was"


async def test_what_belongs_to_no_account_may_be_what_is_damaged(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    await append(house, ann, inbox, letter())
    await house.upload()
    await house.write_journal()
    (key,) = [entry.key async for entry in house.node.blobs.list(journal.PREFIX)]
    seq, frames = journal.parse(await house.node.blobs.get(key))
    builder = journal.Builder(seq)
    for frame in frames:
        if frame.account_id:
            builder.add(frame)
    await house.node.blobs.put(key, builder.finish())
    name, report = await rebuilt(house, cluster)
    assert (report.accounts, report.messages) == (1, 1)
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        assert (await again.store.accounts.get("ann@example.com")).account_id == ann


async def test_a_domain_that_was_made_again_between_two_looks(house: House, cluster: Cluster, ann: AccountId) -> None:
    """The domains were read before, the account afterwards, and then the database was lost."""
    domains = await house.store.db.fetchval("INSERT INTO domains (name) VALUES ('example.net') RETURNING domain_id")
    await house.write_journal()
    await house.store.db.execute("DELETE FROM domains WHERE domain_id = $1", domains)
    eve = await house.store.accounts.create("eve@example.net")
    box = (await house.store.mailboxes.get(eve, "INBOX")).mailbox_id
    made = await house.store.db.fetchval("SELECT domain_id FROM accounts WHERE account_id = $1", eve)
    assert made != domains
    await house.store.db.execute("INSERT INTO mailbox_acl VALUES ($1, $2, 0, false, 7, $3)", eve, box, made)
    await house.store.db.execute("DELETE FROM journal_dirty WHERE account_id = 0")
    await house.write_journal()
    name, report = await rebuilt(house, cluster)
    assert report.whole
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        query = "SELECT d.domain_id, d.name FROM accounts JOIN domains d USING (domain_id) WHERE account_id = $1"
        row = await again.store.db.fetchrow(query, eve)
        assert row is not None
        assert tuple(row) == (domains, "example.net")
        assert await again.store.db.fetchval("SELECT domain_id FROM mailbox_acl") == domains


async def test_two_objects_that_claim_one_uid_both_come_back(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    """A database that was put back gave the UID again, because nobody had told it to pass over what clients know."""
    await append(house, ann, inbox, letter())
    await house.upload()
    await house.write_journal()
    await append(house, ann, inbox, letter("Of one life"))
    await house.upload()
    await house.store.db.execute("DELETE FROM messages WHERE mailbox_id = $1 AND uid = 2", inbox)
    await house.store.db.execute("UPDATE mailbox_stats SET uid_next = 2 WHERE mailbox_id = $1", inbox)
    assert await append(house, ann, inbox, letter("Of another life")) == [2]
    await house.upload()
    name, report = await rebuilt(house, cluster)
    assert report.whole
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        rows = await again.store.db.fetch(
            """
            SELECT m.uid, c.subject FROM messages m JOIN message_contents c USING (account_id, content_id)
            WHERE m.uid > 1 ORDER BY m.uid
            """
        )
        assert [tuple(row) for row in rows] == [(2, "Of one life"), (1 + AHEAD + 1, "Of another life")]


async def test_who_passed_what_was_promised_is_passed_over(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    """An import took UIDs of its own while the first segment with the mailbox was on its way."""
    await house.write_journal()
    await house.store.db.execute("UPDATE mailbox_stats SET uid_reserved = NULL, modseq_reserved = NULL")
    top = 5 * AHEAD
    await house.store.db.execute("UPDATE mailbox_stats SET uid_next = $2 WHERE mailbox_id = $1", inbox, top)
    assert await append(house, ann, inbox, letter()) == [top]
    await house.upload()
    assert await append(house, ann, inbox, letter("On a disk that is lost")) == [top + 1]
    for file in await house.node.staging.list_files():
        await house.node.staging.retire_many([(file.account_id, file.content_hash)])
    name, _ = await rebuilt(house, cluster)
    async with open_house(cluster, house.folder, name=name, encrypted=house.encrypted) as again:
        assert (await modseqs(again.store, ann, inbox))[0] == top + 1 + AHEAD


async def test_what_was_carried_over_is_built_anew(cluster: Cluster, tmp_path: Path) -> None:
    """An account whose key was away while the journal was compacted."""
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_house(cluster, tmp_path, encrypted=True) as house:
        ann = await house.store.accounts.create("ann@example.com")
        inbox = (await house.store.mailboxes.get(ann, "INBOX")).mailbox_id
        for number in range(3):
            await append(house, ann, inbox, letter(), flags=(number,))
            await house.upload()
            await house.write_journal()
        before = await picture(house.store)
        last = max([entry.key async for entry in house.node.blobs.list(journal.PREFIX)])
        await house.store.db.execute("ALTER TABLE account_keys DROP CONSTRAINT account_keys_key_id_fkey")
        await house.store.db.execute("UPDATE account_keys SET key_id = 'lost'")
    async with open_house(cluster, tmp_path, name=house.name, encrypted=True) as house:
        await house.store.db.execute("DELETE FROM leases")
        for name in "bcde":
            await house.store.accounts.create(f"{name}@example.net")
            await house.write_journal(most_segments=1)
        assert min([entry.key async for entry in house.node.blobs.list(journal.PREFIX)]) > last
        name, report = await rebuilt(house, cluster)
        assert (report.whole, report.messages) == (True, 3)
    async with open_house(cluster, tmp_path, name=name, encrypted=True) as again:
        after = await picture(again.store)
        for what in ("messages", "flags", "contents"):
            assert after[what] == before[what]


async def test_a_keyring_that_lacks_a_key_stops_it(cluster: Cluster, tmp_path: Path) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_house(cluster, tmp_path, encrypted=True) as house:
        ann = await house.store.accounts.create("ann@example.com")
        inbox = (await house.store.mailboxes.get(ann, "INBOX")).mailbox_id
        await append(house, ann, inbox, letter())
        await house.upload()
        await house.write_journal()
        (tmp_path / "keyring.toml").unlink()
        keyring.add_key(tmp_path / "keyring.toml")
        with pytest.raises(Refused, match="lacks master keys"):
            await rebuilt(house, cluster)


async def test_a_shredded_account_stays_away(cluster: Cluster, tmp_path: Path) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_house(cluster, tmp_path, encrypted=True) as house:
        for name in ("ann", "bob"):
            account = await house.store.accounts.create(f"{name}@example.com")
            box = (await house.store.mailboxes.get(account, "INBOX")).mailbox_id
            await append(house, account, box, letter())
        await house.upload()
        await house.write_journal()
        for entry in [e async for e in house.node.blobs.list(f"keys/{account:016x}/")]:
            await house.node.blobs.delete(entry.key)
        _, report = await rebuilt(house, cluster)
        assert [lost.account_id for lost in report.lost] == [account]
        assert (report.accounts, report.messages) == (1, 1)


async def test_a_key_that_a_shredder_left_is_removed(cluster: Cluster, tmp_path: Path) -> None:
    """The journal says that it was destroyed; whoever was about to remove it from the bucket died with the database."""
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_house(cluster, tmp_path, encrypted=True) as house:
        ann = await house.store.accounts.create("ann@example.com")
        await house.store.accounts.create("bob@example.com")
        box = (await house.store.mailboxes.get(ann, "INBOX")).mailbox_id
        await append(house, ann, box, letter())
        await house.upload()
        await house.write_journal()
        blobs = house.node.blobs
        (key,) = [entry.key async for entry in blobs.list(f"keys/{ann:016x}/")]
        wrapped = await blobs.get(key)
        await Shredding(Shreddings(house.store.db), blobs, [], "").shred(ann)
        await house.write_journal()
        await blobs.put(key, wrapped)
        _, report = await rebuilt(house, cluster)
        assert [(lost.account_id, lost.deliberate) for lost in report.lost] == [(ann, True)]
        assert (report.accounts, report.whole) == (1, True)
        assert [entry.key async for entry in blobs.list(f"keys/{ann:016x}/")] == []


async def only_staged(house: House, account_id: AccountId) -> None:
    """One body that the journal knows is in staging, as if it had never been uploaded."""
    row = await house.store.db.fetchrow(
        """
        SELECT content_id, content_hash FROM message_contents
        WHERE account_id = $1 AND subject = 'Staged, and known'
        """,
        account_id,
    )
    assert row is not None
    key = BlobRef(account_id, row["content_id"], row["content_hash"], 0).key
    await house.node.staging.stage_many([(account_id, row["content_hash"], await house.node.blobs.get(key))])
    await house.node.blobs.delete(key)


POINTS = [point for point in crashpoints.POINTS if point.startswith("rebuild.")]


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_each_step_and_run_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_house(cluster, tmp_path, encrypted=True) as house:
        ann = await house.store.accounts.create("ann@example.com")
        inbox = (await house.store.mailboxes.get(ann, "INBOX")).mailbox_id
        await furnish(house, ann, inbox)
        await house.upload()
        await append(house, ann, inbox, letter("Staged, and known"))
        await house.write_journal()
        before = await picture(house.store)
        await append(house, ann, inbox, letter("Found"))
        found = await picture(house.store)
        await house.upload()
        await only_staged(house, ann)
        passed = 0

        def crash_point(name: str) -> None:
            nonlocal passed
            passed += name == point
            if name == point and passed == 1:
                raise Died

        monkeypatch.setattr(rebuild_module, "crash_point", crash_point)
        name = await cluster.create()
        async with rebuilding(house, cluster, name) as rebuild:
            try:
                await rebuild.run()
            except (Died, BaseExceptionGroup):
                pass
        assert passed == 1
        async with rebuilding(house, cluster, name) as rebuild:
            state = await Rebuilding(rebuild.db).state()
            assert state is not None
            if point != "rebuild.finished":
                await rebuild.run()
        async with open_house(cluster, tmp_path, name=name, encrypted=True) as again:
            after = await picture(again.store)
            for what in ("accounts", "mailboxes", "rights", "scripts", "keys", "outbound"):
                assert after[what] == before[what], what
            for what in ("counters", "flags", "contents"):
                assert after[what] == found[what], what
            assert await problems(again.store) == []


async def test_a_reservation_that_is_used_up_holds_up_its_own_mailbox_alone(
    house: House, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the bucket is away: temporary errors there, mail for everybody else; the next segment ends it."""
    bob = await house.store.accounts.create("bob@example.com")
    box = (await house.store.mailboxes.get(bob, "INBOX")).mailbox_id
    await append(house, ann, inbox, letter())
    await house.write_journal()
    await house.store.db.execute(
        """
        UPDATE mailbox_stats SET uid_next = uid_reserved, highest_modseq = highest_modseq + 1 WHERE mailbox_id = $1
        """,
        inbox,
    )
    refused = metrics.journal_refusals._value.get()

    async def away(*_: object) -> None:
        raise BlobDown(detail="away")

    with monkeypatch.context() as patch:
        patch.setattr(house.node.blobs, "put", away)
        with pytest.raises(BlobDown):
            await house.write_journal()
        found = await asyncio.gather(
            append(house, ann, inbox, letter()), append(house, bob, box, letter()), return_exceptions=True
        )
        assert isinstance(found[0], Busy)
        assert found[1] == [1]
        assert metrics.journal_refusals._value.get() > refused
        await flag(house, ann, inbox, 0, 1)  # takes no UID
    await house.write_journal()
    assert await append(house, ann, inbox, letter()) == [2 + AHEAD]


async def test_uids_are_passed_over(house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId) -> None:
    await append(house, ann, inbox, letter(), letter(), flags=(0,))
    await house.write_journal()
    await expunge(house, ann, inbox, 1)
    old = await modseqs(house.store, ann, inbox)
    rebuild = Rebuilding(house.store.db)
    mailboxes = await rebuild.all_mailboxes(ann)
    assert await rebuild.bump(mailboxes, 1000) == len(mailboxes) == len(await house.store.mailboxes.list(ann))
    uid_next, highest, floor = await modseqs(house.store, ann, inbox)
    assert uid_next == 3 + AHEAD + 1000
    assert highest == floor > old[1] + 1000
    rows = await house.store.db.fetch("SELECT * FROM changed_since($1, $2, $3)", ann, inbox, highest - 1)
    assert [tuple(row) for row in rows] == [(2, highest)]
    assert await problems(house.store) == []
    assert await append(house, ann, inbox, letter()) == [uid_next], "nothing refuses it"
    await house.write_journal()
    rows = await house.store.db.fetch("SELECT uid_reserved FROM mailbox_stats WHERE mailbox_id = $1", inbox)
    assert rows[0][0] >= uid_next + AHEAD, "the journal promises anew"


async def test_what_was_restored_before_and_after_the_last_segment(
    house: House, cluster: Cluster, ann: AccountId, inbox: MailboxId
) -> None:
    """They are journalled as what they are; what is deleted still can be restored after a rebuild."""
    store = house.store
    work = (await store.mailboxes.create(ann, "Work")).mailbox_id
    await append(house, ann, work, letter(), letter(), flags=(1,))
    await append(house, ann, inbox, *(letter() for _ in range(5)), flags=(2, 3))
    await house.upload()
    await expunge(house, ann, inbox, 1, 2, 3)
    await store.mailboxes.delete(ann, "Work")
    await house.write_journal()
    await store.undelete.refresh(ann, "INBOX", "Deleted/INBOX", GRACE)
    async for _ in store.undelete.restore(ann, inbox, inbox, uids=UidSet.from_numbers([1, 2])):
        pass
    await store.undelete.restore_mailbox(ann, work)
    looked = (await store.mailboxes.get(ann, "Deleted/INBOX")).mailbox_id
    await store.db.execute("INSERT INTO metadata VALUES ($1, $2, $1, '/private/comment', 'x')", ann, looked)
    await house.write_journal()
    before = await picture(store)
    name, report = await rebuilt(house, cluster)
    assert report.whole
    db = await Database.open(cluster.dsn(name))
    try:
        again = Store(db)
        after = await picture(again)
        shadow = (await store.mailboxes.get(ann, "Deleted/INBOX")).mailbox_id
        for what in ("mailboxes", "contents"):
            assert after[what] == before[what], what
        for what in ("messages", "flags", "counters"):
            assert after[what] == [row for row in before[what] if row[1] != shadow], what  # type: ignore[attr-defined]
        assert after["rights"] == after["metadata"] == []
        assert await again.mailboxes.find(ann, "Deleted/INBOX") is None
        await again.undelete.refresh(ann, "INBOX", "Deleted/INBOX", GRACE)
        shown = await again.mailboxes.get(ann, "Deleted/INBOX")
        assert (await again.messages.state(ann, shown.mailbox_id)).message_count == 1
        assert [len(step.uids) async for step in again.undelete.restore(ann, inbox, inbox)] == [1]
        assert await problems(again) == []
    finally:
        await db.close()


async def test_uids_do_not_run_out_by_passing_over_them(house: House, ann: AccountId, inbox: MailboxId) -> None:
    rebuild = Rebuilding(house.store.db)
    for _ in range(8):
        await rebuild.bump(await rebuild.all_mailboxes(ann), 1 << 30)
    uid_next, *_ = await modseqs(house.store, ann, inbox)
    assert uid_next > 4 * 10**9
    assert await append(house, ann, inbox, letter()) == [uid_next]
