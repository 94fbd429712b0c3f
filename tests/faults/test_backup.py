"""The README's chapter "Backup and restore", run: its own commands, from the first backup to a verified store."""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import re
import shutil
import smtplib
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from sora.server.embedded_pg import EmbeddedPostgres
from tests.support.demo import free_port_base
from tests.support.readme import commands

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAPTER: Final = "Backup and restore"
CHAPTERS: Final = (CHAPTER, "Upgrade and downgrade", "Read-only mode")
ANN: Final = "ann@example.com"
BOB: Final = "bob@example.com"
PASSWORD: Final = "correct horse"
PATIENCE_S: Final = 60.0
_MESSAGE: Final = re.compile(rb"UID (\d+)")
_FLAGS: Final = re.compile(rb"FLAGS \(([^)]*)\)")


def letter(name: str) -> bytes:
    """A mail that no other is like."""
    head = f"From: Eve <eve@example.org>\r\nTo: {ANN}\r\nSubject: {name}\r\nMessage-ID: <{name}@x>\r\n"
    return f"{head}Date: Mon, 06 May 2024 09:08:09 +0200\r\n\r\n".encode() + f"This is {name}.\r\n".encode() * 30


@dataclass
class Folder:
    """What a client knows of a mailbox: octets and flags by UID."""

    uidvalidity: int
    uid_next: int
    messages: dict[int, tuple[bytes, frozenset[bytes]]] = field(default_factory=dict)


