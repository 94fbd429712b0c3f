"""Plain model of the cursor: regular expressions over the text of a command, its literals in a list."""

from __future__ import annotations

import base64
import re
from datetime import date, datetime, timedelta, timezone

from tests.support import models_seqset

LITERAL = b"\x00"
"""Stands in the text where a literal was."""

_ATOM = re.compile(rb"[^\x00-\x20(){%*\"\\\]\x7f-\xff]+")
_NAME = re.compile(rb"[A-Za-z0-9._-]+")
_ASTRING = re.compile(rb"[^\x00-\x20(){%*\"\\\x7f-\xff]+")
_PATTERN = re.compile(rb"[^\x00-\x20(){\"\\\x7f-\xff]+")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
_NUMBER = re.compile(rb"[0-9]+")
_SET = re.compile(rb"[0-9:,*$]+")
_FLAG = re.compile(rb"\\?[^\x00-\x20(){%*\"\\\]\x7f-\xff]+")
_DATE = re.compile(rb'"?(\d{1,2})-(\w{3})-(\d{4})"?')
_DATE_TIME = re.compile(rb'"([ \d]\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"')
_MONTHS = (b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN", b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC")
_SYSTEM = {flag.lower(): flag for flag in (rb"\Seen", rb"\Answered", rb"\Flagged", rb"\Deleted", rb"\Draft")}


def decode_utf7(name: bytes) -> str:
    """RFC 3501 §5.1.3, of names that are right."""

    def decode(match: re.Match[bytes]) -> bytes:
        packed = match[1].replace(b",", b"/")
        text = base64.b64decode(packed + b"=" * (-len(packed) % 4)).decode("utf-16-be") if packed else "&"
        return text.encode()

    return re.sub(rb"&([^-]*)-", decode, name).decode()


def encode_utf7(name: str) -> bytes:
    """RFC 3501 §5.1.3."""

    def encode(match: re.Match[str]) -> str:
        packed = base64.b64encode(match[0].encode("utf-16-be")).rstrip(b"=").replace(b"/", b",").decode()
        return f"&{packed}-"

    return re.sub(r"[^\x20-\x7e]+", encode, name.replace("&", "&-")).encode()


class CursorModel:
    """What `imapscan.Cursor` reads; of right input only."""

    def __init__(
        self, text: bytes, literals: list[bytes] | None = None, *, uid: bool = False, utf8: bool = False
    ) -> None:
        self.text = text
        self.literals = literals or []
        self.uid = uid
        self.utf8 = utf8
        self.at = 0
        self.used = 0

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(self.at)
        self.at = match.end()
        return match

    def sp(self) -> CursorModel:
        return self.expect(b" ")

    def skip(self, text: bytes) -> bool:
        if self.text[self.at : self.at + len(text)].upper() != text.upper():
            return False
        self.at += len(text)
        return True

    def expect(self, text: bytes) -> CursorModel:
        if not self.skip(text):
            raise ValueError(text)
        return self

    def peek(self) -> int:
        return -1 if self.at_end() else self.text[self.at]

    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def end(self) -> None:
        if not self.at_end():
            raise ValueError(self.at)

    def at_literal(self) -> bool:
        return self.peek() == 0

    def at_pending(self) -> bool:
        return False

    def mark(self) -> int:
        return self.at

    def reset(self, mark: int) -> None:
        self.at, self.used = mark, self.text.count(LITERAL, 0, mark)

    def literal(self) -> bytes:
        self.expect(LITERAL)
        self.used += 1
        return self.literals[self.used - 1]

    def atom(self) -> bytes:
        return self._match(_ATOM)[0]

    def keyword(self) -> bytes:
        return self.atom().upper()

    def name(self) -> bytes:
        return self._match(_NAME)[0].upper()

    def string(self) -> bytes:
        if self.at_literal():
            return self.literal()
        return re.sub(rb"\\(.)", rb"\1", self._match(_QUOTED)[1])

    def astring(self) -> bytes:
        return self.string() if self.peek() in (0, 34) else self._match(_ASTRING)[0]

    def nstring(self) -> bytes | None:
        return None if self.skip(b"NIL") else self.string()

    def text_value(self) -> str:
        return self.astring().decode()

    def mailbox(self) -> str:
        name = self.astring()
        decoded = name.decode() if self.utf8 else decode_utf7(name)
        return "INBOX" if decoded.upper() == "INBOX" else decoded

    def list_mailbox(self) -> str:
        name = self.string() if self.peek() in (0, 34) else self._match(_PATTERN)[0]
        return name.decode() if self.utf8 else decode_utf7(name)

    def number(self) -> int:
        return int(self._match(_NUMBER)[0])

    nz_number = number64 = number

    def numset(self) -> list[tuple[int, int]]:
        return models_seqset.ranges(models_seqset.resolve(self._match(_SET)[0], 0))

    seqset = uidset = numset

    def flag(self) -> bytes:
        found = self._match(_FLAG)[0]
        return _SYSTEM.get(found.lower(), found)

    def bare_flags(self) -> tuple[bytes, ...]:
        found = [self.flag()]
        while self.skip(b" "):
            found.append(self.flag())
        return tuple(dict.fromkeys(flag for flag in found if flag.lower() != rb"\recent"))

    def flags(self) -> tuple[bytes, ...]:
        self.expect(b"(")
        if self.skip(b")"):
            return ()
        found = self.bare_flags()
        self.expect(b")")
        return found

    def date(self) -> date:
        day, month, year = self._match(_DATE).groups()
        return date(int(year), _MONTHS.index(month.upper()) + 1, int(day))

    def date_time(self) -> datetime:
        day, month, year, hour, minute, second, sign, east, rest = self._match(_DATE_TIME).groups()
        offset = timedelta(hours=int(east), minutes=int(rest)) * (-1 if sign == b"-" else 1)
        return datetime(
            int(year), _MONTHS.index(month.upper()) + 1, int(day), int(hour), int(minute), int(second),
            tzinfo=timezone(offset),
        )  # fmt: skip

    def rest(self) -> bytes:
        found, self.at = self.text[self.at :], len(self.text)
        return found


class ScannerModel:
    """Lines and literals with `bytes` methods only: what a session of one command after the other needs."""

    def __init__(self) -> None:
        self.data = b""
        self.at = 0

    def feed(self, data: bytes) -> None:
        self.data = self.data[self.at :] + data
        self.at = 0

    def take_line(self) -> bytes | None:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            return None
        line, self.at = self.data[self.at : end].removesuffix(b"\r"), end + 1
        return line

    def take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        self.at += len(found)
        return found

    def clear(self) -> None:
        self.data, self.at = b"", 0
