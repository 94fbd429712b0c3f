"""Reloads under load: a slice of what `python -m tests.faults.reloads` does, and whether it would see a fault."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.faults import reloads
from tests.faults.crowd import Client, Idler, Tally, visit
from tests.faults.reloads import Cohort, Plan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(180)
def test_no_session_notices_a_reload_and_idle_ones_stay_for_their_time(tmp_path: Path) -> None:
    plan = Plan(sessions=600, reloads=4, idle=20, linger_s=2.0, clients=2, parallel=4, workers=2)
    report = reloads.run(plan, tmp_path / "sora")
    assert report.faults == []
    assert (report.visits.counts, report.idlers.counts) == ({"served": 600}, {"well": 20})
    assert len(report.reload_s) == 4


# ---------------------------------------------------------------------- servers that do wrong

GREETING = b"* OK hello\r\n"
TALK = [GREETING, b"a OK in\r\n", b"b OK yes\r\n", b"* BYE bye\r\nc OK out\r\n"]


async def served_by(lines: list[bytes], *, reset: bool = False) -> str:
    """What a session is counted as with a server that answers so, and then ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line)
            if line in TALK[:3]:  # the client has something to say to it
                await reader.readline()
        if reset:
            linger_0 = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await Tally().judge(visit({"imap": server.sockets[0].getsockname()[1]}, 1, 1))


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (TALK, "served"),
        ([], "unanswered"),
        ([GREETING], "unanswered"),
        (TALK[:3], "unanswered"),
        ([b"* BYE\r\n"], "wrong"),
        ([GREETING, b"a NO\r\n"], "wrong"),
        ([*TALK[:3], b"* OK\r\nc OK out\r\n"], "wrong"),
        ([*TALK[:3], b"* BYE bye\r\nc OK out\r\nmore\r\n"], "wrong"),
    ],
)
async def test_what_became_of_a_session_is_seen(lines: list[bytes], verdict: str) -> None:
    assert await served_by(lines) == verdict


async def test_a_reset_connection_is_seen() -> None:
    assert await served_by(TALK[:2], reset=True) == "reset"


async def test_a_refused_connection_is_seen() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        tally = Tally()
        assert await tally.judge(visit({"imap": nobody.getsockname()[1]}, 1, 1)) == "refused"
    assert tally.first[0].startswith("refused: ConnectionRefusedError")


@pytest.mark.parametrize(
    ("replaced", "goodbye", "well"),
    [
        (None, None, True),
        (None, 5.0, False),  # nobody replaced its worker
        ((10.0, 11.0), None, False),  # it was forgotten
        ((10.0, 11.0), 13.0, True),
        ((10.0, 11.0), 11.5, False),  # too early
        ((10.0, 11.0), 40.0, False),  # too late
    ],
)
def test_a_goodbye_at_the_wrong_time_is_seen(
    replaced: tuple[float, float] | None, goodbye: float | None, well: bool
) -> None:
    idler = Idler(Client.__new__(Client))
    idler.said_goodbye_mono = goodbye
    assert bool(list(Cohort([idler], [], replaced).judge(2.0))) is not well
