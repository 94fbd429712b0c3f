"""The matrix of faults: a sample of it is run, its cells are complete, and its judge and its proxy do what they say."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora.crashpoints import POINTS
from tests.faults import matrix
from tests.faults.activities import ACTIVITIES
from tests.faults.books import Books, Found
from tests.faults.faults import TROUBLES, VICTIMS
from tests.support.ledger import message
from tests.support.pgproxy import PostgresProxy

if TYPE_CHECKING:
    from tests.support.postgres import Cluster

SAMPLE = (
    "lmtp.committed:process",
    "append.committed:all",
    "copy.committed:postgresql",
    "uploader.put:process",
    "cleanup.object_deleted:postgresql",
    "reload.successor:process",
    "append:disk full",
    "lmtp:PostgreSQL gone 5 s",
    "move:PostgreSQL hangs 5 s",
    "copy:lost COMMIT answer",
    "move:two lost COMMIT answers",
    "expunge:store refuses",
    "append:store 503",
    "copy:store lost reply",
    "lmtp:store truncated read",
    "upload:store reset",
    "expunge:store hangs",
)
"""Each activity, and each kind of fault."""


@pytest.mark.timeout(900)
def test_a_sample_of_the_matrix_is_without_fault() -> None:
    command = [sys.executable, "-m", "tests.faults.matrix", "--jobs", "2", "--only", *SAMPLE]
    done = subprocess.run(command, cwd=matrix.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^\[\d+/\d+\] ", done.stdout, re.MULTILINE)) == len(SAMPLE)


def test_the_sample_has_each_activity_and_each_kind_of_fault() -> None:
    spots = {spot.name: spot for spot in matrix.spots()}
    sample = [spots[name] for name in SAMPLE]
    assert {spot.activity for spot in sample} == set(ACTIVITIES)
    assert {spot.column for spot in sample} == {*VICTIMS, *(fault.name for fault in TROUBLES)}


def test_every_crash_point_has_its_cells_or_a_reason() -> None:
    """Whoever adds a crash point says on whose path it is."""
    cells = {(spot.row, spot.column) for spot in matrix.spots()}
    for point in POINTS:
        word = point.partition(".")[0]
        if word in matrix.ELSEWHERE:
            assert not {cell for cell in cells if cell[0] == point}
        else:
            assert {(point, victim) for victim in VICTIMS} <= cells, f"{point} is on the path of no activity"
    assert {(activity, fault.name) for activity in ACTIVITIES for fault in TROUBLES} <= cells


def test_a_group_of_cells_is_for_one_kind_of_node() -> None:
    groups = matrix.groups(matrix.spots())
    assert all(len({spot.bench for spot in group}) == 1 for group in groups)
    assert sum(map(len, groups)) == len(list(matrix.spots()))


# ---------------------------------------------------------------------------------------------------- the judge


def found(key: str, *, body: bytes | None = None, flags: str = "\\Recent") -> Found:
    return Found(key, frozenset(flags.split()), message(key) if body is None else body)


@pytest.fixture
def books() -> Books:
    """One message that was appended with a flag, one that was delivered, one that was expunged, one in doubt."""
    books = Books()
    books.send("appended")
    books.promise("INBOX", "appended", ["\\Seen"])
    books.send("delivered", delivered=True)
    books.promise("INBOX", "delivered")
    books.send("expunged")
    books.promise("INBOX", "expunged")
    books.doubt("INBOX", "expunged")
    books.withdraw("INBOX", "expunged")
    books.send("unknown")
    books.promise("INBOX", "unknown")
    books.doubt("INBOX", "unknown")
    return books


APPENDED = found("appended", flags="\\Seen \\Recent")
DELIVERED = found("delivered", body=b"Return-Path: <a@b>\r\nReceived: by x;\r\n\ttoday\r\n" + message("delivered"))


@pytest.mark.parametrize(
    ("inbox", "wrong"),
    [
        ([APPENDED, DELIVERED], {}),
        ([APPENDED, DELIVERED, found("unknown")], {}),
        ([APPENDED, DELIVERED, found("unknown"), found("unknown")], {"doubled": ["INBOX/unknown"]}),
        ([DELIVERED], {"lost": ["INBOX/appended"]}),
        ([APPENDED, APPENDED, DELIVERED], {"doubled": ["INBOX/appended"]}),
        ([found("appended"), DELIVERED], {"flags": ["INBOX/appended"]}),
        ([APPENDED, DELIVERED, found("expunged")], {"returned": ["INBOX/expunged"]}),
        ([APPENDED, found("delivered", body=b"X: y\r\n" + message("delivered"))], {"altered": ["INBOX/delivered"]}),
        ([APPENDED, found("delivered", body=message("delivered")[:-1])], {"altered": ["INBOX/delivered"]}),
        (
            [found("appended", body=b"Received: z\r\n" + message("appended"), flags="\\Seen"), DELIVERED],
            {"altered": ["INBOX/appended"]},
        ),
        ([APPENDED, DELIVERED, found("stranger")], {"altered": ["INBOX/stranger"]}),
    ],
)
def test_the_judge_sees_what_is_wrong(books: Books, inbox: list[Found], wrong: dict[str, list[str]]) -> None:
    verdict = books.judge({"INBOX": inbox, "Empty": []})
    assert verdict.wrong == wrong
    assert (verdict.acknowledged, verdict.found) == (2, len(inbox))


def test_a_promise_holds_for_its_mailbox_alone(books: Books) -> None:
    verdict = books.judge({"INBOX": [APPENDED], "Other": [DELIVERED]})
    assert verdict.lost == {"INBOX/delivered"}


# ---------------------------------------------------------------------------------------------------- the proxy


def test_a_lost_answer_is_that_of_a_statement_that_was_carried_out(cluster: Cluster) -> None:
    dsn = cluster.postgres.dsn

    async def work(proxy: PostgresProxy) -> None:
        connection = await asyncpg.connect(dsn, server_settings={"application_name": "victim"})
        await connection.execute("CREATE TABLE lost (n int)")
        proxy.lose("INSERT", "other")
        await connection.execute("INSERT INTO lost VALUES ($1)", 1)
        proxy.lose("INSERT", "victim")
        assert await connection.fetchval("SELECT 2") == 2
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await connection.execute("INSERT INTO lost VALUES ($1)", 3)
        assert [text[:11] for text in proxy.lost] == ["INSERT INTO"]
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SELECT sum(n) FROM lost") == 4
        await connection.execute("DROP TABLE lost")
        proxy.vanish()
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await connection.execute("SELECT 1")
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await asyncpg.connect(dsn)
        proxy.return_()
        await (await asyncpg.connect(dsn)).close()
        assert proxy.refused == 2

    socket = Path(cluster.postgres.socket_directory) / ".s.PGSQL.5432"
    with PostgresProxy(socket) as proxy:
        asyncio.run(work(proxy))
    assert asyncio.run(_answers(dsn)) == 1


async def _answers(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT 1"))
    finally:
        await connection.close()
