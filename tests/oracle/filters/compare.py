"""The same scripts and mail in two servers, and where what becomes of the mail differs."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email import policy
from email.header import decode_header, make_header
from email.parser import BytesParser
from email.utils import getaddresses
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tests.oracle.filters.mail import LETTERS, Letter
from tests.oracle.filters.sides import LANES, LOST, SPARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.oracle.filters.scripts import Case
    from tests.oracle.filters.sides import Side, Stored
    from tests.oracle.filters.talks import Sent, Sink

TRACE: Final = ("return-path", "delivered-to", "received")
"""Fields that a server puts before a message at delivery, in this order."""
NOWHERE: Final = Letter("all of them", "", b"")
_LOCAL: Final = re.compile(r"\buser\d+\b")
_QUESTION: Final = re.compile(r'(?ms)^if (.*?) \{ addflag "(t\d+)"; \}$')
_SHOWN: Final = re.compile(r'(?m)^if (.*?) \{ addheader :last "X-Seen-(\d+)" ')
_WORD: Final = re.compile(r"(?:=\?utf-8\?[bq]\?[^?\s]*\?=)+")
_LINE: Final = re.compile(r"line (\d+)")


class Seen(Struct, frozen=True):
    """What became of the mail that a script got.

    Attributes:
        replies: To each letter.
        sent: What arrived elsewhere, for each letter.
        stored: All messages.
        mailboxes: Names of those that there are.
    """

    replies: tuple[str, ...]
    sent: tuple[list[Sent], ...]
    stored: Sequence[Stored]
    mailboxes: frozenset[str]


class Difference(Struct, frozen=True):
    """One fact about a script, or about a script and a letter, that is not the same on both sides.

    Attributes:
        kind: `put`, `reply`, `place`, `flags`, `octets`, `mailboxes`, or what was sent: `redirect`, `vacation`, …
        field: Of a message that was sent: what of it.
        ours: Sora's.
        theirs: Pigeonhole's.
        whole: Everything that both did with the letter, for whoever explains.
    """

    case: Case
    letter: Letter
    kind: str
    field: str
    ours: Any
    theirs: Any
    whole: tuple[Any, Any] = (None, None)


class Comparison:
    """Runs and compares.

    Attributes:
        compared: Number of comparisons by kind.
        differences: All that differ.
        ran: Scripts that both took.
        letters: The mail.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        sinks: tuple[Sink, Sink],
        cases: Sequence[Case],
        letters: Sequence[Letter] = LETTERS,
    ) -> None:
        self.sides, self.sinks = sides, sinks
        self.cases, self.letters = cases, letters
        self.compared: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self.ran: list[Case] = []

    def run(self) -> None:
        """Everything: scripts, mail, mailboxes, what was sent."""
        names = {case.name: f"user{number}" for number, case in enumerate(self.cases, 2)}
        put = self._both(lambda side, case: side.put(names[case.name], case), self.cases)
        for case, ours, theirs in zip(self.cases, *put, strict=True):
            self._note(case, NOWHERE, "put", "", _refusal(ours), _refusal(theirs), (ours, theirs))
        self.ran = [case for case, *both in zip(self.cases, *put, strict=True) if both == ["", ""]]
        users = [names[case.name] for case in self.ran]
        self._both(lambda side, user: side.prepare(user), users)
        mailed = [self._mailed(users, letter) for letter in self.letters]
        read = self._both(lambda side, user: side.read(user), users)
        for place, (case, user) in enumerate(zip(self.ran, users, strict=True)):
            self._compare(case, user, *(self._seen(mailed, read, side, place, user) for side in (0, 1)))

    def _both(self, work: Callable[[Side, Any], Any], items: Sequence[Any]) -> list[list[Any]]:
        """Do something for everything on both sides: the results of each."""
        with ThreadPoolExecutor(LANES) as pool, ThreadPoolExecutor(LANES) as other:
            running = [
                pool.map(work, repeat(side), items) for pool, side in zip((pool, other), self.sides, strict=True)
            ]
            return [list(results) for results in running]

    def _mailed(self, users: Sequence[str], letter: Letter) -> list[tuple[list[str], dict[str, list[Sent]]]]:
        """One letter to everybody: for each side the replies, and what was sent by whom."""
        before = [len(sink.taken()) for sink in self.sinks]
        replies = self._both(lambda side, user: side.deliver(user, letter), users)
        for side in self.sides:
            side.settle()
        return [
            (own, _by_user(sink.taken()[known:])) for own, sink, known in zip(replies, self.sinks, before, strict=True)
        ]

    @staticmethod
    def _seen(mailed: Any, read: Any, side: int, place: int, user: str) -> Seen:
        replies = tuple(both[side][0][place] for both in mailed)
        return Seen(replies, tuple(both[side][1].get(user, []) for both in mailed), *read[side][place])

    def _note(
        self,
        case: Case,
        letter: Letter,
        kind: str,
        field: str,
        ours: Any,
        theirs: Any,
        whole: tuple[Any, Any] = (None, None),
    ) -> None:
        self.compared[kind] += 1
        if ours != theirs:
            self.differences.append(Difference(case, letter, kind, field, ours, theirs, whole))

    def _compare(self, case: Case, user: str, ours: Seen, theirs: Seen) -> None:
        self._note(case, NOWHERE, "mailboxes", "", sorted(ours.mailboxes), sorted(theirs.mailboxes))
        for number, letter in enumerate(self.letters):
            facts = [_facts(seen, number, letter, user, case) for seen in (ours, theirs)]
            whole = facts[0], facts[1]
            for kind in sorted(facts[0].keys() | facts[1].keys()):
                name, _, field = kind.partition(": ")
                self._note(case, letter, name, field, facts[0].get(kind), facts[1].get(kind), whole)
        known = {body_of(letter.to(f"{user}@example.com")) for letter in self.letters}
        lost = [[one for one in seen.stored if body_of(one.data) not in known] for seen in (ours, theirs)]
        self._note(case, NOWHERE, "place", "unknown messages", *lost)


