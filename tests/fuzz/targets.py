"""What is fuzzed, and what must hold for any octets: one function per target, which raises if something does not.

Only the exceptions that a parser documents are caught. What arrives in pieces gives what the same octets give whole:
each input is cut at places that follow from itself, so that a finding is the input and nothing else.
"""

from __future__ import annotations

import itertools
import random
import struct
import time
import zlib
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from sora._native import imapscan
from sora._native.mimescan import MESSAGE, MULTIPART, Part
from sora._native.seqset import SeqSet, UidSet
from sora._native.viewcols import NO_RECENT, Snapshot
from sora.errors import BadSyntax, LineTooLong, WireError
from sora.mime.digest import digest, searchable
from sora.mime.message import Message, parse
from sora.net.deflate import INFLATE_SLICE, Deflate
from sora.types import SEEN
from sora.wire import imap_commands, imap_search, lmtp, managesieve, pop3, proxyproto, xclient
from tests.fuzz.imapvalues import check_body, check_envelope, read_value
from tests.fuzz.sieve import sieve, sievelexer, sieveparser
from tests.support import models_seqset, models_viewcols

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Event = tuple[Any, ...]

LITERAL_LIMIT: Final = 65_536
MANY: Final = 20_000
"""Numbers of a set that are worth counting one by one."""
PUMPED: Final = 65_536
"""Octets that a short input is pumped up to."""
SECONDS: Final = 0.5
"""CPU time that the work on so many octets may take; what is linear needs a few hundredths of it."""


def pieces(data: bytes) -> Iterator[bytes]:
    """The input cut in places that follow from itself; now and then octet by octet."""
    choose = random.Random(zlib.crc32(data))
    longest = choose.choice((1, 3, 16, 200))
    at = 0
    while at < len(data):
        end = at + choose.randint(1, longest)
        yield data[at:end]
        at = end


def harmless(error: WireError) -> str:
    """The text of a refusal, which is sent to the peer on one line."""
    assert error.text.isprintable(), error.text
    return f"{type(error).__name__}: {error.text}"


# ---------------------------------------------------------------------------------------------------------------- imap


def imap(data: bytes) -> None:
    """The first octet chooses how long lines may be, and UTF-8 names."""
    max_line = (40, 400, 65_536)[data[0] % 3] if data else 65_536
    utf8 = bool(data) and data[0] % 2 == 1
    whole = imap_events([data[1:]], max_line, utf8)
    assert whole == imap_events(pieces(data[1:]), max_line, utf8)


def imap_events(stream: Iterator[bytes] | list[bytes], max_line: int, utf8: bool) -> list[Event]:
    """What a scanner gives, and what each command is parsed to."""
    scanner = imapscan.Scanner(max_line, utf8)
    events: list[Event] = []
    for piece in stream:
        scanner.feed(piece)
        while _imap_step(scanner, events):
            assert scanner.held <= len(scanner.tag or b"") + LITERAL_LIMIT * 64
    return _joined(events)


