"""The same messages in two servers, the same questions to both, and where their answers differ."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tests.oracle.client import Answer, Client, fetched
from tests.oracle.criteria import CRITERIA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.oracle.collect import Sample

MAILBOX: Final = b"Oracle"
FIRST_DAY: Final = datetime(2024, 1, 1, 12)

ROOT_ITEMS: Final = (
    b"RFC822.SIZE", b"INTERNALDATE", b"FLAGS", b"ENVELOPE", b"BODY", b"BODYSTRUCTURE", b"BODY.PEEK[]",
    b"BODY.PEEK[HEADER]", b"BODY.PEEK[TEXT]", b"BODY.PEEK[]<0.100>", b"BODY.PEEK[]<100.200>", b"BODY.PEEK[]<9999999.5>",
    b"BODY.PEEK[TEXT]<10.50>", b"BODY.PEEK[HEADER]<5.30>", b"BODY.PEEK[HEADER.FIELDS (Subject FROM to Date)]",
    b"BODY.PEEK[HEADER.FIELDS (X-Nowhere)]", b"BODY.PEEK[HEADER.FIELDS (Content-Type)]<3.10>",
    b"BODY.PEEK[HEADER.FIELDS.NOT (Received Subject From X-Long)]", b"BODY.PEEK[HEADER.FIELDS.NOT (X-Nowhere)]",
    b"RFC822.HEADER",
)  # fmt: skip
SINGLE: Final = ("type", "subtype", "params", "id", "description", "encoding", "octets")
TAIL: Final = ("disposition", "language", "location")
ENVELOPE: Final = ("date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id")
NO_CASE: Final = frozenset({"type", "subtype", "encoding"})


class Difference(Struct, frozen=True):
    """One question that was answered in two ways.

    Attributes:
        sample: The message; for SEARCH, one of those that only one server found.
        kind: What was asked, without numbers: `ENVELOPE`, `BODYSTRUCTURE`, `BODY[n.MIME]`, `SEARCH`, …
        field: What of it differs: a name within a structure, a section, a search criterion.
        ours: Sora's answer.
        theirs: Dovecot's.
    """

    sample: Sample
    kind: str
    field: str
    ours: Any
    theirs: Any


class Comparison:
    """Asks and compares.

    Attributes:
        compared: Number of comparisons by kind.
        differences: All that differ.
        clients: Sora's and Dovecot's.
        samples: The messages.
    """

    def __init__(self, ours: Client, theirs: Client, samples: Sequence[Sample]) -> None:
        self.compared: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self.clients = (ours, theirs)
        self.samples = samples

    def run(self) -> None:
        """Append, fetch, search."""
        for client in self.clients:
            fill(client, self.samples)
        whole = [_by_message(_ask_items(client, [ROOT_ITEMS] * len(self.samples))) for client in self.clients]
        paths = []
        for sample, ours, theirs in zip(self.samples, *whole, strict=True):
            self._roots(sample, ours, theirs)
            paths.append(sorted(_paths(ours[b"BODYSTRUCTURE"]) | _paths(theirs[b"BODYSTRUCTURE"])))
        self._searches()  # before a server that hangs up over a part makes its messages old
        self._sections(paths)

    def note(self, sample: Sample, kind: str, field: str, ours: object, theirs: object) -> None:
        """Compare two values."""
        self.compared[kind] += 1
        if ours != theirs:
            self.differences.append(Difference(sample, kind, field, ours, theirs))

    def _roots(self, sample: Sample, ours: dict[bytes, Any], theirs: dict[bytes, Any]) -> None:
        for name in ours.keys() | theirs.keys():
            kind = name.decode()
            if name in (b"BODY", b"BODYSTRUCTURE", b"ENVELOPE"):
                flat = _envelope if name == b"ENVELOPE" else flatten
                self._tables(sample, kind, flat(ours[name]), flat(theirs[name]))
            elif name == b"INTERNALDATE":  # date-day-fixed: a space or a zero before a day below ten
                self.note(sample, kind, kind, *(v[name].strip().removeprefix(b"0") for v in (ours, theirs)))
            elif name == b"FLAGS":
                self.note(sample, kind, kind, *({f.lower() for f in v[name]} - {b"\\recent"} for v in (ours, theirs)))
            else:
                self.note(sample, kind, kind, ours.get(name, "no item"), theirs.get(name, "no item"))

    def _tables(self, sample: Sample, kind: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        for field in sorted(ours.keys() | theirs.keys()):
            self.note(sample, kind, field, ours.get(field, "absent"), theirs.get(field, "absent"))

    def _sections(self, paths: list[list[str]]) -> None:
        """Every part of either tree: its octets, its header, pieces, what its encoding hides."""
        questions = [
            (sample, number, item)
            for number, (sample, own) in enumerate(zip(self.samples, paths, strict=True), 1)
            for path in own
            for item in _section_items(path)
        ]
        commands = [b"FETCH %d %b" % (number, item) for _, number, item in questions]
        answers = [client.ask(commands) for client in self.clients]
        items = [_by_number(both) for both in answers]
        for (sample, number, item), *both in zip(questions, *answers, strict=True):
            ours, theirs = (_section(a, i.get(number, {}), item) for a, i in zip(both, items, strict=True))
            self.note(sample, _kind(item), item.decode(), ours, theirs)

    def _searches(self) -> None:
        """Each criterion; a difference is noted once for each message that only one of them finds."""
        answers = [[client.ask([criterion])[0] for criterion in CRITERIA] for client in self.clients]
        for criterion, *both in zip(CRITERIA, *answers, strict=True):
            self.compared["SEARCH"] += 1
            key = criterion.decode("utf-8", "backslashreplace")
            if any(answer.status != b"OK" for answer in both):
                statuses = [answer.status.decode() for answer in both]
                self.differences += [Difference(self.samples[0], "SEARCH", key, *statuses)] * (
                    statuses[0] != statuses[1]
                )
                continue
            found = [_found(answer) for answer in both]
            for number in sorted(found[0] ^ found[1]):
                mine, their = (number in numbers for numbers in found)
                self.differences.append(Difference(self.samples[number - 1], "SEARCH", key, mine, their))


def fill(client: Client, samples: Sequence[Sample]) -> None:
    """Append every message, with flags and a date that follow from its number."""
    client.ok(b"CREATE " + MAILBOX)
    answers = client.ask(_append(number, sample.data) for number, sample in enumerate(samples))
    refused = [(s.name, a.text) for s, a in zip(samples, answers, strict=True) if a.status != b"OK"]
    assert not refused, refused
    client.select(MAILBOX)


def _append(number: int, data: bytes) -> bytes:
    """Every third message is seen, every fifth flagged, and so on."""
    flags = [rb"\Seen", rb"\Flagged", rb"\Answered", rb"\Draft", rb"\Deleted", b"$Forwarded", b"work"]
    present = b" ".join(flag for every, flag in zip((3, 5, 7, 11, 13, 4, 6), flags, strict=True) if number % every == 0)
    date = (FIRST_DAY + timedelta(days=number // 2)).strftime("%d-%b-%Y %H:%M:%S +0000").encode()
    return b'APPEND %b (%b) "%b" {%d+}\r\n%b' % (MAILBOX, present, date, len(data), data)


def _ask_items(client: Client, items: Iterable[Iterable[bytes]]) -> list[Answer]:
    return client.ask(b"FETCH %d (%b)" % (number, b" ".join(wanted)) for number, wanted in enumerate(items, 1))


def _by_message(answers: list[Answer]) -> list[dict[bytes, Any]]:
    """The items of each message; every question must have been answered."""
    refused = [answer for answer in answers if answer.status != b"OK"]
    assert not refused, refused
    items = _by_number(answers)
    return [items[number] for number in range(1, len(answers) + 1)]


def _by_number(answers: Iterable[Answer]) -> dict[int, dict[bytes, Any]]:
    """Items by message; names in upper case and without the quotes that a server may put around fields.

    A FETCH response does not say which command asked for it: Dovecot sends those of the next command before the last
    line of the one before.
    """
    result: dict[int, dict[bytes, Any]] = {}
    for answer in answers:
        for line in answer.untagged:
            if (response := fetched(line)) is not None:
                items = {_item_name(name): value for name, value in response[1].items()}
                result.setdefault(response[0], {}).update(items)
    return result


def _item_name(name: bytes) -> bytes:
    """An item as it is answered: no PEEK, of a partial the beginning only."""
    return re.sub(rb"<(\d+)\.\d+>", rb"<\1>", name.upper().replace(b".PEEK", b"").replace(b'"', b""))


def _section(answer: Answer, items: dict[bytes, Any], item: bytes) -> object:
    """The value of an item; the status if there is none."""
    if answer.status != b"OK":
        return answer.status.decode()
    return items.get(_item_name(item), "nothing")


def _found(answer: Answer) -> set[int]:
    """Numbers of the SEARCH response."""
    return {int(word) for line in answer.untagged if line.startswith(b"* SEARCH") for word in line.split()[2:]}


# ---------------------------------------------------------------------------------------------------------- structures


def _envelope(value: list[Any]) -> dict[str, Any]:
    assert len(value) == len(ENVELOPE), value
    return dict(zip(ENVELOPE, value, strict=True))


def flatten(body: list[Any]) -> dict[str, Any]:
    """A BODYSTRUCTURE as `part number:name` → value; names without case where they have none.

    The outermost multipart has the number 0, one directly inside a message that of the message and `.TEXT`.
    """
    return dict(_flat(body, "", "0"))


def _flat(body: list[Any], path: str, label: str) -> Iterator[tuple[str, Any]]:
    if isinstance(body[0], list):
        count = next(i for i, child in enumerate(body) if not isinstance(child, list))
        for number, child in enumerate(body[:count], 1):
            inner = f"{path}.{number}" if path else str(number)
            yield from _flat(child, inner, inner)
        names: tuple[str, ...] = ("subtype", "params", *TAIL)
        body = body[count:]
        yield f"{label}:type", b"multipart"
    else:
        label = path or "1"
        kind = [(body[0] or b"").lower(), (body[1] or b"").lower()]
        names = (*SINGLE, "md5", *TAIL)
        if kind[0] == b"text":
            names = (*SINGLE, "lines", "md5", *TAIL)
        elif kind == [b"message", b"rfc822"]:
            yield from ((f"{label}:{name}", value) for name, value in _envelope(body[7]).items())
            yield from _flat(body[8], label if isinstance(body[8][0], list) else f"{label}.1", f"{label}.TEXT")
            body = [*body[:7], *body[9:]]
            names = (*SINGLE, "lines", "md5", *TAIL)
    assert len(body) <= len(names), body
    for name, value in zip(names, body, strict=False):
        yield f"{label}:{name}", _plain(name, value)


def _plain(name: str, value: Any) -> Any:
    """Without the case of what has none."""
    if name in NO_CASE:
        return value.lower() if value is not None else None
    if name == "params":
        return _parameters(value)
    if name == "disposition" and value is not None:
        return [value[0].lower(), _parameters(value[1])]
    return value


def _parameters(value: list[bytes] | None) -> list[tuple[bytes, bytes]] | None:
    if value is None:
        return None
    pairs = zip(value[::2], value[1::2], strict=True)
    return [(name.lower(), text.lower() if name.lower() == b"charset" else text) for name, text in pairs]


def _paths(body: list[Any], path: str = "") -> set[str]:
    """Numbers of all parts; those of messages end in `!`."""
    if isinstance(body[0], list):
        count = next(i for i, child in enumerate(body) if not isinstance(child, list))
        found = {path} if path else set()
        for number, child in enumerate(body[:count], 1):
            found |= _paths(child, f"{path}.{number}" if path else str(number))
        return found
    own = path or "1"
    if len(body) > 8 and isinstance(body[7], list) and isinstance(body[8], list) and len(body[7]) == len(ENVELOPE):
        inside = body[8]
        return {f"{own}!"} | _paths(inside, own if isinstance(inside[0], list) else f"{own}.1") - {own}
    return {own}


def _section_items(path: str) -> Iterator[bytes]:
    """What is asked about a part."""
    number = path.rstrip("!").encode()
    for text in (b"", b".MIME", *((b".HEADER", b".TEXT") if path.endswith("!") else (b".1",))):
        yield b"BODY.PEEK[%b%b]" % (number, text)
    if path.endswith("!"):
        yield b"BODY.PEEK[%b.HEADER.FIELDS (subject from)]" % number
        yield b"BODY.PEEK[%b.HEADER.FIELDS.NOT (subject from)]" % number
    yield b"BODY.PEEK[%b]<3.20>" % number
    yield b"BINARY.PEEK[%b]" % number
    yield b"BINARY.PEEK[%b]<2.9>" % number
    yield b"BINARY.SIZE[%b]" % number


def _kind(item: bytes) -> str:
    """`BODY.PEEK[1.2.MIME]<3.20>` is `BODY[n.MIME]<>`."""
    name, _, rest = item.decode().partition("[")
    section, _, partial = rest.partition("]")
    text = section.partition(" ")[0].lstrip("0123456789.")
    return f"{name.removesuffix('.PEEK')}[n{'.' + text if text else ''}]{'<>' if partial else ''}"
