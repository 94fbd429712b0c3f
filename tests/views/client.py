"""An IMAP client with a strict picture of its mailbox, over whatever carries octets.

Links of the in-process tests and sockets of the soak are both `Carrier`s; the client is the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from tests.views.picture import Message, Picture, Wrong, numbers_of, set_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from tests.support.transcripts import Link

LITERAL: Final = re.compile(rb"~?\{(\d+)\}\Z")
SILENT_AT: Final = 40
"""Lines of the conversation that are kept for a report."""


class Bye(Exception):
    """The server ended the session; the text is its reason."""


class Carrier(Protocol):
    """Carries octets to a session and its answers back."""

    async def send(self, data: bytes) -> None:
        """Hand over octets."""

    async def line(self) -> bytes:
        """The next line, without its line end. Raises EOFError at the end."""

    async def octets(self, count: int) -> bytes:
        """So many octets."""

    async def close(self) -> None:
        """Hang up."""


class LinkCarrier:
    """A session in this process."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def send(self, data: bytes) -> None:
        """See `Carrier`."""
        await self._link.send(data)

    async def line(self) -> bytes:
        """See `Carrier`."""
        if self._link.closed and b"\n" not in self._link.output:
            raise EOFError
        return await self._link.read_line()

    async def octets(self, count: int) -> bytes:
        """See `Carrier`."""
        return await self._link.read_octets(count)

    async def close(self) -> None:
        """See `Carrier`."""
        await self._link.hang_up()


class StreamCarrier:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """See `Carrier`."""
        self._writer.write(data)
        await self._writer.drain()

    async def line(self) -> bytes:
        """See `Carrier`."""
        line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(line)
        return line[:-2]

    async def octets(self, count: int) -> bytes:
        """See `Carrier`."""
        return await self._reader.readexactly(count)

    async def close(self) -> None:
        """See `Carrier`."""
        self._writer.close()
        await self._writer.wait_closed()


class Answer(Struct, frozen=True):
    """A tagged response, and what came before it."""

    status: bytes
    text: bytes
    untagged: list[bytes]

    def code(self, name: bytes) -> bytes | None:
        """What stands behind a response code's name, in the tagged response or before it."""
        for text in (self.text, *(line.partition(b"OK ")[2] for line in self.untagged if line.startswith(b"* OK ["))):
            if match := re.match(rb"\[%s(?: ([^\]]*))?\]" % name, text):
                return match[1] or b""
        return None


