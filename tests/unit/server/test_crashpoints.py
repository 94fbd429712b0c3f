"""The table of crash points, and that a process really dies at one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sora import crashpoints
from sora.errors import ConfigError

SOURCE = Path(crashpoints.__file__).parent


def start(value: str, passes: int) -> subprocess.Popen[bytes]:
    """A process that passes `lmtp.staged` so many times."""
    code = f"from sora.crashpoints import crash_point\nfor _ in range({passes}): crash_point('lmtp.staged')"
    return subprocess.Popen([sys.executable, "-c", code], env={"SORA_CRASH_AT": value})


def run(value: str, passes: int) -> int:
    """Exit status of a process that passes `lmtp.staged` so many times."""
    return start(value, passes).wait()


def test_without_the_variable_nothing_is_counted() -> None:
    assert crashpoints.parse("") is None
    assert crashpoints.crash_point is crashpoints._pass
    assert run("", 3) == 0


def test_dies_at_the_nth_pass_only() -> None:
    assert run("lmtp.staged", 1) == -signal.SIGKILL
    assert run("lmtp.staged:3", 2) == 0
    assert run("lmtp.staged:3", 3) == -signal.SIGKILL
    assert run("lmtp.replied", 3) == 0


def test_a_file_is_obeyed_once(tmp_path: Path) -> None:
    file = tmp_path / "crash"
    assert run(f"@{file}", 3) == 0
    file.write_text("lmtp.replied")
    assert run(f"@{file}", 3) == 0
    file.write_text("lmtp.staged")
    dead = start(f"@{file}", 3)
    assert dead.wait() == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f"crash.{dead.pid}"]
    assert run(f"@{file}", 3) == 0


def test_a_file_can_ask_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "crash"
    file.write_text("lmtp.staged stop\n")
    with start(f"@{file}", 1) as stopped:
        _, status = os.waitpid(stopped.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait() == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("lmtp.stagd", "did you mean 'lmtp.staged'"),
        ("nonsense", "no crash point 'nonsense'"),
        ("lmtp.staged:0", "positive"),
        ("lmtp.staged:x", "positive"),
    ],
)
def test_a_wrong_value_is_named(value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        crashpoints.parse(value)


def test_the_table_holds_the_points_that_the_code_passes_and_no_others() -> None:
    passed = {
        point
        for path in SOURCE.rglob("*.py")
        if path != Path(crashpoints.__file__)
        for point in re.findall(r'crash_point\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert passed == set(crashpoints.POINTS)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", point) and text for point, text in crashpoints.POINTS.items())
