"""Staged files: whole or not there, never changed, never gone while somebody counts on them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import stat
import time
from typing import TYPE_CHECKING

import pytest

from sora.errors import StagingFull
from sora.store import diskfile
from sora.store import staging as staging_module
from sora.store.blobs import content_hash
from sora.store.staging import Staging
from sora.types import AccountId
from tests.support.models_durable import publish_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANN = AccountId(1)
BOB = AccountId(2)
BODY = b"Subject: x\r\n\r\nhello\r\n"
DIGEST = content_hash(BODY)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def staging(root: Path) -> Iterator[Staging]:
    made = Staging(root, 10**6)
    yield made
    made.close()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """System calls that a test can see, and make fail; what the native ones do stands in `test_durable.py`."""
    monkeypatch.setattr(staging_module, "publish", publish_model)


def item(body: bytes, account_id: AccountId = ANN) -> tuple[AccountId, bytes, bytes]:
    return account_id, content_hash(body), body


def files(root: Path) -> list[str]:
    """Everything below the root but the lock."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock")


async def test_what_was_staged_can_be_read(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY), item(b""), item(BODY, BOB)])
    assert await staging.read(ANN, DIGEST) == BODY
    assert staging.read_now(ANN, DIGEST, len(BODY)) == BODY
    assert await staging.read(ANN, content_hash(b"")) == b""
    assert await staging.exists(BOB, DIGEST)
    assert not await staging.exists(AccountId(3), DIGEST)
    assert await staging.read(AccountId(3), DIGEST) is None
    assert staging.read_now(AccountId(3), DIGEST, 1) is None
    assert f"0000000000000001-{DIGEST.hex()}.eml" in files(root)
    assert len(files(root)) == 3


async def test_files_are_for_this_user_only(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY)])
    assert stat.S_IMODE(staging.path(ANN, DIGEST).stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


@pytest.mark.usefixtures("plain")
async def test_everything_is_synced_before_its_name_and_names_before_the_return(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fdatasync, link, fsync = os.fdatasync, os.link, os.fsync

    def on_fdatasync(fd: int) -> None:
        assert os.fstat(fd).st_size == len(BODY) + 1
        fdatasync(fd)
        events.append("data")

    def on_link(source: Path, target: Path) -> None:
        link(source, target)
        events.append("name")

    def on_fsync(fd: int) -> None:
        assert os.readlink(f"/proc/self/fd/{fd}") == str(root)
        fsync(fd)
        events.append("directory")

    monkeypatch.setattr(os, "fdatasync", on_fdatasync)
    monkeypatch.setattr(os, "link", on_link)
    monkeypatch.setattr(os, "fsync", on_fsync)
    await staging.stage_many([item(BODY + bytes([n])) for n in range(5)])
    assert events == ["data"] * 5 + ["name"] * 5 + ["directory"]
    events.clear()
    await staging.stage_many([item(BODY + b"\0")])
    # There already, but its name may be another process's and not on disk yet.
    assert events == ["data", "directory"]


async def test_a_second_delivery_uses_the_file_and_marks_it(staging: Staging) -> None:
    await staging.stage_many([item(BODY)])
    path = staging.path(ANN, DIGEST)
    os.utime(path, (0, 0))
    before = path.stat()
    await staging.stage_many([item(BODY)])
    after = path.stat()
    assert after.st_ino == before.st_ino
    assert time.time() - after.st_mtime < 60
    assert stat.S_IMODE(after.st_mode) == staging_module.SHARED_MODE
    assert staging.used_bytes == len(BODY)


async def test_the_same_body_twice_in_one_batch_is_one_delivery(staging: Staging) -> None:
    await staging.stage_many([item(BODY), item(BODY)])
    assert stat.S_IMODE(staging.path(ANN, DIGEST).stat().st_mode) == diskfile.FILE_MODE
    assert staging.used_bytes == len(BODY)


@pytest.mark.usefixtures("plain")
async def test_a_name_taken_in_the_meantime_is_shared(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    other = staging.path(ANN, DIGEST)
    link = os.link

    def late(source: Path, target: Path) -> None:
        other.write_bytes(BODY)  # another process was faster
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    await staging.stage_many([item(BODY)])
    assert stat.S_IMODE(other.stat().st_mode) == staging_module.SHARED_MODE


async def test_a_file_of_another_size_is_moved_aside(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY)])
    staging.path(ANN, DIGEST).write_bytes(BODY[:5])
    await staging.stage_many([item(BODY)])
    assert await staging.read(ANN, DIGEST) == BODY
    assert [path.read_bytes() for path in (root / "quarantine").iterdir()] == [BODY[:5]]


async def test_quarantine(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY)])
    await staging.quarantine(ANN, DIGEST)
    await staging.quarantine(ANN, DIGEST)
    assert await staging.read(ANN, DIGEST) is None
    assert [path.read_bytes() for path in (root / "quarantine").iterdir()] == [BODY]
    assert await staging.list_files() == []


