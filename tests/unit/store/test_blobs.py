"""Keys, references, and what a directory does beyond the conformance suite (tests/store/test_s3.py)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sora.errors import BlobDown, NotFound
from sora.store import blobs as blobs_module
from sora.store import diskfile
from sora.store.blobs import BlobEntry, BlobRef, DirectoryStore, check_key, content_hash
from sora.types import AccountId, ContentId
from tests.support.models_durable import sync_directories_model

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = bytes(range(32))
REF = BlobRef(account_id=AccountId(0x2A), content_id=ContentId(7), content_hash=DIGEST, size=5)


def test_hash_is_blake2b_256_of_the_bytes() -> None:
    assert content_hash(b"a\r\nb\n") == hashlib.blake2b(b"a\r\nb\n", digest_size=32).digest()


def test_key_and_name_are_what_other_processes_expect() -> None:
    assert REF.key == f"000000000000002a/00/{DIGEST.hex()}-7.eml"
    assert REF.name == f"000000000000002a-{DIGEST.hex()}.eml"
    assert check_key(REF.key) == REF.key


@pytest.mark.parametrize(
    ("key", "is_body"),
    [
        (REF.key, True),
        ("keys/000000000000002a/1.json", False),
        ("health/probe", False),
        (REF.key + ".old", False),
        (REF.key.replace("-7.", "-07."), False),
        (REF.key.replace("/00/", "/01/"), False),
        ("x" + REF.key[1:], False),
    ],
)
def test_the_key_of_an_object_tells_its_body(key: str, is_body: bool) -> None:
    entry = BlobEntry(key=key, size=5, modified_at=datetime.now(UTC))
    assert BlobRef.of_entry(entry) == (REF if is_body else None)


def test_matches_wants_size_and_hash() -> None:
    body = b"hello"
    ref = BlobRef(AccountId(1), ContentId(1), content_hash(body), 5)
    assert ref.matches(body)
    assert not ref.matches(b"hellO")
    assert not BlobRef(AccountId(1), ContentId(1), content_hash(body), 4).matches(body)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "a//b",
        "../a",
        "a/../b",
        "a/..",
        ".",
        "a/.hidden",
        "/etc/passwd",
        "a/",
        "a\0b",
        "a b",
        "é",
        "a\n",
        "x" * 300,
    ],
)
def test_dangerous_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        check_key(key)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "objects")


async def test_every_method_refuses_dangerous_keys(store: DirectoryStore, tmp_path: Path) -> None:
    await store.prepare()
    (tmp_path / "secret").write_bytes(b"x")
    for call in (store.get("../secret"), store.stat("../secret"), store.delete("../secret"), store.put("../evil", b"")):
        with pytest.raises(ValueError, match="not an object key"):
            await call
    assert (tmp_path / "secret").exists()
    assert not (tmp_path / "evil").exists()


async def test_a_root_that_is_gone_is_an_outage_not_an_empty_store(store: DirectoryStore, tmp_path: Path) -> None:
    await store.prepare()
    await store.put("a/b", b"x")
    (tmp_path / "objects").rename(tmp_path / "unmounted")
    with pytest.raises(BlobDown):
        await store.get("a/b")
    with pytest.raises(BlobDown):
        await store.stat("a/b")
    with pytest.raises(BlobDown):
        await store.put("a/c", b"y")
    with pytest.raises(BlobDown):
        await store.delete("a/b")
    with pytest.raises(BlobDown):
        await store.ping()
    with pytest.raises(BlobDown):
        [entry async for entry in store.list()]
    assert not (tmp_path / "objects").exists()


async def test_a_put_that_fails_leaves_neither_object_nor_temporary(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()

    def broken(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(BlobDown):
        await store.put("a/b", b"x")
    monkeypatch.undo()
    with pytest.raises(NotFound):
        await store.stat("a/b")
    assert list((tmp_path / "objects" / ".tmp").iterdir()) == []


async def test_a_put_syncs_file_and_directory_before_it_returns(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()
    await store.put("a/first", b"x")
    synced: list[str] = []
    fsync = os.fsync

    def recording(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(blobs_module, "sync_directories", sync_directories_model)
    monkeypatch.setattr(os, "fsync", recording)
    await store.put("a/b", b"x")
    assert [str(tmp_path / "objects" / ".tmp") in synced[0], synced[1:]] == [True, [str(tmp_path / "objects" / "a")]]


async def test_puts_at_the_same_time_share_what_is_synced(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()
    synced: list[str] = []
    fsync = os.fsync

    def recording(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(blobs_module, "sync_directories", sync_directories_model)
    monkeypatch.setattr(os, "fsync", recording)
    await asyncio.gather(*(store.put(f"a/{number}", b"%d" % number) for number in range(20)))
    directories = [path for path in synced if ".tmp" not in path]
    assert len(synced) - len(directories) == 20
    assert sorted(set(directories)) == [str(tmp_path / "objects"), str(tmp_path / "objects" / "a")]
    assert len(directories) <= 3
    assert synced[-1] in directories
    for number in range(20):
        assert await store.get(f"a/{number}") == b"%d" % number


async def test_one_put_that_fails_takes_no_other_with_it(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()
    (tmp_path / "objects" / "b").write_bytes(b"no directory")
    results = await asyncio.gather(*(store.put(key, b"x") for key in ("a/1", "b/1", "a/2")), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), BlobDown, type(None)]
    assert await store.get("a/2") == b"x"
    assert list((tmp_path / "objects" / ".tmp").iterdir()) == []


async def test_a_directory_that_cannot_be_synced_fails_its_objects(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()

    def broken(paths: list[bytes]) -> list[int]:
        return [5 * path.endswith(b"/b") for path in paths]

    monkeypatch.setattr(blobs_module, "sync_directories", broken)
    results = await asyncio.gather(*(store.put(key, b"x") for key in ("a/1", "b/1", "a/2")), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), BlobDown, type(None)]


async def test_a_put_that_is_cut_short_is_no_success(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The uploader would remove the only copy."""
    await store.prepare()
    entered, go_on, write = threading.Event(), threading.Event(), diskfile.write_new

    def slowly(path: Path, *pieces: bytes) -> int:
        entered.set()
        assert go_on.wait(10)
        return write(path, *pieces)

    monkeypatch.setattr(diskfile, "write_new", slowly)
    put = asyncio.create_task(store.put("a/b", b"x"))
    assert await asyncio.to_thread(entered.wait, 10)
    assert store._putting is not None
    store._putting.cancel()
    try:
        with pytest.raises(BlobDown, match="closed"):
            await put
    finally:
        go_on.set()


