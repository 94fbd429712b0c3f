"""Charsets, encoded words, transfer encodings, HTML and folding."""

from __future__ import annotations

import base64
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.mime import text


@pytest.mark.parametrize(
    ("data", "charset", "expected"),
    [
        (b"abc", b"us-ascii", "abc"),
        ("ä".encode(), b"UTF-8", "ä"),
        ("ä".encode(), b"us-ascii", "ä"),
        ("ä".encode(), b"", "ä"),
        (b"\xe4", b"", "ä"),
        (b"\xe4", b"no-such-charset", "ä"),
        (b"\x80", b"iso-8859-1", "€"),
        (b"\x80", b"Latin1", "€"),
        (b"\xa4", b"iso-8859-15", "€"),
        (b"\x93x\x94", b"windows-1252", "\u201cx\u201d"),
        (b"\xcf\xf0\xe8", b"windows-1251", "При"),
        (b"\xcf\xd2", b"KOI8-R", "ор"),
        ("中".encode("gbk"), b"gb2312", "中"),
        ("한".encode("cp949"), b"ks_c_5601-1987", "한"),
        ("日".encode("cp932"), b"Shift_JIS", "日"),
        ("日本".encode("iso2022_jp"), b"ISO-2022-JP", "日本"),
        ("ä".encode("utf_16"), b"utf-16", "ä"),
        ("ä".encode("utf_7"), b"utf-7", "ä"),
        (b"\xe4", b'"iso-8859-1"', "ä"),
        (b"\xe4", b"iso-8859-1*en", "ä"),
        (b"\xff\xfe", b"utf-8", "\ufffd\ufffd"),
        # Python codecs that are no charsets, or that are slow, are not used
        (b"YQ==", b"base64", "YQ=="),
        (b"nop", b"rot13", "nop"),
        (b"xn--4ca", b"idna", "xn--4ca"),
        (b"a-", b"punycode", "a-"),
        (b"\\n", b"unicode_escape", "\\n"),
        (b"x", b"undefined", "x"),
        (b"x", b"\0\xff", "x"),
    ],
)
def test_decode_charset(data: bytes, charset: bytes, expected: str) -> None:
    assert text.decode_charset(data, charset) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"plain", "plain"),
        (b"=?UTF-8?Q?a=C3=A4_b?=", "aä b"),
        (b"=?utf-8?B?w6Q=?=", "ä"),
        (b"a =?iso-8859-1?q?=E4?= b", "a ä b"),
        # white space between encoded words vanishes (RFC 2047 §8)
        (b"=?utf-8?q?a?= =?utf-8?q?b?=", "ab"),
        (b"=?utf-8?q?a?=\t =?iso-8859-1?q?=E4?=", "aä"),
        (b"=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        (b"=?utf-8?q?a?==?utf-8?q?b?=", "ab"),
        # characters split over two words
        (b"=?utf-8?q?=C3?= =?UTF-8?q?=A4?=", "ä"),
        (b"=?utf-8?b?ww==?= =?utf-8?b?pA==?=", "ä"),
        # language (RFC 2231 §5), spaces inside, broken encodings
        (b"=?utf-8*en?q?a?=", "a"),
        (b"=?utf-8?q?a b?=", "a b"),
        (b"=?utf-8?b?w6Q?=", "ä"),
        (b"=?utf-8?q?=ZZ?=", "=ZZ"),
        # not encoded words
        (b"=?utf-8?x?a?=", "=?utf-8?x?a?="),
        (b"=?utf-8?q?a", "=?utf-8?q?a"),
        (b"=?=?=?", "=?=?=?"),
        (b"\xc3\xa4 =?utf-8?q?a?= \xe4", "ä a ä"),
        (b"a\0b", "a\ufffdb"),
    ],
)
def test_decode_words(value: bytes, expected: str) -> None:
    assert text.decode_words(value) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"YWJj", b"abc"),
        (b"YW\r\nJj\r\n", b"abc"),
        (b"YWI=", b"ab"),
        (b"YWI", b"ab"),
        (b"YWJjZ", b"abc"),
        (b"Y!W J-j", b"abc"),
        (b"", b""),
        (b"\xff", b""),
    ],
)
def test_decode_base64(data: bytes, expected: bytes) -> None:
    assert text.decode_base64(data) == expected


