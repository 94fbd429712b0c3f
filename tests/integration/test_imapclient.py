"""IMAPClient's own tests of a server (`imapclient.livetest`), against Sora and, where it is installed, Dovecot."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from tests.oracle import dovecot
from tests.support import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

OF_THE_CLIENT: Final = frozenset({"test_small_connection_timeout_fail", "test_small_read_timeout_fail"})
"""They expect that a server's answer takes longer than a millisecond, or ten microseconds."""
FAIL_EVERYWHERE: Final = Counter({"test_move": 1, "test_fetch": 2, "test_getacl": 2})
"""What fails with Dovecot too: imaplib has no MOVE without UID, an ENVELOPE is no list, a Namespace no dict."""
NOBODY_HAS: Final = frozenset({"test_gmail_labels", "test_gmail_search", "test_xlist"})
"""Skipped everywhere: extensions of one service."""
NOT_FOR_NUMBERS: Final = "test_uid_expunge"
"""Skipped in the half of the tests that runs without UIDs."""


class Outcome(Struct, frozen=True):
    """Names of tests, each as often as it ran: with UIDs and without.

    Attributes:
        failed: Failures and errors.
        skipped: By their own decision, mostly for want of a capability.
        passed: Number of the others.
        text: What was printed.
    """

    failed: Counter[str]
    skipped: Counter[str]
    passed: int
    text: str


def live_tests(directory: Path, port: int, user: str, password: str) -> Outcome:
    """Run them all."""
    settings = directory / f"{port}.ini"
    settings.write_text(
        f"[DEFAULT]\nhost = 127.0.0.1\nport = {port}\nssl = false\n"
        f"username = {user}\npassword = {password}\ntimeout = 20\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "imapclient.livetest", str(settings), "-v"],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert ran is not None, done.stderr
    failed = Counter(re.findall(r"^(?:FAIL|ERROR): (\w+) ", done.stderr, re.MULTILINE))
    skipped = Counter(re.findall(r"^(test_\w+) \(.*\.\.\. skipped ", done.stderr, re.MULTILINE))
    for name in OF_THE_CLIENT:
        failed.pop(name, None)
    passed = int(ran[1]) - failed.total() - skipped.total() - len(OF_THE_CLIENT)
    return Outcome(failed, skipped, passed, done.stderr)


def test_sora_passes_what_can_be_passed(tmp_path: Path) -> None:
    with demo.Demo(tmp_path / "sora", "--workers", "1", "--accounts", "1") as sora:
        outcome = live_tests(tmp_path, sora.ports["imap"], "user1@example.com", demo.PASSWORD)
    assert outcome.failed - FAIL_EVERYWHERE == Counter(), outcome.text
    assert outcome.passed >= 46, outcome.text
    assert set(outcome.skipped) - NOBODY_HAS - {NOT_FOR_NUMBERS} == set(), outcome.text


@pytest.mark.skipif(bool(dovecot.missing()), reason=dovecot.missing() or "Dovecot is here")
def test_what_is_said_to_fail_everywhere_fails_with_dovecot() -> None:
    with tempfile.TemporaryDirectory(prefix="oracle-") as name:  # not pytest's: Dovecot's user cannot enter it
        directory = Path(name)
        directory.chmod(0o755)
        with dovecot.Dovecot(directory / "dovecot") as oracle:
            outcome = live_tests(directory, oracle.port, dovecot.USER, dovecot.PASSWORD)
    assert outcome.failed >= FAIL_EVERYWHERE, outcome.text
    assert set(outcome.skipped) >= NOBODY_HAS, outcome.text
