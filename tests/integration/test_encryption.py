"""Encryption at rest in a whole Sora: every protocol works, and no disk and no bucket tells a word of the mail."""

from __future__ import annotations

import contextlib
import imaplib
import json
import poplib
import shutil
import smtplib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sora.store import keyring
from sora.store.keyring import Keyring
from sora.store.sealing import is_sealed
from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.swift import SwiftServer

pytestmark = pytest.mark.timeout(240)

WORD = "quicksilver"
USER = "user1@example.com"


def mail(number: int = 1, size: int = 0, *, body: str = f"the word is {WORD} and {WORD}") -> bytes:
    filler = "".join(f"line {line} with {WORD}\r\n" for line in range(size // 30))
    head = f"From: ann@example.org\r\nTo: {USER}\r\nSubject: Letter {number}\r\nMessage-ID: <{number}@example.org>\r\n"
    return f"{head}X-Word: {WORD}\r\n\r\n{body}\r\n{filler}".encode()


def send(demo: Demo, *mails: bytes, to: str = USER) -> None:
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"], timeout=60) as client:
        for data in mails:
            client.sendmail("ann@example.org", to, data)


@contextlib.contextmanager
def imap(demo: Demo, user: str = USER) -> Iterator[imaplib.IMAP4]:
    client = imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=60)
    try:
        client.login(user, PASSWORD)
        client.select()
        yield client
    finally:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):  # it may have ended
            client.logout()
        with contextlib.suppress(OSError):  # `logout` closes nothing if it fails
            client.shutdown()


def fetch(client: imaplib.IMAP4, number: int, what: str = "BODY.PEEK[]") -> bytes:
    status, data = client.fetch(str(number), f"({what})")
    assert status == "OK", data
    first: Any = data[0]
    return bytes(first[1])


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what another process does."""
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.1)  # between two looks at what another process does; the deadline is above


def uploaded(demo: Demo) -> None:
    until(lambda: admin(demo, "uploads", "status")["pending"] == 0)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def tells(folder: Path, word: str = WORD) -> list[Path]:
    """Files with the word in them."""
    return [path for path in files(folder) if word.encode() in path.read_bytes()]


def admin(demo: Demo, *arguments: str) -> Any:
    done = demo.admin(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    keyring.add_key(tmp_path / "keyring.toml")
    return tmp_path / "keyring.toml"


@pytest.fixture
def demo(tmp_path: Path, ring: Path) -> Iterator[Demo]:
    with Demo(tmp_path / "sora", "--workers", "1", "--set", f"encryption.keyring_file={ring}") as demo:
        yield demo


@contextlib.contextmanager
def away(folder: Path) -> Iterator[None]:
    """The object store is not there for a while: bodies stay in staging."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


def test_every_protocol_works_and_no_disk_tells_a_word(demo: Demo) -> None:
    root = demo.directory
    with away(root / "objects"):
        send(demo, mail(1), mail(2, size=600_000), mail(3, size=3_000_000))
        with imap(demo) as client:
            client.append("INBOX", "", imaplib.Time2Internaldate(time.time()), mail(4))
            staged = [path for path in files(root / "staging") if path.suffix == ".eml"]
            assert len(staged) == 4
            assert all(is_sealed(path.read_bytes()) for path in staged)
            assert not tells(root / "staging")
            assert fetch(client, 1).endswith(mail(1))
            assert fetch(client, 3).endswith(mail(3, size=3_000_000))
    uploaded(demo)
    assert len(list((root / "objects").rglob("*.eml"))) == 4
    assert list((root / "objects" / "keys").rglob("*.key"))
    assert not tells(root / "objects")
    with imap(demo) as client:
        for number, size in ((1, 0), (2, 600_000), (3, 3_000_000)):
            assert fetch(client, number).endswith(mail(number, size=size))
        assert fetch(client, 4) == mail(4)
        assert client.search(None, "BODY", WORD)[1] == [b"1 2 3 4"]
        assert client.search(None, "TEXT", '"line 7 with"')[1] == [b"2 3"]
        assert client.search(None, "HEADER", "X-Word", WORD)[1] == [b"1 2 3 4"]
        assert client.copy("1", "Archive")[0] == "OK"
        assert fetch(client, 2, "BODY.PEEK[TEXT]<10.20>") == mail(2, size=600_000).partition(b"\r\n\r\n")[2][10:30]
    pop = poplib.POP3("127.0.0.1", demo.ports["pop3"], timeout=60)
    pop.user(USER)
    pop.pass_(PASSWORD)
    assert b"\r\n".join(pop.retr(4)[1]) + b"\r\n" == mail(4)
    pop.quit()
    until(lambda: files(root / "cache" / "objects"))
    assert all(is_sealed(path.read_bytes()) for path in files(root / "cache" / "objects"))
    for folder in ("staging", "cache", "objects", "run"):
        assert not tells(root / folder), folder


