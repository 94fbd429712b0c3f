"""The keyring file: what is read, what is refused, how it grows; and what a master key wraps."""

from __future__ import annotations

import base64
import os
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora.errors import ConfigError, KeyUnavailable, NotFound
from sora.store import diskfile, keyring
from sora.store.keyring import Keyring, MasterKey
from sora.types import AccountId

if TYPE_CHECKING:
    from pathlib import Path

    from sora.store.diskfile import Octets

WHEN = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
ANN = AccountId(1)
BOB = AccountId(2)
SECRET = base64.b64encode(bytes(range(32))).decode()
ONE = f'[[key]]\nid = "a"\ncreated = 2026-03-14T09:26:53Z\nkey = "{SECRET}"\n'


def master(number: int = 1, *, waiting: bool = False) -> MasterKey:
    return MasterKey(f"k{number}", WHEN + timedelta(days=number), bytes([number]) * 32, waiting)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring.toml"


def test_the_newest_encrypts_and_all_are_there(path: Path) -> None:
    ring = Keyring(write(path, keyring.dump([master(2), master(1), master(3, waiting=True)])))
    assert [key.id for key in ring.keys] == ["k1", "k2", "k3"]
    assert ring.newest() == master(2)
    assert ring.get("k3") == master(3, waiting=True)
    with pytest.raises(NotFound, match="k9"):
        ring.get("k9")


