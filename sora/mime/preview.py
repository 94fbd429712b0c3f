"""The first words of a message for a list of messages (RFC 8970): what its author wrote, on one line.

What a reply quotes, the line that introduces the quotation, the rule and the head of a forwarded message, and a
signature say nothing about this message in particular, so they are left out; unless nothing else is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sora.mime.text import collapse

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH: Final = 200
"""Characters (RFC 8970 §3.1: at most 256)."""
LOOKED_AT: Final = 8_192
"""Characters of a text that are taken apart line by line; whoever quotes more than that first has said nothing."""
INTRODUCTION_LINES: Final = 3
"""Mailers fold `On Thursday, 1 January 2026 at 10:00, Somebody <somebody@example.org> wrote:`."""
INTRODUCTION: Final = 250
"""Characters of such an introduction."""

_SIGNATURE: Final = re.compile(r"--[ \t]*")
"""RFC 3676 §4.3; many lose the space at its end."""
_RULE: Final = re.compile(r"[-_=*~#+.\s]{3,}")
_FORWARD: Final = re.compile(
    r"-{2,}\s*(?:original|forwarded|urspr|weitergeleitet|message d|mensaje)[^-]*-{2,}", re.IGNORECASE
)
_BLANKS: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\u3164\ufeff\uffa0]+"
)
"""What shows nothing: newsletters fill their preheaders with it."""


def preview(text: str) -> str:
    """At most `LENGTH` characters of a text, on one line; empty if it has none.

    Args:
        text: Decoded plain text, or the text of HTML.
    """
    own: list[str] = []
    size = 0
    for line in _own_lines(text[:LOOKED_AT]):
        own.append(line)
        size += len(line) + 1
        if size > LENGTH:
            break
    return _cut(" ".join(own)) or _cut(_shown(text[:LOOKED_AT])) or _cut(_shown(text))


def _shown(line: str) -> str:
    return collapse(line if line.isascii() else _BLANKS.sub("", line))


def _cut(line: str) -> str:
    """The beginning of a line, with whole words if one ends not far from there."""
    if len(line) <= LENGTH:
        return line
    end = line.rfind(" ", LENGTH - 30, LENGTH + 1)
    return line[: end if end > 0 else LENGTH].rstrip()


def _own_lines(text: str) -> Iterator[str]:
    """Lines of the author, one after the other, without those that are blank."""
    held: list[str] = []  # the last paragraph, which may turn out to introduce a quotation
    ended = False
    for raw in text.splitlines():
        line = _shown(raw)
        if _SIGNATURE.fullmatch(raw):
            break
        if line.startswith(">"):
            if not _introduces(held):
                yield from held
            held = []
            continue
        if not line:
            ended = True
            continue
        if _FORWARD.fullmatch(line):
            break
        if _RULE.fullmatch(line):
            continue
        if ended:
            yield from held
            held, ended = [], False
        held.append(line)
        while len(held) > INTRODUCTION_LINES:
            yield held.pop(0)
    yield from held


def _introduces(lines: list[str]) -> bool:
    """`… wrote:` in whatever language: an author's own line before a quotation seldom ends with a colon."""
    return bool(lines) and lines[-1].endswith(":") and len(" ".join(lines)) <= INTRODUCTION
