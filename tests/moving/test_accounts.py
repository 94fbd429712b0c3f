"""One account taken out whole, and erased whole."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from sora.admin import moving
from sora.crashpoints import POINTS
from sora.errors import NoPermission, NotFound, Refused
from sora.services.moving import erasing
from sora.services.moving.erasing import Erasing
from sora.store import keyring
from sora.store.journal import snapshot_key, snapshot_prefix
from sora.store.scripts import Quota
from tests.moving.house import ADDRESS, House, open_house

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.moving.erasing import Erased
    from sora.store.db import Database
    from sora.types import AccountId

RECEIPTS = {"shreddings", "shredded_nodes", "dropped_keys", "journal_dirty"}
"""What is kept of an account to prove that its key is gone, and the number that the journal is going to strike out."""


@pytest.fixture(params=["plain", "encrypted"])
async def house(request: pytest.FixtureRequest, dsn: str, db: Database, tmp_path: Path) -> AsyncIterator[House]:
    """An account with mail in three mailboxes, some of it deleted, and a script; and another account with mail."""
    tables: dict[str, dict[str, object]] = {}
    if request.param == "encrypted":
        keyring.add_key(tmp_path / "keyring.toml")
        tables["encryption"] = {"keyring_file": str(tmp_path / "keyring.toml")}
    async with open_house(dsn, db, tmp_path, **tables) as house:
        for name in ("", ".Work", ".Gone"):
            house.fill(name, [1, 2, 5])
        for address in (ADDRESS, "bob@example.com"):
            if address != ADDRESS:
                await house.store.accounts.create(address)
            await moving.import_maildir(house.context, moving.ImportMaildir(address, str(house.mail)))
        await house.store.mailboxes.delete(house.ann, "Gone")
        await house.store.scripts.put(house.ann, "main", b"keep;", Quota(10, 1000, 1000))
        yield house


_QUEUE = """
    INSERT INTO outbound_queue (account_id, kind, sender, recipient, content_id, size)
    SELECT account_id, 'redirect', '', 'x@example.org', content_id, 1 FROM messages
    WHERE account_id = $1 AND mailbox_id = $2 LIMIT 1
