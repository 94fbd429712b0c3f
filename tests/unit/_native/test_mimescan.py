"""The MIME scanner against its plain model, and on what is known to hurt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sora._native.mimescan import LEAF, MESSAGE, MULTIPART, OPAQUE, TEXT, Part, scan
from tests.support import models_mime as model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOUNDARIES = ["b", "bb", "b--", "outer", "outer-inner"]
newline = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"])
boundary_line = st.sampled_from(BOUNDARIES).flatmap(
    lambda b: st.sampled_from([f"--{b}", f"--{b}", f"--{b}--", f"--{b} ", f"--{b}x", f"--{b}-", f"--{b}--x", f"-{b}"])
)
header_line = st.sampled_from(
    [
        *(f"Content-Type: multipart/{kind}; boundary={b}" for b in BOUNDARIES for kind in ("mixed", "digest")),
        *(f'Content-Type: multipart/mixed;\r\n\tBOUNDARY="{b} "' for b in BOUNDARIES),
        "Content-Type: multipart/mixed",
        "Content-Type: message/rfc822",
        "content-type : MESSAGE/RFC822",
        "Content-Type: text/html; charset=x",
        "Content-Type: image/png",
        "Content-Type: nonsense",
        "Subject: x",
        "no colon",
        ": no name",
        " folded",
        "\tfolded",
    ]
)
body_line = st.sampled_from(["", "", "text", "--", "-", "\r", "a\rb", " ", "\0", "ä"])
line = st.one_of(header_line, boundary_line, body_line)
mangled = st.lists(st.tuples(line, newline).map("".join), max_size=40).map(lambda lines: "".join(lines).encode())


@st.composite
def entities(draw: st.DrawFn, depth: int = 0) -> str:
    """A well-formed entity, with CRLF."""
    kind = draw(st.sampled_from(["text", "none", "message", "multipart", "multipart"])) if depth < 4 else "text"
    if kind == "multipart":
        boundary = f"{draw(st.sampled_from(BOUNDARIES))}{depth}"
        parts = draw(st.lists(entities(depth + 1), max_size=3))
        lines = [f"Content-Type: multipart/mixed; boundary={boundary}", ""]
        for part in parts:
            lines += [f"--{boundary}", part]
        return "\r\n".join([*lines, f"--{boundary}--", *draw(st.lists(st.just("epilogue"), max_size=1))])
    if kind == "message":
        return "Content-Type: message/rfc822\r\n\r\nSubject: inside\r\n" + draw(entities(depth + 1))
    head = "" if kind == "none" else "Content-Type: text/plain\r\n"
    return head + "\r\n" + draw(st.sampled_from(["", "one", "one\r\ntwo", "one\r\n", "\r\n"]))


def tree(part: Part) -> Iterator[Part]:
    """The part and all inside it."""
    yield part
    for child in part.children:
        yield from tree(child)


def assert_same(data: bytes, part: Part, expected: model.ModelPart) -> None:
    """The scanner says what the model says."""
    for name in ("header_start", "fields_end", "header_end", "body_end", "kind", "type", "subtype", "params"):
        assert getattr(part, name) == getattr(expected, name), name
    assert part.body_start == part.header_end
    assert part.header_lines == data.count(b"\n", part.header_start, part.header_end)
    assert part.body_lines == data.count(b"\n", part.header_end, part.body_end)
    assert [(name, data[start:end]) for name, start, end in part.lines()] == expected.fields
    assert len(part.children) == len(expected.children)
    for child, other in zip(part.children, expected.children, strict=True):
        assert_same(data, child, other)


def assert_sound(data: bytes, root: Part) -> None:
    """Spans are ordered, and every part lies inside the body of its parent."""
    assert (root.header_start, root.body_end) == (0, len(data))
    for part in tree(root):
        assert part.header_start <= part.fields_end <= part.header_end <= part.body_end
        position = part.header_end
        for child in part.children:
            assert position <= child.header_start
            position = child.body_end
        assert position <= part.body_end


@given(mangled)
@example(b"")
@example(b"Content-Type: message/rfc822\r\n\r\n")
@example(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n--b\r\n")
@example(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=bb\r\n--b")
@settings(max_examples=400)
def test_scan_is_the_model_on_mangled_messages(data: bytes) -> None:
    assert_same(data, scan(data), model.scan(data))


@given(mangled, st.integers(0, 3), st.integers(1, 6))
def test_scan_is_the_model_at_its_limits(data: bytes, max_depth: int, max_parts: int) -> None:
    assert_same(data, scan(data, max_depth, max_parts), model.scan(data, max_depth, max_parts))


@given(entities())
def test_scan_is_the_model_on_well_formed_messages(text: str) -> None:
    data = text.encode()
    assert_same(data, scan(data), model.scan(data))
    assert_sound(data, scan(data))


@given(st.one_of(st.binary(max_size=300), mangled))
def test_scan_never_raises_and_spans_are_sound(data: bytes) -> None:
    root = scan(data)
    assert_sound(data, root)
    for part in tree(root):
        for name, value in part.fields():
            assert name
            assert not set(value) & set(b"\r\n\0")


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def bodies(data: bytes) -> list[bytes]:
    """Bodies of the leaves."""
    return [data[part.header_end : part.body_end] for part in tree(scan(data)) if part.kind in (LEAF, TEXT)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the line end before a boundary is the boundary's (RFC 2046 §5.1.1)
        ("--b\n\none\n--b--\n", [b"one"]),
        ("--b\n\none\n\n--b--\n", [b"one\r\n"]),
        # it is never taken from the boundary line before, and may be the blank line of the header
        ("--b\n--b\n\nx\n--b--", [b"", b"x"]),
        ("--b\nX: y\n\n--b--", [b""]),
        # no terminator, text after it, a second beginning after it
        ("--b\n\none", [b"one"]),
        ("--b\n\none\n--b--\nepilogue\n--b\n\ntwo", [b"one"]),
        # a boundary inside a header ends the part
        ("--b\nX: y\n--b\n\ntwo\n--b--", [b"", b"two"]),
        # the line need only begin with the boundary; white space may follow
        ("--bx\n\none\n--b \n\ntwo\n--b--y", [b"one", b"two"]),
        # a boundary of an outer multipart ends the inner ones
        ("--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\none\n--b\n\ntwo\n--b--", [b"one", b"two"]),
        # prefixes of each other: the longest counts
        ("--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\none\n--bb--\n--b\n\ntwo", [b"one", b"two"]),
        ("--b\nContent-Type: multipart/mixed; boundary=b--\n\n--b--\n\none\n--b----\n--b\n\n2", [b"one", b"2"]),
        # the same boundary inside and outside: the inner one counts until it ends
        ("--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n--b\n\ntwo\n--b--", [b"one", b"two"]),
    ],
)
def test_boundaries(text: str, expected: list[bytes]) -> None:
    assert bodies(crlf("Content-Type: multipart/mixed; boundary=b\n\n" + text)) == expected


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_line_ends(eol: str) -> None:
    data = eol.join(["Content-Type: multipart/mixed; boundary=b", "", "--b", "", "a\rb", "--b--", ""]).encode()
    assert bodies(data) == [b"a\rb"]
    assert scan(data).header_lines == 2


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("text/plain", TEXT),
        ("TEXT/Html", TEXT),
        ("text", TEXT),
        ("text/", TEXT),
        ("/plain", TEXT),
        ("image png", TEXT),
        ("", TEXT),
        ("image/png", LEAF),
        ("textual/plain", LEAF),
        ("message/rfc822", MESSAGE),
        ("message/delivery-status", LEAF),
        ("multipart/mixed", MULTIPART),
        ("multipart/mixed; boundary=", MULTIPART),
        ("(c) multipart (c) / mixed (c)", MULTIPART),
    ],
)
def test_kind(content_type: str, kind: int) -> None:
    part = scan(f"Content-Type: {content_type}\r\n\r\nx".encode())
    assert part.kind == kind


def test_type_falls_back_to_plain_text() -> None:
    part = scan(b"Content-Type: image\r\n\r\nx")
    assert (part.type, part.subtype, part.params) == (b"text", b"plain", [])


def test_the_first_content_type_counts() -> None:
    assert scan(b"Content-Type: text/html\r\nContent-Type: image/png\r\n\r\n").subtype == b"html"


def test_parts_of_a_digest_are_messages_unless_they_say_otherwise() -> None:
    data = crlf(
        "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\none\n--b\nContent-Type: text/plain\n\ntwo\n"
    )
    first, second = scan(data).children
    assert (first.kind, second.kind) == (MESSAGE, TEXT)
    assert first.children[0].first(b"subject") == b"x"


def test_boundary_in_pieces() -> None:
    """RFC 2231 §3."""
    data = crlf('Content-Type: multipart/mixed; boundary*0="a"; boundary*1=b\n\n--ab\n\none\n--ab--')
    assert bodies(data) == [b"one"]


def test_fields() -> None:
    data = b"A : 1\r\nB:\t2\r\n  3\r\nnothing\r\n c\r\nb: a\rb\0c\n\td\r\nC:\r\n\r\nB: body"
    part = scan(data)
    assert part.fields() == [
        (b"A", b"1"),
        (b"B", b"2  3"),
        (b"b", b"a b\xef\xbf\xbdc d"),
        (b"C", b""),
    ]
    assert (part.first(b"b"), part.last(b"b")) == (b"2  3", b"a b\xef\xbf\xbdc d")
    assert part.every(b"b") == [b"2  3", b"a b\xef\xbf\xbdc d"]
    assert (part.first(b"x"), part.last(b"x"), part.every(b"x")) == (None, None, [])
    assert [name for name, _, _ in part.lines()] == [b"a", b"b", b"", b"b", b"c"]
    assert data[part.fields_end : part.header_end] == b"\r\n"


def nested(levels: int, open_one: Callable[[int], str]) -> bytes:
    return crlf("".join(open_one(i) for i in range(levels)) + "end")


def depth(part: Part) -> int:
    """Levels of parts, the part's own included."""
    return 1 + max(map(depth, part.children), default=0)