def _runs(events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    for kind, run in itertools.groupby(events, key=lambda event: event[0]):
        yield kind, list(run)


def _joined(events: list[Event]) -> list[Event]:
    """Octets that were given one after the other count as given together."""
    joined: list[Event] = []
    for kind, run in _runs(events):
        joined += [(kind, b"".join(event[1] for event in run))] if kind == "octets" else run
    return joined


def _imap_step(scanner: imapscan.Scanner, events: list[Event]) -> bool:
    """One event; False if more octets are needed."""
    try:
        found = scanner.next()
    except (BadSyntax, LineTooLong) as error:
        events.append(("refused", scanner.tag, harmless(error)))
        return True
    if found is None:
        if scanner.remaining and (octets := scanner.take(1000)):
            events.append(("octets", octets))
            return True
        return False
    if isinstance(found, imapscan.NeedLiteral):
        first = not events or events[-1][0] not in ("literal", "octets")
        events.append(("literal", found.size, found.synchronizing, found.binary, _partial(scanner, first)))
        _decide(scanner, found)
    else:
        events.append(("command", found.tag, found.name, _parsed(found)))
    return True


def _partial(scanner: imapscan.Scanner, first: bool) -> str:
    """What stands before a literal; as in a session, it is parsed for the first one of a command alone."""
    command = scanner.partial()
    assert command is not None
    if not first:
        return ""
    mark = command.cursor.mark()
    found = _parsed(command)
    command.cursor.reset(mark)
    return found


def _decide(scanner: imapscan.Scanner, need: imapscan.NeedLiteral) -> None:
    if need.size > LITERAL_LIMIT or need.size % 7 == 6:
        scanner.discard()
    elif need.size % 7 == 5:
        scanner.stream()
    else:
        scanner.accept()


def _parsed(command: imapscan.Command) -> str:
    assert command.tag
    assert command.name == command.name.upper()
    parser = imap_commands.PARSERS.get(command.name)
    if parser is None:
        return f"unknown {command.cursor.rest()!r}"
    try:
        found = parser(command.cursor)
    except BadSyntax as error:
        return harmless(error)
    assert command.cursor.at_end()
    if isinstance(found, imap_search.Search):
        _check_search(found.key)
    return repr(found)


def _check_search(key: Any) -> None:
    """Texts that are looked for can be given to PostgreSQL; numbers fit."""
    for name in getattr(key, "__struct_fields__", ()):
        value = getattr(key, name)
        if isinstance(value, str):
            assert "\0" not in value, value
            value.encode()
        for inner in value if isinstance(value, tuple) else (value,):
            _check_search(inner)


# ---------------------------------------------------------------------------------------------------------------- mime


def mime(data: bytes) -> None:
    """Spans are in order and inside the message; what is sent can be read by a client; texts can be stored."""
    message = parse(data)
    assert (message.root.header_start, message.root.body_end) == (0, len(data))
    for part in _tree(message.root):
        _check_part(data, part)
    check_envelope(read_value(message.envelope()))
    check_body(read_value(message.bodystructure()), extended=True)
    check_body(read_value(message.body()), extended=False)
    _check_sections(message, (), message.root, 0)
    _check_digest(message)


def _tree(root: Part) -> Iterator[Part]:
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(part.children)


def _check_part(data: bytes, part: Part) -> None:
    assert 0 <= part.header_start <= part.fields_end <= part.header_end <= part.body_end <= len(data)
    assert part.header_lines == data.count(b"\n", part.header_start, part.header_end)
    assert part.body_lines == data.count(b"\n", part.header_end, part.body_end)
    position = part.header_end
    for child in part.children:
        assert position <= child.header_start
        position = child.body_end
    assert position <= part.body_end
    at = part.header_start
    for _, start, end in part.lines():
        assert at == start < end
        at = end
    assert at == part.fields_end + _overhang(data, part)
    for name, value in part.fields():
        assert name
        assert not set(value) & set(b"\r\n\0")


def _overhang(data: bytes, part: Part) -> int:
    """The last field keeps its line end, although it is the boundary's if a boundary follows (RFC 2046 §5.1.1)."""
    last = max((end for _, _, end in part.lines()), default=part.fields_end)
    assert last == part.fields_end or (
        part.fields_end == part.body_end and data[part.fields_end : last] in (b"\n", b"\r\n")
    )
    return last - part.fields_end


def _check_sections(message: Message, path: tuple[int, ...], part: Part, depth: int) -> None:
    for text in (b"", b"HEADER", b"TEXT", b"MIME"):
        span = message.section(path, text)
        assert span is None or 0 <= span[0] <= span[1] <= len(message.data)
    names = [b"content-type", b"subject"]
    both = len(message.header_fields(path, names, False)) + len(message.header_fields(path, names, True))
    header = message.section(path, b"HEADER")
    if header is not None:
        inside = message.part(path)
        assert inside is not None
        owner = inside if not path else inside.children[0]
        blank = owner.header_end - owner.fields_end
        assert both == header[1] - header[0] + blank + _overhang(message.data, owner)
    if depth < 5:
        for number, child in enumerate(_numbered(path, part), 1):
            found = (*path, number)
            assert message.part(found) is child
            _check_sections(message, found, child, depth + 1)
    assert message.section((*path, 0)) is None
    assert message.section((*path, 4_294_967_295), b"MIME") is None


def _numbered(path: tuple[int, ...], part: Part) -> list[Part]:
    """Parts below a path (RFC 3501 §6.4.5): a message that is no multipart is its own part 1."""
    message = part.children[0] if path and part.kind == MESSAGE else part
    if message.kind == MULTIPART:
        return message.children
    return [message] if not path or part.kind == MESSAGE else []


def _check_digest(message: Message) -> None:
    data = message.data
    facts = digest(data, limit=500)
    if facts.header is not None:  # answers for the message where only fields are asked for
        alone = parse(facts.header)
        for names, exclude in (([b"subject", b"content-type"], False), ([b"subject"], True)):
            assert alone.header_fields((), names, exclude) == message.header_fields((), names, exclude)
        assert facts.header == data[: len(facts.header)]
    assert len(facts.body_text) <= 500
    assert len(facts.preview) <= 200
    for name in facts.__struct_fields__:
        value = getattr(facts, name)
        if isinstance(value, str):
            assert "\0" not in value, name
            value.encode()
    header, body = searchable(data)
    assert facts.header_text == header
    assert body.startswith(facts.body_text)
    assert facts.body_truncated or body == facts.body_text


# ---------------------------------------------------------------------------------------------------------------- lmtp


def lmtp_lines(data: bytes) -> None:
    """Lines, message data and chunks, and the grammar of every command."""
    whole = lmtp_events([data])
    assert whole == lmtp_events(pieces(data))


def lmtp_events(stream: Iterator[bytes] | list[bytes]) -> list[Event]:
    """What a scanner gives, and what each line is parsed to."""
    scanner = lmtp.Scanner()
    events: list[Event] = []
    client = xclient.Client()
    for piece in stream:
        scanner.feed(piece)
        while True:
            if scanner.receiving:
                events.append(("octets", scanner.take()))
                if scanner.receiving:
                    break
            try:
                line = scanner.line()
            except (BadSyntax, LineTooLong) as error:
                events.append(("refused", harmless(error)))
                continue
            if line is None:
                break
            found, client = _lmtp_command(scanner, line, client)
            events.append(("line", line, found))
    return _joined(events)


def _lmtp_command(scanner: lmtp.Scanner, line: bytes, client: xclient.Client) -> tuple[str, xclient.Client]:
    assert b"\n" not in line
    try:
        verb, arguments = lmtp.parse_command(line)
        assert arguments == arguments.strip(b" ")
        if verb == "XCLIENT":
            client = xclient.parse_xclient(arguments, client)
            _one_line(client.name, client.address, client.hello, client.login, client.destination)
            return repr(client), client
        return _lmtp_arguments(scanner, verb, arguments), client
    except BadSyntax as error:
        return harmless(error), client


def _lmtp_arguments(scanner: lmtp.Scanner, verb: str, arguments: bytes) -> str:
    if verb == "MAIL":
        mail = lmtp.parse_mail(arguments)
        _one_line(mail.sender.text, mail.sender.address)
        return repr(mail)
    if verb == "RCPT":
        rcpt = lmtp.parse_recipient(arguments, len(arguments) % 2 == 0, len(arguments) % 3 > 0)
        _one_line(rcpt.path.text, rcpt.path.address)
        assert rcpt.path.local
        return repr(rcpt)
    if verb == "BDAT":
        chunk = lmtp.parse_chunk(arguments)
        scanner.start_chunk(chunk.size)
        return repr(chunk)
    if verb == "DATA":
        scanner.start_data()
        return ""
    if verb == "LHLO":
        _one_line(lmtp.parse_hello(arguments))
    return verb


def _one_line(*texts: str) -> None:
    """What goes into headers, replies and PostgreSQL."""
    for text in texts:
        assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in text), text
        text.encode()


