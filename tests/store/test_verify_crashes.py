"""A repair that is killed at any of its steps is completed by the next run, and what it had mended is told of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sora import crashpoints
from sora.admin import verify
from sora.admin.verify import Verify
from sora.services.recovery import mending, verifying
from sora.store import keyring
from tests.support.wrecks import flipped, open_wreck

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wrecks import Wreck

MAIL = b"Subject: %d\r\n\r\nHello.\r\n"
POINTS = [name for name in crashpoints.POINTS if name.startswith("verify.")]
EVERYTHING = {
    "mailbox missing",
    "mailbox",
    "object missing",
    "object damaged",
    "staged damaged",
    "cache damaged",
    "content missing",
    "object without row",
    "key object damaged",
}


class Killed(BaseException):
    """The process ends here."""


async def break_everything(wreck: Wreck) -> None:
    missing, damaged, cached = [await wreck.at_rest(MAIL % number) for number in range(3)]
    rowless = await wreck.at_rest(MAIL % 3)
    staged = await wreck.deliver(MAIL % 4)
    await wreck.cache.put(staged, wreck.staged(staged).read_bytes())
    await wreck.node.blobs.delete(missing.key)
    await wreck.spoil_object(damaged)
    wreck.spoil(wreck.cache.path(cached))
    wreck.spoil(wreck.staged(staged))
    await wreck.behind_the_triggers(f"DELETE FROM message_contents WHERE content_id = {rowless.content_id}")
    await wreck.behind_the_triggers("DELETE FROM message_sequences")
    account_id = await wreck.account()
    box = (await wreck.node.store.mailboxes.get(account_id, "Archive")).mailbox_id
    await wreck.behind_the_triggers(
        "INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size)"
        f" SELECT account_id, {box}, uid, content_id, created_modseq, internal_date, size FROM messages"
    )
    await wreck.behind_the_triggers(f"DELETE FROM mailboxes WHERE mailbox_id = {box}")
    await wreck.behind_the_triggers(f"DELETE FROM mailbox_stats WHERE mailbox_id = {box}")
    (key,) = [entry.key async for entry in wreck.node.blobs.list("keys/")]
    await wreck.node.blobs.put(key, b"{}")


async def all_is_well(wreck: Wreck) -> None:
    """Nothing is found, and every message can be read from the object store."""
    assert (await verify.verify(wreck.context, Verify(deep=True))).findings == []
    rows = await wreck.db.fetch("SELECT account_id, content_id, content_hash, size FROM message_contents")
    bodies = {await wreck.read(mending.BlobRef(**row)) for row in rows}
    assert bodies == {MAIL % number for number in range(5)}
    assert await wreck.db.fetchval("SELECT count(*) FROM pending_uploads") == 0
    found = await wreck.db.fetchval(
        "SELECT message_count FROM mailboxes JOIN mailbox_stats USING (mailbox_id) WHERE name LIKE 'Recovered %'"
    )
    assert found == 5


@pytest.mark.parametrize("point", POINTS)
async def test_a_run_that_was_killed_is_completed(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    passed: list[str] = []

    def crash(name: str) -> None:
        passed.append(name)
        if name == point and passed.count(name) == 1:
            raise Killed

    keyring.add_key(tmp_path / "keyring.toml")
    async with open_wreck(dsn, tmp_path, encryption={"keyring_file": str(tmp_path / "keyring.toml")}) as wreck:
        await break_everything(wreck)
        for module in (mending, verifying):
            monkeypatch.setattr(module, "crash_point", crash)
        request = Verify(deep=True, repair=True)
        with pytest.raises(Killed):
            await verify.verify(wreck.context, request)
        found = await verify.verify(wreck.context, request)
        assert found.resumed
        states = {finding.kind: finding.state for finding in found.findings}
        # an object without a row is no stray any more once its row is back
        assert states.pop("object without row", "waits") == "waits"
        assert states.pop("staged missing", "mended") == "mended", "it was put aside when the run was killed"
        assert states == dict.fromkeys(EVERYTHING - {"object without row"}, "mended")
        assert passed.count(point) >= 1
        await all_is_well(wreck)


@pytest.mark.timeout(90)
async def test_the_command_is_killed_and_called_again(dsn: str, tmp_path: Path) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_wreck(dsn, tmp_path, encryption={"keyring_file": str(tmp_path / "keyring.toml")}) as wreck:
        await break_everything(wreck)
        config = tmp_path / "sora.toml"
        config.write_text(
            f'[database]\nprimary = "{dsn}"\n[object_store]\npath = "{tmp_path}/objects"\n'
            f'[local_cache]\npath = "{tmp_path}/cache"\n[uploader]\nstaging_path = "{tmp_path}/staging"\n'
            f'[process]\nruntime_path = "{tmp_path}"\n[encryption]\nkeyring_file = "{tmp_path}/keyring.toml"\n'
        )

        def call(*words: str, crash: str = "") -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "sora.cli.admin", "--config", str(config), "verify", *words],
                env={**os.environ, "SORA_CRASH_AT": crash},
                capture_output=True,
                text=True,
                check=False,
            )

        assert call("--deep").returncode == verify.REMAINS
        assert call("--deep", "--repair", crash="verify.queued").returncode == -signal.SIGKILL
        done = call("--deep", "--repair", "--json")
        assert done.returncode in (0, verify.REMAINS), done.stderr
        assert '"resumed": true' in done.stdout
        again = call("--deep", "--restart")
        assert (again.returncode, again.stderr) == (0, "")
        await all_is_well(wreck)


async def test_a_damaged_key_comes_back_from_its_object(dsn: str, tmp_path: Path) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_wreck(dsn, tmp_path, encryption={"keyring_file": str(tmp_path / "keyring.toml")}) as wreck:
        ref = await wreck.at_rest(MAIL % 1)
        good = await wreck.db.fetchval("SELECT wrapped FROM account_keys")
        await wreck.db.execute("UPDATE account_keys SET wrapped = $1", flipped(good))
        found = await verify.verify(wreck.context, Verify())
        assert [(finding.kind, finding.state) for finding in found.findings] == [("key damaged", "found")]
        await verify.verify(wreck.context, Verify(repair=True))
        assert await wreck.db.fetchval("SELECT wrapped FROM account_keys") == good
        wreck.sealers.forget_all()
        assert await wreck.read(ref) == MAIL % 1
        (key,) = [entry.key async for entry in wreck.node.blobs.list("keys/")]
        await wreck.node.blobs.delete(key)
        await wreck.db.execute("UPDATE account_keys SET wrapped = $1", flipped(good))
        found = await verify.verify(wreck.context, Verify(deep=True, repair=True))
        states = {finding.kind: finding.state for finding in found.findings}
        assert states == {"key damaged": "lost"}
        assert (await wreck.node.blobs.stat(ref.key)).size, "nothing that cannot be opened is taken for damaged"


async def test_without_the_master_key_nothing_is_judged(dsn: str, tmp_path: Path) -> None:
    keyring.add_key(tmp_path / "keyring.toml")
    async with open_wreck(dsn, tmp_path, encryption={"keyring_file": str(tmp_path / "keyring.toml")}) as wreck:
        ref = await wreck.at_rest(MAIL % 1)
        await wreck.at_rest(MAIL % 2, cached=False)
        await wreck.node.blobs.delete(ref.key)
        (tmp_path / "keyring.toml").unlink()
        keyring.add_key(tmp_path / "keyring.toml")
        found = await verify.verify(wreck.context, Verify(deep=True, repair=True))
        states = {finding.kind: finding.state for finding in found.findings}
        assert states == {"key damaged": "waits", "object missing": "waits"}
        assert "put it back" in next(f.detail for f in found.findings if f.kind == "key damaged")
        assert wreck.cache.path(ref).exists()
