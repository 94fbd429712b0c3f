"""Pigeonhole as an oracle: what is done otherwise with a script or letter has a reason in an RFC (see `explained`)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.oracle.filters import pigeonhole
from tests.oracle.filters.compare import NOWHERE, Difference, body_of, fields_of, plain, without_trace
from tests.oracle.filters.explained import EXPLAINED, explain
from tests.oracle.filters.mail import LETTERS
from tests.oracle.filters.matrix import QUESTIONS
from tests.oracle.filters.report import run
from tests.oracle.filters.scripts import cases

if TYPE_CHECKING:
    from tests.oracle.filters.mail import Letter
    from tests.oracle.filters.scripts import Case

REASON = pigeonhole.missing()
SLICE = 12
"""Every so manieth script is run by the test suite; `python -m tests.oracle.filters` runs all of them."""
BY_NAME = {case.name: case for case in cases()}
LETTER = {letter.name: letter for letter in LETTERS}


@pytest.mark.timeout(180)
@pytest.mark.skipif(bool(REASON), reason=REASON or "Pigeonhole is here")
def test_every_difference_is_explained() -> None:
    chosen = cases()[::SLICE]
    with tempfile.TemporaryDirectory(prefix="oracle-") as directory:  # not pytest's: Dovecot's user cannot enter it
        result = run(Path(directory), chosen)
    assert len(result.ran) >= 20
    assert result.compared["place"] >= len(result.ran) * len(LETTERS)
    assert result.compared["put"] == len(chosen)
    assert [(d.kind, d.field, d.case.name, d.letter.name, d.ours, d.theirs) for d in result.unexplained] == []


def test_there_are_enough_scripts_and_messages() -> None:
    assert len(BY_NAME) == len(cases()) >= 390
    assert len(LETTERS) >= 20
    assert len({body_of(letter.data) for letter in LETTERS}) == len(LETTERS)
    assert sum(map(len, QUESTIONS.values())) >= 2000


def test_classes_have_names_of_their_own_and_a_section() -> None:
    assert len({row.name for row in EXPLAINED}) == len(EXPLAINED)
    assert all("§" in row.rfc for row in EXPLAINED)


@pytest.mark.parametrize(
    ("case", "letter", "kind", "field", "ours", "theirs"),
    [
        ("keep", "plain", "place", "", ["INBOX"], ["INBOX", "Work"]),
        ("keep", "plain", "reply", "", "5xx", "2xx"),
        ("keep", "plain", "flags", "INBOX", ["a"], []),
        ("keep", "plain", "octets", "INBOX", b"A: b\r\n\r\nc\r\n", b"A: b\r\n\r\nd\r\n"),
        ("keep", "plain", "octets", "INBOX", b"A: b\r\n\r\nc\r\n", b"A: x\r\n\r\nc\r\n"),
        ("keep", "plain", "octets", "INBOX", b"A: b\r\n\r\nc\r\n", None),
        ("fileinto nothing", "all of them", "put", "", "taken", "refused"),
        ("keep", "all of them", "put", "", "refused", "taken"),
        ("keep", "all of them", "mailboxes", "", ["INBOX"], ["INBOX", "Work"]),
        ("redirect", "plain", "sent", "", ["redirect to a@b"], []),
        ("redirect", "same id again", "sent", "", [], ["redirect to a@b"]),
        ("redirect", "plain", "redirect", "sender, to a@b", "x@y", "z@y"),
        ("vacation", "plain", "vacation", "To, to a@b", [("", "a@b")], [("A", "c@b")]),
        ("vacation", "plain", "sent", "", [], ["vacation to a@b"]),
        ("vacation", "plain", "vacation", "Subject, to a@b", "Auto: x", "Auto: y"),
        ("notify", "plain", "notify", "Subject, to a@b", "x", "y"),
        ("reject everything", "plain", "reply", "", "2xx", "5xx"),
        ("asked: header 1", "plain", "test", 'header :is "subject" "Tea party"', False, True),
        ("asked: header 1", "plain", "test", 'header :is :comparator "i;ascii-numeric" "subject" "1"', True, False),
        ("asked: string 1", "plain", "test", 'string :is :comparator "i;octet" "a" "A"', True, False),
        ("asked: body 1", "plain", "test", 'body :contains "tea"', False, True),
        ("asked: address 1", "odd addresses", "test", 'address :is "from" "x@y.example"', False, True),
        ("asked: date, received", "plain", "test", 'date :zone "+0000" "date" "hour" "1"', True, False),
        ("shown: match variables", "plain", "values", 'header :matches "subject" "*"', ["[a]"], ["[b]"]),
    ],
)
def test_something_wrong_has_no_explanation(
    case: str, letter: str, kind: str, field: str, ours: Any, theirs: Any
) -> None:
    assert explain(_difference(BY_NAME[case], LETTER.get(letter, NOWHERE), kind, field, ours, theirs)) is None


def _difference(case: Case, letter: Letter, kind: str, field: str, ours: Any, theirs: Any) -> Difference:
    whole = {"reply": "2xx", "place": ["INBOX"], "sent": []}
    return Difference(case, letter, kind, field, ours, theirs, (whole, whole))


def test_trace_fields_are_taken_off_once() -> None:
    own = b"Return-Path: <a>\r\nDelivered-To: b\r\nReceived: x\r\n y\r\n"
    rest = b"Received: z\r\nSubject: s\r\n\r\nReturn-Path: body\r\n"
    assert without_trace(own + rest) == rest
    assert without_trace(b"X-New: 1\r\n" + own + rest) == b"X-New: 1\r\n" + rest


def test_fields() -> None:
    data = b"A: =?utf-8?q?=C3=A4?=\r\n =?utf-8?q?b?=\r\n\tc\r\nB:\r\n\r\nC: body\r\n"
    assert [plain(field) for field in fields_of(data)] == ["äb c", ""]
    assert body_of(data) == b"C: body\r\n"
    assert body_of(b"\r\nonly a body") == b"only a body"
