"""Plain model of the IMAP scanner: the whole input at once, regular expressions, nothing incremental."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Event = tuple[object, ...]

_TAG = rb"[^\x00-\x20(){%*\"\\+\x7f-\xff]+"
_ATOM = rb"[^\x00-\x20(){%*\"\\\]\x7f-\xff]+"
_TAG_ONLY = re.compile(rb"(" + _TAG + rb")(?: |\Z)")
_TAG_OF_LONG_LINE = re.compile(rb"(" + _TAG + rb") ")
_HEAD = re.compile(rb"(" + _TAG + rb") ((?i:UID )?" + _ATOM + rb")(?= |\Z)")
_UID_ALONE = re.compile(rb"(?i:UID) ")
_LITERAL = re.compile(rb"(~?)\{([0-9]+)(\+?)\}\Z")
_TAIL = 64


def scan(data: bytes, max_line: int, decisions: Iterator[str]) -> list[Event]:
    """What the scanner must give.

    Returns:
        ("need", size, synchronizing, binary), ("streamed", bytes), ("error", class name, tag) and
        ("command", tag, name, uid, arguments), arguments being bytes and literals in order.
    """
    events: list[Event] = []
    pos = 0
    while pos is not None and pos < len(data):
        pos = _command(data, pos, max_line, decisions, events)
    return events


def _command(data: bytes, pos: int, max_line: int, decisions: Iterator[str], events: list[Event]) -> int | None:
    """One command from pos; where the next begins, or None if the input ends before."""
    head: re.Match[bytes] | None = None
    arguments: list[object] = []
    used = 0
    while True:
        end = data.find(b"\n", pos)
        raw = data[pos:] if end < 0 else data[pos:end]
        if used + len(raw) > max_line:
            tag = head[1] if head else _tag_of(_TAG_OF_LONG_LINE, raw[: max_line + 1])
            events.append(("error", "LineTooLong", tag))
            return _drain_line(data, pos)
        if end < 0:
            return None
        line, pos = raw.removesuffix(b"\r"), end + 1
        used += len(line)
        literal = _LITERAL.search(line)
        text = line[: literal.start()] if literal else line
        if head is None:
            head = _HEAD.match(line)
            if head is None:
                events.append(("error", "BadSyntax", _tag_of(_TAG_ONLY, line)))
                return _skip(data, pos, literal)
            text = text[head.end() :]
        if literal is None:
            arguments.append(text.rstrip(b" "))
            name = head[2].upper()
            events.append(("command", head[1], name, bool(_UID_ALONE.match(name)), _joined(arguments)))
            return pos
        arguments.append(text)
        size, synchronizing = int(literal[2]), not literal[3]
        events.append(("need", size, synchronizing, bool(literal[1])))
        decision = next(decisions)
        if decision == "discard":
            return pos if synchronizing else _skip(data, pos, literal)
        body = data[pos : pos + size]
        if decision == "stream" and body:
            events.append(("streamed", body))
        if len(body) < size:
            return None
        arguments.append((size, bool(literal[1]), None if decision == "stream" else body))
        pos += size


def _joined(arguments: list[object]) -> tuple[object, ...]:
    return tuple(argument for argument in arguments if argument != b"")


def _tag_of(pattern: re.Pattern[bytes], line: bytes) -> bytes | None:
    found = pattern.match(line)
    return found[1] if found else None


def _skip(data: bytes, pos: int, literal: re.Match[bytes] | None) -> int | None:
    """Behind a line that is not wanted: past the literal that follows unasked, and the line after it."""
    if literal is None or not literal[3]:
        return pos
    pos += int(literal[2])
    return _drain_line(data, pos) if pos <= len(data) else None


def _drain_line(data: bytes, pos: int) -> int | None:
    end = data.find(b"\n", pos)
    if end < 0:
        return None
    tail = data[pos:end][-_TAIL:].removesuffix(b"\r")
    return _skip(data, end + 1, _LITERAL.search(tail))
