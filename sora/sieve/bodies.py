"""`body` (RFC 5173): texts of the body, by their content types, decoded or as they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sora._native.mimescan import MESSAGE, MULTIPART, TEXT
from sora.mime.envelope import encoding
from sora.mime.text import decode_pieces, decode_transfer, html_text, shown_pieces
from sora.sieve.checks import COMPARATOR_TAG, MATCH_TAGS, STRINGS, CommandRow, Tag, TestRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sora._native.mimescan import Part
    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

MAX_BODY: Final = 1 << 20
"""Octets of decoded texts that are looked at; what is behind them is not."""
OCTETS_A_STEP: Final = 64
"""Of a text that one instruction decodes."""
DECODED_A_STEP: Final = 32
"""Octets that one instruction takes out of a transfer encoding."""
_LAST_DELIMITER: Final = re.compile(rb"(?:\A|\r?\n)--[^\n]*\n?\Z")
_FIRST_DELIMITER: Final = re.compile(rb"\A\r?\n--[^\n]*")
PIECE: Final = 64 * 1024
"""Octets that are decoded at a time; of base64, a multiple of 4."""
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\r\n\t "
CHARSET_PIECE: Final = 8 * 1024
"""Octets of a text in a charset of its own that are decoded at a time."""
CHARACTERS_A_STEP: Final = 12
"""Of such a text that one instruction decodes."""
SCANNED_A_STEP: Final = 256
"""Octets whose MIME structure one instruction finds."""
HTML_A_STEP: Final = 16
"""Characters of HTML that one instruction turns to text."""
HTML_PIECE: Final = 32 * 1024
"""Characters of HTML at a time."""


def _body(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match = check.match(bound)
    keys = check.keys(match, bound.texts(0), bound)
    types = bound.tags.get(":content")
    raw = ":raw" in bound.tags

    def run(state: Run) -> Steps:
        wanted = None if types is None else tuple(text.lower() for text in state.texts(types))
        key = "body", raw, wanted
        if key not in state.mail.memo:
            if state.mail.top.header_end == state.mail.top.fields_end:
                values = []  # no empty line behind the header: not even an empty string is in there (RFC 5173 §4)
            elif raw:
                state.spend(min(state.mail.size, MAX_BODY) // OCTETS_A_STEP)
                values = [(yield from text_of(state, state.mail.data[len(state.mail.head) :][:MAX_BODY]))]
            else:
                values = yield from _by_type(state, ("text",) if wanted is None else wanted, as_text=wanted is None)
            state.mail.memo[key] = values, {}
        values, folded = state.mail.memo[key]
        captures = state.captures
        found = yield from state.any_match(match, values, keys, folded)
        state.captures = captures  # RFC 5173 §6: body sets no match variables
        return found

    return run


def _by_type(state: Run, types: tuple[str, ...], *, as_text: bool = False) -> Steps:
    """Decoded contents of the parts with one of these types: `text`, `text/html`, or the empty string for all.

    Args:
        as_text: HTML becomes the text in it (RFC 5173 §5.3).
    """
    found: list[str] = []
    left, mail = MAX_BODY, state.mail
    state.spend(mail.size // SCANNED_A_STEP)
    yield from state.rest()
    for part in _parts(mail.root):
        state.spend(1)
        if left > 0 and _is_wanted(part, types):
            content = yield from _content(state, part, left)
            left -= len(content)
            yield from state.rest()
            if as_text and part.subtype.lower() == b"html":
                content = yield from text_of_html(state, content)
            found.append(content)
        yield from state.rest()
    return found


def text_of_html(state: Run, html: str) -> Steps:
    """The words of an HTML text, made in pieces that begin with a tag."""
    kept = []
    for piece in shown_pieces(html, HTML_PIECE):
        state.spend(1 + len(piece) // HTML_A_STEP // 4)
        kept.append(piece)
        yield from state.rest()
    shown = "".join(kept)
    pieces, start = [], 0
    while start < len(shown):
        end = shown.find("<", start + HTML_PIECE)
        end = len(shown) if end < 0 else end
        state.spend((end - start) // HTML_A_STEP)
        pieces.append(html_text(shown[start:end]))
        start = end
        yield from state.rest()
    return "".join(pieces)


def _parts(root: Part) -> Iterator[Part]:
    """All parts, depth first; what is inside of a message is part of that message (RFC 5173 §5.2)."""
    stack = [root]
    while stack:
        part = stack.pop()
        yield part
        stack += reversed(part.children)


def _is_wanted(part: Part, types: tuple[str, ...]) -> bool:
    kind, whole = part.type.decode("latin-1").lower(), f"{part.type.decode('latin-1')}/{part.subtype.decode('latin-1')}"
    return any(not wanted or wanted == kind or wanted == whole.lower() for wanted in types)


def _content(state: Run, part: Part, limit: int) -> Steps:
    """RFC 5173 §5.2: of a multipart what is around its parts, of a message its header, of others the content."""
    data = state.mail.data
    if part.kind == MULTIPART:
        return (yield from text_of(state, _around(data, part)[:limit]))
    if part.kind == MESSAGE:
        inner = part.children[0]
        return (yield from text_of(state, data[inner.header_start : inner.header_end][:limit]))
    octets = yield from decoded(state, data[part.body_start : part.body_end][: limit * 3], encoding(part), limit)
    return (yield from text_of(state, octets, charset_of(part) if part.kind == TEXT else b""))


def charset_of(part: Part) -> bytes:
    """What a text declares."""
    return next((value for name, value in part.params if name.lower() == b"charset"), b"us-ascii")


def text_of(state: Run, octets: bytes, charset: bytes = b"") -> Steps:
    """The text that octets stand for, decoded in pieces where it takes long."""
    pieces = []
    for piece in decode_pieces(octets, charset, CHARSET_PIECE):
        state.spend(len(piece) // (OCTETS_A_STEP if len(piece) == len(octets) else CHARACTERS_A_STEP))
        pieces.append(piece)
        yield from state.rest()
    return "".join(pieces)


def _around(data: bytes, part: Part) -> bytes:
    """The prologue and the epilogue of a multipart, without the delimiters, which belong to neither."""
    if not part.children:
        return data[part.body_start : part.body_end]
    before = data[part.body_start : part.children[0].header_start]
    behind = data[part.children[-1].body_end : part.body_end]
    return _LAST_DELIMITER.sub(b"", before) + _FIRST_DELIMITER.sub(b"", behind)


def decoded(state: Run, raw: bytes, transfer: bytes, limit: int) -> Steps:
    """The octets behind a transfer encoding, as many as are wanted, decoded in pieces."""
    pieces, left = [], limit
    for piece in encoded_pieces(raw, transfer):
        state.spend(len(piece) // DECODED_A_STEP)
        pieces.append(decode_transfer(piece, transfer))
        left -= len(pieces[-1])
        if left <= 0:
            break
        yield from state.rest()
    return b"".join(pieces)[:limit]


def encoded_pieces(raw: bytes, transfer: bytes) -> Iterator[bytes]:
    """Octets in pieces that can be decoded one by one."""
    match transfer.lower():
        case b"base64" if len(raw) > PIECE and raw.translate(None, _BASE64) in (b"", b"=", b"=="):
            raw = raw.translate(None, b"\r\n\t ")
            yield from (raw[start : start + PIECE] for start in range(0, len(raw), PIECE))
        case b"quoted-printable":
            start = 0
            while start < len(raw):
                end = raw.find(b"\n", start + PIECE) + 1 or len(raw)
                yield raw[start:end]
                start = end
        case _:
            yield raw


EXTENSIONS: Final = frozenset({"body"})
COMMANDS: Final[tuple[CommandRow, ...]] = ()
TESTS: Final = (
    TestRow(
        name="body",
        build=_body,
        extension="body",
        positional=(STRINGS,),
        tags=(
            *MATCH_TAGS,
            COMPARATOR_TAG,
            Tag(":raw", group="transform"),
            Tag(":content", STRINGS, group="transform"),
            Tag(":text", group="transform"),
        ),
    ),
)
