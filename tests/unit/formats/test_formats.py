"""File names, lists and separators of other stores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.formats import dovecot, flags, maildir, mbox, names
from sora.formats.lines import ToCrlf
from sora.store.mailboxes import canonical_name
from sora.types import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN

LEVELS = st.lists(st.text(max_size=300), max_size=40)


@given(st.lists(st.binary(max_size=8).map(lambda b: b.translate(bytes.maketrans(b"abcd", b"\r\n\r\n")))))
def test_line_ends_do_not_depend_on_where_the_pieces_end(pieces: list[bytes]) -> None:
    convert = ToCrlf()
    made = b"".join(convert.feed(piece) for piece in pieces)
    assert made == b"".join(pieces).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def test_a_cr_at_the_end_of_a_piece_belongs_to_the_next() -> None:
    convert = ToCrlf()
    assert [convert.feed(piece) for piece in (b"a\r", b"\nb\r", b"c\n")] == [b"a\r", b"\nb\r", b"c\r\n"]


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(LEVELS)
def test_whatever_the_levels_are_there_is_a_mailbox_name(levels: list[str]) -> None:
    name = names.name_of(levels)
    assert canonical_name(name) == name
    assert not {"", ".", ".."} & set(name.split("/"))


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="./", exclude_categories=["Cs"]), min_size=1), min_size=1
    )
)
def test_a_maildir_directory_leads_back_to_its_name(levels: list[str]) -> None:
    name = names.name_of(levels)
    if name == names.INBOX or not names.can_be_maildirpp(name):
        return
    directory = names.maildirpp_directory(name)
    assert b"/" not in directory
    assert names.name_of(names.maildirpp_levels(directory)) == name


@pytest.mark.parametrize(
    ("octets", "escape", "text"),
    [
        (b"&ANw-bung", "", "Übung"),
        (b"p&-q", "", "p&q"),
        ("Übung".encode(), "", "Übung"),
        (b"\xff", "", "ÿ"),
        (b"a%2eb%2", "%", "a.b%2"),
        (b"%zz", "%", "%zz"),
        (b"a\\2fb", "\\", "a/b"),
    ],
)
def test_levels_are_read_as_dovecot_writes_them(octets: bytes, escape: str, text: str) -> None:
    assert names.decode_level(octets, escape) == text


def test_names_stay_apart() -> None:
    taken: set[str] = set()
    for _ in range(4):
        taken.add(names.unlike("a", taken))
    assert taken == {"a", "a (2)", "a (3)", "a (4)"}
    assert names.name_of(["inbox", "..", "x\ny"]) == "INBOX/__/x_y"


# ── flags ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "kept"),
    [("$Forwarded", "$Forwarded"), ("nil", "nil_"), ("Nile", "Nile"), ("a b(c)", "a_b_c_"), ("ü", ""), ("", "")],
)
def test_keywords_are_made_atoms(name: str, kept: str) -> None:
    assert flags.keyword(name) == kept


@given(st.lists(st.text(max_size=300)))
def test_whatever_a_server_calls_flags(found: list[str]) -> None:
    made = flags.of_names(found)
    assert len(made.keywords) <= flags.MAX_KEYWORDS
    assert len({word.lower() for word in made.keywords}) == len(made.keywords)
    assert all(word.isascii() and word.isprintable() and word.upper() != "NIL" for word in made.keywords)


def test_flags_of_an_imap_server() -> None:
    assert flags.of_names(["\\seen", "\\Recent", "\\Flagged", "a", "A"]) == flags.Flags((SEEN, FLAGGED), ("a",))


# ── maildir ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_name_of_a_maildir() -> None:
    assert maildir.parse(b"1.M2P3.vm,S=28,W=32:2,RSac") == maildir.FileName(b"1.M2P3.vm,S=28,W=32", "RSac")
    assert maildir.parse(b"1.new") == maildir.FileName(b"1.new", "")
    assert maildir.parse(b"1.old:1,S") == maildir.FileName(b"1.old", "")
    assert maildir.size_of(b"1.M2P3.vm,S=28,W=32") == 32
    assert maildir.size_of(b"1.vm,W=x", b"W") is None


def test_letters_and_flags() -> None:
    made = maildir.flags_of("DFPRSTac", {0: "one", 2: "three"})
    assert made == flags.Flags((SEEN, ANSWERED, FLAGGED, DELETED, DRAFT), ("$Forwarded", "one", "three"))
    assert maildir.letters_of((SEEN, ANSWERED, DELETED), (2, 0, 26)) == "RSTac"


# ── Dovecot's files ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_uidlist() -> None:
    header = dovecot.parse_uidlist_header(b"3 V1795376927 N5 G89c7e22f\n")
    assert header == dovecot.UidListHeader(3, 1795376927, 5)
    assert dovecot.parse_uidlist_header(b"1 7 9\n") == dovecot.UidListHeader(1, 7, 9)
    assert dovecot.parse_uidlist_header(b"2 V1 N2\n") is None
    assert dovecot.parse_uidlist_header(b"") is None
    assert dovecot.parse_uidlist_line(b"4 W32 P17.4 :1.M2 x,S=1:2,S\n", 3) == dovecot.UidListEntry(4, b"1.M2 x,S=1")
    assert dovecot.parse_uidlist_line(b"4 1.M2\n", 1) == dovecot.UidListEntry(4, b"1.M2")


@pytest.mark.parametrize(
    "line", [b"", b"4", b"4 \n", b"x :a\n", b"0 :a\n", b"99999999999 :a\n", b"4294967296 :a\n", b"4 W1\n"]
)
def test_a_torn_line_is_none(line: bytes) -> None:
    assert dovecot.parse_uidlist_line(line, 3) is None


def test_a_uidlist_that_was_written_is_read() -> None:
    entries = [dovecot.UidListEntry(3, b"a,S=1"), dovecot.UidListEntry(9, b"b,S=2")]
    first, *rest = dovecot.write_uidlist(5, 10, b"00", entries)
    assert dovecot.parse_uidlist_header(first) == dovecot.UidListHeader(3, 5, 10)
    assert [dovecot.parse_uidlist_line(line, 3) for line in rest] == entries


def test_keywords_and_subscriptions() -> None:
    text = dovecot.write_keywords({1: "$Junk", 0: "Später"})
    assert text == "0 Später\n1 $Junk\n".encode()
    assert dovecot.parse_keywords(text + b"x y\n\n2\n") == {0: "Später", 1: "$Junk"}
    text = dovecot.write_subscriptions(["INBOX", "Work/Übung & Co", "a.b"])
    assert text == b"V\t2\n\nINBOX\nWork\t&ANw-bung &- Co\na.b\n"
    assert dovecot.parse_subscriptions(text, b".") == [["INBOX"], ["Work", "Übung & Co"], ["a.b"]]
    assert dovecot.parse_subscriptions(b"Work.&ANw-bung\nSent\n", b".") == [["Work", "Übung"], ["Sent"]]


# ── mbox ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "date"),
    [
        (b"From ann@example.com Tue Mar  4 05:06:07 2015\n", datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC)),
        (b"From - Tue Mar 04 05:06:07 2015\r\n", datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC)),
        (b"From a b Tue Mar  4 05:06 2015", datetime(2015, 3, 4, 5, 6, tzinfo=UTC)),
        (
            b"From x@y Tue Mar  4 05:06:07 2015 +0130",
            datetime(2015, 3, 4, 5, 6, 7, tzinfo=timezone(timedelta(hours=1, minutes=30))),
        ),
        (b"From x Tue Mar  4 05:06:07 CET 2015", datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC)),
        (b"From x Tue Feb 31 05:06:07 2015", None),
        (b"From x Mon Jan  1 00:00:00 0001 +0100", None),
        (b"From x Fri Dec 31 23:59:59 9999 -0100", None),
    ],
)
def test_separators(line: bytes, date: datetime | None) -> None:
    found = mbox.parse_from(line)
    assert found is not None
    assert found.date == date


@pytest.mark.parametrize(
    "line", [b"From here to there\n", b"From: ann\n", b">From a Tue Mar  4 05:06:07 2015\n", b"From \n"]
)
def test_lines_that_are_no_separators(line: bytes) -> None:
    assert mbox.parse_from(line) is None


def test_fields_of_the_mailbox_are_none_of_the_message() -> None:
    found = mbox.parse_header(
        b"Status: RO\nFrom: a\nX-Status: AF\n D continued\nX-Keywords: one NIL\n\ttwo\nX-UID: 4\n"
        b"Content-Length: 12\nTo: b\n c\rX-UID: 5\n\n"
    )
    assert found.octets == b"From: a\nTo: b\n c\rX-UID: 5\n\n"
    assert found.flags == flags.Flags((SEEN, ANSWERED, FLAGGED), ("one", "NIL_", "two"), ("NIL",))
    assert found.content_length == 12


@given(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), st.integers(0, 3), st.booleans())
def test_what_mboxrd_quotes_it_gives_back(rest: bytes, marks: int, is_from: bool) -> None:
    line = b">" * marks + (b"From " if is_from else b"") + rest
    quoted = mbox.quote(line, "mboxrd")
    assert not quoted.startswith(b"From ")
    assert mbox.unquote(quoted, "mboxrd") == line


def test_flags_that_were_written_are_read() -> None:
    text = mbox.write_flags((SEEN, FLAGGED, DELETED), ("one", "two"))
    assert mbox.parse_header(text).flags == flags.Flags((SEEN, FLAGGED, DELETED), ("one", "two"))
    line = mbox.write_from("ann@example.com", datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC))
    assert line == b"From ann@example.com Wed Mar  4 05:06:07 2015\n"
    assert mbox.write_from("a\nb c", datetime(2015, 3, 4, tzinfo=UTC)).startswith(b"From abc Wed")