def lmtp_data(data: bytes) -> None:
    """Whatever a message is, it comes out as it went in, and what stands behind it is a command again."""
    stuffed = (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]
    ended = stuffed if stuffed.endswith(b"\r\n") or not stuffed else stuffed + b"\r\n"
    scanner = lmtp.Scanner()
    scanner.start_data()
    got = b""
    for piece in pieces(ended + b".\r\nQUIT\r\n"):
        scanner.feed(piece)
        got += scanner.take()
    assert got == (data if ended == stuffed else data + b"\r\n")
    assert scanner.line() == b"QUIT"
    header = lmtp.header_of(data)
    assert data.startswith(header)
    assert lmtp.count_received(header) <= len(header)
    assert all(isinstance(address, str) for address in lmtp.delivered_to(header))


def lmtp_all(data: bytes) -> None:
    """Commands, and the input as a message."""
    lmtp_lines(data)
    lmtp_data(data)


# ---------------------------------------------------------------------------------------------------------------- pop3


def pop3_all(data: bytes) -> None:
    """Commands, and the input as a message that is sent."""
    assert _pop3_events([data]) == _pop3_events(pieces(data))
    _check_sent(data)


def _pop3_events(stream: Iterator[bytes] | list[bytes]) -> list[Event]:
    scanner = pop3.Scanner()
    events: list[Event] = []
    for piece in stream:
        scanner.feed(piece)
        while True:
            try:
                line = scanner.line()
            except LineTooLong as error:
                events.append(("refused", harmless(error)))
                continue
            if line is None:
                break
            assert len(line) < pop3.MAX_LINE
            events.append((line, *_pop3_parsed(line)))
    return events


