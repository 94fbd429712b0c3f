"""Rows of numbers that processes share."""

from __future__ import annotations

import os

import pytest

from sora.server.scoreboard import FIELDS, Scoreboard


def test_a_child_writes_what_its_parent_reads() -> None:
    board = Scoreboard(4)
    row, other = board.take(), board.take()
    pid = os.fork()
    if pid == 0:
        for number, field in enumerate(FIELDS):
            row.set(field, 2**64 - 1 - number)
        os._exit(0)
    os.waitpid(pid, 0)
    assert [row.get(field) for field in FIELDS] == [2**64 - 1 - number for number in range(len(FIELDS))]
    assert [other.get(field) for field in FIELDS] == [0] * len(FIELDS)


def test_the_lowest_free_row_is_used_again_and_clean() -> None:
    board = Scoreboard(3)
    rows = [board.take() for _ in range(3)]
    assert [row.number for row in rows] == [0, 1, 2]
    with pytest.raises(RuntimeError):
        board.take()
    rows[1].beat()
    board.release(rows[1])
    again = board.take()
    assert again.number == 1
    assert again.get("heartbeat") == 0


def test_what_a_row_says() -> None:
    row = Scoreboard(1).take()
    assert row.state == "starting"
    row.state = "draining"
    assert row.state == "draining"
    assert row.health("postgresql") == "unknown"
    row.set_health("postgresql", ok=True)
    row.set_health("object_store", ok=False)
    assert (row.health("postgresql"), row.health("object_store")) == ("ok", "down")
    row.set("pop3", 3)
    assert row.connections() == {"imap": 0, "pop3": 3, "lmtp": 0, "managesieve": 0}
    row.beat()
    row.beat()
    assert row.get("heartbeat") == 2


def test_a_successor_goes_on_with_the_same_board() -> None:
    first = Scoreboard(4)
    kept = first.take()
    kept.beat()
    second = Scoreboard(4, os.dup(first.fd))
    row = second.retake(kept.number)
    assert row.get("heartbeat") == 1
    kept.beat()
    assert row.get("heartbeat") == 2
    assert second.take().number == 1
    second.release(row)
    assert second.take().number == 0


def test_fields_are_only_added_at_the_end() -> None:
    """An upgrade has processes of two releases on one board."""
    assert FIELDS[:11] == (
        "heartbeat", "state", "imap", "pop3", "lmtp", "uploads_pending", "uploads_oldest_ms", "postgresql",
        "object_store", "incarnation", "lease_token",
    )  # fmt: skip