@pytest.mark.parametrize(
    "open_one",
    [
        lambda _: "Content-Type: message/rfc822\n\n",
        lambda i: f"Content-Type: multipart/mixed; boundary=b{i:03}\n\n--b{i:03}\n",
        lambda _: "Content-Type: multipart/mixed; boundary=b\n\n--b\n",
    ],
)
def test_depth_is_limited(open_one: Callable[[int], str]) -> None:
    root = scan(nested(500, open_one))
    assert depth(root) == 101
    assert all(part.kind == OPAQUE for part in tree(root) if depth(part) == 1 and part.type != b"text")


def test_number_of_parts_is_limited() -> None:
    data = crlf("Content-Type: multipart/mixed; boundary=b\n\n" + "--b\n\nx\n" * 12_000)
    root = scan(data)
    assert len(root.children) == 9_999
    assert root.children[-1].body_end == len(data)
    assert scan(data, 100, 3).children[-1].body_lines == data.count(b"\n") - 7


@pytest.mark.parametrize(
    "data",
    [
        b"\n" * 1_000_000,
        b"X: y\n" * 200_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n" * 250_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--\n" * 300_000,
        nested(99, lambda i: f"Content-Type: multipart/mixed; boundary=b{i:03}\n\n--b{i:03}\n") + b"--bx\n" * 200_000,
        b"Subject: " + b"a\n " * 300_000,
    ],
    ids=["newlines", "fields", "parts", "dashes", "deep", "folds"],
)
def test_time_is_linear(data: bytes) -> None:
    """A megabyte of the worst is scanned in well under a second; anything quadratic takes minutes."""
    started = time.process_time()
    scan(data)
    assert time.process_time() - started < 2
