"""MIME parts (RFC 5703): `foreverypart`, `break`, `extracttext`, `replace`, `enclose`.

What the tag `:mime` means for `header`, `address` and `exists` is decided here too: `parts_of` says which parts they
look at, `content_of` what of a field.

A loop goes over the parts that the message had when it began, whatever happens to the message meanwhile. Replacements
of parts are collected and made when the outermost loop ends; a part inside of a replaced one goes with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native.mimefields import parse_content_type, parse_disposition
from sora._native.mimescan import TEXT
from sora.mime.envelope import encoding
from sora.mime.parameters import decode_parameters
from sora.mime.text import decode_raw
from sora.sieve import compose
from sora.sieve.bodies import SCANNED_A_STEP, charset_of, decoded, text_of, text_of_html
from sora.sieve.checks import NUMBER, STRING, STRINGS, CommandRow, Tag, TestRow
from sora.sieve.interpreter import FIELD, FIELD_OCTETS
from sora.sieve.mail import Mail, raw_header_of
from sora.sieve.variables import MODIFIED, MODIFIERS, NAME, assign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sora._native.mimescan import Part
    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

MIME_TAGS: Final = (Tag(":mime", extension="mime"), Tag(":anychild", extension="mime"))
CONTENT_TAGS: Final = (
    Tag(":type", group="content", extension="mime"),
    Tag(":subtype", group="content", extension="mime"),
    Tag(":contenttype", group="content", extension="mime"),
    Tag(":param", STRINGS, group="content", extension="mime"),
)
_CONTENT: Final = tuple(tag.name for tag in CONTENT_TAGS)
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
TRACE: Final = ("received", "delivered-to", "x-sieve-redirected-from", "auto-submitted")
"""What tells where a message has been, and that a program made it, is true of the one around it too: mail that is sent
on again and again is known by it."""
OCTETS: Final = 256
"""That one instruction decodes or copies."""


class Break(Exception):
    """`break`: ends the innermost loop, or the one of this name."""

    def __init__(self, name: str) -> None:
        self.name = name


class Loop(Struct):
    """An outermost `foreverypart` that is running, with those inside of it.

    Attributes:
        mail: The version that it goes over.
        replaced: New octets of parts and where the old ones end, by the place where their headers begin.
        is_whole: The message was replaced as a whole; parts of the old one are of no interest any more.
    """

    mail: Mail
    replaced: dict[int, tuple[int, bytes]]
    is_whole: bool = False


# ---------------------------------------------------------------------------------------------------- tests


def parts_of(check: Checker, bound: Bound) -> Callable[[Run], Sequence[Part]]:
    """The parts whose headers a test looks at."""
    if not bound.tags:
        return _top
    whole = ":mime" not in bound.tags
    below = ":anychild" in bound.tags
    if whole and (":anychild" in bound.tags or bound.chosen(*_CONTENT)):
        check.error(bound, f"{bound.chosen(':anychild', *_CONTENT)} needs :mime")

    def parts(state: Run) -> Sequence[Part]:
        if whole:
            return (state.mail.top,)
        here: Part = state.mail.root if state.part is None else state.part
        return tuple(_all_parts(here)) if below else (here,)

    return parts


def _top(state: Run) -> Sequence[Part]:
    return (state.mail.top,)


def content_of(bound: Bound) -> Callable[[Run, Part, str], Steps] | None:
    """What `:type`, `:subtype`, `:contenttype` and `:param` take out of a field (RFC 5703 §4.2); None without them."""
    chosen = bound.chosen(*_CONTENT)
    if not chosen:
        return None
    names = bound.tags[":param"] if chosen == ":param" else ()

    def values(state: Run, part: Part, name: str) -> Steps:
        wanted = {text.lower() for text in state.texts(names)}
        found: list[str] = []
        for value in raw_header_of(part, name):
            state.spend(FIELD + len(value) // FIELD_OCTETS)
            found += _pieces(value, chosen, wanted)
            yield from state.rest()
        return found

    return values


def _pieces(value: bytes, chosen: str, wanted: set[str]) -> list[str]:
    content, disposition = parse_content_type(value), parse_disposition(value)
    params = content[2] if content is not None else disposition[1] if disposition is not None else []
    if chosen == ":param":
        return [text for name, text in decode_parameters(params) if name in wanted]
    if content is None:
        kind = decode_raw(disposition[0]) if disposition is not None else ""
        return [] if chosen == ":subtype" else [kind]
    kind, subtype = decode_raw(content[0]), decode_raw(content[1])
    return [{":type": kind, ":subtype": subtype}.get(chosen, f"{kind}/{subtype}")]


def _all_parts(root: Part) -> Iterator[Part]:
    """The part and what is inside of it, in the order of the octets (RFC 5703 §3)."""
    stack = [root]
    while stack:
        part = stack.pop()
        yield part
        stack += reversed(part.children)


# ---------------------------------------------------------------------------------------------------- the loop


def _foreverypart(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    name = bound.tags.get(":name", "")
    if not isinstance(name, str):
        check.error(bound, "The name of a loop is a constant")

    def run(state: Run) -> Steps:
        outer = state.part
        loops: list[Loop] = state.state.setdefault("loops", [])
        loops.append(Loop(state.mail, {}) if outer is None else loops[-1])
        try:
            yield from state.rest()
            state.spend(state.mail.size // SCANNED_A_STEP if outer is None else 0)
            first = loops[-1].mail.root if outer is None else outer
            yield from state.rest()
            for place, part in enumerate(_all_parts(first)):
                state.spend(1)
                yield from state.rest()
                if place or outer is None:
                    state.part = part
                    yield from state.block(bound.block)
        except Break as end:
            if end.name and end.name != name:
                raise
        finally:  # also behind `stop` and `return`: what was replaced before stays so
            state.part = outer
            loop = loops.pop()
            if outer is None:
                _finish(state, loop, loops)

    return run


def _finish(state: Run, loop: Loop, around: Sequence[Loop]) -> None:
    """Make the replacements of parts; header fields that were edited meanwhile stay edited."""
    if loop.is_whole or not loop.replaced:
        return
    state.spend(state.mail.size // OCTETS)
    new = _with_replaced(loop.mail, loop.replaced)
    state.mail = new if state.mail is loop.mail else new.with_head(state.mail.head)
    for other in around:  # of a script that includes this one
        other.is_whole = True


def _with_replaced(mail: Mail, replaced: dict[int, tuple[int, bytes]]) -> Mail:
    pieces, end = [], 0
    for start in sorted(replaced):
        stop, octets = replaced[start]
        if start < end:
            continue  # inside of a part that was replaced as a whole
        pieces += [mail.data[end:start], octets]
        end = stop
    return Mail(b"".join((*pieces, mail.data[end:])))


def _break(check: Checker, bound: Bound) -> Callable[[Run], None]:
    name = bound.tags.get(":name", "")
    if not check.loops:
        check.error(bound, '"break" stands in no loop')
    elif name and name not in check.loops:
        check.error(bound, "There is no loop of this name around it")

    def run(_state: Run) -> None:
        raise Break(name)

    return run


def _extracttext(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    name, first = bound.text(0), bound.tags.get(":first")
    if not check.has("variables"):
        check.error(bound, '"extracttext" needs require "variables"')
    if not isinstance(name, str) or not NAME.fullmatch(name):
        check.error(bound, "This is no name of a variable")
    if not check.loops:
        check.error(bound, '"extracttext" stands in no loop')
    functions = [function for modifier, (_, function) in MODIFIERS.items() if modifier in bound.tags]

    def run(state: Run) -> Steps:
        text = yield from _text_of(state, state.part, first)
        state.spend(len(text) // MODIFIED)
        for function in functions:
            text = function(text)
        assign(state, str(name).lower(), text)

    return run


def _text_of(state: Run, part: Part, first: int | None) -> Steps:
    """The decoded text of a part; of one that is no text, nothing (RFC 5703 §7).

    No more is looked at than a variable may hold.
    """
    if part.kind != TEXT:
        return ""
    limit = 4 * state.limits.variable_bytes
    raw = state.state["loops"][-1].mail.data[part.header_end : part.body_end][: limit * 3]
    octets = yield from decoded(state, raw, encoding(part), limit)
    text = yield from text_of(state, octets, charset_of(part))
    if part.subtype.lower() == b"html":
        text = yield from text_of_html(state, text)
    return text if first is None else text[:first]


# ---------------------------------------------------------------------------------------------------- changes


def _replace(_check: Checker, bound: Bound) -> Callable[[Run], None]:
    text, mime = bound.text(0), ":mime" in bound.tags
    subject, sender = bound.tags.get(":subject"), bound.tags.get(":from")

    def run(state: Run) -> None:
        entity = state.text(text)
        octets = _entity(entity) if mime else _plain_entity(entity)
        part: Part | None = state.part
        state.spend(10 + len(octets) // OCTETS)
        loops: list[Loop] = state.state.get("loops", [])
        if part is None or part is loops[-1].mail.root:
            changed = [
                (name, state.text(value))
                for name, value in (("Subject", subject), ("From", sender))
                if value is not None
            ]
            state.mail = _with_body(state.mail, octets, changed)
            for loop in loops:
                loop.is_whole = True
        else:
            loops[-1].replaced[part.header_start] = (part.body_end, octets)
        state.note("replace the message" if part is None else "replace a part")

    return run


def _entity(text: str) -> bytes:
    return _LINE_END.sub("\r\n", text).encode("utf-8", "surrogateescape")


def _plain_entity(text: str) -> bytes:
    return compose.text_message((), text).removeprefix(b"MIME-Version: 1.0\r\n")


def _with_body(mail: Mail, entity: bytes, changed: Sequence[tuple[str, str]]) -> Mail:
    """The header of a message on another body; a field that is changed stays as `Original-…` (RFC 5703 §6)."""
    names = {name.lower().encode() for name, _ in changed}
    kept = []
    for name, start, end in mail.top.lines():
        line = _ended(mail.head[start:end])
        if name.startswith(b"content-") or name == b"mime-version":
            continue
        kept.append(b"Original-" + line if name in names else line)
    fields = [compose.field(name, value) for name, value in changed]
    return Mail(b"".join((*kept, *fields, b"MIME-Version: 1.0\r\n", entity)))


def _ended(line: bytes) -> bytes:
    """A field with its line end, which the last one of a message without a body may lack."""
    return line if line.endswith(b"\n") else line + b"\r\n"


def _enclose(_check: Checker, bound: Bound) -> Callable[[Run], None]:
    text = bound.text(0)
    subject, headers = bound.tags.get(":subject"), bound.tags.get(":headers", ())

    def run(state: Run) -> None:
        if state.part is not None:
            state.fail('"enclose" inside of a loop')
        taken = [name for name in state.texts(headers) if name.lower() != "subject" or subject is None]
        state.mail = _enclosed(state, taken, None if subject is None else state.text(subject), state.text(text))
        state.note("enclose the message")

    return run


def _enclosed(state: Run, taken: Sequence[str], subject: str | None, text: str) -> Mail:
    """A new message with the text and, as an attachment, the old one (RFC 5703 §5)."""
    mail = state.mail
    wanted = {
        name.lower().encode("utf-8", "surrogateescape") for name in (*taken, *TRACE, "from", "to", "date", "message-id")
    }
    if subject is None:
        wanted.add(b"subject")
    state.spend(mail.size // OCTETS)
    lines = [_ended(mail.head[start:end]) for name, start, end in mail.top.lines() if name in wanted]
    boundary = f"enclosed-{state.environment.external_id or 'message'}".encode()
    while boundary in mail.data:
        boundary += b"-"
    return Mail(
        b"".join(
            (
                *lines,
                compose.field("Subject", subject) if subject is not None else b"",
                b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="%s"\r\n\r\n' % boundary,
                b"--%s\r\n%s\r\n" % (boundary, _plain_entity(text)),
                b"--%s\r\nContent-Type: message/rfc822\r\n\r\n%s\r\n--%s--\r\n" % (boundary, mail.data, boundary),
            )
        )
    )


EXTENSIONS: Final = frozenset({"mime", "foreverypart", "extracttext", "replace", "enclose"})
TESTS: Final[tuple[TestRow, ...]] = ()
_NAME_TAG: Final = Tag(":name", STRING)
COMMANDS: Final[tuple[CommandRow, ...]] = (
    CommandRow(
        name="foreverypart",
        build=_foreverypart,
        extension="foreverypart",
        tags=(_NAME_TAG,),
        block=True,
        loop=True,
    ),
    CommandRow(name="break", build=_break, extension="foreverypart", tags=(_NAME_TAG,)),
    CommandRow(
        name="extracttext",
        build=_extracttext,
        extension="extracttext",
        positional=(STRING,),
        tags=(
            Tag(":first", NUMBER),
            *(Tag(name, group=f"precedence {precedence}") for name, (precedence, _) in MODIFIERS.items()),
        ),
    ),
    CommandRow(
        name="replace",
        build=_replace,
        extension="replace",
        positional=(STRING,),
        tags=(Tag(":mime"), Tag(":subject", STRING), Tag(":from", STRING)),
    ),
    CommandRow(
        name="enclose",
        build=_enclose,
        extension="enclose",
        positional=(STRING,),
        tags=(Tag(":subject", STRING), Tag(":headers", STRINGS)),
    ),
)