class Client:
    """One connection.

    Attributes:
        picture: Of the selected mailbox.
        mailbox: Its name, or "".
        read_only: It was opened by EXAMINE.
        idling: In IDLE.
        cache: UIDVALIDITY, HIGHESTMODSEQ and messages of mailboxes that were left (RFC 7162 §3.2.5).
    """

    def __init__(self, name: str, carrier: Carrier) -> None:
        self.name = name
        self.picture = Picture()
        self.mailbox = ""
        self.read_only = False
        self.idling = False
        self.cache: dict[str, tuple[int, int, list[Message]]] = {}
        self.talk: list[bytes] = []
        self._carrier = carrier
        self._number = 0

    @property
    def by_uid(self) -> bool:
        """Sequence numbers are not allowed (RFC 9586)."""
        return "UIDONLY" in self.picture.enabled

    async def close(self) -> None:
        """Hang up."""
        await self._carrier.close()

    async def reconnect(self, carrier: Carrier) -> None:
        """A new connection; only what is in the cache stays."""
        await self._carrier.close()
        self._carrier = carrier
        self.mailbox, self.idling, self.read_only = "", False, False
        self.picture.forget()
        self.picture.enabled = frozenset()

    async def greeted(self) -> None:
        """Read the greeting."""
        line = await self._line()
        if not line.startswith((b"* OK", b"* PREAUTH")):
            raise Wrong(f"greeting {line!r}")

    async def ask(self, command: bytes, *, literal: bytes = b"") -> Answer:
        """Send a command and take everything that comes until it is answered.

        Args:
            literal: Stands at the command's end, after `{n+}`.

        Raises:
            Bye: The session is over.
            Wrong: BAD, or something that breaks the rules.
        """
        answer = await self.try_(command, literal=literal)
        if answer.status == b"BAD":
            raise Wrong(f"{command[:200]!r}: BAD {answer.text!r}")
        return answer

    async def try_(self, command: bytes, *, literal: bytes = b"") -> Answer:
        """As `ask`, but BAD is an answer like others."""
        words = command.upper().split(b" ", 2)
        self.picture.begin(b" ".join(words[: 2 if words[0] == b"UID" else 1]))
        tag = await self._send(command + (b" {%d+}\r\n%b" % (len(literal), literal) if literal else b""))
        answer = await self._until(tag)
        self.picture.command = b""
        return answer

    async def enable(self, *names: str) -> None:
        """Switch extensions on."""
        answer = await self.ask(b"ENABLE " + " ".join(names).encode())
        told = b" ".join(line[10:] for line in answer.untagged if line.startswith(b"* ENABLED")).upper().split()
        if missing := {name.upper() for name in names} - {name.decode() for name in told}:
            raise Wrong(f"not enabled: {missing}")
        self.picture.enabled |= {name.upper() for name in names}
        if "QRESYNC" in self.picture.enabled:
            self.picture.enabled |= {"CONDSTORE"}

    async def idle(self) -> None:
        """Enter IDLE."""
        self.picture.begin(b"IDLE")
        self._idle_tag = await self._send(b"IDLE")
        while not (line := await self._line()).startswith(b"+"):
            self._untagged(line)
        self.idling = True

    async def hear(self) -> None:
        """The next line, while idling."""
        self._untagged(await self._line())

    async def done(self) -> Answer:
        """Leave IDLE."""
        self.idling = False
        self._note(b"C: DONE")
        await self._carrier.send(b"DONE\r\n")
        answer = await self._until(self._idle_tag)
        self.picture.command = b""
        return answer

    # ------------------------------------------------------------------ mailboxes

    async def select(self, mailbox: str, *, read_only: bool = False, resync: bool = False) -> bool:
        """Open a mailbox; with `resync` from what is remembered of it. False if there is none."""
        self.remember()
        self.picture.forget()
        self.mailbox = ""
        verb = b"EXAMINE" if read_only else b"SELECT"
        known = self.cache.get(mailbox) if resync else None
        if known is None:
            answer = await self.ask(b"%b %b" % (verb, mailbox.encode()))
        else:
            answer = await self._resync(verb, mailbox, *known)
        if answer.status != b"OK":
            self.picture.forget()
            return False
        self.mailbox, self.read_only = mailbox, read_only
        return True

    async def _resync(
        self, verb: bytes, mailbox: str, uidvalidity: int, modseq: int, messages: list[Message]
    ) -> Answer:
        """RFC 7162 §3.2.5: what was known, without what has vanished, with what is told now, is the mailbox."""
        known = set_of(message.uid for message in messages)
        words = b"%d %d%b" % (uidvalidity, modseq, b" " + known if known else b"")
        self.picture.begin(verb)
        tag = await self._send(b"%b %b (QRESYNC (%b))" % (verb, mailbox.encode(), words))
        lines: list[bytes] = []
        while not (line := await self._line()).startswith(tag + b" "):
            self._bye(line)
            lines.append(line)
        _, status, text = line.split(b" ", 2)
        if status == b"OK":
            codes = [match for match in (re.match(rb"\* OK \[UIDVALIDITY (\d+)\]", said) for said in lines) if match]
            self._merge(lines, messages if codes and int(codes[0][1]) == uidvalidity else [])
        elif status == b"BAD":
            raise Wrong(f"SELECT with QRESYNC: BAD {text!r}")
        self.picture.command = b""
        return Answer(status, text, lines)

    def _merge(self, lines: list[bytes], messages: list[Message]) -> None:
        """What was known stays in front: later messages have higher UIDs, and EXISTS alone tells of them."""
        vanished: set[int] = set()
        for line in lines:
            if match := re.match(rb"\* VANISHED \(EARLIER\) (\S+)", line):
                vanished.update(numbers_of(match[1]))
        self.picture.messages = [message for message in messages if message.uid not in vanished]
        for line in lines:
            if not line.startswith(b"* VANISHED (EARLIER)"):
                self.picture.take(line)

    def remember(self) -> None:
        """Keep what is known of the mailbox that is left, if it was told everything up to a modseq."""
        picture = self.picture
        if self.mailbox and picture.highest and picture.complete and picture.messages:
            copies = [Message(m.uid, m.flags, m.modseq) for m in picture.messages]
            self.cache[self.mailbox] = (picture.uidvalidity, picture.highest, copies)

    async def learn(self) -> None:
        """Ask for the UIDs and flags that are not known, and for those of messages that arrive meanwhile."""
        items = b"(UID FLAGS MODSEQ)" if "CONDSTORE" in self.picture.enabled else b"(UID FLAGS)"
        while missing := [seq for seq, m in enumerate(self.picture.messages, 1) if not m.uid or m.flags is None]:
            prefix, numbers = (b"UID ", b"1:*") if self.by_uid else (b"", set_of(missing))
            answer = await self.ask(b"%bFETCH %b %b" % (prefix, numbers, items))
            if answer.text.startswith(b"[NONEXISTENT]"):  # by one who speaks at the same time
                raise Bye("the mailbox was deleted")
            if answer.status != b"OK":
                raise Wrong(f"FETCH of flags: {answer.status!r} {answer.text!r}")

    async def noop(self) -> None:
        """Hear all news, and ask for what they leave open."""
        await self.ask(b"NOOP")
        self.picture.highest = max(self.picture.highest, self.picture.highest_seen) if self.picture.highest else 0
        await self.learn()

    # ------------------------------------------------------------------ octets

    async def _send(self, command: bytes) -> bytes:
        self._number += 1
        tag = b"%b%d" % (self.name.encode(), self._number)
        self._note(b"C: " + tag + b" " + command[:200])
        await self._carrier.send(b"%b %b\r\n" % (tag, command))
        return tag

    async def _line(self) -> bytes:
        """A response with its literals in place."""
        pieces: list[bytes] = []
        while True:
            try:
                pieces.append(await self._carrier.line())
            except EOFError:
                raise Bye("the connection ended") from None
            if not (match := LITERAL.search(pieces[-1])):
                line = b"".join(pieces)
                self._note(b"S: " + line[:200])
                return line
            pieces.append(b"\r\n" + await self._carrier.octets(int(match[1])))

    async def _until(self, tag: bytes) -> Answer:
        untagged: list[bytes] = []
        while not (line := await self._line()).startswith(tag + b" "):
            self._untagged(line)
            untagged.append(line)
        _, status, text = line.split(b" ", 2)
        if match := re.match(rb"\[HIGHESTMODSEQ (\d+)\]", text):
            self.picture.highest = int(match[1])
        return Answer(status, text, untagged)

    def _untagged(self, line: bytes) -> None:
        self._bye(line)
        self.picture.take(line)

    def _bye(self, line: bytes) -> None:
        if line.startswith(b"* BYE"):
            raise Bye(line.decode(errors="replace"))

    def _note(self, line: bytes) -> None:
        self.talk.append(line)
        del self.talk[:-SILENT_AT]


def flags_of(words: Iterable[bytes]) -> bytes:
    """A flag list."""
    return b"(%b)" % b" ".join(sorted(words))
