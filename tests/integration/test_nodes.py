"""Two real nodes on one PostgreSQL, with the object store away: who has a body, and who has not."""

from __future__ import annotations

import asyncio
import imaplib
import json
import os
import shutil
import signal
import smtplib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from sora.store import keyring
from tests.support.demo import Demo
from tests.support.fakesora import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Cluster

pytestmark = pytest.mark.timeout(240)
USER, PASSWORD = "user1@example.com", "demo"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Nodes:
    """Demos that share a database and an object store, which is away until `bring_store`."""

    def __init__(self, root: Path, dsn: str) -> None:
        self.root = root
        self.dsn = dsn
        self.store = root / "store"
        self.store.write_text("not a directory: the object store is away\n")

    def make(self, name: str, *more: str) -> Demo:
        settings = (
            *more,
            "database.embedded=",
            f"database.primary={self.dsn}",
            f"object_store.path={self.store / 'objects'}",
            f'servers.peers.listen=["127.0.0.1:{free_port()}"]',
        )
        return Demo(self.root / name, "--workers", "1", *(word for one in settings for word in ("--set", one)))

    def encrypted(self) -> str:
        """The setting that turns encryption on; every node has the same keyring."""
        ring = self.root / "keyring.toml"
        keyring.add_key(ring)
        return f"encryption.keyring_file={ring}"

    def bring_store(self) -> None:
        self.store.unlink()
        (self.store / "objects").mkdir(parents=True)

    def instance(self, name: str) -> str:
        return (self.root / name / "staging" / "instance").read_text().strip()


@pytest.fixture
def nodes(cluster: Cluster, tmp_path: Path) -> Iterator[Nodes]:
    name = asyncio.run(cluster.create())
    yield Nodes(tmp_path, cluster.dsn(name))
    asyncio.run(cluster.drop(name))


def send(demo: Demo, subject: str) -> None:
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"]) as lmtp:
        lmtp.sendmail("me@example.org", [USER], f"Subject: {subject}\r\n\r\nText of {subject}.\r\n")


def fetch(demo: Demo, subject: str) -> tuple[str, bytes]:
    """Completion of the FETCH, and the body or the text of the refusal."""
    with imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=60) as client:
        client.login(USER, PASSWORD)
        client.select("INBOX")
        (uid,) = client.uid("SEARCH", "SUBJECT", subject)[1][0].split()
        status, answer = client.uid("FETCH", uid, "(BODY.PEEK[])")
    return status, answer[0][1] if isinstance(answer[0], tuple) else b"".join(answer)


def is_read(demo: Demo, subject: str) -> bool:
    status, body = fetch(demo, subject)
    return status == "OK" and body.endswith(f"Text of {subject}.\r\n".encode())


def kill(demo: Demo) -> None:
    """As a power cut: every process at once."""
    pids = [demo.status()["supervisor"]["pid"], *(process["pid"] for process in demo.status()["processes"])]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    demo.stop()


def admin(demo: Demo, *arguments: str) -> tuple[int, Any]:
    done = demo.admin(*arguments, "--json")
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def psql(nodes: Nodes, sql: str) -> None:
    async def run() -> None:
        import asyncpg

        connection = await asyncpg.connect(nodes.dsn)
        await connection.execute(sql)
        await connection.close()

    asyncio.run(run())


def test_a_body_is_read_where_it_was_not_delivered(nodes: Nodes) -> None:
    encrypted = nodes.encrypted()
    first, second = nodes.make("a", encrypted), nodes.make("b", encrypted)
    with second, first:
        send(first, "one")
        send(first, "two")
        send(first, "three")
        assert is_read(first, "one")
        assert is_read(second, "one")
        kill(first)
        assert is_read(second, "one"), "it is in the cache of the node that read it"
        status, text = fetch(second, "two")
        assert status == "NO"
        assert b"[UNAVAILABLE]" in text
        first.start()
        until(lambda: is_read(second, "two"), "the node that came back to answer", 60)
        nodes.bring_store()
        until(lambda: admin(second, "uploads", "status")[1]["pending"] == 0, "the uploads", 60)
        kill(first)
        assert is_read(second, "three"), "it is in the object store"


def test_the_disk_of_a_dead_node_is_named_and_brought(nodes: Nodes) -> None:
    encrypted = nodes.encrypted()
    first, second = nodes.make("a", encrypted), nodes.make("b", encrypted)
    with second, first:
        send(first, "one")
        dead = nodes.instance("a")
        staging = str(nodes.root / "a" / "staging")
        code, answer = admin(second, "uploads", "adopt", dead, "--staging", staging)
        assert code == 1, "it lives"
        assert admin(second, "health")[1]["uploads"] == "ok"
        kill(first)
        psql(nodes, f"UPDATE sora.instances SET heartbeat_at = now() - interval '2 min' WHERE instance_id = '{dead}'")
        (stranded,) = admin(second, "uploads", "status")[1]["stranded"]
        assert (stranded["instance_id"], stranded["uploads"]) == (dead, 1)
        code, health = admin(second, "health")
        assert code == 3
        assert dead in health["uploads"]
        until(lambda: dead in second.ctl("status").stdout, "soractl status to name the node", 60)
        moved = nodes.root / "mounted"
        shutil.copytree(staging, moved)
        code, answer = admin(second, "uploads", "adopt", dead, "--staging", str(moved))
        assert (code, answer["adopted"], answer["left"]) == (0, 1, 0)
        assert is_read(second, "one")
        verified = admin(second, "uploads", "verify")[1]
        assert (verified["rows"], verified["staged"]) == (1, 1)
        nodes.bring_store()
        until(lambda: admin(second, "uploads", "status")[1]["pending"] == 0, "the upload", 60)
        assert admin(second, "health")[1]["uploads"] == "ok"


def test_another_node_uploads_what_a_dead_one_took(nodes: Nodes) -> None:
    copied = "uploader.durability=database"
    first, second = nodes.make("a", copied), nodes.make("b", copied)
    with second, first:
        send(first, "one")
        dead = nodes.instance("a")
        kill(first)
        assert is_read(second, "one"), "the database has a copy"
        psql(nodes, f"UPDATE sora.instances SET heartbeat_at = now() - interval '1 h' WHERE instance_id = '{dead}'")
        assert admin(second, "uploads", "status")[1]["stranded"] == []
        nodes.bring_store()
        until(lambda: admin(second, "uploads", "status")[1]["pending"] == 0, "the adoption", 100)
        assert admin(second, "uploads", "status")[1]["copies"] == 0
        first.start()
        assert is_read(first, "one")


def test_a_copy_of_a_node_does_not_start_beside_it(nodes: Nodes) -> None:
    with nodes.make("a") as first:
        send(first, "one")
        (nodes.root / "copy").mkdir()
        shutil.copytree(nodes.root / "a" / "staging", nodes.root / "copy" / "staging")
        with pytest.raises(RuntimeError, match=f"{nodes.instance('a')}.* lives on "):
            nodes.make("copy").start()
        assert is_read(first, "one")
