"""IMAP's native parts, each beside its plain model.

python -m pytest benchmarks/test_native_imap.py -o addopts= --benchmark-group-by=group
"""

from __future__ import annotations

import random
from itertools import repeat
from typing import TYPE_CHECKING

import pytest

from sora._native.imapscan import Command, Scanner
from sora._native.seqset import SeqSet, UidSet
from sora._native.viewcols import NO_RECENT, Snapshot
from sora.types import SEEN
from sora.wire.imap_commands import PARSERS
from tests.support import models_imapscan, models_seqset, models_viewcols

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

MESSAGES = 100_000
NAMES = {16: b"$Junk", 17: b"$Forwarded"}
COMMANDS = b"".join(
    b"a%d UID FETCH %d:* (FLAGS)\r\nb%d NOOP\r\nc%d STORE %d +FLAGS.SILENT (\\Seen)\r\n" % ((n,) * 5)
    for n in range(1, 334)
)
SPARSE = b",".join(b"%d" % n for n in range(1, 20_000, 2))


@pytest.fixture(scope="module")
def mailbox() -> models_viewcols.Mailbox:
    """Three of four messages seen, one of a hundred with a keyword, one UID of twenty expunged."""
    chance = random.Random(1)
    return {
        uid: frozenset({SEEN} if chance.random() < 0.75 else ()) | frozenset({16} if chance.random() < 0.01 else ())
        for uid in range(1, MESSAGES * 20 // 19 + 1)
        if uid % 20
    }


@pytest.fixture(scope="module")
def state(mailbox: models_viewcols.Mailbox) -> bytes:
    return b"".join(models_viewcols.records(mailbox))


@pytest.fixture(scope="module")
def view(state: bytes) -> Snapshot:
    return Snapshot.load(state, MESSAGES * 2, 7)


# --- scanner ---


def scan() -> int:
    scanner = Scanner()
    scanner.feed(COMMANDS)
    count = 0
    while scanner.next() is not None:
        count += 1
    return count


def scan_and_parse() -> int:
    scanner = Scanner()
    scanner.feed(COMMANDS)
    count = 0
    while isinstance(command := scanner.next(), Command):
        PARSERS[command.name](command.cursor)
        count += 1
    return count


@pytest.mark.benchmark(group="scan 999 pipelined commands")
def test_scan(benchmark: BenchmarkFixture) -> None:
    assert benchmark(scan) == 999


@pytest.mark.benchmark(group="scan 999 pipelined commands")
def test_scan_plain(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(models_imapscan.scan, COMMANDS, 65536, repeat("accept"))) == 999


@pytest.mark.benchmark(group="scan and parse 999 pipelined commands")
def test_scan_and_parse(benchmark: BenchmarkFixture) -> None:
    assert benchmark(scan_and_parse) == 999


# --- sets ---


@pytest.mark.benchmark(group="parse a set of 10,000 single numbers")
def test_parse_set(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(SeqSet.parse, SPARSE)) == 10_000


@pytest.mark.benchmark(group="parse a set of 10,000 single numbers")
def test_parse_set_plain(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(models_seqset.resolve, SPARSE, 20_000)) == 10_000


@pytest.mark.benchmark(group="intersect two sets of 10,000 ranges")
def test_intersect(benchmark: BenchmarkFixture) -> None:
    odd = SeqSet.parse(SPARSE)
    thirds = SeqSet.from_numbers(range(1, 30_000, 3))
    assert len(benchmark(lambda: odd & thirds)) == 3334


@pytest.mark.benchmark(group="intersect two sets of 10,000 ranges")
def test_intersect_plain(benchmark: BenchmarkFixture) -> None:
    odd, thirds = frozenset(range(1, 20_000, 2)), frozenset(range(1, 30_000, 3))
    assert len(models_seqset.ranges(benchmark(lambda: odd & thirds))) == 3334


# --- snapshots of 100,000 messages ---


@pytest.mark.benchmark(group="load 100,000 messages")
def test_load(benchmark: BenchmarkFixture, state: bytes) -> None:
    assert len(benchmark(Snapshot.load, state, MESSAGES * 2, 7)) == MESSAGES


@pytest.mark.benchmark(group="FETCH 1:* (UID FLAGS) of 100,000 messages")
def test_fetch_flags(benchmark: BenchmarkFixture, view: Snapshot) -> None:
    everything = SeqSet.parse(b"1:*")
    size = benchmark(lambda: sum(map(len, view.write_fetch_flags(everything, NAMES, True))))
    assert size > MESSAGES * 30


@pytest.mark.benchmark(group="FETCH 1:* (UID FLAGS) of 100,000 messages")
def test_fetch_flags_plain(benchmark: BenchmarkFixture, mailbox: models_viewcols.Mailbox) -> None:
    def plain() -> int:
        return sum(
            len(
                b"* %d FETCH (UID %d FLAGS %s)\r\n"
                % (seq, uid, models_viewcols.flags_text(flags, NAMES, uid > NO_RECENT))
            )
            for seq, (uid, flags) in enumerate(sorted(mailbox.items()), 1)
        )

    assert benchmark.pedantic(plain, rounds=3) > MESSAGES * 30


@pytest.mark.benchmark(group="UIDs of 1,000 sequence numbers, one by one")
def test_uid(benchmark: BenchmarkFixture, view: Snapshot) -> None:
    assert benchmark(lambda: sum(map(view.uid, range(1, 1001)))) > 0


@pytest.mark.benchmark(group="search 100,000 messages by flag")
def test_with_flag(benchmark: BenchmarkFixture, view: Snapshot) -> None:
    assert len(benchmark(view.with_flag, SEEN, False)) == view.unseen


@pytest.mark.benchmark(group="search 100,000 messages by flag")
def test_with_flag_plain(benchmark: BenchmarkFixture, view: Snapshot, mailbox: models_viewcols.Mailbox) -> None:
    assert len(benchmark(models_viewcols.unseen, mailbox)) == view.unseen


@pytest.mark.benchmark(group="STORE on one of 100,000 messages, and the difference")
def test_patch_and_diff(benchmark: BenchmarkFixture, view: Snapshot) -> None:
    blocks = [(50, models_viewcols.bitmap([51_201]))]

    def patch() -> UidSet:
        return view.diff(view.patch_flags(8, blocks, [17], [], False)).changed

    assert list(benchmark(patch)) == [51_201]
