"""What an IMAP client knows of its selected mailbox, made of nothing but what the server said, and strict about it.

The rules of RFC 9051 §7.4.1, §7.5.1 and RFC 7162 §3.2.10: numbers belong to the client's own list. EXPUNGE and VANISHED
take messages out of it, never during a command whose numbers that would shift; EXISTS appends and never shrinks it; a
FETCH names a message that is in it, and the same UID as the last time. What breaks a rule raises `Wrong`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sora.types import MAX_UID
from tests.oracle.client import Value, fetched

if TYPE_CHECKING:
    from collections.abc import Iterable

HOLDS: Final = frozenset({b"FETCH", b"STORE", b"SEARCH", b"SORT", b"THREAD"})
"""While these are answered no message is renumbered; `UID FETCH` is another command (RFC 9051 §7.5.1)."""
QUIET: Final = re.compile(
    rb"\* (OK|NO|BAD|CAPABILITY|ENABLED|LIST|LSUB|STATUS|NAMESPACE|ID|SORT|THREAD|QUOTA|QUOTAROOT"
    rb"|ACL|LISTRIGHTS|MYRIGHTS|METADATA|UIDBATCHES) ?",
    re.IGNORECASE,
)
"""Responses that say nothing about the list of messages."""
_COUNT: Final = re.compile(rb"\* (\d+) (EXISTS|RECENT|EXPUNGE)")
_FETCH: Final = re.compile(rb"\* (\d+) (FETCH|UIDFETCH) \(")
_VANISHED: Final = re.compile(rb"\* VANISHED (\(EARLIER\) )?([\d:,]+)")
_CODE: Final = re.compile(rb"\* OK \[([A-Z]+) (\d+)\]")


class Wrong(AssertionError):
    """The server said what a client cannot make sense of."""


@dataclass(slots=True)
class Message:
    """One message of the list.

    Attributes:
        uid: 0: not known yet.
        flags: Without \\Recent; None: not known, or no longer.
    """

    uid: int = 0
    flags: frozenset[bytes] | None = None
    modseq: int = 0


@dataclass
class Picture:
    """The list of messages, and what else was said of the mailbox.

    Attributes:
        enabled: Of CONDSTORE, QRESYNC, UIDONLY and IMAP4REV2.
        highest: The last HIGHESTMODSEQ that was told.
        highest_seen: The greatest MODSEQ of a FETCH.
        answered: UIDs, or sequence numbers of messages without one, that FETCH named since `begin`.
        told: UIDs whose flags it told since then.
        numbers: What the last SEARCH has found.
    """

    enabled: frozenset[str] = frozenset()
    messages: list[Message] = field(default_factory=list)
    uidvalidity: int = 0
    highest: int = 0
    highest_seen: int = 0
    answered: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    numbers: list[int] | None = None
    command: bytes = b""

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def uids(self) -> list[int]:
        """Of the messages whose UID is known, ascending."""
        return [message.uid for message in self.messages if message.uid]

    @property
    def complete(self) -> bool:
        """UID and flags of every message are known."""
        return all(message.uid and message.flags is not None for message in self.messages)

    def state(self) -> list[tuple[int, frozenset[bytes] | None]]:
        """UID and flags of each message, in order."""
        return [(message.uid, message.flags) for message in self.messages]

    def forget(self) -> None:
        """Another mailbox is selected, or none."""
        self.messages = []
        self.uidvalidity = self.highest = self.highest_seen = 0

    def begin(self, command: bytes) -> None:
        """A command is sent; what comes from now on is said while it is in progress. b"": none is."""
        self.command = command
        self.answered, self.told = set(), set()
        self.numbers = None

    def take(self, line: bytes) -> None:
        """An untagged response, with its literals in place, without its line end.

        Raises:
            Wrong: It does not fit what was said before.
        """
        if match := _COUNT.fullmatch(line):
            self._counts[match[2]](self, int(match[1]))
        elif match := _FETCH.match(line):
            self._fetch(line, match[2] == b"UIDFETCH")
        elif match := _VANISHED.fullmatch(line):
            self._vanished(numbers_of(match[2]), earlier=bool(match[1]))
        elif line.startswith((b"* SEARCH", b"* ESEARCH")):
            self._search(line)
        elif match := _CODE.match(line):
            self._code(match[1], int(match[2]))
        elif not (line.startswith(b"* FLAGS (") or QUIET.match(line)):
            raise Wrong(f"unexpected {line[:200]!r}")

    def _require(self, holds: bool, text: str) -> None:
        if not holds:
            raise Wrong(f"{text} (during {self.command.decode() or 'nothing'}, {len(self)} messages)")

    def _exists(self, count: int) -> None:
        self._require(count >= len(self), f"{count} EXISTS shrinks the mailbox")
        self.messages += [Message() for _ in range(count - len(self))]

    def _recent(self, count: int) -> None:
        self._require("IMAP4REV2" not in self.enabled, "RECENT in IMAP4rev2")
        self._require(count <= len(self), f"{count} RECENT")

    def _expunge(self, seq: int) -> None:
        self._require(not self.enabled & {"QRESYNC", "UIDONLY"}, "EXPUNGE where VANISHED was asked for")
        self._require(bool(self.command) and self.command not in HOLDS, f"{seq} EXPUNGE renumbers")
        self._require(1 <= seq <= len(self), f"{seq} EXPUNGE of no message")
        del self.messages[seq - 1]

    _counts = {b"EXISTS": _exists, b"RECENT": _recent, b"EXPUNGE": _expunge}  # noqa: RUF012 # a dispatch table

    def _vanished(self, uids: Iterable[int], *, earlier: bool) -> None:
        if earlier:
            self._require(self.command in (b"SELECT", b"EXAMINE", b"UID FETCH"), "VANISHED (EARLIER)")
        else:
            self._require(bool(self.enabled & {"QRESYNC", "UIDONLY"}), "VANISHED that nobody asked for")
            self._require(bool(self.command) and self.command not in HOLDS, "VANISHED renumbers")
        for uid in uids:
            self._vanish(uid, earlier)

    def _vanish(self, uid: int, earlier: bool) -> None:
        """Take a message out; one whose UID was never told stands between its neighbours."""
        place = next((i for i, message in enumerate(self.messages) if message.uid == uid), None)
        if place is None:
            above = [] if "UIDONLY" in self.enabled else [i for i, m in enumerate(self.messages) if m.uid > uid]
            place = (above[0] if above else len(self)) - 1
            if place < 0 or self.messages[place].uid:
                self._require(earlier, f"VANISHED {uid} of a message that is not there")
                return
            if earlier:  # it may be of before this client's time
                return
        del self.messages[place]

    def _fetch(self, line: bytes, by_uid: bool) -> None:
        parsed = fetched(line.replace(b" UIDFETCH (", b" FETCH (", 1) if by_uid else line)
        assert parsed is not None
        number, items = parsed
        self._require(by_uid == ("UIDONLY" in self.enabled), "FETCH and UIDFETCH are confused")
        message = self._by_uid(number) if by_uid else self._by_seq(number, items)
        self.answered.add(message.uid or number)
        self._learn(message, items)

    def _by_seq(self, seq: int, items: dict[bytes, Value]) -> Message:
        self._require(1 <= seq <= len(self), f"{seq} FETCH of no message")
        message = self.messages[seq - 1]
        if b"UID" in items:
            self._identify(seq, message, int(items[b"UID"]))  # type: ignore[call-overload]
        return message

    def _identify(self, seq: int, message: Message, uid: int) -> None:
        self._require(message.uid in (0, uid), f"message {seq} had UID {message.uid} and has {uid} now")
        if not message.uid:
            lower = max((m.uid for m in self.messages[: seq - 1]), default=0)
            upper = min((m.uid for m in self.messages[seq:] if m.uid), default=uid + 1)
            self._require(lower < uid < upper, f"UID {uid} of message {seq} is not between {lower} and {upper}")
            message.uid = uid

    def _by_uid(self, uid: int) -> Message:
        """Places mean nothing to a client that knows UIDs only, so any new message may be the one."""
        message = next((m for m in self.messages if m.uid == uid), None)
        if message is None:
            message = next((m for m in self.messages if not m.uid), None)
            if message is None:
                raise Wrong(f"UIDFETCH {uid} of no message (during {self.command.decode() or 'nothing'})")
            message.uid = uid
            self.messages.sort(key=lambda m: m.uid or MAX_UID + 1)
        return message

    def _learn(self, message: Message, items: dict[bytes, Value]) -> None:
        if b"FLAGS" in items:
            flags = items[b"FLAGS"]
            assert isinstance(flags, list)
            self.told.add(message.uid)
            names = (b"NIL" if flag is None else flag for flag in flags)  # an atom like others here
            message.flags = frozenset(name for name in names if name.lower() != rb"\recent")
            if self.enabled & {"CONDSTORE", "QRESYNC"} and not self.command.endswith(b"FETCH"):
                # RFC 7162 §3.1, §3.2.4: whatever caused it
                self._require(b"MODSEQ" in items, "flags changed without a MODSEQ")
                self._require("QRESYNC" not in self.enabled or "UIDONLY" in self.enabled or b"UID" in items, "no UID")
        if b"MODSEQ" in items:
            (text,) = items[b"MODSEQ"]  # type: ignore[misc]
            self._require(int(text) >= message.modseq, f"MODSEQ {text!r} of {message.uid} after {message.modseq}")
            message.modseq = int(text)
            self.highest_seen = max(self.highest_seen, message.modseq)

    def _search(self, line: bytes) -> None:
        """Numbers that a SEARCH has found; their command knows whether they are UIDs."""
        if line.startswith(b"* SEARCH"):
            found = [int(word) for word in re.sub(rb" \(MODSEQ \d+\)", b"", line).split()[2:]]
        else:
            match = re.search(rb" ALL ([\d:,]+)", line)
            found = numbers_of(match[1]) if match else []
        by_uid = self.command.startswith(b"UID")
        for number in found:
            if by_uid:
                known = not all(message.uid for message in self.messages) or number in set(self.uids)
            else:
                known = 1 <= number <= len(self)
            self._require(known, f"SEARCH finds {number}")
        self.numbers = found

    def _code(self, name: bytes, value: int) -> None:
        if name == b"UIDVALIDITY":
            self.uidvalidity = value
        elif name == b"HIGHESTMODSEQ":
            self.highest = value


def numbers_of(text: bytes) -> list[int]:
    """Of a set without `*`, in its order."""
    numbers: list[int] = []
    for part in text.split(b","):
        low, _, high = part.partition(b":")
        first, last = sorted((int(low), int(high or low)))
        numbers += range(first, last + 1)
    return numbers


def set_of(numbers: Iterable[int]) -> bytes:
    """The shortest text of a set."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in ranges)
