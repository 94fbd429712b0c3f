"""`sora-admin verify` with every combination of good, damaged and missing copies, and beside traffic."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import time
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from sora._native.seqset import UidSet
from sora.admin import verify
from sora.admin.verify import Verify
from sora.services.cleanup import Cleanup
from sora.services.delivery import AppendItem
from sora.services.key_objects import parse
from sora.services.recovery import verifying
from sora.store import keyring
from sora.store.upkeep import Upkeep
from sora.store.verification import Verification
from tests.support.wrecks import open_wreck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.blobs import BlobRef
    from tests.support.swift import SwiftServer
    from tests.support.wrecks import Wreck

MAIL: Final = b"Subject: %d\r\n\r\nHello.\r\n"
PLACES: Final = ("object", "staging", "cache", "copy")
FATES: Final = ("good", "bad", "gone")
ROWS: Final = ("uploaded", "pending", "unqueued")
TRAFFIC_S: Final = 4.0


def sealing(folder: Path) -> dict[str, dict[str, object]]:
    keyring.add_key(folder / "keyring.toml")
    return {"encryption": {"keyring_file": str(folder / "keyring.toml")}}


def bucket(server: SwiftServer) -> dict[str, dict[str, object]]:
    name = f"verify-{secrets.token_hex(4)}"
    access = {"access_key": server.access_key, "secret_key": server.secret_key}
    return {"object_store": {"kind": "s3", "endpoint": server.endpoint, "bucket": name, **access}}


@pytest.fixture
async def wreck(dsn: str, tmp_path: Path) -> AsyncIterator[Wreck]:
    """With encryption."""
    async with open_wreck(dsn, tmp_path, **sealing(tmp_path)) as wreck:
        yield wreck


async def look(wreck: Wreck, *, deep: bool = True, repair: bool = False) -> dict[str, str]:
    """State by kind of what is wrong now."""
    found = await verify.verify(wreck.context, Verify(deep=deep, repair=repair))
    return {finding.kind: finding.state for finding in found.findings}


async def arrange(wreck: Wreck, number: int, fates: tuple[str, ...], row: str) -> tuple[BlobRef, set[bytes]]:
    """A body whose four places have these fates, and its damaged octets."""
    ref = await wreck.deliver(MAIL % number, copied=True)
    path = wreck.staged(ref)
    stored = path.read_bytes()
    bad = {place: stored[:-1] + bytes([stored[-1] ^ (1 << n)]) for n, place in enumerate(PLACES)}
    octets = {place: {"good": stored, "bad": bad[place]}.get(fate) for place, fate in zip(PLACES, fates, strict=True)}
    if octets["object"] is not None:
        await wreck.node.blobs.put(ref.key, octets["object"])
    path.unlink()
    if octets["staging"] is not None:
        path.write_bytes(octets["staging"])
    if octets["cache"] is not None:
        await wreck.cache.put(ref, octets["cache"])
    names = ref.account_id, ref.content_id
    if octets["copy"] is None:
        await wreck.db.execute("DELETE FROM body_copies WHERE account_id = $1 AND content_id = $2", *names)
    else:
        await wreck.db.execute(
            "UPDATE body_copies SET body = $3 WHERE account_id = $1 AND content_id = $2", *names, octets["copy"]
        )
    if row == "uploaded":
        await wreck.db.execute(
            "UPDATE message_contents SET uploaded_at = clock() WHERE account_id = $1 AND content_id = $2", *names
        )
    if row != "pending":
        await wreck.db.execute("DELETE FROM pending_uploads WHERE account_id = $1 AND content_id = $2", *names)
    return ref, {found for found in octets.values() if found not in (None, stored)}


async def everything(wreck: Wreck) -> set[bytes]:
    """The octets of every file, object and copy, those that were put aside too."""
    files = {path.read_bytes() for path in wreck.root.rglob("*") if path.is_file()}
    objects = {await wreck.node.blobs.get(entry.key) async for entry in wreck.node.blobs.list()}
    copies = {row["body"] for row in await wreck.db.fetch("SELECT body FROM body_copies")}
    return files | objects | copies


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["plain", "sealed", "s3"])
async def test_every_combination_of_copies(dsn: str, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """A good copy anywhere mends the others; where there is none, nothing that can be read is removed."""
    tables = sealing(tmp_path) if kind == "sealed" else {}
    cases = [(fates, row) for fates in itertools.product(FATES, repeat=4) for row in ROWS]
    assert sum("good" not in fates for fates, _ in cases) == 2**4 * 3
    if kind == "s3":
        tables = bucket(request.getfixturevalue("s3_server"))
        cases = cases[::4]  # a request for each step of each: a quarter, of all kinds
    async with open_wreck(dsn, tmp_path, **tables) as wreck:
        made = [await arrange(wreck, number, *case) for number, case in enumerate(cases)]
        found = await verify.verify(wreck.context, Verify(deep=True))
        assert {finding.state for finding in found.findings} == {"found"}
        before = await everything(wreck)
        found = await verify.verify(wreck.context, Verify(deep=True, repair=True))
        hopeless = {made[number][0].key: made[number] for number, (fates, _) in enumerate(cases) if "good" not in fates}
        assert 0 < len(hopeless) < len(cases)
        names = {name for ref, _ in hopeless.values() for name in (ref.key, ref.name, wreck.staged(ref).name)}
        left = {finding.subject for finding in found.findings if finding.state != "mended"}
        assert set(hopeless) <= left <= names, "all of these, and no other"
        now = await everything(wreck)
        for _, damaged in hopeless.values():
            assert damaged <= before
            assert damaged <= now, "what nobody can mend stays readable"
        again = await verify.verify(wreck.context, Verify(deep=True))
        assert {finding.subject for finding in again.findings} <= names
        for number, (ref, _) in enumerate(made):
            if ref.key not in hopeless:
                if await wreck.db.fetchval(
                    "SELECT uploaded_at IS NULL FROM message_contents WHERE content_id = $1", ref.content_id
                ):
                    await wreck.upload(ref, cached=False)
                assert await wreck.read(ref) == MAIL % number, cases[number]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["directory", "s3"])
async def test_no_alarm_beside_traffic(
    dsn: str, tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail comes, is uploaded, expunged and removed; bodies come back after they were removed.

    Grace is longer than a PUT: one that arrives after its body was removed would leave an object without a row, truly.
    """
    monkeypatch.setattr(verifying, "PAGE", 7)
    tables = sealing(tmp_path) if kind == "directory" else bucket(request.getfixturevalue("s3_server"))
    async with open_wreck(dsn, tmp_path, **tables) as wreck:
        node, stop = wreck.node, asyncio.Event()
        account_id = await wreck.account()
        inbox = (await node.store.mailboxes.get(account_id, "INBOX")).mailbox_id
        archive = (await node.store.mailboxes.get(account_id, "Archive")).mailbox_id
        table = msgspec.structs.replace(node.config.cleanup, grace_period=1.0, max_rows_per_second=10**7)
        config = msgspec.structs.replace(node.config, cleanup=table)

        async def deliver() -> None:
            while not stop.is_set():
                body = MAIL % random.randrange(60)
                await node.delivery.append(account_id, random.choice((inbox, archive)), [AppendItem(body)])

        async def expunge() -> None:
            while not stop.is_set():
                await node.store.messages.expunge(account_id, inbox, None, only_deleted=False)
                await asyncio.sleep(0.05)

        async def clean() -> None:
            cleanup = Cleanup(node.store.db, node.blobs, config)

            async def go_on() -> bool:
                return not stop.is_set()

            while not stop.is_set():
                await cleanup.run(go_on)

        tasks = [asyncio.create_task(work()) for work in (deliver, deliver, expunge, clean)]
        tasks.append(asyncio.create_task(wreck.uploads.run(stop)))
        ends, runs, looked = time.monotonic() + TRAFFIC_S, 0, 0
        while time.monotonic() < ends:
            found = await verify.verify(wreck.context, Verify(deep=runs % 2 == 0))
            assert found.findings == []
            runs, looked = runs + 1, looked + found.bodies
        stop.set()
        await asyncio.gather(*tasks)
        used = await wreck.db.fetchval("SELECT last_value FROM content_ids")
        assert used > await wreck.db.fetchval("SELECT count(*) FROM message_contents") + 20, "bodies were removed"
        assert runs > 3
        assert looked > 50


