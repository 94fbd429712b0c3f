"""A short attack on a running Sora; the long one is `python -m tests.fuzz.hostile`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fuzz import hostile
from tests.support.demo import Demo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INPUTS = 400
SEED = 3
LARGER = 1.25
"""So much more memory than at first; what the first inputs load on demand is in it."""

pytestmark = [pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Demo(tmp_path_factory.mktemp("hostile") / "demo", *hostile.demo_options()) as demo:
        hostile.prepare(demo)
        yield demo


@pytest.mark.slow
@pytest.mark.parametrize("protocol", hostile.PROTOCOLS)
async def test_nothing_breaks(demo: Demo, protocol: str) -> None:
    before = hostile.memory(demo)
    attack = hostile.Attack(protocol, demo.ports[protocol], SEED)
    await attack.run(INPUTS)
    assert attack.tally.inputs >= INPUTS
    assert attack.tally.stuck == 0
    assert attack.tally.received > INPUTS
    hostile.wait_until_idle(demo, hostile.PATIENCE_S)
    hostile.check_service(demo, f"after {protocol}")
    assert hostile.tracebacks(demo) == []
    assert hostile.errors(demo) == []
    assert hostile.restarts(demo) == 0
    growth = hostile.grown(before, hostile.memory(demo))
    assert max(growth.values()) < LARGER, growth


BEGUN = {
    "imap": [b"", b"a LOGIN {5}\r\nab", b"a LOGIN {99+}\r\nab", b"a NOOP", b"a AUTHENTICATE PLAIN\r\n", b"\0\xff"],
    "pop3": [b"", b"USER a", b"AUTH PLAIN\r\n", b"\0\0\0"],
    "managesieve": [b"", b"NOOP", b'NOOP "a', b"NOOP {9+}\r\nab", b'AUTHENTICATE "PLAIN"\r\n', b"\0\xff"],
    "lmtp": [b"", b"LHLO", b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\nDATA\r\nabc", b"LHLO x\r\nBDAT 99\r\nabc"],
}
"""Lines, literals, exchanges, message data and chunks that never end."""


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "text"), [(name, text) for name, texts in BEGUN.items() for text in texts])
async def test_a_half_closed_connection_ends(demo: Demo, protocol: str, text: bytes) -> None:
    answered = await hostile.say_and_wait(demo.ports[protocol], text.replace(b"%b", hostile.address(0).encode()))
    assert answered.endswith(b"\r\n")


@pytest.mark.slow
def test_a_traceback_in_the_log_is_seen(demo: Demo, tmp_path: Path) -> None:
    """The log is where it is looked for, and what is looked for is found."""
    assert (demo.directory / "run" / "sora.log").stat().st_size
    other = Demo(tmp_path / "other")
    (other.directory / "run").mkdir(parents=True)
    (other.directory / "run" / "sora.log").write_text(
        '{"text":"fine"}\n{"text":"oh","level":"error","traceback":"ValueError"}\n'
    )
    assert len(hostile.tracebacks(other)) == 1
    assert hostile.errors(other) == ["oh"]