class Site:
    """A PostgreSQL, a node with encryption, a place for backups, and a shell with the chapter's variables."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blocks = {name: script for title in CHAPTERS for name, script in commands(title).items()}
        self.run_blocks: set[str] = set()
        postgres = EmbeddedPostgres(directory / "postgresql")
        postgres.prepare()
        launch = postgres._launch
        assert launch is not None
        if launch.identity:
            pytest.skip("neither an ordinary user nor a user namespace: PostgreSQL would run as somebody else")
        self.data = postgres.data
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{postgres.socket_directory}'\n")
            file.write("shared_buffers = '32MB'\nunix_socket_permissions = 0700\n")
        self._prefix = launch.prefix
        self.port = free_port_base()
        self._write_shims(directory / "bin")
        self.config = directory / "sora.toml"
        self.config.write_text(self._configuration(postgres.dsn))
        self.environment = {
            **os.environ,
            "PATH": f"{directory / 'bin'}:{launch.binaries}:{os.environ['PATH']}",
            "PGHOST": str(postgres.socket_directory),
            "PGUSER": "sora",
            "PGDATABASE": "sora",
            "PGPASSWORD": (directory / "postgresql" / "password").read_text(),
            "PGDATA": str(self.data),
            "ARCHIVE": str(directory / "backup" / "wal"),
            "BACKUP": str(directory / "backup" / "base"),
            "COPY": str(directory / "backup" / "objects"),
            "OBJECTS": str(directory / "objects"),
            "CONFIG": str(self.config),
            "SECOND": str(directory / "second.toml"),
            "LATER": str(directory / "later"),
            "ADDRESS": ANN,
        }

    def shell(self, script: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run a script as one user who owns everything; what it wrote.

        Commands that start a server leave it behind with their standard output, so that goes to a file.
        """
        output = self.directory / "output"
        with output.open("wb") as file:
            done = subprocess.run(
                [*self._prefix, "bash", "-euo", "pipefail", "-c", script],
                env=self.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PATIENCE_S,
            )  # fmt: skip
        text = output.read_text(errors="replace")
        assert done.returncode in codes, f"{done.returncode} of:\n{script}\n{text}\n{self._last_log()}"
        return text

    def follow(self, name: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run the commands of the chapter that stand behind these words."""
        self.run_blocks.add(name)
        return self.shell(self.blocks[name], codes=codes)

    def admin(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        return self.shell(f"sora-admin --config $CONFIG {' '.join(arguments)}", codes=codes)

    def sql(self, statement: str) -> str:
        return self.shell(f'psql -qAtX -v ON_ERROR_STOP=1 -c "{statement}"').strip()

    def deliver(self, address: str, *names: str) -> None:
        """By LMTP: every one of them is acknowledged."""
        with smtplib.LMTP("127.0.0.1", self.port) as lmtp:
            for name in names:
                assert lmtp.sendmail("eve@example.org", [address], letter(name)) == {}

    @contextlib.contextmanager
    def imap(self, address: str = ANN) -> Iterator[imaplib.IMAP4]:
        client = imaplib.IMAP4("127.0.0.1", self.port + 1, timeout=30)
        client.login(address, PASSWORD)
        try:
            yield client
        finally:
            client.logout()

    def look(self, address: str = ANN) -> dict[str, Folder]:
        """All that a client sees."""
        folders = {}
        with self.imap(address) as client:
            for line in client.list()[1]:
                assert isinstance(line, bytes)
                name = line.rsplit(b" ", 1)[1].decode().strip('"')
                assert client.select(name, readonly=True)[0] == "OK"
                uidvalidity, uid_next = (
                    int(client.untagged_responses[code][-1]) for code in ("UIDVALIDITY", "UIDNEXT")
                )
                folder = folders[name] = Folder(uidvalidity, uid_next)
                for part in client.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")[1]:
                    if not isinstance(part, tuple):
                        continue
                    uid, flags = _MESSAGE.search(part[0]), _FLAGS.search(part[0])
                    assert uid, part[0]
                    assert flags, part[0]
                    folder.messages[int(uid[1])] = (part[1], frozenset(flags[1].split()) - {rb"\Recent"})
        return folders

    def make_second(self) -> None:
        """Another configuration, with a database of its own and a copy of the bucket."""
        self.shell("createdb second && cp -a $OBJECTS $(dirname $OBJECTS)/second-objects")
        text = self.config.read_text().replace("/sora?host", "/second?host")
        for name in ("objects", "staging", "cache", "run"):
            text = text.replace(f'"{name}"', f'"second-{name}"')
        (self.directory / "second.toml").write_text(text)

    def stop(self) -> None:
        """Whatever runs."""
        self.shell("soractl stop --config $CONFIG || true")
        self.shell("pg_ctl stop -D $PGDATA -m immediate || true")

    def _write_shims(self, directory: Path) -> None:
        directory.mkdir()
        for name, module in (("soractl", "sora.cli.ctl"), ("sora-admin", "sora.cli.admin")):
            shim = directory / name
            shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            shim.chmod(0o755)

    def _configuration(self, dsn: str) -> str:
        return f"""
            [database]
            primary = "{dsn}"
            [object_store]
            kind = "directory"
            path = "objects"
            [encryption]
            keyring_file = "keyring.toml"
            [uploader]
            staging_path = "staging"
            [local_cache]
            path = "cache"
            capacity = "100MB"
            [journal]
            interval = "1h"
            [process]
            runtime_path = "run"
            workers = 1
            [auth]
            allow_cleartext = true
            [servers.lmtp]
            listen = ["127.0.0.1:{self.port}"]
            [servers.imap]
            listen = ["127.0.0.1:{self.port + 1}"]
            """

    def _last_log(self) -> str:
        logs = (self.data / "server.log", self.directory / "run" / "sora.log")
        return "\n".join("\n".join(log.read_text().splitlines()[-8:]) for log in logs if log.exists())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.stop()


def install(site: Site) -> None:
    """PostgreSQL with its archive, and a node with two accounts."""
    site.shell("pg_ctl start -D $PGDATA -l $PGDATA/server.log")
    site.follow("Turn on the archive")
    site.admin("migrate", "up")
    site.admin("keys", "rotate")
    site.follow("Start the servers", codes=(0, 4))
    site.admin("domains", "add", "example.com")
    for address in (ANN, BOB):
        site.shell(f"echo '{PASSWORD}' | sora-admin --config $CONFIG accounts create {address} --password-stdin")


def live_until_the_moment(site: Site) -> str:
    """Mail, a base backup in the middle, more mail, flags, a folder; the name of the backup."""
    site.deliver(ANN, *(f"early-{number}" for number in range(12)))
    with site.imap() as client:
        client.select("INBOX")
        client.store("1:3", "+FLAGS", r"(\Seen $Work)")
        client.create("Work")
        client.copy("2:5", "Work")
    site.follow("Every night")
    site.follow("Copy a bucket that is a directory")
    (name,) = os.listdir(site.environment["BACKUP"])
    site.deliver(ANN, *(f"later-{number}" for number in range(8)))
    with site.imap() as client:
        client.select("INBOX")
        client.store("4:6", "+FLAGS", r"(\Flagged)")
        client.store("1", "+FLAGS", r"(\Deleted)")
        client.expunge()
        client.create("Later")
        client.copy("14:16", "Later")
    return name


def live_on(site: Site) -> None:
    """What will not have happened: new UIDs, other flags, expunges, a new folder, the first mail of an account.

    The journal begins here: it gives every account a key, and the database that comes back shall have one without.
    """
    site.config.write_text(site.config.read_text().replace('interval = "1h"', 'interval = "1s"'))
    site.follow("One node")
    site.deliver(ANN, *(f"undone-{number}" for number in range(6)))
    site.deliver(BOB, "first of bob")
    with site.imap() as client:
        client.select("INBOX")
        client.store("2:9", "-FLAGS", r"(\Flagged)")
        client.store("2:9", "+FLAGS", r"(\Answered)")
        client.store("4", "+FLAGS", r"(\Deleted)")
        client.expunge()
        client.create("Undone")
        client.copy("1:*", "Undone")


def wreck(site: Site) -> None:
    """Somebody deletes mailboxes, and then tables."""
    with site.imap() as client:
        assert client.delete("Work")[0] == "OK"
        assert client.delete("Later")[0] == "OK"
    site.sql("DROP TABLE sora.messages, sora.message_flags CASCADE")


def uploaded(site: Site) -> None:
    """Wait until the object store has every body, those too that the restored database does not know."""
    site.shell("until sora-admin --config $CONFIG uploads status --json | grep -q '\"pending\": 0'; do sleep 0.2; done")


def journaled(site: Site) -> None:
    """Wait until the journal has all that was done before now."""
    now = site.sql("SELECT clock_timestamp()")
    query = f"SELECT coalesce(recovery_point > '{now}', false) FROM sora.journal_state"
    site.shell(f'until [ "$(psql -Atc "{query}")" = t ]; do sleep 0.2; done')


def key_objects(site: Site) -> dict[str, bytes]:
    """Wrapped keys in the bucket."""
    return {str(path): path.read_bytes() for path in site.directory.glob("objects/keys/*/*.key")}


def check_nothing_is_mistaken(knew: dict[str, Folder], now: dict[str, Folder]) -> None:
    """A UID means what a client knew, or nothing."""
    for name, folder in now.items():
        known = knew.get(name)
        if known is None or known.uidvalidity != folder.uidvalidity:
            continue
        assert folder.uid_next > known.uid_next, name
        for uid in folder.messages.keys() & known.messages.keys():
            assert folder.messages[uid][0] == known.messages[uid][0], (name, uid)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("crashed", [False, True], ids=["stopped", "crashed"])
def test_the_chapter_from_backup_to_a_verified_store(site: Site, crashed: bool) -> None:
    """`crashed`: PostgreSQL had no time to archive its last WAL, so the moment is only in what is left of its disk."""
    install(site)
    site.environment["NAME"] = live_until_the_moment(site)
    at_the_moment = site.look()
    site.environment["UNTIL"] = site.sql("SELECT clock_timestamp()")
    live_on(site)
    knew, bobs = site.look(), site.look(BOB)
    uploaded(site)
    journaled(site)
    keys = key_objects(site)
    assert len(keys) == 2
    wreck(site)

    if crashed:
        site.shell("pg_ctl stop -D $PGDATA -m immediate")
    site.follow("Stop the servers", codes=(1,) if crashed else (0,))
    copied = sorted(site.directory.glob("backup/objects/0*/*/*.eml"))[0]
    lost = site.directory / copied.relative_to(site.directory / "backup")
    lost.unlink()
    shutil.rmtree(site.directory / "cache")
    site.follow("Let old backups go")
    site.follow("Put the bucket back")
    assert lost.exists()
    site.follow("Restore PostgreSQL")
    site.follow("Make the store whole", codes=(4,))
    report = json.loads(site.admin("verify", "--deep", "--json", codes=(4,)))
    assert {kind["kind"] for kind in report["damage"]} == {"object without row"}
    site.follow("Pass over the UIDs")
    site.make_second()
    site.follow("Start the servers", codes=(0, 4))

    restored = site.look()
    assert {name: folder.messages for name, folder in restored.items()} == {
        name: folder.messages for name, folder in at_the_moment.items()
    }
    check_nothing_is_mistaken(knew, restored)
    new = [f"new-{number}" for number in range(8)]
    site.deliver(ANN, *new)
    site.deliver(BOB, "second of bob")
    now, bob_now = site.look(), site.look(BOB)
    check_nothing_is_mistaken(knew, now)
    check_nothing_is_mistaken(bobs, bob_now)
    assert len(now["INBOX"].messages) == len(restored["INBOX"].messages) + len(new)
    (first_of_bob,) = (body for body, _ in bob_now["INBOX"].messages.values())
    assert first_of_bob.endswith(letter("second of bob"))
    uploaded(site)
    assert key_objects(site) == keys, "the key that opens the mail after the moment was not replaced"
    assert site.sql("SELECT count(*) FROM sora.account_keys") == "2"
    site.follow("To look for later mail")
    exported = b"".join(path.read_bytes() for path in (site.directory / "later").rglob("cur/*"))
    assert all(letter(f"undone-{number}") in exported for number in range(6))
    assert site.run_blocks >= set(commands(CHAPTER)), "every command of the chapter was run"


def select(client: imaplib.IMAP4) -> tuple[str, bytes]:
    """How INBOX is opened, and how many messages it has; `imaplib` itself refuses to go on if it is read-only."""
    client.untagged_responses.clear()
    assert client._simple_command("SELECT", "INBOX")[0] == "OK"  # type: ignore[attr-defined]
    client.state, client.is_readonly = "SELECTED", True
    (access,) = {"READ-ONLY", "READ-WRITE"} & client.untagged_responses.keys()
    return access, client.untagged_responses["EXISTS"][-1]


@pytest.mark.timeout(120)
def test_a_node_on_a_standby_is_read_only_until_it_is_promoted(site: Site) -> None:
    """Nobody tells the node: it notices both."""
    install(site)
    site.deliver(ANN, "one", "two")
    with site.imap() as client:
        assert select(client) == ("READ-WRITE", b"2")
    uploaded(site)
    site.shell("soractl stop --config $CONFIG")
    site.follow("Every night")
    site.shell(
        """
        pg_ctl stop -D $PGDATA -m fast
        mv $PGDATA $PGDATA.primary && cp -a $BACKUP/2* $PGDATA && touch $PGDATA/standby.signal
        pg_ctl start -D $PGDATA -l $PGDATA/server.log
        soractl start --config $CONFIG --detach
        """
    )
    assert "read-only: the server is a standby" in site.admin("health", codes=(0, 1, 3))
    with site.imap() as reader:
        assert select(reader) == ("READ-ONLY", b"2")
        assert reader.append("INBOX", "", None, letter("no"))[0] == "NO"
        assert reader.fetch("1", "(BODY[])")[1][0][1].endswith(letter("one"))  # type: ignore[index]
        with smtplib.LMTP("127.0.0.1", site.port) as lmtp, pytest.raises(smtplib.SMTPDataError) as refused:
            lmtp.sendmail("eve@example.org", [ANN], letter("later"))
        assert refused.value.smtp_code == 451
        site.shell("pg_ctl promote -D $PGDATA")
        while reader.append("INBOX", "", None, letter("yes"))[0] != "OK":
            reader.noop()
        while select(reader)[0] != "READ-WRITE":
            reader.noop()
    site.deliver(ANN, "later")
    assert len(site.look()["INBOX"].messages) == 4


def test_every_command_of_these_chapters_has_a_name() -> None:
    assert [len(commands(title)) for title in CHAPTERS] == [11, 3, 3]


@pytest.mark.timeout(120)
def test_read_only_mode_and_an_upgrade_by_the_commands_of_their_chapters(site: Site) -> None:
    """Both ways into the mode: the configuration of a node, and PostgreSQL, which tells nobody."""
    install(site)
    site.deliver(ANN, "one")
    text = site.config.read_text()

    def by_key(on: bool) -> None:
        site.config.write_text(text.replace("[database]", f"[database]\n            read_only = {str(on).lower()}"))
        assert "restart" not in site.follow("One node")

    def by_database(on: bool) -> None:
        site.follow("All nodes" if on else "All nodes again")

    with site.imap() as client:
        assert select(client) == ("READ-WRITE", b"1")
        for count, switch in enumerate((by_key, by_database), 1):
            switch(True)
            assert "read-only: " in site.admin("health", codes=(0, 1, 3))
            while client.append("INBOX", "", None, letter("no"))[0] == "OK":  # a node is told a moment later
                client.noop()
            assert select(client)[0] == "READ-ONLY"
            with smtplib.LMTP("127.0.0.1", site.port) as lmtp, pytest.raises(smtplib.SMTPDataError) as refused:
                lmtp.sendmail("eve@example.org", [ANN], letter(f"waits-{count}"))
            assert refused.value.smtp_code == 451
            switch(False)
            while client.append("INBOX", "", None, letter("yes"))[0] != "OK":
                client.noop()
            assert select(client)[0] == "READ-WRITE"
            site.deliver(ANN, f"waits-{count}")
    uploaded(site)
    site.follow("The schema comes first")
    site.follow("The nodes follow")
    assert "false" not in site.follow("What only the old release needed").lower()
    site.deliver(ANN, "after the upgrade")
    bodies = b"".join(body for body, _ in site.look()["INBOX"].messages.values())
    assert all(letter(name) in bodies for name in ("one", "waits-1", "waits-2", "after the upgrade"))
