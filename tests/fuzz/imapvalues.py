"""Reads what a server sends as a client must: parenthesised lists, and the shape of ENVELOPE and BODYSTRUCTURE."""

from __future__ import annotations

import re
from typing import Any, Final

_QUOTED: Final = re.compile(rb'"((?:[^"\\\r\n\x00\x80-\xff]|\\["\\])*)"')
_LITERAL: Final = re.compile(rb"\{(\d+)\}\r\n")
_NUMBER: Final = re.compile(rb"\d+")


def read_value(text: bytes) -> Any:
    """A value and nothing behind it: lists, octets, numbers and None for NIL. Raises AssertionError."""
    stack: list[list[Any]] = [[]]
    at, spaced = 0, True
    while at < len(text):
        if text[at : at + 1] == b"(":
            stack.append([])
            at, spaced = at + 1, True
        elif text[at : at + 1] == b")":
            inner = stack.pop()
            assert stack, "a list ends that did not begin"
            assert not inner or not spaced, "a space at the end of a list"
            stack[-1].append(inner)
            at, spaced = at + 1, False
        elif text[at : at + 1] == b" ":
            assert not spaced, "a space that separates nothing"
            at, spaced = at + 1, True
        else:
            assert spaced, "no space between two values"
            value, at = _scalar(text, at)
            stack[-1].append(value)
            spaced = False
    assert len(stack) == 1, "a list that does not end"
    (value,) = stack[0]
    return value


def _scalar(text: bytes, at: int) -> tuple[Any, int]:
    if text.startswith(b"NIL", at):
        return None, at + 3
    if match := _QUOTED.match(text, at):
        return re.sub(rb"\\(.)", rb"\1", match[1]), match.end()
    if match := _LITERAL.match(text, at):
        end = match.end() + int(match[1])
        assert end <= len(text), "a literal that is longer than what follows"
        assert b"\0" not in text[match.end() : end]
        return text[match.end() : end], end
    match = _NUMBER.match(text, at)
    assert match is not None, f"no value: {text[at : at + 20]!r}"
    return int(match[0]), match.end()


def check_envelope(value: Any) -> None:
    """RFC 3501 §9: env-date, subject, six address lists, in-reply-to, message-id."""
    assert len(value) == 10
    for position in (0, 1, 8, 9):
        _nstring(value[position])
    for addresses in value[2:8]:
        assert addresses is None or addresses
        for address in addresses or ():
            assert len(address) == 4
            for word in address:
                _nstring(word)


def check_body(value: Any, *, extended: bool) -> None:
    """RFC 3501 §9: body, with or without extension data."""
    assert isinstance(value, list)
    parts = [item for item in value if isinstance(item, list)] if isinstance(value[0], list) else []
    if parts:
        count = next(index for index, item in enumerate(value) if not isinstance(item, list))
        for part in value[:count]:
            check_body(part, extended=extended)
        _string(value[count])
        _extension(value[count + 1 :], extended, 4, parameters_first=True)
        return
    kind, subtype = value[0], value[1]
    _string(kind)
    _string(subtype)
    _parameters(value[2])
    _nstring(value[3])
    _nstring(value[4])
    _string(value[5])
    assert isinstance(value[6], int)
    rest = value[7:]
    if (kind.lower(), subtype.lower()) == (b"message", b"rfc822"):
        check_envelope(rest[0])
        check_body(rest[1], extended=extended)
        assert isinstance(rest[2], int)
        rest = rest[3:]
    elif kind.lower() == b"text":
        assert isinstance(rest[0], int)
        rest = rest[1:]
    _extension(rest, extended, 4, parameters_first=False)


def _extension(rest: list[Any], extended: bool, count: int, *, parameters_first: bool) -> None:
    """Parameters or MD5, disposition, language, location; nothing in BODY."""
    assert len(rest) == (count if extended else 0)
    if not extended:
        return
    (_parameters if parameters_first else _nstring)(rest[0])
    if rest[1] is not None:
        name, parameters = rest[1]
        _string(name)
        _parameters(parameters)
    for tag in rest[2] if isinstance(rest[2], list) else ():
        _string(tag)
    _nstring(rest[3])


def _parameters(value: Any) -> None:
    assert value is None or (value and len(value) % 2 == 0)
    for word in value or ():
        _string(word)


def _string(value: Any) -> None:
    assert isinstance(value, bytes)


def _nstring(value: Any) -> None:
    assert value is None or isinstance(value, bytes)
