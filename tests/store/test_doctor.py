"""`sora-admin doctor`: each check sees what it is there for, and says what to do."""

from __future__ import annotations

import datetime
import itertools
import re
from collections import namedtuple
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sora.admin import checkups, doctor, verify
from sora.admin.doctor import CHECKS, Diagnosis, diagnose
from sora.admin.operations import OPERATIONS
from sora.admin.verify import Verify
from sora.cli.admin import build_parser
from sora.store import keyring
from sora.store.db import Database
from sora.store.outbound import Outgoing, enqueue, sealed
from sora.store.sealing import PLAIN
from sora.store.store import Store
from sora.tables import ServersTable, ServerTable
from tests.support.wrecks import open_wreck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.admin.context import AdminContext
    from tests.support.wrecks import Wreck

MAIL = b"Subject: one\r\n\r\nHello.\r\n"
NOTICES = {"backups", "verified", "recovery point", "settings"}
"""Checks of which a new node may have notices."""


@pytest.fixture
async def wreck(dsn: str, tmp_path: Path) -> AsyncIterator[Wreck]:
    async with open_wreck(dsn, tmp_path) as wreck:
        yield wreck


async def told(wreck: Wreck, name: str) -> tuple[str, str]:
    """Level and text of a check, which has advice if it fails."""
    row = await diagnose(wreck.context, name)
    assert bool(row.advice) == (row.level != "ok")
    return row.level, row.what


def change(context: AdminContext, **tables: object) -> None:
    """Another configuration."""
    context.config = msgspec.structs.replace(context.config, **tables)


async def test_a_new_node_is_well(wreck: Wreck) -> None:
    found = await doctor.doctor(wreck.context)
    assert [row.check for row in found] == list(CHECKS)
    assert {row.check for row in found if row.level != "ok"} <= NOTICES
    # the PostgreSQL of the tests is told not to care for power cuts
    others = [row for row in found if row.check != "settings"]
    assert {row.level for row in others} == {"ok", "notice"}
    assert doctor.failed(others) == 0


async def test_without_a_database_the_rest_is_still_looked_at(wreck: Wreck) -> None:
    down = await Database.open("postgresql://nobody@127.0.0.1:1/none", min_size=0, max_size=1)
    wreck.context.store = Store(down)
    found = await doctor.doctor(wreck.context)
    await down.close()
    levels = {row.check: row.level for row in found}
    assert levels["postgresql"] == "error"
    assert {name for name, level in levels.items() if level == "unknown"} == {
        name for name, check in CHECKS.items() if not check.alone
    }
    assert levels["object store"] == levels["staging"] == levels["certificates"] == "ok"
    assert doctor.failed(found) == doctor.DOWN


def test_the_worst_level_is_the_exit_code() -> None:
    def code(**levels: str) -> int:
        well = {"postgresql": "ok", "object store": "ok"}
        return doctor.failed([Diagnosis(name, level) for name, level in {**well, **levels}.items()])

    assert [code(), code(room="notice"), code(room="warning")] == [0, 0, doctor.WARNED]
    assert code(room="warning", keys="error") == doctor.FAILED
    assert code(room="warning", **{"object store": "error"}) == doctor.DOWN


async def test_dependencies_that_are_away(wreck: Wreck) -> None:
    for name, check in (("objects", "object store"), ("staging", "staging")):
        (wreck.root / name).rename(wreck.root / "away")
        assert (await told(wreck, check))[0] == "error"
        (wreck.root / "away").rename(wreck.root / name)
        assert (await told(wreck, check))[0] == "ok"


