"""ESEARCH responses."""

from __future__ import annotations

import pytest

from sora._native.seqset import SeqSet, UidSet
from sora.wire import imap_esearch as responses
from sora.wire.imap_esearch import Place


def test_esearch_line_has_what_was_asked() -> None:
    found = UidSet.parse(b"3,5:7")

    def line(*returns: str) -> bytes:
        return responses.esearch_line(b'a"1', found, returns, uid=True)

    assert line("COUNT") == b'* ESEARCH (TAG "a\\"1") UID COUNT 4\r\n'
    assert line("MIN", "MAX") == b'* ESEARCH (TAG "a\\"1") UID MIN 3 MAX 7\r\n'
    assert line("ALL") == b'* ESEARCH (TAG "a\\"1") UID ALL 3,5:7\r\n'
    assert line("SAVE") == b'* ESEARCH (TAG "a\\"1") UID\r\n'


def test_esearch_line_of_nothing() -> None:
    everything = ("MIN", "MAX", "ALL", "COUNT")
    written = responses.esearch_line(b"a", SeqSet.empty(), everything, uid=False, modseq=5)
    assert written == b'* ESEARCH (TAG "a") COUNT 0\r\n'
    assert responses.esearch_line(b"a", SeqSet.parse(b"2"), ["ALL"], uid=False, modseq=5).endswith(
        b"ALL 2 MODSEQ 5\r\n"
    )


@pytest.mark.parametrize(
    ("partial", "page"),
    [
        ((1, 2), b"1:2 10:11"),
        ((2, 1), b"2:1 10:11"),
        ((3, 10), b"3:10 20:21"),
        ((5, 9), b"5:9 NIL"),
        ((-1, -1), b"-1:-1 21"),
        ((-1, -3), b"-1:-3 11,20:21"),
        ((-9, -4), b"-9:-4 10"),
        ((-9, -5), b"-9:-5 NIL"),
    ],
)
def test_partial(partial: tuple[int, int], page: bytes) -> None:
    found = UidSet.parse(b"10,11,20,21")
    written = responses.esearch_line(b"a", found, ["PARTIAL"], uid=True, partial=partial)
    assert written == b'* ESEARCH (TAG "a") UID PARTIAL (%s)\r\n' % page


def test_a_list_keeps_its_order() -> None:
    """Ranges only where expanding them gives the list again (RFC 5267 §3.2)."""
    found = [7, 6, 3, 4, 5, 9]
    written = responses.esearch_line(b"a", found, ["MIN", "MAX", "ALL", "COUNT"], uid=True)
    assert written == b'* ESEARCH (TAG "a") UID MIN 7 MAX 9 ALL 7,6,3:5,9 COUNT 6\r\n'
    assert responses.esearch_line(b"a", [], ["MIN", "ALL"], uid=False) == b'* ESEARCH (TAG "a")\r\n'
    written = responses.esearch_line(b"a", found, ["PARTIAL"], uid=False, partial=(-2, -3))
    assert written == b'* ESEARCH (TAG "a") PARTIAL (-2:-3 4:5)\r\n'
    assert list(responses.as_list(found)) == found
    assert list(responses.as_list(UidSet.parse(b"3:5"))) == [3, 4, 5]


def test_scores_and_places() -> None:
    written = responses.esearch_line(b"B1", [5, 10, 1], ["ALL", "RELEVANCY"], uid=False, scores=[99, 42, 4])
    assert written == b'* ESEARCH (TAG "B1") ALL 5,10,1 RELEVANCY (99 42 4)\r\n'
    place = Place("folder2/B\u00e4r", 503)
    written = responses.esearch_line(b"t", UidSet.parse(b"3002,3004"), ["ALL"], uid=True, place=place)
    assert written == b'* ESEARCH (TAG "t" MAILBOX folder2/B&AOQ-r UIDVALIDITY 503) UID ALL 3002,3004\r\n'
    written = responses.esearch_line(b"t", UidSet.parse(b"1"), ["ALL"], uid=True, place=place, utf8=True)
    assert b'MAILBOX "folder2/B\xc3\xa4r" UIDVALIDITY 503' in written or b"MAILBOX folder2/B\xc3\xa4r " in written


def test_updates() -> None:
    written = responses.update_line(b"B01", b"ADDTO", [(0, UidSet.parse(b"32768:32769"))], uid=True)
    assert written == b'* ESEARCH (TAG "B01") UID ADDTO (0 32768:32769)\r\n'
    written = responses.update_line(b"C01", b"REMOVEFROM", [(1, [2733]), (4, [9, 8])], uid=False)
    assert written == b'* ESEARCH (TAG "C01") REMOVEFROM (1 2733 4 9,8)\r\n'