async def test_the_directory_that_a_failed_put_has_made_is_synced(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another object of the same group lies in it."""
    await store.prepare()
    write = diskfile.write_new
    synced: list[bytes] = []

    def sync(paths: list[bytes]) -> list[int]:
        synced.extend(paths)
        return [0] * len(paths)

    def full(path: Path, *pieces: bytes) -> int:
        if pieces == (b"large",):
            raise OSError(28, "No space left on device")
        return write(path, *pieces)

    monkeypatch.setattr(diskfile, "write_new", full)
    monkeypatch.setattr(blobs_module, "sync_directories", sync)
    outcomes = await asyncio.gather(store.put("a/b/1", b"large"), store.put("a/b/2", b"x"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BlobDown, type(None)]
    root = store._root
    assert {bytes(root), bytes(root / "a"), bytes(root / "a" / "b")} <= set(synced)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    path = tmp_path / "staged.eml"
    path.write_bytes(b"body")
    path.chmod(0o400)
    os.utime(path, (1, 1))
    return path


async def test_a_file_on_this_disk_becomes_the_object_and_outlives_its_name(
    store: DirectoryStore, tmp_path: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()
    synced: list[bytes] = []

    def sync(paths: list[bytes]) -> list[int]:
        assert (tmp_path / "objects" / "a" / "b").stat().st_nlink == 2, "names before the directory"
        synced.extend(paths)
        return [0] * len(paths)

    monkeypatch.setattr(blobs_module, "sync_directories", sync)
    await store.put_file("a/b", staged, b"body")
    assert set(synced) == {bytes(tmp_path / "objects"), bytes(tmp_path / "objects" / "a")}
    assert (tmp_path / "objects" / "a" / "b").stat().st_ino == staged.stat().st_ino
    staged.unlink()
    assert await store.get("a/b") == b"body"
    assert [entry.modified_at.year > 2000 async for entry in store.list()] == [True], "as old as its name"
    assert list((tmp_path / "objects" / ".tmp").iterdir()) == []
    await store.delete("a/b")
    with pytest.raises(NotFound):
        await store.get("a/b")


@pytest.mark.parametrize("code", [18, 1, 31, 2], ids=["EXDEV", "EPERM", "EMLINK", "ENOENT"])
async def test_a_file_that_cannot_be_linked_is_copied(
    store: DirectoryStore, staged: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    await store.prepare()

    def no_link(source: Path, target: Path) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "link", no_link)
    await store.put_file("a/b", staged, b"body")
    assert await store.get("a/b") == b"body"
    assert staged.stat().st_nlink == 1


async def test_a_torn_object_of_the_same_name_is_replaced(store: DirectoryStore, tmp_path: Path, staged: Path) -> None:
    await store.prepare()
    await store.put("a/b", b"bo")
    await asyncio.gather(store.put_file("a/b", staged, b"body"), store.put_file("a/c", staged, b"body"))
    assert await store.get("a/b") == await store.get("a/c") == b"body"
    await store.put_file("a/c", staged, b"body")
    assert await store.get("a/c") == b"body"
    assert list((tmp_path / "objects" / ".tmp").iterdir()) == []


async def test_a_link_in_a_directory_that_cannot_be_synced_is_no_object(
    store: DirectoryStore, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.prepare()
    monkeypatch.setattr(blobs_module, "sync_directories", lambda paths: [5] * len(paths))
    with pytest.raises(BlobDown, match="Input/output error"):
        await store.put_file("a/b", staged, b"body")


async def test_a_file_for_a_root_that_is_gone_is_an_outage(store: DirectoryStore, tmp_path: Path, staged: Path) -> None:
    await store.prepare()
    await store.put_file("a/b", staged, b"body")
    (tmp_path / "objects").rename(tmp_path / "unmounted")
    with pytest.raises(BlobDown):
        await store.put_file("a/c", staged, b"body")
    assert not (tmp_path / "objects").exists()


async def test_a_put_into_a_closed_store_says_so(store: DirectoryStore) -> None:
    await store.prepare()
    store.close()
    with pytest.raises(RuntimeError):
        await store.put("a/1", b"x")


async def test_prepare_sweeps_what_a_dead_process_was_writing(store: DirectoryStore, tmp_path: Path) -> None:
    await store.prepare()
    old = tmp_path / "objects" / ".tmp" / "old.tmp"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    fresh = old.with_name("fresh.tmp")
    fresh.write_bytes(b"half")
    await store.prepare()
    assert not old.exists()
    assert fresh.exists()


async def test_files_are_for_this_user_only(store: DirectoryStore, tmp_path: Path) -> None:
    await store.prepare()
    await store.put("a/b", b"x")
    assert (tmp_path / "objects" / "a" / "b").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "objects" / "a").stat().st_mode & 0o777 == 0o700


def test_read_cached_reads_small_files_and_knows_when_it_cannot(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 5000)
    assert diskfile.read_cached(path, 5000) == b"x" * 5000
    with pytest.raises(diskfile.WouldBlock):
        diskfile.read_cached(path, 4999)
    with pytest.raises(FileNotFoundError):
        diskfile.read_cached(tmp_path / "g", 1)


def test_read_cached_gives_up_where_the_system_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    monkeypatch.setattr(diskfile, "_NOWAIT", None)
    with pytest.raises(diskfile.WouldBlock):
        diskfile.read_cached(path, 1)


def test_write_new_never_touches_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        diskfile.write_new(path, b"new")
    assert path.read_bytes() == b"old"
