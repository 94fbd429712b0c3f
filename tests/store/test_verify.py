"""`sora-admin verify`: every kind of damage is found, and mended where a good copy exists."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from sora.admin import verify
from sora.admin.verify import LOST, REMAINS, Verify, failed
from sora.errors import BlobDown, InUse
from sora.services.recovery.places import Found, Places
from sora.store import keyring
from tests.support.wrecks import flipped, open_wreck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.admin.verify import Verified
    from sora.store.blobs import BlobEntry, BlobRef
    from tests.support.wrecks import Wreck

MAIL = b"From: a@example.com\r\nSubject: one\r\nMessage-ID: <one@example.com>\r\n\r\nHello.\r\n"


@pytest.fixture(params=["plain", "sealed"])
async def wreck(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> AsyncIterator[Wreck]:
    """With encryption off and on."""
    tables: dict[str, dict[str, object]] = {}
    if request.param == "sealed":
        keyring.add_key(tmp_path / "keyring.toml")
        tables["encryption"] = {"keyring_file": str(tmp_path / "keyring.toml")}
    async with open_wreck(dsn, tmp_path, **tables) as wreck:
        yield wreck


async def look(wreck: Wreck, *, deep: bool = True, repair: bool = False) -> dict[str, str]:
    """State by kind of what is wrong now."""
    return kinds(await verify.verify(wreck.context, Verify(deep=deep, repair=repair)))


def kinds(found: Verified) -> dict[str, str]:
    return {finding.kind: finding.state for finding in found.findings}


async def test_a_sound_store_has_nothing_to_mend(wreck: Wreck) -> None:
    await wreck.at_rest(MAIL)
    await wreck.deliver(MAIL + b"waits")
    await wreck.deliver(MAIL + b"waits too", copied=True)
    for deep in (False, True):
        found = await verify.verify(wreck.context, Verify(deep=deep))
        assert (found.findings, found.damage, failed(found)) == ([], [], 0)
        assert (found.mailboxes, found.bodies, found.staged) == (6, 3, 2)
        assert found.objects >= 1
    assert ("bodies", 3, 3) in wreck.seen
    assert {step[0] for step in wreck.seen} >= {"mailboxes", "bodies", "staging", "cache"}


@pytest.mark.parametrize("deep", [False, True])
async def test_a_missing_object_comes_from_the_cache(wreck: Wreck, deep: bool) -> None:
    ref = await wreck.at_rest(MAIL)
    await wreck.node.blobs.delete(ref.key)
    assert await look(wreck, deep=deep) == {"object missing": "found"}
    assert await look(wreck, deep=deep, repair=True) == {"object missing": "mended"}
    assert await wreck.read(ref) == MAIL
    assert await look(wreck) == {}
    assert await wreck.db.fetchval("SELECT count(*) FROM pending_uploads") == 0


async def test_wrong_octets_in_the_bucket_are_found_deep_and_replaced(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    await wreck.spoil_object(ref)
    assert await look(wreck, deep=False) == {}, "its length is right"
    assert await look(wreck) == {"object damaged": "found"}
    assert await look(wreck, repair=True) == {"object damaged": "mended"}
    assert await wreck.read(ref) == MAIL
    assert await look(wreck) == {}


async def test_a_torn_object_is_found_by_its_length(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    await wreck.node.blobs.delete(ref.key)
    await wreck.node.blobs.put(ref.key, b"")
    assert await look(wreck, deep=False, repair=True) == {"object damaged": "mended"}
    assert await wreck.read(ref) == MAIL


async def test_a_store_that_goes_away_in_a_repair_leaves_the_page_to_the_next_call(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    await wreck.node.blobs.delete(ref.key)
    objects, good_copy = wreck.root / "objects", Places.good_copy

    async def away(places: Places, ref: BlobRef) -> Found:
        objects.rename(wreck.root / "away")
        return await good_copy(places, ref)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "good_copy", away)
        with pytest.raises(BlobDown):
            await verify.verify(wreck.context, Verify(repair=True))
    wreck.root.joinpath("away").rename(objects)
    found = await verify.verify(wreck.context, Verify(repair=True))
    assert (found.resumed, kinds(found)) == (True, {"object missing": "mended"})


async def test_what_has_no_good_copy_is_left_as_it_is(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    await wreck.spoil_object(ref)
    wreck.spoil(wreck.cache.path(ref))
    damaged = await wreck.node.blobs.get(ref.key), wreck.cache.path(ref).read_bytes()
    found = await verify.verify(wreck.context, Verify(deep=True, repair=True))
    assert kinds(found) == {"object damaged": "lost", "cache damaged": "waits"}
    assert failed(found) == LOST
    assert (await wreck.node.blobs.get(ref.key), wreck.cache.path(ref).read_bytes()) == damaged
    assert await wreck.db.fetchval("SELECT uploaded_at IS NOT NULL FROM message_contents")


@pytest.mark.parametrize("deep", [False, True])
async def test_an_object_that_the_store_does_not_give(
    wreck: Wreck, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    """A bad sector: one object fails, the store itself is there."""
    ref, lone = await wreck.at_rest(MAIL), await wreck.at_rest(MAIL + b"lone", cached=False)
    asked = {"get": wreck.context.blobs.get, "stat": wreck.context.blobs.stat}

    def failing(name: str) -> object:
        async def ask(key: str, *rest: object) -> object:
            if key in (ref.key, lone.key):
                raise BlobDown(detail="Input/output error")
            return await asked[name](key, *rest)  # type: ignore[operator]

        return ask

    for name in ("get", "stat") if not deep else ("get",):
        monkeypatch.setattr(wreck.context.blobs, name, failing(name))
    if not deep:  # and the listing is late

        async def nothing(prefix: str = "", after: str = "") -> AsyncIterator[BlobEntry]:
            for entry in ():
                yield entry

        monkeypatch.setattr(wreck.context.blobs, "list", nothing)
    found = await verify.verify(wreck.context, Verify(deep=deep, repair=True))
    states = {(finding.kind, finding.subject): finding.state for finding in found.findings}
    assert states == {("object unreadable", ref.key): "mended", ("object unreadable", lone.key): "waits"}
    monkeypatch.undo()
    assert await wreck.read(ref) == MAIL


async def test_wrong_octets_in_the_cache_are_put_aside_and_fetched_again(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    good = wreck.cache.path(ref).read_bytes()
    wreck.spoil(wreck.cache.path(ref))
    assert await look(wreck) == {"cache damaged": "found"}
    assert wreck.cache.path(ref).read_bytes() == flipped(good), "nothing was asked for"
    assert await look(wreck, repair=True) == {"cache damaged": "mended"}
    assert wreck.cache.path(ref).read_bytes() == good
    assert (await wreck.cache.stats()).quarantined == 1
    assert await look(wreck) == {}


async def test_a_damaged_staged_file_is_replaced_by_the_copy_in_the_database(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL, copied=True)
    wreck.spoil(wreck.staged(ref))
    assert await look(wreck) == {"staged damaged": "found"}
    assert await look(wreck, repair=True) == {"staged damaged": "mended"}
    assert await wreck.read(ref) == MAIL
    assert await wreck.node.staging.count_quarantined() == 1
    assert await look(wreck) == {}


async def test_a_staged_file_that_is_gone_is_found(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    await wreck.cache.put(ref, wreck.staged(ref).read_bytes())
    wreck.staged(ref).unlink()
    assert await look(wreck, deep=False) == {"staged missing": "found"}
    assert await look(wreck, deep=False, repair=True) == {"staged missing": "mended"}
    assert await wreck.read(ref) == MAIL
    lost = await wreck.deliver(MAIL + b"lost")
    wreck.staged(lost).unlink()
    assert await look(wreck, repair=True) == {"staged missing": "lost"}
    assert await wreck.db.fetchval("SELECT count(*) FROM pending_uploads") == 1, "it may come back"


async def test_a_file_in_quarantine_serves(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    await wreck.node.staging.quarantine(ref.account_id, ref.content_hash)
    assert await look(wreck, repair=True) == {"staged missing": "mended"}
    assert await wreck.read(ref) == MAIL


async def test_a_leftover_staged_file_is_put_aside_if_the_object_is_right(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    stored = await wreck.upload(ref)
    wreck.staged(ref).write_bytes(flipped(stored))
    assert await look(wreck, repair=True) == {"staged damaged": "mended"}
    assert not wreck.staged(ref).exists()
    assert await wreck.read(ref) == MAIL


async def test_an_object_without_a_row_is_kept_and_noted(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    await wreck.behind_the_triggers("DELETE FROM messages; DELETE FROM message_contents")
    found = await verify.verify(wreck.context, Verify(repair=True))
    assert kinds(found) == {"mailbox": "mended", "object without row": "waits"}
    assert ref.key in {finding.subject for finding in found.findings}
    assert failed(found) == REMAINS
    assert await wreck.db.fetchval("SELECT key FROM orphan_objects") == ref.key
    assert (await wreck.node.blobs.stat(ref.key)).size


async def test_a_content_row_comes_back_from_its_object(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL)
    before = await wreck.db.fetchrow("SELECT * FROM message_contents")
    assert before is not None
    await wreck.behind_the_triggers("DELETE FROM message_contents; DELETE FROM search_queue")
    assert await look(wreck) == {"content missing": "found", "object without row": "found"}
    assert (await look(wreck, repair=True))["content missing"] == "mended"
    after = await wreck.db.fetchrow("SELECT * FROM message_contents")
    assert after is not None
    changing = {"created_at", "uploaded_at"}
    same = set(before.keys()) - changing
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert await wreck.db.fetchval("SELECT count(*) FROM search_queue") == 1
    assert await wreck.read(ref) == MAIL
    assert await look(wreck) == {}


async def test_a_missing_block_and_wrong_counters_are_rebuilt(wreck: Wreck) -> None:
    for number in range(3):
        await wreck.deliver(MAIL + b"%d" % number)
    await wreck.behind_the_triggers("DELETE FROM message_sequences")
    await wreck.behind_the_triggers("UPDATE mailbox_stats SET total_size = total_size + 1, message_count = 7")
    await wreck.behind_the_triggers(
        "INSERT INTO message_flags SELECT account_id, mailbox_id, 5, 1, range_mask(0, 9) FROM mailbox_stats"
    )
    found = await verify.verify(wreck.context, Verify())
    assert len(found.findings) == 6, "one for each mailbox"
    assert {finding.state for finding in found.findings} == {"found"}
    assert "sequence (3" in next(f.detail for f in found.findings if "INBOX" in f.subject)
    assert await look(wreck, repair=True) == {"mailbox": "mended"}
    assert await look(wreck) == {}


async def test_an_expunge_log_with_holes_is_mended(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    inbox = await wreck.db.fetchval("SELECT mailbox_id FROM messages")
    await wreck.db.execute("UPDATE messages SET expunged_at = clock(), expunged_modseq = 9")
    await wreck.behind_the_triggers("DELETE FROM message_expunges")
    assert await look(wreck, repair=True) == {"mailbox": "mended"}
    log = await wreck.db.fetchrow("SELECT modseq, uids FROM message_expunges")
    assert log is not None
    assert (log["modseq"], log["uids"]) == (9, [1])
    stats = await wreck.db.fetchrow("SELECT * FROM mailbox_stats WHERE mailbox_id = $1", inbox)
    assert stats is not None
    assert stats["expunge_floor"] == stats["highest_modseq"], "clients are answered from the rows"
    assert wreck.staged(ref).exists()


async def test_a_mailbox_without_its_counter_row_gets_one(wreck: Wreck) -> None:
    await wreck.deliver(MAIL)
    await wreck.behind_the_triggers("DELETE FROM mailbox_stats")
    assert await look(wreck, repair=True) == {"mailbox": "mended"}
    assert await wreck.db.fetchval("SELECT sum(message_count) FROM mailbox_stats") == 1
    assert await look(wreck) == {}


async def test_uploads_that_nobody_has_queued(wreck: Wreck) -> None:
    staged = await wreck.deliver(MAIL)
    stored = await wreck.at_rest(MAIL + b"stored")
    await wreck.db.execute("DELETE FROM pending_uploads")
    await wreck.db.execute("UPDATE message_contents SET uploaded_at = NULL")
    assert await look(wreck, deep=False) == {"not queued": "found", "not marked": "found"}
    assert await look(wreck, deep=False, repair=True) == {"not queued": "mended", "not marked": "mended"}
    assert await wreck.read(staged) == MAIL
    assert await wreck.read(stored) == MAIL + b"stored"
    assert await wreck.db.fetchval("SELECT bool_and(uploaded_at IS NOT NULL) FROM message_contents")


async def test_uploads_and_contents_that_nobody_needs(wreck: Wreck) -> None:
    await wreck.deliver(MAIL)
    await wreck.at_rest(MAIL + b"unused")
    await wreck.behind_the_triggers("DELETE FROM messages WHERE uid = 2")
    await wreck.db.execute(
        "INSERT INTO pending_uploads (account_id, content_hash, instance_id, content_id, size)"
        " SELECT account_id, sha256('x'), instance_id, 99, 1 FROM pending_uploads"
    )
    expected = {"mailbox", "content unused", "upload without row"}
    assert (await look(wreck)).keys() == expected
    assert await look(wreck, repair=True) == dict.fromkeys(expected, "mended")
    assert await wreck.db.fetchval("SELECT count(*) FROM purge_candidates") == 1
    assert await wreck.db.fetchval("SELECT count(*) FROM pending_uploads") == 1
    assert await look(wreck) == {}


async def test_a_body_on_another_node_is_no_damage_while_that_lives(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    await wreck.node.store.leases.register("other", host="mail2")
    await wreck.db.execute("UPDATE pending_uploads SET instance_id = 'other'")
    wreck.staged(ref).unlink()
    assert await look(wreck) == {}
    await wreck.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '61 s' WHERE instance_id = 'other'")
    assert await look(wreck, repair=True) == {"body missing": "waits"}, "its disk may come back"
    assert await wreck.db.fetchval("SELECT instance_id FROM pending_uploads") == "other"


async def test_a_damaged_copy_in_the_database(wreck: Wreck) -> None:
    await wreck.deliver(MAIL, copied=True)
    good = await wreck.db.fetchval("SELECT body FROM body_copies")
    await wreck.db.execute("UPDATE body_copies SET body = $1", flipped(good))
    assert await look(wreck) == {"copy damaged": "found"}
    assert await look(wreck, repair=True) == {"copy damaged": "mended"}
    assert await wreck.db.fetchval("SELECT body FROM body_copies") == good
    assert await look(wreck) == {}


async def test_a_staged_file_without_a_row_is_told_of_and_kept(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    await wreck.behind_the_triggers("DELETE FROM messages; DELETE FROM message_contents; DELETE FROM pending_uploads")
    assert (await look(wreck, repair=True)).keys() == {"mailbox"}, "its row may be about to be committed"
    old = time.time() - 3600
    os.utime(wreck.staged(ref), (old, old))
    assert await look(wreck, repair=True) == {"staged without row": "waits"}
    assert wreck.staged(ref).exists()


async def test_one_account_alone(wreck: Wreck) -> None:
    ann = await wreck.at_rest(MAIL)
    await wreck.node.blobs.delete(ann.key)
    await wreck.account("bob@example.com")
    assert kinds(await verify.verify(wreck.context, Verify(address="bob@example.com"))) == {}
    found = await verify.verify(wreck.context, Verify(address="ann@example.com", repair=True))
    assert (kinds(found), found.bodies) == ({"object missing": "mended"}, 1)


async def test_one_at_a_time_on_a_node(wreck: Wreck) -> None:
    with verify._alone(wreck.root / "staging"), pytest.raises(InUse):
        await verify.verify(wreck.context, Verify())


async def test_a_run_goes_on_where_the_store_went_away(wreck: Wreck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora.services.recovery.verifying.PAGE", 2)
    refs = sorted([await wreck.at_rest(MAIL + b"%d" % n, cached=n % 2 == 0) for n in range(7)], key=lambda ref: ref.key)
    for ref in refs[:2]:
        await wreck.node.blobs.delete(ref.key)
    objects = wreck.root / "objects"

    def progress(phase: str, done: int, total: int) -> None:
        wreck.seen.append((phase, done, total))
        if phase == "bodies" and done == 4:
            objects.rename(wreck.root / "away")

    wreck.context.progress = progress
    with pytest.raises(BlobDown):
        await verify.verify(wreck.context, Verify(deep=True))
    wreck.root.joinpath("away").rename(objects)
    wreck.context.progress = lambda *step: wreck.seen.append(step)
    wreck.seen.clear()
    found = await verify.verify(wreck.context, Verify(deep=True))
    assert (found.resumed, found.bodies, len(found.findings)) == (True, 7, 2)
    assert wreck.seen[0][0] == "bodies", "mailboxes were done"
    assert wreck.seen[0][1] == 6
    again = await verify.verify(wreck.context, Verify(deep=True))
    assert (again.resumed, again.bodies, len(again.findings)) == (False, 7, 2)


@pytest.mark.parametrize("wreck", ["sealed"], indirect=True)
@pytest.mark.parametrize("fate", ["put back in time", "destroyed", "damaged"])
async def test_a_key_that_only_the_bucket_has_comes_back(wreck: Wreck, fate: str) -> None:
    """A database that was put back in time: a server would make another key in its place."""
    ref = await wreck.at_rest(MAIL)
    (entry,) = [entry async for entry in wreck.node.blobs.list("keys/")]
    await wreck.db.execute("DELETE FROM account_keys")
    if fate != "destroyed":
        await wreck.db.execute("DELETE FROM dropped_keys")  # nobody had destroyed it
    if fate == "damaged":
        await wreck.node.blobs.delete(entry.key)
        await wreck.node.blobs.put(entry.key, b"no key")
    wreck.sealers.forget_all()
    assert (await look(wreck, deep=False)).get("key missing") == (None if fate == "destroyed" else "found")
    states = await look(wreck, deep=False, repair=True)
    assert states.get("key missing") == {"destroyed": None, "damaged": "waits"}.get(fate, "mended")
    if fate == "put back in time":
        assert await wreck.read(ref) == MAIL
        assert await look(wreck) == {}
    else:
        assert await wreck.db.fetchval("SELECT count(*) FROM account_keys") == 0
