"""Workers that die over the script of a mailbox (RFC 6785): who was told OK has it run, and nothing is there twice."""

from __future__ import annotations

import asyncio
import imaplib
import os
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.support.demo import PASSWORD, Demo
from tests.support.fakesora import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

USER = "user1@example.com"
MAIL = b"From: a@example.org\r\nSubject: x\r\n\r\nbody\r\n"
SCRIPT = 'require ["fileinto", "copy"];\nredirect :copy "bob@example.net";\nfileinto "Log";\n'


def connect(demo: Demo) -> imaplib.IMAP4:
    """Log in, as soon as a worker is there."""
    found: list[imaplib.IMAP4] = []

    def try_it() -> bool:
        try:
            client = imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=20)
        except (OSError, imaplib.IMAP4.error):
            return False
        try:
            client.login(USER, PASSWORD)
        except (OSError, imaplib.IMAP4.error):
            client.shutdown()
            return False
        found.append(client)
        return True

    until(try_it, "a worker", 60)
    return found[0]


def ask(demo: Demo, sql: str) -> Any:
    """One value of the demo's database."""

    async def fetch() -> Any:
        folder = demo.directory / "postgresql"
        dsn = f"postgresql://sora:{(folder / 'password').read_text().strip()}@/sora?host={folder / 'run'}"
        connection = await asyncpg.connect(dsn, timeout=10, server_settings={"search_path": "sora, public"})
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def admin(demo: Demo, *arguments: str) -> None:
    done = demo.admin(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("point", ["imapsieve.noted", "imapsieve.stored", "imapsieve.flagged"])
def test_a_worker_dies(tmp_path: Path, point: str) -> None:
    crash, script = tmp_path / "crash", tmp_path / "work.sieve"
    script.write_text(SCRIPT)
    environment = {**os.environ, "SORA_CRASH_AT": f"@{crash}"}
    with Demo(tmp_path / "demo", "--accounts", "2", "--workers", "1", environment=environment) as demo:
        client = connect(demo)
        for mailbox in ("Work", "Log"):
            client.create(mailbox)
        admin(demo, "sieve", "put", USER, "work", str(script))
        admin(demo, "metadata", "set", "/shared/imapsieve/script", "work", "--address", USER, "--mailbox", "Work")
        until(lambda: b"IMAPSIEVE=sieve://127.0.0.1" in client.capability()[1][0], "the capability")
        client.append("INBOX", "", "", MAIL)  # type: ignore[arg-type]
        client.select("INBOX")
        crash.write_text(point)
        try:
            assert client.copy("*", "Work")[0] == "OK"
            assert point != "imapsieve.noted"
        except (imaplib.IMAP4.abort, OSError):
            assert point == "imapsieve.noted", "who dies before the answer gives none"
        until(lambda: bool(list(tmp_path.glob("crash.*"))), "the crash", 30)
        client.shutdown()
        client = connect(demo)
        assert ask(demo, "SELECT count(*) FROM imap_events") == 1
        ask(demo, "UPDATE imap_events SET claimed_until = clock()")  # rather than wait for two minutes
        until(lambda: ask(demo, "SELECT count(*) FROM imap_events") == 0, "the script", 60)
        assert ask(demo, "SELECT count(*) FROM outbound_queue") == 1
        for mailbox, deleted in (("Log", 0), ("Work", 1)):
            status = client.status(mailbox, "(MESSAGES DELETED)")[1][0]
            assert re.findall(rb"\d+", status.rpartition(b"(")[2]) == [b"1", b"%d" % deleted], mailbox
        client.logout()
