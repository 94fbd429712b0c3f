"""Dovecot as an oracle: whatever is answered otherwise has a reason in an RFC (see `explained`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.oracle import dovecot
from tests.oracle.collect import Sample, collect
from tests.oracle.compare import Difference
from tests.oracle.criteria import CRITERIA, SORTS, THREADINGS
from tests.oracle.explained import explain
from tests.oracle.explained_talk import EXPLAINED_TALK
from tests.oracle.report import CLASSES, run
from tests.oracle.talk import TALKS

REASON = dovecot.missing()
PLAIN = Sample(
    "test",
    "plain",
    b"From: Alice <a@example.org>\r\nTo: b@example.org\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\nSubject: x\r\n"
    b"Content-Type: text/plain; charset=us-ascii\r\n\r\nbody\r\n",
)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(bool(REASON), reason=REASON or "Dovecot is here")
def test_every_difference_is_explained() -> None:
    samples = collect()
    assert len(samples) >= 300
    assert len(CRITERIA) >= 200
    with tempfile.TemporaryDirectory(prefix="oracle-") as directory:  # not pytest's: Dovecot's user cannot enter it
        result = run(Path(directory), samples)
    assert result.compared["SEARCH"] == len(CRITERIA)
    assert result.compared["SORT"] == len(SORTS) >= 60
    assert all(result.compared[f"THREAD {name.decode()}"] > len(samples) for name in THREADINGS)
    assert all(result.compared[f"talk: {name}"] == len(commands) for name, commands in TALKS.items())
    assert [(d.kind, d.field, d.sample.name, d.ours, d.theirs) for d in result.unexplained] == []


@pytest.mark.timeout(60)
def test_the_collection_is_the_same_each_time() -> None:
    assert [sample.data for sample in collect()] == [sample.data for sample in collect()]


def test_classes_have_names_of_their_own_and_a_section() -> None:
    assert len({row.name for row in CLASSES}) == len(CLASSES)
    assert all("§" in row.rfc for row in CLASSES)


@pytest.mark.parametrize(
    ("kind", "field", "ours", "theirs"),
    [
        ("ENVELOPE", "from", [[None, None, b"a", b"example.org"]], [[b"Alice", None, b"a", b"example.org"]]),
        ("ENVELOPE", "date", b"Mon, 1 Jan 2024", b"Mon, 1 Jan 2024 10:00:00 +0000"),
        ("BODYSTRUCTURE", "1:params", None, [(b"charset", b"us-ascii")]),
        ("BODYSTRUCTURE", "1:octets", b"5", b"6"),
        ("BODYSTRUCTURE", "1:lines", b"2", b"1"),
        ("BODY[HEADER.FIELDS (SUBJECT)]", "BODY[HEADER.FIELDS (SUBJECT)]", b"Subject: x\r\n", b"Subject: x\r\n\r\n"),
        ("BODY[n]", "BODY.PEEK[1]", b"body", b"body\r\n"),
        ("BODY[n]", "BODY.PEEK[1]", None, b"body\r\n"),
        ("BODY[n.MIME]", "BODY.PEEK[1.MIME]", None, b""),
        ("BINARY[n]", "BINARY.PEEK[1]", None, b"body\r\n"),
        ("BINARY.SIZE[n]", "BINARY.SIZE[1]", b"5", b"6"),
        ("RFC822.SIZE", "RFC822.SIZE", b"1", b"2"),
        ("SEARCH", "SEARCH SENTSINCE 1-Jan-2001", False, True),
        ("SEARCH", 'SEARCH FROM "alice"', False, True),
        ("SEARCH", 'SEARCH BODY "body"', False, True),
        ("SEARCH", "SEARCH CHARSET UTF-8 TEXT x", True, False),
        ("SEARCH", 'SEARCH TEXT "content-type"', False, True),
        ("SEARCH", "SEARCH SEEN", True, False),
        ("SEARCH", "SEARCH LARGER 5", True, False),
        ("SEARCH", 'SEARCH SUBJECT "  "', True, False),
        ("SEARCH", "SEARCH NOT (BODY body) SEEN", True, False),
        ("SEARCH", "SEARCH CHARSET UTF-8 ALL", "NO", "OK"),
        ("ENVELOPE", "subject", b"x", b"x "),
        ("SORT", "SORT (SUBJECT) UTF-8 ALL", 1, 2),
        ("SORT", "SORT (REVERSE DATE FROM SIZE) UTF-8 ALL", 1, 2),
        ("SORT", "SORT (NONSENSE) UTF-8 ALL", "BAD", "OK"),
        ("THREAD REFERENCES", "order", 1, 2),
        ("THREAD ORDEREDSUBJECT", "parent", "a", ""),
        ("THREAD REFS", "parent, an id of two", "", "a"),
        ("THREAD REFS", "order of threads", [2, 1], [1, 2]),
    ],
)
def test_a_wrong_answer_about_a_plain_message_has_no_explanation(
    kind: str, field: str, ours: object, theirs: object
) -> None:
    assert explain(Difference(PLAIN, kind, field, ours, theirs)) is None


@pytest.mark.parametrize(
    ("field", "ours", "theirs"),
    [
        ('LIST "" "*"', {"LIST": [(b"a", [b"\\hasnochildren"], b"/", [])]}, {"LIST": [(b"b", [], b"/", [])]}),
        (
            'LIST "" "*" RETURN (CHILDREN)',
            {"LIST": [(b"a", [b"\\haschildren"], b"/", [])]},
            {"LIST": [(b"a", [], b"/", [])]},
        ),
        ("STORE 1 FLAGS ()", {"status": b"OK", "fetch": {1: {b"UID": b"1"}}}, {"status": b"NO"}),
        ("STORE 1 FLAGS.SILENT ()", {"fetch": {1: {b"UID": b"1"}}}, {}),
        ("FETCH 1 FLAGS", {"fetch": {1: {b"FLAGS": [b"x"], b"MODSEQ": "some"}}}, {"fetch": {1: {b"FLAGS": []}}}),
        ("SELECT Talk", {"codes": {b"CLOSED"}}, {"codes": {b"HIGHESTMODSEQ"}}),
        ("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)", {"vanished True": {1}}, {"vanished True": {1, 2}}),
        ("SEARCH RETURN (MIN) ALL", {"esearch": {b"MIN": [1]}}, {"esearch": {b"MIN": [2]}}),
    ],
)
def test_a_wrong_answer_in_a_conversation_has_no_explanation(field: str, ours: object, theirs: object) -> None:
    assert not any(row.holds(Difference(PLAIN, "talk: test", field, ours, theirs)) for row in EXPLAINED_TALK)