def test_of_two_keys_of_one_second_the_later_in_the_file_is_newer(path: Path) -> None:
    first, second = (MasterKey(name, WHEN, bytes([5]) * 32) for name in ("z", "a"))
    assert Keyring(write(path, keyring.dump([first, second]))).newest().id == "a"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o610, 0o601])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    write(path, ONE, mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        Keyring(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ours_alone_is_read(path: Path, mode: int) -> None:
    assert Keyring(write(path, ONE, mode)).newest().secret == bytes(range(32))


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, ONE)
    if os.geteuid() == 0:
        os.chown(path, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(ConfigError, match="belongs to user"):
        Keyring(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody")
def test_root_keeps_a_keyring_for_the_user_that_sora_runs_as(path: Path) -> None:
    keyring.add_key(path, service_uid=4321)
    assert path.stat().st_uid == 4321
    keyring.add_key(path, service_uid=4321)
    assert path.stat().st_uid == 4321
    assert len(Keyring(path, service_uid=4321).keys) == 2
    with pytest.raises(ConfigError, match="belongs to user 4321"):
        Keyring(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `sora-admin keys rotate` makes one"):
        Keyring(tmp_path / "missing")
    with pytest.raises(ConfigError, match="not a file"):
        Keyring(tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no \\[\\[key\\]\\]"),
        ("key = 1\n", "no \\[\\[key\\]\\]"),
        ("key = [1]\n", "id, created, key"),
        ("nonsense", "keyring.toml"),
        ("\x80\n", "keyring.toml"),
        (ONE + ONE, "the same id"),
        (ONE + "waiting = true\n", "every key is waiting"),
        (ONE + 'waiting = "no"\n', "waiting is true or false"),
        (ONE + "more = 1\n", "id, created, key"),
        ("more = 1\n" + ONE, "unknown: more"),
        (ONE.replace('"a"', '"../a"'), "letters, digits"),
        (ONE.replace('"a"', '""'), "letters, digits"),
        (ONE.replace('"a"', "1"), "letters, digits"),
        (ONE.replace("T09:26:53Z", ""), "created is a time"),
        (ONE.replace("53Z", "53"), "created is a time"),
        (ONE.replace(SECRET, SECRET[:-4]), "32 octets"),
        (ONE.replace(SECRET, SECRET[:-1] + "*"), "32 octets"),
        (ONE.replace(f'"{SECRET}"', "7"), "32 octets"),
    ],
)
def test_a_file_that_is_no_keyring_is_refused_and_no_secret_told(path: Path, text: str, what: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=what) as caught:
        Keyring(path)
    assert SECRET[:12] not in str(caught.value)
    assert "encryption.keyring_file" in str(caught.value)


def test_a_key_is_never_printed() -> None:
    assert "\\x01" not in repr(master(1))
    assert repr(master(1)) == "MasterKey('k1')"


def test_keys_are_added(path: Path) -> None:
    first = keyring.add_key(path, waiting=True)
    assert not first.waiting, "somebody must encrypt"
    assert path.stat().st_mode & 0o777 == 0o600
    ring = Keyring(path)
    assert ring.newest() == first
    second = keyring.add_key(path)
    assert ring.newest() == second, "the file has changed"
    assert ring.keys == (first, second)
    assert len({first.secret, second.secret, first.id, second.id}) == 4
    assert sorted(path.parent.iterdir()) == [path]
    assert Keyring(path).keys == ring.keys


def test_a_key_waits_until_it_is_activated(path: Path) -> None:
    first = keyring.add_key(path)
    second = keyring.add_key(path, waiting=True)
    ring = Keyring(path)
    assert ring.newest() == first
    assert ring.get(second.id).waiting
    assert keyring.activate(path) == [second]
    assert ring.newest().id == second.id
    assert keyring.activate(path) == []


def test_a_clock_that_went_back_does_not_make_an_old_key_the_newest(path: Path) -> None:
    future = MasterKey("future", datetime(2999, 1, 1, tzinfo=UTC), bytes(32))
    write(path, keyring.dump([future]))
    assert keyring.add_key(path).id == Keyring(path).newest().id


def test_an_unknown_key_is_looked_for_in_the_file_once_it_changed(path: Path) -> None:
    keyring.add_key(path)
    ring = Keyring(path)
    added = keyring.add_key(path)
    assert ring.get(added.id) == added
    known = ring.keys
    write(path, "broken")
    with pytest.raises(NotFound):
        ring.get("other")
    assert ring.keys == known, "a broken file takes no key away"
    with pytest.raises(ConfigError):
        ring.newest()
    path.unlink()
    with pytest.raises(ConfigError):
        ring.refresh()
    assert ring.get(added.id) == added


def test_a_file_that_did_not_change_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring.add_key(path)
    ring = Keyring(path)
    monkeypatch.setattr(keyring, "_load", lambda *_: pytest.fail("read again"))
    ring.newest()
    with pytest.raises(NotFound):
        ring.get("other")


def test_writers_take_turns(path: Path) -> None:
    threads = [threading.Thread(target=keyring.add_key, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Keyring(path).keys) == 8


def test_a_failed_write_leaves_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring.add_key(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        keyring.add_key(path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path]


def test_a_key_encrypts_only_when_it_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes a changed file at once: what it wraps must not need a key that a power cut takes away."""
    synced = {keyring.add_key(path).id}
    sync = diskfile.sync_directory

    def checked(directory: Path) -> None:
        ring = Keyring(path)
        assert ring.newest().id in synced
        sync(directory)
        synced.update(key.id for key in ring.keys)

    monkeypatch.setattr(diskfile, "sync_directory", checked)
    waiting = keyring.add_key(path, waiting=True)
    added = keyring.add_key(path)
    assert Keyring(path).newest() == added
    assert Keyring(path).get(waiting.id).waiting, "nobody activated that one"


def test_what_a_killed_writer_left_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds every master key, and nobody would look for it when one is to be destroyed."""
    written: list[Path] = []
    write_new = diskfile.write_new

    def noted(temporary: Path, *pieces: Octets) -> int:
        written.append(temporary)
        return write_new(temporary, *pieces)

    monkeypatch.setattr(diskfile, "write_new", noted)
    keyring.add_key(path)
    written[0].write_bytes(path.read_bytes())
    other = path.with_name("other.tmp")
    other.touch()
    keyring.add_key(path)
    assert sorted(path.parent.iterdir()) == sorted([path, other])


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        keyring.add_key(tmp_path / "missing" / "keyring.toml")


@settings(max_examples=50, deadline=None)
@given(key=st.binary(min_size=32, max_size=32), account_id=st.integers(1, 2**63 - 1))
def test_a_wrapped_key_opens_for_its_account_and_master_alone(key: bytes, account_id: int) -> None:
    account = AccountId(account_id)
    wrapped = master().wrap(account, key)
    assert key not in wrapped
    assert master().unwrap(account, wrapped) == key
    assert master().wrap(account, key) != wrapped
    for other, who in ((master(), AccountId(account_id - 1)), (master(2), account)):
        with pytest.raises(KeyUnavailable, match=f"account {who}"):
            other.unwrap(who, wrapped)
    renamed = MasterKey("k7", WHEN, master().secret)
    with pytest.raises(KeyUnavailable):
        renamed.unwrap(account, wrapped)


def test_a_damaged_wrapped_key_is_refused() -> None:
    wrapped = master().wrap(ANN, bytes(32))
    for place in range(len(wrapped)):
        broken = bytearray(wrapped)
        broken[place] ^= 1
        with pytest.raises(KeyUnavailable):
            master().unwrap(ANN, bytes(broken))
    for length in range(len(wrapped)):
        with pytest.raises(KeyUnavailable):
            master().unwrap(ANN, wrapped[:length])


def test_fingerprints_name_keys() -> None:
    assert master(1).fingerprint == MasterKey("other", WHEN, master(1).secret).fingerprint
    assert master(1).fingerprint != master(2).fingerprint
    assert len(master(1).fingerprint) == 16
    assert master(1).fingerprint not in master(1).secret
