"""Batches of files beside the plain model, on a real disk with real failures."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from sora._native.durable import publish, sync_directories
from tests.support.models_durable import publish_model, sync_directories_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Pieces = Sequence[bytes | mmap.mmap]
    File = tuple[bytes, bytes, Pieces]
    Publish = Callable[[list[File], bytes, bytes, int], list[int]]


class Place:
    """A directory of names and one of temporary names, for one side."""

    def __init__(self, root: Path, publish: Publish) -> None:
        self.root = root
        self.temporary = root / "tmp"
        self.temporary.mkdir(parents=True)
        self._publish = publish

    def file(self, name: str, *pieces: bytes | mmap.mmap) -> File:
        return bytes(self.temporary / f"{name}.tmp"), bytes(self.root / name), pieces

    def publish(self, *files: File, directory: str = "", lock: str = ".lock", mode: int = 0o600) -> list[int]:
        return self._publish(list(files), bytes(self.root / directory), bytes(self.root / lock), mode)

    def found(self) -> dict[str, bytes]:
        """Everything below, but the lock."""
        paths = [path for path in self.root.rglob("*") if path.is_file() and path.name != ".lock"]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}


@pytest.fixture(params=[publish, publish_model], ids=["native", "plain"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path / "place", request.param)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 64])
def test_every_file_has_its_octets_and_no_temporary_name(place: Place, count: int) -> None:
    bodies = {f"{n}.eml": os.urandom(n * 700) for n in range(count)}
    assert place.publish(*(place.file(name, body) for name, body in bodies.items())) == [0] * count
    assert place.found() == bodies


def test_pieces_are_joined_whatever_their_number_and_kind(place: Place) -> None:
    mapped = mmap.mmap(-1, 5000)
    mapped.write(b"m" * 5000)
    many = [b"%d," % n for n in range(3000)]  # more than one call may take
    assert place.publish(
        place.file("a", b"stamp", mapped, b"", b"end"), place.file("b"), place.file("c", b""), place.file("d", *many)
    ) == [0, 0, 0, 0]
    assert place.found() == {"a": b"stamp" + b"m" * 5000 + b"end", "b": b"", "c": b"", "d": b"".join(many)}
    mapped.close()  # nothing holds on to it


def test_the_mode_of_the_files(place: Place) -> None:
    place.publish(place.file("a", b"x"), mode=0o640)
    assert stat.S_IMODE((place.root / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((place.root / ".lock").stat().st_mode) == 0o640


def test_a_name_that_is_taken_is_left_to_the_caller(place: Place) -> None:
    place.publish(place.file("b", b"old"))
    files = [place.file(name, b"new") for name in ("a", "b", "c")]
    assert place.publish(*files) == [0, errno.EEXIST, 0]
    assert place.found() == {"a": b"new", "b": b"old", "c": b"new", "tmp/b.tmp": b"new"}


def test_a_temporary_name_that_is_taken_fails_the_batch_and_stays(place: Place) -> None:
    (place.temporary / "b.tmp").write_bytes(b"theirs")
    assert place.publish(*(place.file(name, b"x") for name in ("a", "b", "c"))) == [0, errno.EIO, 0]
    assert place.found() == {"tmp/b.tmp": b"theirs"}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_file_that_cannot_be_made_fails_the_batch(place: Place, failing: int) -> None:
    files = [place.file(name, b"x") for name in ("a", "b", "c")]
    files[failing] = (bytes(place.temporary / "no" / "x.tmp"), *files[failing][1:])
    assert place.publish(*files) == [errno.ENOENT * (n == failing) for n in range(3)]
    assert place.found() == {}


def test_a_name_that_cannot_be_given_leaves_no_temporary_names(place: Place) -> None:
    place.publish(place.file("a", b"old"))
    files = [
        place.file("a", b"x"),
        place.file("b", b"y"),
        (*place.file("c")[:1], bytes(place.root / "no" / "c"), (b"",)),
    ]
    assert place.publish(*files) == [errno.EEXIST, 0, errno.ENOENT]
    assert place.found() == {"a": b"old", "b": b"y"}, "what has its name keeps it: somebody may count on it by now"


@pytest.fixture
def small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_is_full_in_the_middle_of_a_file(place: Place) -> None:
    files = [place.file("a", b"x"), place.file("b", b"x" * 8000, b"y" * 8000), place.file("c", b"x")]
    assert place.publish(*files) == [0, errno.EFBIG, 0]
    assert place.found() == {}


@pytest.mark.parametrize("what", [("no/.lock", ""), (".lock", "no")])
def test_without_lock_or_directory_it_fails(place: Place, what: tuple[str, str]) -> None:
    with pytest.raises(FileNotFoundError):
        place.publish(place.file("a", b"x"), lock=what[0], directory=what[1])
    assert list((place.temporary).iterdir()) == []


def test_names_wait_for_the_lock_and_other_threads_do_not(place: Place) -> None:
    fd = os.open(place.root / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    thread = threading.Thread(target=place.publish, args=[place.file("a", b"x"), place.file("b", b"y")])
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert set(place.found()) <= {"tmp/a.tmp", "tmp/b.tmp"}
    os.close(fd)
    thread.join()
    assert place.found() == {"a": b"x", "b": b"y"}


def test_stagers_do_not_wait_for_each_other(place: Place) -> None:
    fd = os.open(place.root / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert place.publish(place.file("a", b"x")) == [0]
    os.close(fd)


def test_no_descriptor_and_no_thread_is_left(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    place.publish(*(place.file(f"{n}", b"x") for n in range(20)))
    place.publish(place.file("1", b"x"))
    place.publish((b"/no/x.tmp", b"/no/x", ()), place.file("2", b"x"))
    with pytest.raises(OSError, match="No such"):
        place.publish(place.file("z", b"x"), lock="no/.lock")
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before


@pytest.mark.parametrize("file", [("t", b"n", ()), (b"t", "n", ()), (b"t", b"n", ("text",)), (b"t", b"n")])
def test_what_is_no_file_is_refused_before_anything_is_done(tmp_path: Path, file: File) -> None:
    place = Place(tmp_path / "place", publish)
    with pytest.raises((TypeError, ValueError)):
        place.publish(place.file("a", b"x"), file)
    assert place.found() == {}


@pytest.mark.parametrize("sync", [sync_directories, sync_directories_model], ids=["native", "plain"])
def test_directories_are_synced_each_with_its_own_error(
    tmp_path: Path, sync: Callable[[list[bytes]], list[int]]
) -> None:
    paths = [tmp_path / f"{n}" for n in range(20)]
    for path in paths:
        path.mkdir()
    paths[3].rmdir()
    paths[7].rmdir()
    paths[7].write_bytes(b"")
    assert sync([bytes(path) for path in paths]) == [{3: errno.ENOENT, 7: errno.ENOTDIR}.get(n, 0) for n in range(20)]
    assert sync([]) == []


def test_a_directory_has_a_path_of_octets() -> None:
    with pytest.raises(TypeError):
        sync_directories(["text"])  # type: ignore[list-item]