async def test_a_check_that_hangs_is_given_up(wreck: Wreck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECK_TIMEOUT_S", 0.0)
    assert await told(wreck, "postgresql") == ("error", "no answer in 0 s")


async def test_a_schema_that_is_behind(wreck: Wreck) -> None:
    await wreck.db.execute("DELETE FROM schema_migrations WHERE name LIKE '0026%'")
    level, text = await told(wreck, "migrations")
    assert level == "error"
    assert text.startswith("1 files are not applied: 0026_verify")


@pytest.mark.parametrize(
    ("settings", "level", "text"),
    [
        ({"fsync": "off"}, "error", "fsync = off"),
        (
            {"synchronous_commit": "off", "full_page_writes": "off"},
            "error",
            "full_page_writes = off, synchronous_commit",
        ),
        ({"autovacuum": "off"}, "error", "autovacuum"),
        ({"jit": "on"}, "notice", "jit"),
        ({"shared_buffers": "waits"}, "notice", "restart of PostgreSQL: shared_buffers"),
    ],
)
async def test_settings_of_postgresql(
    wreck: Wreck, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], level: str, text: str
) -> None:
    now = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit", "autovacuum"), "on") | {"jit": "off"}

    async def fetch(sql: str, *arguments: object) -> list[dict[str, object]]:
        return [
            {"name": name, "reset_val": value, "pending_restart": value == "waits"}
            for name, value in {**now, **settings}.items()
        ]

    assert (await wreck.db.fetch("SELECT reset_val, pending_restart FROM pg_settings WHERE name = 'fsync'")) != []
    monkeypatch.setattr(wreck.db, "fetch", fetch)
    found = await told(wreck, "settings")
    assert found[0] == level
    assert text in found[1]


async def test_bounds(wreck: Wreck, monkeypatch: pytest.MonkeyPatch) -> None:
    await wreck.deliver(MAIL)
    for name, value in (
        ("CROWDED", 0.0),
        ("OLD_TRANSACTIONS", 0),
        ("QUEUED_TEXTS", 0),
        ("CLOCK_S", -1.0),
        ("OLD_UPLOAD_S", -1.0),
        ("ROOM", 1.1),
    ):
        monkeypatch.setattr(checkups, name, value)
    expected = {"connections": "warning", "transactions": "error", "search": "warning", "clock": "warning"}
    expected |= {"uploads": "error"}
    for name, level in expected.items():
        assert (await told(wreck, name))[0] == level, name
    monkeypatch.setattr(checkups, "OLD_TRANSACTIONS", 2_000_000_000)
    monkeypatch.setattr(checkups, "LONG_TRANSACTION_S", -1.0)
    assert (await told(wreck, "transactions"))[0] == "warning"
    monkeypatch.setattr(checkups, "CLOCK_FAR_S", -1.0)
    assert (await told(wreck, "clock"))[0] == "error"


