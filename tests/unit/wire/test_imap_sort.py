"""The grammar of SORT and THREAD."""

from __future__ import annotations

import pytest

from sora._native.imapscan import Command, NeedLiteral, Scanner
from sora.errors import BadSyntax
from sora.wire import imap_search as keys
from sora.wire.imap_search import Search
from sora.wire.imap_sort import MAX_CRITERIA, Algorithm, Criterion, Sort, SortKey, Thread, parse_sort, parse_thread


def scan(line: bytes) -> Command:
    scanner = Scanner()
    scanner.feed(b"a " + line + b"\r\n")
    while isinstance(command := scanner.next(), NeedLiteral):
        scanner.accept()
    assert isinstance(command, Command)
    return command


def search(key: keys.SearchKey, charset: str = "UTF-8", *, uid: bool = False) -> Search:
    return Search(key, uid, charset=charset, charset_given=True)


SORTS: dict[bytes, Sort] = {
    b"SORT (SUBJECT) UTF-8 ALL": Sort((Criterion(SortKey.SUBJECT),), search(keys.All())),
    b"uid sort (reverse date) us-ascii all": Sort(
        (Criterion(SortKey.DATE, reverse=True),), search(keys.All(), "US-ASCII", uid=True)
    ),
    b"SORT (SUBJECT REVERSE DATE ARRIVAL) {5}\r\nUTF-8 1 SEEN": Sort(
        (Criterion(SortKey.SUBJECT), Criterion(SortKey.DATE, reverse=True), Criterion(SortKey.ARRIVAL)),
        search(keys.And((keys.InSeqs(scan(b"SORT 1").cursor.sp().seqset()), keys.HasFlag(rb"\Seen", True)))),
    ),
    b"SORT (CC FROM SIZE TO DISPLAYFROM DISPLAYTO) ISO-8859-1 FROM \"\xe9\"": Sort(
        tuple(map(Criterion, [SortKey.CC, SortKey.FROM, SortKey.SIZE, SortKey.TO, SortKey.DISPLAYFROM,
                              SortKey.DISPLAYTO])),
        search(keys.HeaderText("FROM", "é", shortcut=True), "ISO-8859-1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), SORTS.items())
def test_sort(line: bytes, expected: Sort) -> None:
    assert parse_sort(scan(line).cursor) == expected


@pytest.mark.parametrize("algorithm", Algorithm)
def test_thread(algorithm: Algorithm) -> None:
    line = b"THREAD %s UTF-8 ALL" % algorithm.name.lower().encode()
    assert parse_thread(scan(line).cursor) == Thread(algorithm, search(keys.All()))


def test_a_charset_nobody_knows_is_known_to_be_that() -> None:
    assert not parse_sort(scan(b"SORT (DATE) KLINGON ALL").cursor).search.charset_known


@pytest.mark.parametrize(
    "line",
    [
        b"SORT", b"SORT ", b"SORT ()", b"SORT () UTF-8 ALL", b"SORT DATE UTF-8 ALL", b"SORT (DATE)",
        b"SORT (DATE) UTF-8", b"SORT (DATE) UTF-8 ", b"SORT (DATE,SIZE) UTF-8 ALL", b"SORT (DATE  SIZE) UTF-8 ALL",
        b"SORT (REVERSE) UTF-8 ALL", b"SORT (REVERSE REVERSE DATE) UTF-8 ALL", b"SORT (AGE) UTF-8 ALL",
        b"SORT (DATE UTF-8 ALL", b"SORT (DATE) UTF-8 X", b"SORT(DATE) UTF-8 ALL",
        b"SORT (" + b" ".join([b"DATE"] * (MAX_CRITERIA + 1)) + b") UTF-8 ALL",
    ],
)  # fmt: skip
def test_what_is_no_sort(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_sort(scan(line).cursor)


@pytest.mark.parametrize(
    "line",
    [b"THREAD", b"THREAD REFS", b"THREAD REFS UTF-8", b"THREAD JWZ UTF-8 ALL", b"THREAD (REFS) UTF-8 ALL",
     b"THREAD REFS UTF-8 ALL ALL)"],
)  # fmt: skip
def test_what_is_no_thread(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_thread(scan(line).cursor)