def _refusal(text: str) -> str:
    """Whether a script was refused, and in which line it has its first error."""
    if not text:
        return "taken"
    line = _LINE.search(text)
    return f"line {line[1]}" if line else "refused"


# --------------------------------------------------------------------------------------------- what became of a letter


def _facts(seen: Seen, number: int, letter: Letter, user: str, case: Case) -> dict[str, Any]:
    octets = letter.to(f"{user}@example.com")
    stored = [one for one in seen.stored if body_of(one.data) == body_of(octets)]
    facts: dict[str, Any] = {
        "reply": _reply_class(seen.replies[number]),
        "place": sorted(one.mailbox for one in stored),
    }
    for one in stored:
        asked = dict(_asked(case))
        facts |= {f"test: {test}": flag in one.flags for flag, test in asked.items()}
        facts[f"flags: {one.mailbox}"] = sorted(one.flags - asked.keys())
        fields = fields_of(without_trace(one.data))
        for number_, test in _shown(case):
            values = [plain(field) for field in fields if field.startswith(b"X-Seen-%b:" % number_.encode())]
            facts[f"values: {test}"] = values
        shown = [field for field in fields if not (case.group == "matrix" and field.startswith(b"X-Seen-"))]
        facts[f"octets: {one.mailbox}"] = b"".join(shown) + b"\r\n" + body_of(one.data)
    mine = seen.sent[number]
    facts["sent"] = sorted(f"{kind_of(mail, octets)} to {_recipients(mail)}" for mail in mine)
    for mail in mine:
        kind, to = kind_of(mail, octets), _recipients(mail)
        for name, value in sent_facts(kind, mail).items():
            facts[f"{kind}: {name}, to {to}"] = value
    return facts


def _reply_class(reply: str) -> str:
    return reply if reply == LOST else f"{reply[0]}xx"


def _asked(case: Case) -> list[tuple[str, str]]:
    """The questions of a script that `matrix` made, by the keywords that answer them."""
    return [(flag, test) for test, flag in _QUESTION.findall(case.script)] if case.group == "matrix" else []


def _shown(case: Case) -> list[tuple[str, str]]:
    """Likewise those whose match variables are shown, by the numbers of the fields."""
    return [(number, test) for test, number in _SHOWN.findall(case.script)] if case.group == "matrix" else []


def plain(field: bytes) -> str:
    """The value of a field: unfolded, decoded, without white space around it."""
    text = re.sub(rb"\r\n[ \t]", b" ", field.partition(b":")[2]).decode("utf-8", "replace")
    return re.sub(r"\s+", " ", decoded(text)).strip()


