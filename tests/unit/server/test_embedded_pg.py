"""The embedded PostgreSQL: made, started, found again, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora.errors import ConfigError, DatabaseDown
from sora.server import embedded_pg
from sora.server.embedded_pg import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = {"fsync": "off", "shared_buffers": "16MB"}


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "pg", QUICK)
    yield server
    server.stop()


async def fetchval(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_it_serves_what_sora_needs_and_nobody_else(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    assert asyncio.run(fetchval(postgres.dsn, "SHOW listen_addresses")) == ""
    assert asyncio.run(fetchval(postgres.dsn, "SHOW fsync")) == "off"
    assert asyncio.run(fetchval(postgres.dsn, "SELECT datcollate FROM pg_database WHERE datname = 'sora'")) == "C.UTF-8"
    names = "SELECT count(*) FROM pg_available_extensions WHERE name IN ('pg_trgm', 'btree_gin')"
    assert asyncio.run(fetchval(postgres.dsn, names)) == 2
    assert stat.S_IMODE(postgres.socket_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((postgres.directory / "password").stat().st_mode) == 0o600
    assert "trust" not in [
        line.split()[-1]
        for line in (postgres.data / "pg_hba.conf").read_text().splitlines()
        if line and not line.startswith("#")
    ]


def test_a_wrong_password_is_refused(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    (postgres.directory / "password").write_text("wrong")
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(fetchval(postgres.dsn, "SELECT 1"))


def test_the_fsync_default_is_postgresqls_own() -> None:
    assert not {"fsync", "synchronous_commit", "full_page_writes"} & set(embedded_pg.SETTINGS)


def test_a_second_start_keeps_the_data(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    asyncio.run(fetchval(postgres.dsn, "CREATE TABLE t AS SELECT 7 AS x"))
    postgres.stop()
    assert postgres.pid is None
    again = EmbeddedPostgres(postgres.directory, QUICK)
    again.start()
    try:
        assert asyncio.run(fetchval(again.dsn, "SELECT x FROM t")) == 7
    finally:
        again.stop()


def test_an_orphan_is_stopped_by_the_next_start(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    orphan = postgres.pid
    again = EmbeddedPostgres(postgres.directory, QUICK)
    again.start()
    try:
        assert again.pid != orphan
        assert postgres.poll() is not None
        assert asyncio.run(fetchval(again.dsn, "SELECT 1")) == 1
    finally:
        again.stop()


def test_it_comes_back_after_sigkill(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    assert postgres.pid
    os.kill(postgres.pid, signal.SIGKILL)
    while postgres.poll() is None:
        os.sched_yield()
    assert not postgres.is_ready()
    postgres.start()
    assert asyncio.run(fetchval(postgres.dsn, "SELECT 1")) == 1


def test_a_dead_postmaster_that_nobody_collects_does_not_stop_the_next(postgres: EmbeddedPostgres) -> None:
    """The supervisor was killed too, and process 1 of a container may not look after its orphans."""
    postgres.start()
    with subprocess.Popen(["true"]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie as long as we do not collect it
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        postgres.stop()
        for path in (postgres.data / "postmaster.pid", postgres.socket_directory / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join([str(dead.pid), *path.read_text().split("\n")[1:]]))
        following = EmbeddedPostgres(postgres.directory, QUICK)
        try:
            following.start()
            assert asyncio.run(fetchval(following.dsn, "SELECT 1")) == 1
        finally:
            following.stop()


def test_a_killed_initdb_leaves_nothing_that_looks_complete(postgres: EmbeddedPostgres) -> None:
    (postgres.directory / "data.new").mkdir(parents=True)
    (postgres.directory / "data.new" / "PG_VERSION").write_text("15")
    postgres.start()
    assert not (postgres.directory / "data.new").exists()


def test_a_failed_start_says_why(postgres: EmbeddedPostgres) -> None:
    postgres.settings["shared_buffers"] = "much"
    with pytest.raises(DatabaseDown, match=r"did not start: .*shared_buffers"):
        postgres.start()


def test_a_directory_open_to_others_is_refused(postgres: EmbeddedPostgres) -> None:
    (postgres.directory / "run").mkdir(parents=True)
    (postgres.directory / "run").chmod(0o755)
    with pytest.raises(ConfigError, match="mode 0700"):
        postgres.start()


def test_long_paths_get_a_short_socket(tmp_path: Path) -> None:
    deep = EmbeddedPostgres(tmp_path / ("d" * 100), QUICK)
    assert len(os.fsencode(deep.socket_directory / embedded_pg.SOCKET_NAME)) <= embedded_pg.LONGEST_SOCKET_PATH
    deep.start()
    try:
        assert asyncio.run(fetchval(deep.dsn, "SELECT 1")) == 1
    finally:
        deep.stop()
        deep.socket_directory.rmdir()


def test_the_wheel_serves_where_the_system_has_none(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_arguments, **_options: iter(()))
    postgres.start()
    assert str(asyncio.run(fetchval(postgres.dsn, "SHOW server_version"))).startswith("18")


def test_no_postgresql_names_the_package(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_pg, "_candidates", lambda: iter(()))
    with pytest.raises(ConfigError, match="install the package postgresql"):
        postgres.prepare()