async def test_room(wreck: Wreck, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 — as shutil has it
    for free, level in ((50, "ok"), (9, "warning"), (2, "error")):
        monkeypatch.setattr(checkups.shutil, "disk_usage", lambda _, free=free: usage(100, 100 - free, free))
        found = await told(wreck, "room")
        assert found[0] == level
    assert "staging 2%" in found[1]


async def test_nodes_and_their_leases(wreck: Wreck) -> None:
    assert await told(wreck, "leases") == ("ok", ""), "it has only just started"
    await wreck.db.execute("UPDATE instances SET started_at = clock() - interval '1 h'")
    assert (await told(wreck, "leases"))[0] == "warning"
    await wreck.node.store.leases.acquire("janitor", wreck.node.instance_id)
    assert (await told(wreck, "leases"))[0] == "ok"
    await wreck.node.store.leases.register("other", host="mail2", version="9.9")
    assert (await told(wreck, "nodes"))[0] == "notice"
    await wreck.deliver(MAIL)
    await wreck.db.execute("UPDATE pending_uploads SET instance_id = 'other'")
    await wreck.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '9 min' WHERE host = 'mail2'")
    assert await told(wreck, "nodes") == ("warning", "silent, and has not said that it stops: mail2 (9 min)")
    level, text = await told(wreck, "stranded")
    assert (level, "1 on mail2 (other)" in text) == ("error", True)
    await wreck.db.execute("UPDATE instances SET stopped_at = clock() WHERE host = 'mail2'")
    assert (await told(wreck, "nodes"))[0] == "ok"


async def test_what_verify_left(wreck: Wreck) -> None:
    assert await told(wreck, "verified") == ("notice", "the store was never verified")
    ref = await wreck.at_rest(MAIL)
    await verify.verify(wreck.context, Verify())
    assert (await told(wreck, "verified"))[0] == "ok"
    await wreck.node.blobs.delete(ref.key)
    await verify.verify(wreck.context, Verify())
    level, text = await told(wreck, "verified")
    assert (level, "object missing (1)" in text) == ("warning", True)
    wreck.cache.path(ref).unlink()
    await verify.verify(wreck.context, Verify(repair=True))
    assert (await told(wreck, "verified"))[0] == "error"
    assert "a backup of the bucket" in (await diagnose(wreck.context, "verified")).advice
    await wreck.db.execute("UPDATE verify_findings SET kind = 'object without row', state = 'found'")
    assert (await told(wreck, "verified"))[0] == "warning"
    assert "stays as it is" in (await diagnose(wreck.context, "verified")).advice
    await wreck.db.execute("DELETE FROM verify_findings")
    await wreck.db.execute("UPDATE verify_runs SET finished_at = clock() - interval '40 d'")
    assert (await told(wreck, "verified"))[0] == "notice"


async def test_what_was_put_aside_or_is_not_known(wreck: Wreck) -> None:
    ref = await wreck.deliver(MAIL)
    await wreck.node.staging.quarantine(ref.account_id, ref.content_hash)
    assert (await told(wreck, "quarantine"))[0] == "warning"
    await wreck.db.execute("INSERT INTO orphan_objects (key, size, modified_at) VALUES ('k', 7, clock())")
    assert await told(wreck, "orphans") == ("notice", "1 objects (7 octets) without a row")


async def test_the_recovery_point(wreck: Wreck) -> None:
    assert await told(wreck, "recovery point") == ("notice", "no segment of the journal was ever closed")
    await wreck.db.execute("UPDATE instances SET started_at = clock() - interval '1 h'")
    assert (await told(wreck, "recovery point"))[0] == "error"
    for past, level in (("10 s", "ok"), ("10 min", "warning"), ("2 h", "error")):
        await wreck.db.execute(f"UPDATE journal_state SET recovery_point = clock() - interval '{past}'")
        assert (await told(wreck, "recovery point"))[0] == level
    await wreck.db.execute("UPDATE journal_state SET recovery_point = clock(), skipped = 2")
    assert "leaves 2 accounts out" in (await told(wreck, "recovery point"))[1]
    await wreck.db.execute("UPDATE journal_state SET stopped_at = clock() - interval '3 h'")
    assert await told(wreck, "recovery point") == (
        "error",
        "nothing is written to the journal for 3 h: it was turned off",
    )
    change(wreck.context, journal=msgspec.structs.replace(wreck.context.config.journal, interval=0.0))
    assert (await told(wreck, "recovery point"))[0] == "notice"


async def test_reservations_near_their_end(wreck: Wreck) -> None:
    await wreck.account()
    assert (await told(wreck, "reservations"))[0] == "ok"
    await wreck.db.execute("UPDATE mailbox_stats SET uid_reserved = 1048576, modseq_reserved = 1048576")
    assert (await told(wreck, "reservations"))[0] == "ok"
    await wreck.db.execute(
        "UPDATE mailbox_stats SET uid_next = 1048000 WHERE mailbox_id = (SELECT min(mailbox_id) FROM mailboxes)"
    )
    level, text = await told(wreck, "reservations")
    assert (level, text.startswith("1 mailboxes")) == ("error", True)
    await wreck.db.execute("UPDATE mailbox_stats SET uid_next = 4294967290, uid_reserved = 4294967296")
    assert (await told(wreck, "reservations"))[0] == "ok", "there are no more"
    await wreck.db.execute("UPDATE mailbox_stats SET highest_modseq = 1048000")
    assert (await told(wreck, "reservations"))[0] == "error"


async def test_what_was_begun_and_not_finished(wreck: Wreck) -> None:
    assert (await told(wreck, "unfinished"))[0] == "ok"
    account_id = await wreck.account()
    await wreck.db.execute("INSERT INTO imports (account_id, source) VALUES ($1, 'mbox /a')", account_id)
    assert (await told(wreck, "unfinished"))[0] == "ok", "it may be under way"
    await wreck.db.execute("UPDATE imports SET started_at = clock() - interval '2 d'")
    assert await told(wreck, "unfinished") == ("notice", "imports without an end: mbox /a to ann@example.com")
    await wreck.db.execute("UPDATE imports SET finished_at = clock()")
    assert (await told(wreck, "unfinished"))[0] == "ok"
    await wreck.db.execute("INSERT INTO rebuild_state (phase) VALUES ('x')")
    assert (await told(wreck, "unfinished"))[0] == "error"
    await wreck.db.execute("UPDATE rebuild_state SET finished_at = clock()")
    assert (await told(wreck, "unfinished"))[0] == "ok"


def test_every_command_that_is_advised_exists() -> None:
    """And is spelled as the command line wants it."""
    verbs = {operation.name.replace(".", " ") for operation in OPERATIONS}
    parser = build_parser()
    advised = [words for check in CHECKS.values() for words in re.findall(r"`sora-admin ([^`]+)`", check.advice)]
    assert len(advised) > 10
    for words in advised:
        verb = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), words.split()))
        assert verb in verbs or any(name.startswith(f"{verb} ") for name in verbs), words
        for flag in re.findall(r"--[a-z-]+", words):
            with pytest.raises(SystemExit) as ended:
                parser.parse_args([*verb.split(), flag, "--help"])
            assert ended.value.code == 0, words
    for words in (words for check in CHECKS.values() for words in re.findall(r"`soractl ([a-z]+)`", check.advice)):
        assert words in ("status", "reload")


