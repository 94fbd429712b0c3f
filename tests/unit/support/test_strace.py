"""The parser of strace's output, on lines that strace wrote."""

from __future__ import annotations

import pytest

from tests.support.strace import Call, parse


def hexadecimal(octets: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in octets)


FILE, DIRECTORY, SOCKET = (hexadecimal(name) for name in (b"/s/tmp/1", b"/s", b"socket:[77]"))
PIECES = ", ".join(f'{{iov_base="{hexadecimal(piece)}", iov_len=2}}' for piece in (b"ab", b"cd"))
TRACE = rf"""
10 write(5<{FILE}>, "{hexadecimal(b'a"b, 1) = 9')}", 11) = 11
11 fdatasync(5<{FILE}> <unfinished ...>
10 --- SIGCHLD {{si_signo=SIGCHLD, si_code=CLD_EXITED}} ---
10 recvfrom(6<{SOCKET}>,  <unfinished ...>
11 <... fdatasync resumed>)           = 0
11 link("{FILE}", "{DIRECTORY}") = -1 EEXIST (File exists)
10 <... recvfrom resumed>"{hexadecimal(b"yes")}", 100, 0, NULL, NULL) = 3
10 sendmsg(6<{SOCKET}>, {{msg_name=NULL, msg_iov=[{PIECES}], msg_iovlen=2}}, 0) = 3
12 fsync(5<{DIRECTORY}>) = -1 EIO (Input/output error) (INJECTED)
12 read(6<{SOCKET}>,  <unfinished ...>
12 +++ exited with 0 +++
"""


@pytest.fixture
def calls() -> dict[str, Call]:
    return {call.name: call for call in parse(TRACE.splitlines())}


def test_calls_are_found_whole_in_the_order_of_their_ends(calls: dict[str, Call]) -> None:
    assert list(calls) == ["write", "fdatasync", "link", "recvfrom", "sendmsg", "fsync"]
    assert [call.thread for call in calls.values()] == [10, 11, 11, 10, 10, 12]


def test_octets_and_paths_are_what_they_were(calls: dict[str, Call]) -> None:
    assert (calls["write"].path, calls["write"].data) == ("/s/tmp/1", b'a"b, 1) = 9')
    assert (calls["recvfrom"].path, calls["recvfrom"].data) == ("socket:[77]", b"yes")
    assert calls["link"].path == ""
    assert calls["link"].strings == [b"/s/tmp/1", b"/s"]


def test_what_was_not_written_is_not_counted(calls: dict[str, Call]) -> None:
    assert calls["sendmsg"].data == b"abc"
    assert calls["link"].data == b""


def test_errors_are_results(calls: dict[str, Call]) -> None:
    assert [calls[name].result for name in ("fdatasync", "link", "fsync")] == [0, -1, -1]


def test_a_call_is_before_another_only_if_it_had_ended(calls: dict[str, Call]) -> None:
    assert calls["write"].is_before(calls["fdatasync"])
    assert calls["fdatasync"].is_before(calls["link"])
    assert not calls["fdatasync"].is_before(calls["recvfrom"])
    assert not calls["recvfrom"].is_before(calls["fdatasync"])
    assert not calls["link"].is_before(calls["link"])
