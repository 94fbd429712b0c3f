"""A slice of the fuzzing: always the same inputs, and every one that ever broke something.

A longer run is `python -m tests.fuzz.run TARGET --seconds N`.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.imapvalues import check_body, check_envelope, read_value
from tests.fuzz.mutate import Mutator
from tests.fuzz.run import run_hypothesis, run_plain
from tests.fuzz.seeds import FINDINGS, SEEDS, WORDS, findings
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

SEED = 20_260
INPUTS = {
    "imap": 6000,
    "mime": 3000,
    "lmtp": 2500,
    "pop3": 3000,
    "managesieve": 6000,
    "proxy": 20_000,
    "sets": 30_000,
    "view": 4000,
}
FEW = 1000
SECONDS = 6.0
"""Of each target; on an idle machine the inputs are done long before."""
LEAST = 50
"""Of each target, however busy the machine is."""


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_slice(target: str, tmp_path: Path) -> None:
    executions, broken = run_plain(
        TARGETS[target],
        SEEDS[target](),
        WORDS[target],
        seed=SEED,
        seconds=SECONDS,
        folder=tmp_path,
        most=INPUTS.get(target, FEW),
        name=target,
    )
    assert not broken
    assert executions >= LEAST


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_broke_it_once_does_not_again(target: str) -> None:
    for data in findings(target):
        TARGETS[target](data)


def test_every_finding_belongs_to_a_target() -> None:
    names = {path.name.partition("-")[0] for path in FINDINGS.iterdir() if not path.name.startswith(".")}
    assert names <= TARGETS.keys()


def test_the_same_seed_gives_the_same_inputs() -> None:
    makers = [Mutator(random.Random(5), SEEDS["imap"](), WORDS["imap"]) for _ in range(2)]
    first, again = ([maker.make() for _ in range(100)] for maker in makers)
    assert first == again
    assert len(set(first)) > 90


def test_a_bug_is_found_once_and_its_input_kept(tmp_path: Path) -> None:
    def test(data: bytes) -> None:
        assert b"{3" not in data

    executions, broken = run_plain(test, [b"a NOOP"], [b"{3}"], seed=1, seconds=5, folder=tmp_path, most=500)
    assert executions == 500
    (path,) = broken
    assert b"{3" in path.read_bytes()


def test_hypothesis_finds_a_bug_and_keeps_its_smallest_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def test(data: bytes) -> None:
        assert b";" not in data

    assert run_hypothesis("sievelexer", seed=1, seconds=0.01, folder=tmp_path, examples=20)[1] == []
    monkeypatch.setitem(TARGETS, "sievelexer", test)
    executions, (path,) = run_hypothesis("sievelexer", seed=1, seconds=10, folder=tmp_path)
    assert path.read_bytes() == b";"
    assert executions > 1


def test_work_that_is_not_linear_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a regular expression that goes back to every space."""

    def quadratic(data: bytes) -> None:
        started = time.thread_time()
        while time.thread_time() - started < (len(data) / 1_000_000) ** 2:
            pass

    monkeypatch.setattr("tests.fuzz.targets._WORKERS", (quadratic,))
    monkeypatch.setattr("tests.fuzz.targets.SECONDS", 0.001)
    with pytest.raises(AssertionError, match="octets of quadratic"):
        TARGETS["work"](b"\0\0\0some input")


@pytest.mark.parametrize(
    "text", [b"(NIL", b"NIL)", b'("a"  NIL)', b'("\\a")', b"({3}\r\nab)", b"(NIL NIL )x", b'("\xff")']
)
def test_what_no_client_can_read_is_no_value(text: bytes) -> None:
    with pytest.raises((AssertionError, ValueError)):
        read_value(text)


@pytest.mark.parametrize("text", [b"(NIL)", b'(NIL NIL "a" NIL NIL NIL NIL NIL NIL NIL)'])
def test_what_is_no_envelope(text: bytes) -> None:
    with pytest.raises((AssertionError, TypeError)):
        check_envelope(read_value(text))


def test_what_is_no_body() -> None:
    with pytest.raises(AssertionError):
        check_body(read_value(b'("text" "plain" NIL NIL NIL "7bit" 3 1)'), extended=True)
    check_body(read_value(b'("text" "plain" NIL NIL NIL "7bit" 3 1)'), extended=False)