# Full, broken.


def failing(code: int, after: int = 0) -> Callable[..., object]:
    """A system call that fails from the `after`-th time on."""
    calls = iter(range(10**6))

    def call(*args: object) -> object:
        if next(calls) >= after:
            raise OSError(code, os.strerror(code))
        return None

    return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "link"])
@pytest.mark.usefixtures("plain")
async def test_no_room_is_staging_full_and_leaves_nothing(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    opened = os.open
    await staging.exists(ANN, DIGEST)
    if call == "open":

        def no_new_file(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_EXCL:
                raise OSError(code, os.strerror(code))
            return opened(path, flags, mode)

        monkeypatch.setattr(os, "open", no_new_file)
    else:
        monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(StagingFull):
        await staging.stage_many([item(BODY), item(BODY + b"2"), item(BODY + b"3")])
    monkeypatch.undo()
    assert files(root) == []
    assert staging.used_bytes == 0
    await staging.stage_many([item(BODY)])
    assert await staging.read(ANN, DIGEST) == BODY


@pytest.mark.usefixtures("plain")
async def test_the_second_of_a_batch_that_fails_takes_the_first_with_it(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", failing(errno.ENOSPC, after=1))
    with pytest.raises(StagingFull):
        await staging.stage_many([item(BODY), item(BODY + b"2")])
    assert files(root) == []


async def test_a_disk_that_fills_up_in_the_middle_of_a_file(staging: Staging, root: Path) -> None:
    """With the real kernel: the write is cut short at the limit, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(StagingFull):
            await staging.stage_many([item(b"x" * 20_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(root) == []


@pytest.mark.usefixtures("plain")
async def test_other_errors_are_not_hidden(staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", failing(errno.EBADF))
    with pytest.raises(OSError, match="Bad file descriptor"):
        await staging.stage_many([item(BODY)])
    assert files(root) == []
    assert staging.used_bytes == 0


async def stage_when_seen(staging: Staging, body: bytes) -> None:
    """The directory is added up for a small share of the time only, so a look may be due a moment later."""
    while True:
        try:
            return await staging.stage_many([item(body)])
        except StagingFull:
            await asyncio.sleep(0)


async def test_the_bound_on_the_size(root: Path) -> None:
    staging = Staging(root, 100)
    await staging.stage_many([item(b"a" * 60)])
    with pytest.raises(StagingFull, match="60 octets of 100"):
        await staging.stage_many([item(b"b" * 41)])
    await staging.stage_many([item(b"c" * 40)])
    assert len(files(root)) == 2
    # what another process removes is seen before anything else is refused
    uploader = Staging(root, 100)
    assert uploader.used_bytes == 100
    assert await uploader.retire(ANN, content_hash(b"a" * 60))
    await stage_when_seen(staging, b"d" * 60)
    with pytest.raises(StagingFull):
        await staging.stage_many([item(b"e")])
    staging.close()
    uploader.close()


# Removing.


async def test_retire_removes_a_file_of_one_delivery(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY)])
    assert await staging.retire(ANN, DIGEST)
    assert not await staging.retire(ANN, DIGEST)
    assert files(root) == []
    assert staging.used_bytes == 0


async def test_retire_spares_a_file_that_was_staged_again_lately(root: Path) -> None:
    staging = Staging(root, 10**6, settle_s=100)
    await staging.stage_many([item(BODY)])
    await staging.stage_many([item(BODY)])
    assert not await staging.retire(ANN, DIGEST)
    assert await staging.read(ANN, DIGEST) == BODY
    old = time.time() - 101
    os.utime(staging.path(ANN, DIGEST), (old, old))
    assert await staging.retire(ANN, DIGEST)
    assert files(root) == []
    staging.close()


async def test_quarantine_idle_goes_by_time_and_keeps_the_octets(staging: Staging) -> None:
    await staging.stage_many([(ANN, DIGEST, BODY)])
    used = staging.used_bytes
    assert not await staging.quarantine_idle(ANN, DIGEST, 3600)
    assert await staging.count_quarantined() == 0
    path = staging.path(ANN, DIGEST)
    then = time.time() - 3700
    os.utime(path, (then, then))
    assert await staging.quarantine_idle(ANN, DIGEST, 3600)
    assert not await staging.quarantine_idle(ANN, DIGEST, 0)
    (aside,) = (path.parent / "quarantine").iterdir()
    assert aside.read_bytes() == BODY
    assert await staging.count_quarantined() == 1
    assert staging.used_bytes == used - len(BODY)


async def test_quarantine_is_emptied_by_age_on_demand(staging: Staging) -> None:
    assert await staging.expire_quarantined(0) == 0
    await staging.stage_many([item(BODY)])
    await staging.quarantine(ANN, DIGEST)
    (aside,) = (staging.path(ANN, DIGEST).parent / "quarantine").iterdir()
    stranger = aside.with_name("notes-of-a-person.txt")
    stranger.write_text("keep")
    assert await staging.expire_quarantined(3600) == 0
    then = time.time_ns() - 3601 * 10**9
    aside.rename(aside.with_name(f"{then}-{aside.name.partition('-')[2]}"))
    assert await staging.expire_quarantined(3600) == 1
    assert stranger.read_text() == "keep"


async def test_unlink_idle_goes_by_time_alone(staging: Staging) -> None:
    await staging.stage_many([item(BODY)])
    assert not await staging.unlink_idle(ANN, DIGEST, 3600)
    old = time.time() - 3601
    os.utime(staging.path(ANN, DIGEST), (old, old))
    assert await staging.unlink_idle(ANN, DIGEST, 3600)
    assert not await staging.exists(ANN, DIGEST)


async def test_removing_waits_for_whoever_is_staging(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY)])
    fd = os.open(root / ".lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    removing = asyncio.create_task(staging.retire(ANN, DIGEST))
    await asyncio.wait([removing], timeout=0.1)
    assert not removing.done()
    assert await staging.exists(ANN, DIGEST)
    await staging.stage_many([item(BODY)])  # stagers do not wait for each other
    os.close(fd)
    assert not await removing  # and by now it is shared
    assert await staging.exists(ANN, DIGEST)


async def test_whoever_staged_last_finds_the_file(root: Path) -> None:
    """Deliveries and uploads of the same bytes in any order: the body is there when `stage_many` is done."""
    staging, uploader = Staging(root, 10**6), Staging(root, 10**6)
    for number in range(150):
        same = item(BODY + number.to_bytes(2, "big"))
        await staging.stage_many([same])
        await asyncio.gather(staging.stage_many([same]), uploader.retire(*same[:2]))
        assert await staging.exists(*same[:2]), number
    staging.close()
    uploader.close()


# What is there.


async def test_list_files_gives_the_bodies_alone_oldest_first(staging: Staging, root: Path) -> None:
    await staging.stage_many([item(BODY), item(b"second", BOB)])
    os.utime(staging.path(BOB, content_hash(b"second")), (5, 5))
    (root / "instance").write_text("x")
    (root / "0000-short.eml").write_text("x")
    found = await staging.list_files()
    assert [(file.account_id, file.content_hash, file.size) for file in found] == [
        (BOB, content_hash(b"second"), 6),
        (ANN, DIGEST, len(BODY)),
    ]
    assert found[0].modified_at_s == 5


async def test_a_start_sweeps_what_dead_processes_were_writing_and_keeps_the_rest(root: Path) -> None:
    first = Staging(root, 10**6)
    await first.stage_many([item(BODY)])
    first.close()
    old, fresh = root / "tmp" / "a.tmp", root / "tmp" / "b.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    second = Staging(root, 10**6)
    assert files(root) == [f"0000000000000001-{DIGEST.hex()}.eml", "tmp/b.tmp"]
    assert second.used_bytes == len(BODY)
    second.close()


async def test_a_body_in_pieces_is_one_body(staging: Staging, root: Path) -> None:
    spool = staging.spool()
    spool.write(BODY[5:9])
    spool.write(BODY[9:])
    with spool.map() as mapped:
        spool.close()
        await staging.stage_many([(ANN, DIGEST, (BODY[:5], mapped)), (BOB, DIGEST, (b"", BODY))])
    assert await staging.read(ANN, DIGEST) == await staging.read(BOB, DIGEST) == BODY
    assert staging.used_bytes == 2 * len(BODY)


async def test_a_spool_leaves_nothing(staging: Staging, root: Path) -> None:
    spool = staging.spool()
    spool.write(BODY)
    assert spool.size == len(BODY)
    assert files(root) == []
    assert staging.used_bytes == len(BODY)
    spool.close()
    spool.close()
    assert staging.used_bytes == 0