@given(st.binary(max_size=60))
def test_decode_base64_takes_everything(data: bytes) -> None:
    assert text.decode_base64(base64.b64encode(data)) == data
    text.decode_base64(data)


def test_decode_transfer() -> None:
    assert text.decode_transfer(b"YQ==", b"BASE64") == b"a"
    assert text.decode_transfer(b"a=3D=\r\nb_", b"Quoted-Printable") == b"a=b_"
    assert text.decode_transfer(b"a=3D", b"8bit") == b"a=3D"
    assert text.decode_transfer(b"a=3D", b"x-unknown") == b"a=3D"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("plain", "plain"),
        ("<p>a<b>b</b>c</p>", "abc"),
        ("a<br>b<div>c</div>", "a b c"),
        ("<td>a</td><td>b</td>", "a b"),
        ("<SCRIPT>x < y</script >a<style>b</style>c", "a c"),
        ("<title>t</title>a<!-- b > c -->d", "ad"),
        ("<aside>a</aside><bogus>b", "a b"),
        ("a <!-- open", "a"),
        ("<script>open", ""),
        ("a < b > c", "a < b > c"),
        ("a<", "a<"),
        ("a <b", "a <b"),
        ("<!DOCTYPE html><?xml?>a", "a"),
        ("&lt;a&gt; &amp;&auml;&#228;&#xE4;&nbsp;b", "<a> &äää b"),
        ("&#0;&#xD800;&#99999999;&nosuch;", "\ufffd\ufffd\ufffd9;&nosuch;"),
        ("<img alt='x'>a<hr/>b", "a b"),
    ],
)
def test_html_text(html: str, expected: str) -> None:
    assert text.collapse(text.html_text(html)) == expected


@given(st.lists(st.sampled_from(["<", ">", "/", "!--", "-->", "a", " ", "&#0;", "&#xDFFF;", "&x", "ä"])).map("".join))
def test_html_text_takes_everything(html: str) -> None:
    found = text.html_text(html)
    assert text.clean(found) == found