async def test_mail_that_cannot_leave(wreck: Wreck) -> None:
    assert (await told(wreck, "outbound"))[0] == "ok"
    mail = Outgoing("redirect", "a@example.org", "x@example.org", data=MAIL)
    async with wreck.db.transaction() as connection:
        await enqueue(connection, [sealed(await wreck.account(), mail, PLAIN)])
    assert await told(wreck, "outbound") == ("error", "1 mails wait, and outbound.host is not set")
    change(wreck.context, outbound=msgspec.structs.replace(wreck.context.config.outbound, host="smart.example.com"))
    assert (await told(wreck, "outbound"))[0] == "ok"
    await wreck.db.execute("UPDATE outbound_queue SET created_at = clock() - interval '5 h'")
    assert (await told(wreck, "outbound"))[0] == "warning"
    await wreck.db.execute(
        "INSERT INTO instances (instance_id, host, smarthost_down_at, smarthost_error)"
        " VALUES ('n', 'mx1', '2026-01-02 03:04+00', 'Connection refused')"
    )
    said = "the smarthost smart.example.com cannot be reached by mx1, since 2026-01-02 03:04 UTC: Connection refused"
    assert await told(wreck, "outbound") == ("error", said)
    await wreck.db.execute("UPDATE instances SET stopped_at = clock()")
    assert (await told(wreck, "outbound"))[0] == "warning", "nobody is left whom it is no answer to"
    await wreck.db.execute("UPDATE outbound_queue SET created_at = clock() - interval '1 h'")
    assert (await told(wreck, "outbound"))[0] == "ok"
    await wreck.db.execute("UPDATE outbound_queue SET attempts = 3")
    assert await told(wreck, "outbound") == (
        "warning",
        "the smarthost takes nothing: 1 mails wait, all of them failed",
    )


