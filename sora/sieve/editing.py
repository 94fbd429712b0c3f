"""`editheader` (RFC 5293): fields are added and deleted; what is filed or sent from then on is the edited message.

Fields that tell where a message came from, and those that the site names, stay as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sora.sieve import compose
from sora.sieve.checks import COMPARATOR_TAG, INDEX_TAGS, MATCH_TAGS, STRING, STRINGS, CommandRow, Tag
from sora.sieve.core import picker

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run
    from sora.sieve.mail import Mail

PROTECTED: Final = frozenset({"received", "auto-submitted", "x-sieve-redirected-from"})
"""RFC 5293 §6: these must not be deleted, and neither may the mark by which mail that comes back is known."""
MAX_VALUE: Final = 8 * 1024
"""Characters of a value."""
MAX_HEADER: Final = 1 << 20
"""Octets of a header that grows no more."""
HEADER_OCTETS: Final = 384
"""Of a header that one instruction copies and reads."""
VALUE: Final = 4
"""Characters of a value that one instruction folds."""
_NAME: Final = re.compile(r"[!-9;-~]+")
_WORDS: Final = re.compile(r"[ \t]*[^ \t]+")
_FOLD_AT: Final = 76
_LINE_ENDS: Final = re.compile(r"[\r\n]+[ \t]*")


def _addheader(check: Checker, bound: Bound) -> Callable[[Run], None]:
    name, value, last = bound.text(0), bound.text(1), ":last" in bound.tags
    if isinstance(name, str) and not _NAME.fullmatch(name):
        check.error(bound, f'"{name}" is no name of a header field')

    def run(state: Run) -> None:
        field = state.text(name)
        if not _NAME.fullmatch(field):
            state.fail(f'"{field}" is no name of a header field')
        state.spend(len(state.mail.head) // HEADER_OCTETS)
        if len(state.mail.head) > MAX_HEADER:
            state.fail(f"The header grows beyond {MAX_HEADER} octets")
        text = state.text(value)[:MAX_VALUE]
        state.spend(len(text) // VALUE)
        state.mail = with_field(state.mail, field, text, last=last)
        state.note(f"add header {field}")

    return run


def with_field(mail: Mail, name: str, value: str, *, last: bool = False) -> Mail:
    """The message with one more field, as first or last one of its header."""
    head, top = mail.head, mail.top
    end = b"\n" if b"\n" in head and b"\r\n" not in head else b"\r\n"
    fields, rest = head[: top.fields_end], head[top.fields_end :]
    if fields and not fields.endswith(b"\n"):
        fields += end  # the header ends with the message, in the middle of a line
    if not rest and mail.size > len(head):
        rest = end  # the body begins without a blank line, because there was no header
    line = _field(name, value, end)
    last = last or fields[:1] in (b" ", b"\t")  # a continuation of nothing would become one of the new field
    return mail.with_head(fields + line + rest if last else line + fields + rest)


def _field(name: str, value: str, end: bytes) -> bytes:
    """The octets of a field, folded where there is white space; what is not ASCII is encoded (RFC 5293 §4)."""
    text = _LINE_ENDS.sub(" ", value).replace("\0", "").strip()
    if not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return compose.field(name, text, MAX_VALUE).replace(b"\r\n", end)
    lines, line = [], f"{name}:"
    for word in _WORDS.findall(" " + text if text else ""):
        if len(line) + len(word) > _FOLD_AT and line != f"{name}:":
            lines.append(line)
            line = word if word[0] in " \t" else f" {word}"
        else:
            line += word
    lines.append(line)
    return end.join(part.encode("ascii") for part in lines) + end


def _deleteheader(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, pick = check.match(bound), picker(check, bound)
    name = bound.text(0)
    patterns = check.keys(match, bound.texts(1), bound) if len(bound.positional) > 1 else None
    if isinstance(name, str) and not _NAME.fullmatch(name):
        check.error(bound, f'"{name}" is no name of a header field')

    def run(state: Run) -> Steps:
        field = state.text(name).lower()
        if field in PROTECTED:
            return
        values = yield from state.fields(state.mail.top, field)
        chosen = list(pick(range(len(values))))
        gone = set()
        for place in chosen:
            if patterns is None or (yield from state.any_match(match, [values[place]], patterns)):
                gone.add(place)
        if gone:
            yield from state.rest()
            state.spend(len(state.mail.head) // HEADER_OCTETS + len(values))
            state.mail = without_fields(state.mail, field, gone)
            state.note(f"delete {len(gone)} of header {field}")
            yield from state.rest()

    return run


def without_fields(mail: Mail, name: str, places: set[int]) -> Mail:
    """The message without some of the fields of a name, counted from 0."""
    wanted = name.lower().encode()
    kept, end = [], 0
    lines = [(start, stop) for field, start, stop in mail.top.lines() if field == wanted]
    for place in sorted(places):
        start, stop = lines[place]
        kept.append(mail.head[end:start])
        end = stop
    kept.append(mail.head[end:])
    return mail.with_head(b"".join(kept))


EXTENSIONS: Final = frozenset({"editheader"})
TESTS: Final = ()
COMMANDS: Final = (
    CommandRow(
        name="addheader", build=_addheader, extension="editheader", positional=(STRING, STRING), tags=(Tag(":last"),)
    ),
    CommandRow(
        name="deleteheader",
        build=_deleteheader,
        extension="editheader",
        positional=(STRING, STRINGS),
        trailing=1,
        tags=(*MATCH_TAGS, COMPARATOR_TAG, Tag(":index", INDEX_TAGS[0].value), Tag(":last")),
    ),
)