def test_a_message_that_arrives_slowly_tells_no_word_meanwhile(demo: Demo) -> None:
    """Above 1 MiB it waits on the disk for its end, in a file without a name."""
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"], timeout=60) as client:
        client.ehlo()
        client.mail("ann@example.org")
        client.rcpt(USER)
        client.putcmd("DATA")
        client.getreply()
        data = mail(1, size=4_000_000)
        client.send(data[:3_000_000])
        seen: list[bytes] = []

        def spooled() -> bool:
            seen[:] = [body for body in _unnamed(demo) if len(body) > 1_000_000]
            return bool(seen)

        until(spooled)
        assert all(WORD.encode() not in body for body in seen)
        client.send(data[3_000_000:] + b".\r\n")
        assert client.getreply()[0] == 250
    with imap(demo) as session:
        assert fetch(session, 1).endswith(data)


def _unnamed(demo: Demo) -> Iterator[bytes]:
    """What stands in files without a name that the processes hold open."""
    pids = [process["pid"] for process in demo.status()["processes"]]
    for descriptor in (path for pid in pids for path in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if "staging" in target and target.endswith("(deleted)"):
                yield descriptor.read_bytes()


def test_a_large_message(demo: Demo) -> None:
    data = mail(1, size=20_000_000)
    send(demo, data)
    uploaded(demo)
    shutil.rmtree(demo.directory / "cache" / "objects")
    (demo.directory / "cache" / "objects").mkdir()
    with imap(demo) as client:
        assert fetch(client, 1).endswith(data)
    assert not tells(demo.directory / "objects")
    assert not tells(demo.directory / "staging")


def test_an_s3_bucket_tells_no_word_and_a_rotation_leaves_all_readable(
    tmp_path: Path, ring: Path, s3_server: SwiftServer
) -> None:
    import asyncio

    settings = {
        "object_store.kind": "s3",
        "object_store.endpoint": s3_server.endpoint,
        "object_store.bucket": "sealed",
        "object_store.access_key": s3_server.access_key,
        "object_store.secret_key": s3_server.secret_key,
        "encryption.keyring_file": str(ring),
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]

    async def bucket() -> dict[str, bytes]:
        store = s3_server.store("sealed")
        try:
            return {entry.key: await store.get(entry.key) async for entry in store.list()}
        finally:
            store.close()

    async def names() -> list[str]:
        store = s3_server.store("sealed")
        try:
            return [entry.key async for entry in store.list()]
        finally:
            store.close()

    with Demo(tmp_path / "sora", "--workers", "1", *options) as demo:
        send(demo, *(mail(number) for number in range(5)))
        send(demo, mail(9), to="user2@example.com")
        uploaded(demo)
        before = asyncio.run(bucket())
        assert len([key for key in before if key.endswith(".eml")]) == 6
        assert len([key for key in before if key.endswith(".key")]) == 2
        assert not [key for key, data in before.items() if WORD.encode() in data]
        done = admin(demo, "keys", "rotate")
        assert (done["rewrapped"], done["failed"]) == (2, 0)
        old, new = Keyring(ring).keys
        assert done["added"] == new.id
        assert done["unneeded"] == [old.id]
        until(lambda: all(new.id in key for key in asyncio.run(names()) if key.endswith(".key")))
        after = asyncio.run(bucket())
        assert {key: data for key, data in after.items() if key.endswith(".eml")} == {
            key: data for key, data in before.items() if key.endswith(".eml")
        }, "no body was rewritten"
        assert [(row["id"], row["accounts"]) for row in admin(demo, "keys", "list")] == [(old.id, 0), (new.id, 2)]
    ring.write_text(keyring.dump([new]))
    shutil.rmtree(tmp_path / "sora" / "cache")
    with Demo(tmp_path / "sora") as demo:
        send(demo, mail(7))
        with imap(demo) as client:
            for number in range(5):
                assert fetch(client, number + 1).endswith(mail(number))
            assert fetch(client, 6).endswith(mail(7))
        with imap(demo, "user2@example.com") as client:
            assert fetch(client, 1).endswith(mail(9))


def test_after_shredding_nothing_is_readable(demo: Demo, ring: Path, tmp_path: Path) -> None:
    root = demo.directory
    send(demo, mail(1), mail(2, size=400_000))
    send(demo, mail(3), to="user2@example.com")
    uploaded(demo)
    shutil.copytree(root / "objects", tmp_path / "copy")
    with imap(demo) as old, away(root / "objects"):
        assert fetch(old, 1).endswith(mail(1))
        send(demo, mail(4))  # stays in staging
        refused = demo.admin("keys", "shred", USER, "--json")
        assert refused.returncode == 3, "the object store is away: the rest follows"
        until(lambda: _ended(old))
        with pytest.raises((smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError)):
            send(demo, mail(5))  # who is remembered from before gets as far as the data
    receipt = admin(demo, "keys", "shred", USER)
    number = f"{receipt['account_id']:016x}"
    assert receipt["finished_at"]
    assert (receipt["key_objects"], receipt["messages"], receipt["contents"]) == (1, 3, 3)
    assert receipt["key_fingerprint"]
    assert receipt["plain_bodies"] == 0
    assert any("backups" in line for line in receipt["horizon"])
    for folder in ("staging", "cache"):
        assert not [path for path in files(root / folder) if number in path.name], folder
    assert not (root / "objects" / "keys" / number).exists() or not files(root / "objects" / "keys" / number)
    with pytest.raises(imaplib.IMAP4.error), imap(demo):
        pass
    assert demo.admin("accounts", "enable", USER).returncode == 1
    with imap(demo, "user2@example.com") as client:
        assert fetch(client, 1).endswith(mail(3)), "others are not touched"

    # A copy of the bucket from before comes back: nobody reads it, and without the old master key nothing opens it.
    shutil.copytree(tmp_path / "copy", root / "objects", dirs_exist_ok=True)
    assert admin(demo, "keys", "shred", USER)["key_objects"] == 2, "the restored key is destroyed as well"
    done = admin(demo, "keys", "rotate")
    old_master, new_master = Keyring(ring).keys
    assert done["unneeded"] == [old_master.id]
    ring.write_text(keyring.dump([new_master]))
    (wrapped,) = (tmp_path / "copy" / "keys" / number).iterdir()
    assert old_master.id in wrapped.name
    assert not tells(tmp_path / "copy")


def _ended(client: imaplib.IMAP4) -> bool:
    try:
        client.noop()
    except (imaplib.IMAP4.abort, OSError):
        return True
    return False


def test_a_store_from_before_stays_readable_when_encryption_is_turned_on(tmp_path: Path) -> None:
    folder = tmp_path / "sora"
    with Demo(folder, "--workers", "1") as demo:
        send(demo, mail(1), mail(2, size=400_000))
        uploaded(demo)
    with Demo(folder) as demo, away(folder / "objects"):
        send(demo, mail(3))  # plain, and still in staging when encryption comes
    ring = tmp_path / "keyring.toml"
    Path(demo.config).write_text(Path(demo.config).read_text() + f'\n[encryption]\nkeyring_file = "{ring}"\n')
    with pytest.raises(RuntimeError, match="no such file; `sora-admin keys rotate` makes one"):
        Demo(folder).start()
    assert admin(demo, "keys", "rotate")["added"] == Keyring(ring).newest().id
    with Demo(folder) as demo:
        uploaded(demo)
        send(demo, mail(4))
        with imap(demo) as client:
            client.append("INBOX", "", imaplib.Time2Internaldate(time.time()), mail(1))
            for number, data in enumerate((mail(1), mail(2, size=400_000), mail(3), mail(4), mail(1)), 1):
                assert fetch(client, number).endswith(data)
            assert client.search(None, "BODY", WORD)[1] == [b"1 2 3 4 5"]
        uploaded(demo)
        stored = [path.read_bytes() for path in (folder / "objects").rglob("*.eml")]
        assert sorted(WORD.encode() in data for data in stored) == [False, False, True, True, True]
    # And it cannot be turned off again.
    Path(demo.config).write_text(Path(demo.config).read_text().replace(f'keyring_file = "{ring}"', ""))
    with pytest.raises(RuntimeError, match="accounts have encrypted mail"):
        Demo(folder).start()


def test_a_keyring_that_does_not_fit(tmp_path: Path, ring: Path) -> None:
    folder = tmp_path / "sora"
    kept = ring.read_bytes()
    # no journal: it would make a key for each account at once
    options = ("--set", f"encryption.keyring_file={ring}", "--set", "journal.interval=0s")
    with Demo(folder, "--workers", "1", *options) as demo:
        send(demo, mail(1))
        assert demo.ctl("check").returncode == 0
        uploaded(demo)
        ring.write_text(keyring.dump([keyring.MasterKey("other", Keyring(ring).newest().created_at, bytes(32))]))
        done = demo.ctl("check")
        assert done.returncode == 1
        assert "no key that is in use is in it" in done.stderr
    with pytest.raises(RuntimeError, match="no key that is in use is in it"):
        Demo(folder).start()
    ring.write_bytes(kept)
    master = Keyring(ring).newest()
    ring.write_text(keyring.dump([keyring.MasterKey(master.id, master.created_at, bytes(32))]))
    with pytest.raises(RuntimeError, match="are not those that this database knows"):
        Demo(folder).start()
    ring.write_bytes(kept)
    ring.chmod(0o644)
    with pytest.raises(RuntimeError, match="chmod 600"):
        Demo(folder).start()
    # A second master key, then the first is lost: its accounts have errors that pass, the others have mail.
    ring.chmod(0o600)
    second = keyring.add_key(ring)
    with Demo(folder) as demo:
        send(demo, mail(2), to="user2@example.com")
        uploaded(demo)
    ring.write_text(keyring.dump([second]))
    with Demo(folder) as demo:
        with imap(demo, "user2@example.com") as client:
            assert fetch(client, 1).endswith(mail(2))
        with imap(demo) as client:
            status, answer = client.fetch("1", "(BODY.PEEK[TEXT])")
            assert status == "NO"
            assert b"UNAVAILABLE" in answer[0]
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send(demo, mail(3))
        assert refused.value.smtp_code == 451
        ring.write_bytes(keyring.dump([master, second]).encode())
        with imap(demo) as client:
            assert fetch(client, 1).endswith(mail(1)), "without a restart"
        send(demo, mail(3))