async def test_keys(dsn: str, tmp_path: Path) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_wreck(dsn, tmp_path, encryption={"keyring_file": str(tmp_path / "keyring.toml")}) as wreck:
        await wreck.at_rest(MAIL)
        assert (await told(wreck, "keys"))[0] == "ok"
        await wreck.db.execute("UPDATE account_keys SET stored_at = NULL, created_at = clock() - interval '2 h'")
        assert (await told(wreck, "keys"))[0] == "warning"
        await wreck.db.execute("UPDATE master_keys SET fingerprint = 'x'")
        assert "other octets" in (await told(wreck, "keys"))[1]
        (tmp_path / "keyring.toml").rename(tmp_path / "away")
        assert (await told(wreck, "keys"))[0] == "error"
        keyring.add_key(tmp_path / "keyring.toml")
        level, text = await told(wreck, "keys")
        assert (level, "(1 accounts)" in text) == ("error", True)
        change(wreck.context, encryption=msgspec.structs.replace(wreck.context.config.encryption, keyring_file=""))
        assert (await told(wreck, "keys"))[0] == "error"


async def test_an_account_that_is_being_shredded_for_long(wreck: Wreck) -> None:
    await wreck.db.execute(
        "INSERT INTO shreddings (account_id, address, key_id, fingerprint, key_made_at, plain_bodies, requested_at)"
        " VALUES (1, 'a@example.com', 'k', 'x', clock(), 0, clock() - interval '2 h')"
    )
    assert (await told(wreck, "shreddings"))[0] == "warning"


@pytest.mark.parametrize(
    ("begins", "ends", "level", "text"),
    [
        (-1, 90, "ok", ""),
        (-1, 20, "warning", "expires"),
        (-9, -1, "error", "expired"),
        (1, 90, "error", "not valid before"),
    ],
)
async def test_certificates(wreck: Wreck, begins: int, ends: int, level: str, text: str) -> None:
    cert, key = certificate(wreck.root, "a", begins, ends)
    serve(wreck.context, cert, key)
    found = await told(wreck, "certificates")
    assert (found[0], text in found[1]) == (level, True)


async def test_certificates_that_cannot_be_used(wreck: Wreck) -> None:
    cert, key = certificate(wreck.root, "a", -1, 90)
    _, other = certificate(wreck.root, "b", -1, 90)
    serve(wreck.context, cert, other)
    assert "is not the key of" in (await told(wreck, "certificates"))[1]
    (wreck.root / "a.pem").write_text("nonsense")
    serve(wreck.context, cert, key)
    assert "cannot be read" in (await told(wreck, "certificates"))[1]
    (wreck.root / "a.pem").unlink()
    assert "No such file" in (await told(wreck, "certificates"))[1]


def serve(context: AdminContext, cert: str, key: str) -> None:
    table = ServerTable(listen=("127.0.0.1:0",), tls_cert=cert, tls_key=key)
    change(context, servers=ServersTable(imap=table))


def certificate(folder: Path, name: str, begins: int, ends: int) -> tuple[str, str]:
    """One that is valid from and until so many days from now, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.example.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(made.public_bytes(pem))
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(secret)
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


@pytest.mark.parametrize(
    ("row", "window", "level", "text"),
    [
        ({"archives": False}, 0.0, "notice", "archives no WAL"),
        ({"failing": True, "age_s": None}, 0.0, "error", "fails with 00A1 (3 times), and last never worked"),
        ({"failing": True, "age_s": 7200.0}, 0.0, "error", "and last worked 2 h"),
        ({}, 0.0, "notice", "kept for restores of 14 days"),
        ({}, 86400.0, "ok", ""),
    ],
)
async def test_backups(
    wreck: Wreck, monkeypatch: pytest.MonkeyPatch, row: dict[str, object], window: float, level: str, text: str
) -> None:
    assert (await told(wreck, "backups"))[0] == "notice", "the statement itself"

    async def fetchrow(sql: str, *arguments: object) -> dict[str, object]:
        return {"archives": True, "wal": "00A1", "n": 3, "age_s": 5.0, "failing": False} | row

    monkeypatch.setattr(wreck.db, "fetchrow", fetchrow)
    cleanup = msgspec.structs.replace(wreck.context.config.cleanup, recovery_window=window)
    wreck.context.config = msgspec.structs.replace(wreck.context.config, cleanup=cleanup)
    found_level, found_text = await told(wreck, "backups")
    assert (found_level, text in found_text) == (level, True), found_text