def decoded(text: str) -> str:
    """With encoded words in UTF-8 decoded; white space between two of them belongs to them (RFC 2047 §6.2)."""
    text = re.sub(r"(\?=)\s+(=\?utf-8\?)", r"\1\2", text)
    return _WORD.sub(lambda word: str(make_header(decode_header(word[0]))), text)


def body_of(data: bytes) -> bytes:
    """Behind the header."""
    return data.partition(b"\r\n\r\n")[2] if not data.startswith(b"\r\n") else data[2:]


def fields_of(data: bytes) -> list[bytes]:
    """The fields of the header with their line ends."""
    head = data[: len(data) - len(body_of(data))].removesuffix(b"\r\n")
    return re.findall(rb"[^\r\n].*(?:\r\n[ \t].*)*(?:\r\n|\Z)", head)


def without_trace(data: bytes) -> bytes:
    """Without what the server itself wrote at delivery: the first field of each of these names."""
    fields, body = fields_of(data), body_of(data)
    for name in TRACE:
        place = next((n for n, field in enumerate(fields) if field.lower().startswith(name.encode() + b":")), None)
        if place is not None:
            del fields[place]
    return b"".join(fields) + b"\r\n" + body


# ----------------------------------------------------------------------------------------------------- what was sent


def _by_user(sent: Iterable[Sent]) -> dict[str, list[Sent]]:
    found: dict[str, list[Sent]] = {}
    for mail in sent:
        found.setdefault(_whose(mail), []).append(mail)
    return found


def _whose(mail: Sent) -> str:
    """The account whose script sent it."""
    for text in (" ".join(mail.recipients), _value(mail, "From"), mail.data.decode("utf-8", "replace")):
        if found := _LOCAL.search(text):
            return found[0]
    return SPARE


def _value(mail: Sent, name: str) -> str:
    """A field with its encoded words decoded and unfolded; what is not there is `none`."""
    parsed = BytesParser(policy=policy.compat32).parsebytes(mail.data, headersonly=True)
    value = parsed.get(name)
    if value is None:
        return "none"
    return re.sub(r"\s+", " ", str(make_header(decode_header(str(value))))).strip()


def _recipients(mail: Sent) -> str:
    """The forward-paths, without the quotes that a sender may put around a local part (RFC 5321 §4.1.2)."""
    return ", ".join(path.replace('"', "") for path in mail.recipients)


def kind_of(mail: Sent, letter: bytes) -> str:
    """`redirect`, `vacation`, `notify` or `report`."""
    if body_of(mail.data).rstrip() == body_of(letter).rstrip():
        return "redirect"
    if _value(mail, "Auto-Submitted").startswith("auto-notified"):
        return "notify"
    return "report" if "multipart/report" in _value(mail, "Content-Type") else "vacation"


SIGNIFICANT: Final = {
    "vacation": ("From", "To", "Subject", "In-Reply-To", "References", "Auto-Submitted", "Precedence"),
    "notify": ("From", "To", "Cc", "Subject", "Importance", "X-Priority", "Auto-Submitted", "References", "X-Mine"),
    "report": ("From", "To", "Auto-Submitted"),
}


def sent_facts(kind: str, mail: Sent) -> dict[str, Any]:
    """What is compared of a message that a script sent."""
    facts: dict[str, Any] = {"sender": mail.sender.replace('"', "")}
    if kind == "redirect":
        fields = [field for field in fields_of(without_trace(mail.data)) if not _is_ours(field)]
        return facts | {"octets": b"".join(fields) + b"\r\n" + body_of(mail.data)}
    parsed = BytesParser(policy=policy.default).parsebytes(mail.data)
    facts |= {name: _value(mail, name) for name in SIGNIFICANT[kind]}
    facts |= {name: _people(facts[name]) for name in ("From", "To", "Cc") if name in facts}
    facts["types"] = [part.get_content_type() for part in parsed.walk()]
    facts["text"] = [_text(part) for part in parsed.walk() if part.get_content_maintype() == "text"]
    return facts


def _people(value: str) -> list[tuple[str, str]]:
    return [(name, address.replace('"', "")) for name, address in getaddresses([value])]


def _is_ours(field: bytes) -> bool:
    """Fields that a server adds to what it redirects."""
    return field.lower().startswith(b"x-sieve")


def _text(part: Any) -> str:
    return str(part.get_content()).replace("\r\n", "\n").rstrip()