def _pop3_parsed(line: bytes) -> list[str]:
    try:
        command = pop3.parse_command(line)
    except BadSyntax as error:
        return [harmless(error)]
    assert command.verb.isascii()
    found = [command.verb]
    for read in (pop3.parse_number, pop3.parse_top, pop3.parse_text, pop3.find_language):
        try:
            found.append(repr(read(command.argument)))
        except BadSyntax as error:
            found.append(harmless(error))
    return found


def _check_sent(data: bytes) -> None:
    """A client that undoes the dots has the message; nothing in it ends it (RFC 1939 §3)."""
    sent = b"".join(pop3.write_message(data))
    assert sent.endswith(b"\r\n.\r\n") or sent == b".\r\n"
    lines = sent.removesuffix(b".\r\n").split(b"\n")
    assert not any(line.rstrip(b"\r") == b"." for line in lines)
    read = b"\n".join(line.removeprefix(b".") for line in lines)
    assert read in (data, data + b"\r\n")
    for count in (0, 1, 5):
        end = pop3.top_end(data, count)
        assert 0 <= end <= len(data)
        assert b"".join(pop3.write_message(data, end)) == b"".join(pop3.write_message(data[:end]))


# --------------------------------------------------------------------------------------------------------- managesieve


def managesieve_all(data: bytes) -> None:
    """Commands with literals, and the input as a string that is sent."""
    assert _managesieve_events([data]) == _managesieve_events(pieces(data))
    text = data.decode("utf-8", "replace")
    scanner = managesieve.Scanner(len(text) * 4)
    scanner.feed(managesieve.write_string(text) + b"\r\n")
    assert scanner.words() == [managesieve.Word(text.encode(), string=True)]


def _managesieve_events(stream: Iterator[bytes] | list[bytes]) -> list[Event]:
    scanner = managesieve.Scanner(LITERAL_LIMIT)
    events: list[Event] = []
    for piece in stream:
        scanner.feed(piece)
        while True:
            try:
                words = scanner.words()
            except WireError as error:
                events.append(("refused", scanner.verb, harmless(error)))
                continue
            if words is None:
                break
            assert sum(len(word.value) for word in words) <= LITERAL_LIMIT + len(words) * managesieve.MAX_LINE
            events.append((tuple(words), *_managesieve_parsed(words)))
    return events


def _managesieve_parsed(words: list[managesieve.Word]) -> list[str]:
    found = []
    for read in (managesieve.parse_command, managesieve.parse_response):
        try:
            found.append(repr(read(words)))
        except BadSyntax as error:
            found.append(harmless(error))
    for word in words:
        for argument in (managesieve.parse_text, managesieve.parse_octets, managesieve.parse_number):
            try:
                found.append(repr(argument(word)))
            except BadSyntax as error:
                found.append(harmless(error))
    return found


# --------------------------------------------------------------------------------------------------------------- proxy


def proxy(data: bytes) -> None:
    """A header, and the stream behind it, to the octet."""
    assert _proxied([data]) == _proxied(pieces(data))