@pytest.mark.parametrize("piece", ["<", "<a", "<!--", "<script>", "&#1", "&", "<a>", "</", "<!-- -->", "&#99999999999"])
def test_html_text_takes_linear_time(piece: str) -> None:
    started = time.process_time()
    text.html_text(piece * (400_000 // len(piece)))
    assert time.process_time() - started < 3


def test_one_tag_that_never_ends_takes_linear_time() -> None:
    """Its name and what follows can be told apart at every letter."""
    started = time.process_time()
    text.html_text("x<" + "a" * 400_000)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("piece", [b"=?", b"=?a?q?", b"=?a?q?b", b"=?utf-8?q?a?= ", b"=?a?q?b?=x", b"?=", b" \t"])
def test_decode_words_takes_linear_time(piece: bytes) -> None:
    started = time.process_time()
    text.decode_words(piece * (400_000 // len(piece)))
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("first", "second"),
    [("abc", "ABC"), ("Äö", "äÖ"), ("É", "e\u0301"), ("Σ", "ς"), ("ǆ", "ǅ"), ("й", "Й")],
)
def test_fold_makes_equal(first: str, second: str) -> None:
    assert text.fold(first) == text.fold(second)


@pytest.mark.parametrize(
    "marks", ["\u0300\u0316", "\u0316\u0344\u0f73", "\uff9e\u0f71\u0301", "\u0301" * 40 + "\u0323"]
)
def test_fold_of_a_tower_of_marks_is_linear(marks: str) -> None:
    """Each mark would be carried past all others, one by one: 64,000 of them took 3 s, four times as many a minute."""
    short = "\u00e9" + marks * 100 + "x" + marks * 10
    assert text.fold(short) == unicodedata.normalize("NFKD", short.upper())
    long = "\u00e9" + marks * (100_000 // len(marks)) + "\u00e9"
    started = time.thread_time()
    folded = text.fold(long)
    assert time.thread_time() - started < 1
    assert unicodedata.is_normalized("NFKD", folded)


def test_every_mark_is_known() -> None:
    marks = [
        char
        for char in map(chr, (*range(0x80, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)))
        if unicodedata.combining(unicodedata.normalize("NFKD", char)[0])
    ]
    assert len(marks) > 900
    assert text._MARKS.fullmatch("".join(marks))


def test_fold_is_titlecase_then_decomposition() -> None:
    assert text.fold("straße") == "STRAßE"
    assert text.fold("ǳ") == "Dz"
    assert text.fold("ﬀ") == "ff"
    assert text.fold("ŉ") == "ʼn"


def simple_title(char: str) -> str:
    """The simple titlecase mapping: the full one where it is one character."""
    title = char.title()
    return title if len(title) == 1 else char


@given(st.text(max_size=40))
def test_fold_is_the_definition(value: str) -> None:
    assert text.fold(value) == unicodedata.normalize("NFKD", "".join(map(simple_title, value)))


@given(st.text(st.characters(), max_size=20))
def test_clean_text_can_be_stored(value: str) -> None:
    cleaned = text.clean(value)
    assert "\0" not in cleaned
    cleaned.encode()
    if "\0" not in value and not any(0xD800 <= ord(char) < 0xE000 for char in value):
        assert cleaned == value


@given(st.binary(max_size=40), st.one_of(st.sampled_from(sorted(text._CODECS)).map(str.encode), st.binary(max_size=9)))
def test_every_charset_takes_everything(data: bytes, charset: bytes) -> None:
    decoded = text.decode_charset(data, charset)
    assert "\0" not in decoded
    decoded.encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a= \r\nb", b"ab"),
        (b"x \t\r\ny ", b"x\r\ny"),
        (b"x=20 \nz", b"x \nz"),
        (b"a  b", b"a  b"),
    ],
)
def test_white_space_at_the_end_of_quoted_printable_lines_is_deleted(data: bytes, expected: bytes) -> None:
    """RFC 2045 §6.7 rule 3."""
    assert text.decode_transfer(data, b"Quoted-Printable") == expected


def test_much_white_space_in_quoted_printable_takes_linear_time() -> None:
    assert text.decode_transfer(b" " * 1_000_000 + b"x", b"quoted-printable") == b" " * 1_000_000 + b"x"


_CHARSETS = sorted({*text._CODECS.values()} - {name for name in text._CODECS.values() if name.startswith("iso2022")})
_octets = st.lists(
    st.sampled_from(b"a|\n|+AOQ-|\xc3\xa4|\xe4|\xff\xfe|\xfe\xff|\0|\xd8|\xdc\0|~{|\x1b$B".split(b"|")), max_size=20
).map(b"".join)


@given(data=_octets, charset=st.sampled_from(_CHARSETS), size=st.integers(1, 9))
def test_in_pieces_it_is_the_same(data: bytes, charset: str, size: int) -> None:
    assert "".join(text.decode_pieces(data, charset.encode(), size)) == text.decode_charset(data, charset.encode())


def test_iso_2022_in_pieces() -> None:
    data = "日本\n語 abc\n".encode("iso2022_jp") * 9
    for size in (4, 10, 1000):
        assert "".join(text.decode_pieces(data, b"iso-2022-jp", size)) == "日本\n語 abc\n" * 9
    assert len(list(text.decode_pieces(b"\x1b" * 1000, b"iso-2022-jp", 10))) == 25


@given(
    html=st.lists(
        st.sampled_from(["a", "<p>", "<", "<!--", "-->", "<script x>", "</script>", "<title>", ">", "b c"])
    ).map("".join),
    size=st.integers(1, 9),
)
def test_what_hides_in_pieces_is_the_same(html: str, size: int) -> None:
    assert "".join(text.shown_pieces(html, size)) == text.without_hidden(html)