async def test_a_file_that_its_upload_has_just_removed_is_not_missed(
    wreck: Wreck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object was looked for before it was put, the file after it was removed, and the mark is not committed."""
    ref = await wreck.deliver(MAIL % 1)
    look_at, stored = wreck.node.staging.path, wreck.staged(ref).read_bytes()
    seen: list[str] = []

    async def late(self: verifying.Verifier, asked: BlobRef, listed: int | None) -> str:
        state = await object_(self, asked, listed)
        if not seen:
            await wreck.node.blobs.put(ref.key, stored)
            look_at(ref.account_id, ref.content_hash).unlink()
        seen.append(state)
        return state

    object_ = verifying.Verifier._object
    monkeypatch.setattr(verifying.Verifier, "_object", late)
    assert await look(wreck) == {}
    assert seen == ["absent", "good"]


async def test_an_object_that_goes_with_its_row_is_no_stray(wreck: Wreck, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was listed before the cleanup removed it, and asked for when its row was gone."""
    ref = await wreck.at_rest(MAIL % 1)
    await wreck.deliver(MAIL % 2)
    ask = Upkeep.unknown

    async def late(self: Upkeep, refs: list[BlobRef]) -> dict[int, bool]:
        await wreck.node.blobs.delete(ref.key)
        return await ask(self, refs)

    monkeypatch.setattr(Upkeep, "unknown", late)
    await wreck.behind_the_triggers(f"DELETE FROM messages WHERE content_id = {ref.content_id}")
    await wreck.behind_the_triggers(f"DELETE FROM message_contents WHERE content_id = {ref.content_id}")
    assert "object without row" not in await look(wreck)


async def test_a_content_row_comes_back_from_what_waits_for_its_upload(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL % 1)
    other = await wreck.at_rest(MAIL % 2)  # its object is gone, and the cache has it
    account_id = ref.account_id
    archive = (await wreck.node.store.mailboxes.get(account_id, "Archive")).mailbox_id
    inbox = (await wreck.node.store.mailboxes.get(account_id, "INBOX")).mailbox_id
    await wreck.node.store.messages.copy(account_id, inbox, UidSet.from_numbers([1, 2]), archive)
    await wreck.node.blobs.put(other.key, b"")
    await wreck.behind_the_triggers("DELETE FROM message_contents")
    assert (await look(wreck))["upload without row"] == "waits"
    found = await verify.verify(wreck.context, Verify(deep=True, repair=True))
    states = {(finding.kind, finding.subject): finding.state for finding in found.findings}
    assert states[("content missing", f"{account_id}/{ref.content_id}")] == "mended"
    assert states[("content missing", f"{account_id}/{other.content_id}")] == "mended"
    assert await wreck.read(ref) == MAIL % 1
    assert await wreck.read(other) == MAIL % 2
    assert await look(wreck) == {}


async def test_bodies_whose_key_is_nowhere_are_told_of(wreck: Wreck) -> None:
    ref = await wreck.at_rest(MAIL % 1)
    (key,) = [entry.key async for entry in wreck.node.blobs.list("keys/")]
    saved = await wreck.node.blobs.get(key)
    await wreck.behind_the_triggers("DELETE FROM account_keys")
    await wreck.node.blobs.delete(key)
    assert await look(wreck) == {"body locked": "found"}
    assert await look(wreck, repair=True) == {"body locked": "waits"}
    await wreck.node.blobs.put(key, saved)
    assert await look(wreck, repair=True) == {"key missing": "mended"}
    assert await wreck.read(ref) == MAIL % 1
    assert await look(wreck) == {}


async def test_without_a_keyring_sealed_bodies_are_not_called_damaged(wreck: Wreck) -> None:
    await wreck.at_rest(MAIL % 1)
    config = wreck.context.config
    wreck.context.config = msgspec.structs.replace(
        config, encryption=msgspec.structs.replace(config.encryption, keyring_file="")
    )
    assert await look(wreck, deep=False) == {}
    assert await look(wreck, repair=True) == {"body locked": "waits"}


async def test_another_data_key_in_the_bucket_is_not_overwritten(wreck: Wreck) -> None:
    """It may be the one that the bodies were sealed with."""
    await wreck.at_rest(MAIL % 1)
    (key,) = [entry.key async for entry in wreck.node.blobs.list("keys/")]
    good = await wreck.node.blobs.get(key)
    what, _ = parse(good)
    other = msgspec.json.encode(msgspec.structs.replace(what, wrapped="AAAA", fingerprint="00" * 16))
    await wreck.node.blobs.delete(key)
    await wreck.node.blobs.put(key, other)
    assert await look(wreck, repair=True) == {"key object damaged": "waits"}
    assert await wreck.node.blobs.get(key) == other
    await wreck.node.blobs.delete(key)
    assert await look(wreck, repair=True) == {"key object damaged": "mended"}
    assert await wreck.node.blobs.get(key) == good


async def test_a_body_that_nobody_uses_is_kept_for_the_grace_period(wreck: Wreck) -> None:
    """If it was the row of a message that was lost, it is all that is left of it."""
    ref = await wreck.at_rest(MAIL % 1)
    await wreck.behind_the_triggers("DELETE FROM messages")
    assert (await look(wreck, repair=True))["content unused"] == "mended"
    assert await look(wreck) == {}

    async def always() -> bool:
        return True

    await Cleanup(wreck.db, wreck.node.blobs, wreck.node.config).run(always)
    assert await wreck.read(ref) == MAIL % 1
    kept = await wreck.db.fetchval("SELECT noted_at - clock() > interval '13 days' FROM purge_candidates")
    assert kept
    await wreck.db.execute("UPDATE purge_candidates SET noted_at = clock() - interval '1 s'")
    await Cleanup(wreck.db, wreck.node.blobs, wreck.node.config).run(always)
    assert await wreck.db.fetchval("SELECT count(*) FROM message_contents") == 0


async def test_more_damage_in_the_cache_than_a_reader_keeps_aside(wreck: Wreck) -> None:
    refs = [await wreck.at_rest(MAIL % number) for number in range(20)]
    for ref in refs:
        wreck.spoil(wreck.cache.path(ref))
    strange = wreck.cache.path(refs[0]).with_name("strange")
    strange.write_bytes(b"what is this?")
    damaged = {wreck.cache.path(ref).read_bytes() for ref in refs} | {b"what is this?"}
    assert await look(wreck, repair=True) == {"cache damaged": "mended"}
    assert damaged <= await everything(wreck)
    assert await look(wreck) == {}


async def test_the_name_of_a_recovered_mailbox_is_taken(wreck: Wreck) -> None:
    await wreck.deliver(MAIL % 1)
    account_id = await wreck.account()
    box = (await wreck.node.store.mailboxes.get(account_id, "INBOX")).mailbox_id
    await wreck.node.store.mailboxes.create(account_id, f"Recovered {box}")
    await wreck.behind_the_triggers(f"DELETE FROM mailboxes WHERE mailbox_id = {box}")
    await wreck.behind_the_triggers(f"DELETE FROM mailbox_stats WHERE mailbox_id = {box}")
    assert await look(wreck, repair=True) == {"mailbox missing": "mended"}
    assert await wreck.db.fetchval(f"SELECT name FROM mailboxes WHERE mailbox_id = {box}") == f"Recovered {box} (2)"
    assert await look(wreck) == {}


async def test_what_the_journal_has_promised(wreck: Wreck) -> None:
    await wreck.deliver(MAIL % 1)
    await wreck.db.execute(
        "INSERT INTO journal_marks (account_id, mailbox_id, modseq, uid_reserved, modseq_reserved)"
        " SELECT account_id, mailbox_id, highest_modseq, 1000, 1000 FROM mailbox_stats"
    )
    await wreck.db.execute("UPDATE mailbox_stats SET uid_reserved = 1000, modseq_reserved = 1000")
    assert await look(wreck) == {}
    for sql, text in (
        ("UPDATE journal_marks SET uid_reserved = 1", "UIDs are believed to be reserved"),
        ("UPDATE journal_marks SET modseq_reserved = 2", "modseqs are believed to be reserved"),
        ("UPDATE journal_marks SET modseq = 900", "written further than there is"),
    ):
        await wreck.db.execute(sql)
        found = await verify.verify(wreck.context, Verify())
        assert {finding.kind for finding in found.findings} == {"journal"}
        assert all(text in finding.detail for finding in found.findings), text
    assert any("UIDs were given out beyond" in finding.detail for finding in found.findings)
    assert await look(wreck, repair=True) == {"journal": "mended"}
    assert await look(wreck) == {}
    due = await wreck.db.fetch("SELECT * FROM journal_due(0, 10)")
    assert len(due) == 1, "all of it is written again"
    assert await wreck.db.fetchval("SELECT count(*) FROM journal_marks") == 0


async def test_a_shadow_of_deleted_mail_is_no_damage(wreck: Wreck) -> None:
    await wreck.at_rest(MAIL % 1)
    account_id = await wreck.account()
    inbox = (await wreck.node.store.mailboxes.get(account_id, "INBOX")).mailbox_id
    await wreck.node.store.messages.expunge(account_id, inbox, None, only_deleted=False)
    shadow = await wreck.db.fetchval(
        "SELECT mailbox_id FROM refresh_deleted($1, 'INBOX', 'Deleted/INBOX', interval '14 days')", account_id
    )
    assert shadow
    assert await look(wreck) == {}
    await wreck.behind_the_triggers(f"UPDATE mailbox_stats SET message_count = 7 WHERE mailbox_id = {shadow}")
    assert await look(wreck, repair=True) == {"mailbox": "mended"}
    assert await look(wreck) == {}


async def test_one_account_reads_nothing_of_the_others(wreck: Wreck) -> None:
    """Its rows are found by the index, wherever it stands among the others."""
    await wreck.at_rest(MAIL % 1)
    bob = await wreck.account("bob@example.com")
    async with wreck.db.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT account_id, content_hash FROM message_contents WHERE purging_at IS NULL"
            f" AND (account_id, content_hash) > (0, ''::bytea) AND account_id BETWEEN {bob} AND {bob}"
            " ORDER BY account_id, content_hash LIMIT 500"
        )
    text = " ".join(row[0] for row in plan)
    assert f"(account_id >= '{bob}'::bigint)" in text or f"(account_id >= {bob})" in text
    assert "Index Cond" in text


async def test_a_file_that_is_gone_when_it_is_asked_about(wreck: Wreck, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await wreck.deliver(MAIL % 1)
    await wreck.behind_the_triggers("DELETE FROM messages; DELETE FROM message_contents; DELETE FROM pending_uploads")
    await wreck.behind_the_triggers("DELETE FROM message_sequences")
    old = time.time() - 3600
    os.utime(wreck.staged(ref), (old, old))
    by_hash = Verification.by_hash

    async def late(self: Verification, names: list[object]) -> list[object]:
        wreck.staged(ref).unlink(missing_ok=True)
        return await by_hash(self, names)  # type: ignore[arg-type]

    monkeypatch.setattr(Verification, "by_hash", late)
    assert "staged without row" not in await look(wreck)