def _proxied(stream: Iterator[bytes] | list[bytes]) -> Event:
    reader = proxyproto.Reader()
    rest = b""
    for piece in stream:
        try:
            used = reader.feed(piece)
        except BadSyntax as error:
            harmless(error)
            return ("refused",)
        assert 0 <= used <= len(piece)
        assert used == len(piece) or reader.header is not None
        rest += piece[used:]
    header = reader.header
    if header is None:
        assert not rest
        return ("unfinished",)
    for address, port in ((header.source, header.source_port), (header.destination, header.destination_port)):
        assert not address or str(ip_address(address)) == address
        assert 0 <= port <= 65535
    return header, rest


# ---------------------------------------------------------------------------------------------------------------- sets


def sets(data: bytes) -> None:
    """Two sets with LF between them."""
    text, _, other = data.partition(b"\n")
    left, right = _set_of(text), _set_of(other)
    if left is None or right is None or left.is_saved or right.is_saved:
        return
    resolved, second = left.resolve(1000), right.resolve(1000)
    assert resolved.bounds() == ([lo for lo, _ in resolved.ranges()], [hi for _, hi in resolved.ranges()])
    assert SeqSet.from_ranges(resolved.ranges()) == resolved
    if resolved:
        assert SeqSet.parse(bytes(resolved)) == resolved
    if len(resolved) > MANY or len(second) > MANY:
        return
    numbers, others = set(resolved), set(second)
    assert numbers == models_seqset.resolve(text, 1000)
    assert len(numbers) == len(resolved)
    assert set(resolved | second) == numbers | others
    assert set(resolved & second) == numbers & others
    assert set(resolved - second) == numbers - others
    assert (resolved.first, resolved.last) == ((min(numbers), max(numbers)) if numbers else (0, 0))


def _set_of(text: bytes) -> SeqSet | None:
    try:
        found = SeqSet.parse(text)
    except BadSyntax as error:
        harmless(error)
        assert not models_seqset.is_valid(text) or len(text) > 1000
        return None
    assert models_seqset.is_valid(text)
    return found


# ---------------------------------------------------------------------------------------------------------------- view


def view(data: bytes) -> None:
    """Two states of a mailbox with the octets between `====`, as they may come from a broken database."""
    first, _, second = data.partition(b"====")
    old = _snapshot(first)
    new = _snapshot(second)
    for snapshot in (old, new):
        if snapshot is not None:
            _check_snapshot(snapshot)
    if old is None:
        return
    try:
        newer = old.apply(second, 2**32 - 1, 2)
    except ValueError:
        return
    _check_snapshot(newer)
    difference = old.diff(newer)
    assert len(difference.expunged_seqs) == len(difference.vanished)
    assert len(newer) == len(old) - len(difference.vanished) + len(difference.arrived)
    held = old.hold_expunges(newer)
    assert held.all_uids() == old.all_uids()
    _check_patches(old, second)


def _snapshot(state: bytes) -> Snapshot | None:
    try:
        return Snapshot.load(state, 2**32 - 1, 1)
    except ValueError:
        return None


def _check_snapshot(snapshot: Snapshot) -> None:
    uids = snapshot.all_uids()
    assert len(uids) == len(snapshot)
    for seq, uid in zip(range(1, 50), uids, strict=False):
        assert (snapshot.seq(uid), snapshot.uid(seq)) == (seq, uid)
        flags = snapshot.flags(uid)
        assert all(uid in snapshot.with_flag(flag) for flag in flags)
        names = {flag: b"k%d" % flag for flag in flags if flag >= 16}
        assert snapshot.flags_text(uid, names, False) == models_viewcols.flags_text(flags, names, False)
    assert len(snapshot.with_flag(SEEN, False)) == snapshot.unseen
    every = SeqSet.parse(b"1:*")
    assert snapshot.uids(every) == uids
    assert snapshot.present(UidSet.parse(b"1:*")) == uids
    text = b"".join(snapshot.write_fetch_flags(every, {}, True, NO_RECENT, 7))
    assert text.count(b"\r\n") == len(snapshot)