"""


async def erase(house: House) -> Erased:
    return await moving.erase_account(house.context, moving.EraseAccount(ADDRESS, ADDRESS))


async def tables_with(house: House) -> set[str]:
    """Tables in which something of the account stands."""
    rows = await house.store.db.fetch(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'sora' AND column_name = 'account_id'"
    )
    tables = [row["table_name"] for row in rows]
    found = set()
    for table in tables:
        if await house.store.db.fetchval(f"SELECT EXISTS (SELECT FROM {table} WHERE account_id = $1)", house.ann):
            found.add(table)
    return found


async def test_all_of_an_account_is_in_its_export(house: House, tmp_path: Path) -> None:
    db, ann = house.store.db, house.ann
    inbox = (await house.store.mailboxes.get(ann, "INBOX")).mailbox_id
    bob = (await house.store.accounts.get("bob@example.com")).account_id
    for viewer, value in ((0, b"for all"), (ann, b"mine"), (bob, b"not mine")):
        await db.execute("INSERT INTO metadata VALUES ($1, $2, $3, '/comment', $4)", ann, inbox, viewer, value)
    theirs = (await house.store.mailboxes.get(bob, "INBOX")).mailbox_id
    await db.execute("INSERT INTO metadata VALUES ($1, $2, $3, '/comment', 'on his')", bob, theirs, ann)
    await db.execute(_QUEUE, ann, inbox)
    report = await moving.export_account(house.context, moving.ExportAccount(ADDRESS, str(tmp_path / "out")))
    assert report.notes == ["3 deleted messages are still kept, and not in the export: `messages restore`"]
    assert (report.messages, report.problems) == (6, [])
    document = json.loads((tmp_path / "out" / "account.json").read_text())
    assert document["account"]["address"] == ADDRESS
    assert {"INBOX", "Work"} <= {mailbox["name"] for mailbox in document["mailboxes"]}
    assert [script["name"] for script in document["scripts"]] == ["main"]
    annotations = {base64.b64decode(one["value"]): one["owner"] for one in document["annotations"]}
    assert annotations == {b"for all": ADDRESS, b"mine": ADDRESS, b"on his": "bob@example.com"}
    assert [mail["recipient"] for mail in document["waiting"]] == ["x@example.org"]
    assert (tmp_path / "out" / "Maildir" / "sieve" / "main.sieve").read_bytes() == b"keep;"
    again = await moving.export_account(house.context, moving.ExportAccount(ADDRESS, str(tmp_path / "out")))
    assert (again.messages, again.present) == (0, 6)


async def test_a_hold_that_comes_meanwhile_keeps_what_is_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def held(self: Erasing, account_id: AccountId, report: Erased) -> None:
        await house.store.accounts.set_hold(account_id, True, "court", "test")

    monkeypatch.setattr(Erasing, "_shred", held)
    before = await house.store.db.fetchval("SELECT count(*) FROM message_contents")
    with pytest.raises(NoPermission):
        await erase(house)
    assert await house.store.db.fetchval("SELECT count(*) FROM message_contents") == before
    assert await house.store.db.fetchval("SELECT count(*) FROM messages WHERE account_id = $1", house.ann) == 9


async def test_an_erased_account_leaves_nothing(house: House) -> None:
    """Neither mail that waits to leave nor a folder that shows deleted mail holds anything back."""
    db, inbox = house.store.db, (await house.store.mailboxes.get(house.ann, "INBOX")).mailbox_id
    await db.execute(_QUEUE, house.ann, inbox)
    await db.execute("SELECT expunge($1, $2, ARRAY[1::bigint], ARRAY[1::bigint], false)", house.ann, inbox)
    await db.execute("SELECT refresh_deleted($1, 'INBOX', 'Deleted/INBOX', interval '14 days')", house.ann)
    assert await db.fetchval("SELECT count(*) FROM deleted_messages WHERE account_id = $1", house.ann) == 1
    await house.context.blobs.put(snapshot_key(house.ann, 7, 0), b"snapshot")
    report = await erase(house)
    assert report.outbound == (0 if report.key_destroyed else 1)  # a shredding removes it before
    assert [entry.key async for entry in house.context.blobs.list(snapshot_prefix(house.ann))] == []
    assert report.gone, report.waits_for
    left = await tables_with(house)
    assert left <= RECEIPTS
    files = [path for path in house.folder.rglob("*") if f"{house.ann:016x}" in path.name]
    assert [path for path in files if path.is_file()] == []
    with pytest.raises(NotFound):
        await erase(house)
    assert report.rows >= 9
    assert report.bodies == 9
    bob = (await house.store.accounts.get("bob@example.com")).account_id
    (status,) = (await house.store.mailboxes.status(bob, ["Work"])).values()
    assert status is not None
    assert status.messages == 3


async def test_an_account_with_many_bodies_is_erased_in_one_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rounds it takes: only those in which nothing could be done are counted."""
    monkeypatch.setattr(erasing, "BODIES", 2)
    monkeypatch.setattr(erasing, "TRIES", 3)
    report = await erase(house)
    assert (report.gone, report.waits_for, report.bodies) == (True, "", 9)


async def test_nobody_erases_by_mistake(house: House) -> None:
    with pytest.raises(Refused):
        await moving.erase_account(house.context, moving.EraseAccount(ADDRESS, "ann@example"))
    await house.store.accounts.set_hold(house.ann, True, "court", "test")
    with pytest.raises(NoPermission):
        await erase(house)
    assert await house.uids("INBOX") == [1, 2, 5]


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("erase.")])
async def test_an_erasure_that_was_cut_short_is_run_again(
    house: House, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    class Cut(Exception):
        pass

    def cut(passed: str) -> None:
        if passed == point:
            raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(erasing, "crash_point", cut)
        with pytest.raises(Cut):
            await erase(house)
    assert (await erase(house)).gone
    assert await tables_with(house) <= RECEIPTS
