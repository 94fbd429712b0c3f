"""The shared table of verified logins: what it keeps, what it forgets, and what it never believes."""

from __future__ import annotations

import os

from msgspec.structs import replace

from sora.services.logins.remembered import BUCKET_ROWS, ROW_BYTES, Remembered, Verified
from sora.types import AccountId

ANN = Verified(AccountId(7), "ann@example.com", 10, 5, 1000.25)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_what_was_kept_is_found() -> None:
    table = Remembered()
    key = table.key("ann@example.com", b"secret")
    assert table.find(key) is None
    assert table.version(ANN.account_id) is None
    table.keep(key, ANN)
    assert table.find(key) == ANN
    assert table.version(ANN.account_id) == 5
    assert table.find(table.key("ann@example.com", b"other")) is None
    assert table.find(table.key("ann@example.comsecre", b"t")) is None


def test_a_later_login_replaces_an_earlier_one() -> None:
    table = Remembered()
    key = table.key("ann@example.com", b"secret")
    table.keep(key, ANN)
    later = replace(ANN, version=6, checked_mono=2000.5)
    table.keep(key, later)
    assert table.find(key) == later
    assert table.version(ANN.account_id) == 6


def test_what_was_dropped_is_gone() -> None:
    table = Remembered()
    key = table.key("ann@example.com", b"secret")
    table.keep(key, ANN)
    table.drop(key)
    assert table.find(key) is None
    table.keep(key, ANN)
    assert table.find(key) == ANN


def test_looking_costs_no_memory() -> None:
    """Of a mapped file of memory even a page that is only read is made."""
    table = Remembered()
    fd = table.hand_over().fd
    for number in range(100):
        assert table.find(table.key("ann@example.com", b"%d" % number)) is None
        assert table.version(AccountId(number)) is None
    assert os.fstat(fd).st_blocks == 0
    table.keep(table.key("ann@example.com", b"secret"), ANN)
    assert os.fstat(fd).st_blocks > 0


def test_a_process_forked_later_shares_the_table() -> None:
    table = Remembered()
    key = table.key("ann@example.com", b"secret")
    child = os.fork()
    if not child:
        table.keep(key, ANN)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert table.find(key) == ANN


def test_another_run_has_another_key() -> None:
    assert Remembered().key("ann@example.com", b"secret") != Remembered().key("ann@example.com", b"secret")


def test_half_a_row_is_no_row() -> None:
    table = Remembered(buckets=1)
    key = table.key("ann@example.com", b"secret")
    table.keep(key, ANN)
    rows = [bytes(table._memory[i : i + ROW_BYTES]) for i in range(0, len(table._memory), ROW_BYTES)]
    place = next(i for i, row in enumerate(rows) if row[16:32] == key) * ROW_BYTES
    for offset in (0, 32, 45, ROW_BYTES - 1):
        table._memory[place + offset] ^= 1
        assert table.find(key) is None, offset
        table._memory[place + offset] ^= 1
    assert table.find(key) == ANN


def test_a_full_bucket_forgets_what_was_written_longest_ago() -> None:
    table = Remembered(buckets=1, clock=Clock())
    keys = [table.key(f"user{i}", b"x") for i in range(BUCKET_ROWS)]
    for key in keys:
        table.keep(key, ANN)  # all of one account, whose version takes a row and is renewed by each
    assert table.find(keys[0]) is None
    assert all(table.find(key) == ANN for key in keys[1:])
    table.keep(keys[1], ANN)
    table.keep(keys[0], ANN)
    assert table.find(keys[2]) is None
    assert table.find(keys[1]) == ANN


def test_an_address_that_does_not_fit_is_not_remembered() -> None:
    table = Remembered()
    key = table.key("long", b"x")
    table.keep(key, replace(ANN, address="a" * ROW_BYTES))
    assert table.find(key) is None


def test_a_successor_remembers_what_was_remembered() -> None:
    first = Remembered(buckets=2)
    key = first.key("ann@example.com", b"secret")
    first.keep(key, ANN)
    handed = first.hand_over()
    second = Remembered(handed=replace(handed, fd=os.dup(handed.fd)))
    assert second.key("ann@example.com", b"secret") == key
    assert second.find(key) == ANN
    first.drop(key)
    assert second.find(key) is None