def _check_patches(old: Snapshot, octets: bytes) -> None:
    numbers = [value for (value,) in struct.iter_unpack(">i", octets[: len(octets) // 4 * 4])][:20]
    gone = [number for number in numbers if 0 < number]
    without = old.patch_expunge(5, gone)
    assert len(without) == len(old) - len(set(gone) & set(old.all_uids()))
    _check_snapshot(without)
    for block, flag in itertools.pairwise(numbers):
        try:
            patched = old.patch_flags(6, [(block, octets[:128])], [flag % 70 - 3], [flag % 5], bool(flag & 1))
        except ValueError:
            continue
        _check_snapshot(patched)
        assert patched.all_uids() == old.all_uids()


# ------------------------------------------------------------------------------------------------------------- deflate


def deflate(data: bytes) -> None:
    """A stream of a peer gives what zlib says, a slice at a time; what we send can be read at once."""
    whole, cut = _inflated([data]), _inflated(pieces(data))
    assert cut.startswith(whole)  # what is good before an error is given if it comes apart from it
    ours, theirs = Deflate(), zlib.decompressobj(-zlib.MAX_WBITS)
    for number, piece in enumerate(pieces(data)):
        assert theirs.decompress(ours.deflate(piece)) == piece
        if number % 3 == 0:
            ours.forget()


def _inflated(stream: Iterator[bytes] | list[bytes]) -> bytes:
    """What is given before the end or an error, 4 MiB at most."""
    ours, plain = Deflate(), b""
    for piece in stream:
        try:
            given = ours.inflate(piece)
            assert len(given) <= INFLATE_SLICE
            plain += given
            while ours.more and len(plain) < 2**22:
                given = ours.inflate(b"")
                assert len(given) <= INFLATE_SLICE
                plain += given
        except BadSyntax as error:
            harmless(error)
            break
        if len(plain) >= 2**22:
            break
    return plain[: 2**22]


# ---------------------------------------------------------------------------------------------------------------- work


def work(data: bytes) -> None:
    """The work is linear: a unit of the input, repeated up to 64 KiB, takes no more CPU time than is its due.

    The first octet chooses the protocol, the next two where the unit begins and how long it is.
    """
    if len(data) < 4:
        return
    run = _WORKERS[data[0] % len(_WORKERS)]
    text = data[3:]
    start = data[1] % len(text)
    unit = text[start : start + 1 + data[2] % 64]
    pumped = text[:start] + unit * ((PUMPED - len(text)) // len(unit) + 1) + text[start + len(unit) :]
    spent = min(_cpu_time(run, pumped) for _ in range(3)) if _cpu_time(run, pumped) > SECONDS else 0
    assert spent <= SECONDS, f"{spent:.2f} s for {len(pumped)} octets of {run.__name__}"


def _cpu_time(run: Callable[[bytes], object], data: bytes) -> float:
    started = time.thread_time()
    run(data)
    return time.thread_time() - started


def _imap_work(data: bytes) -> None:
    imap_events([data + b"\r\n"], 2 * PUMPED, False)


def _lmtp_work(data: bytes) -> None:
    lmtp_events([data])


def _lmtp_line_work(data: bytes) -> None:
    """The same line, as long as it may be, a hundred times."""
    line = data[:1800].translate(None, b"\r\n") + data[-200:].translate(None, b"\r\n") + b"\r\n"
    lmtp_events([line * 100])


def _pop3_work(data: bytes) -> None:
    _pop3_events([data])


def _managesieve_work(data: bytes) -> None:
    _managesieve_events([data])


def _mime_work(data: bytes) -> None:
    message = parse(data)
    message.envelope()
    message.body()
    digest(data)


_WORKERS: Final = (_mime_work, _imap_work, _lmtp_work, _lmtp_line_work, _pop3_work, _managesieve_work)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "imap": imap,
    "mime": mime,
    "lmtp": lmtp_all,
    "pop3": pop3_all,
    "managesieve": managesieve_all,
    "proxy": proxy,
    "sets": sets,
    "view": view,
    "deflate": deflate,
    "work": work,
    "sieve": sieve,
    "sievelexer": sievelexer,
    "sieveparser": sieveparser,
}
"""Every target by its name."""
