"""Command lines, message data, paths, replies and trace headers of LMTP."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.errors import BadSyntax, LineTooLong
from sora.wire import lmtp


def lines(scanner: lmtp.Scanner) -> list[bytes | type[Exception]]:
    """All lines that can be had now; errors as their classes."""
    found: list[bytes | type[Exception]] = []
    while True:
        try:
            line = scanner.line()
        except BadSyntax as error:
            found.append(type(error))
            continue
        except LineTooLong as error:
            found.append(type(error))
            continue
        if line is None:
            return found
        found.append(line)


def receive(stream: bytes, cuts: list[int], chunk: int | None = None) -> tuple[bytes | None, bytes]:
    """Feed `stream` cut at `cuts` as message data or as a chunk; the message and what was left for command lines."""
    scanner = lmtp.Scanner()
    if chunk is None:
        scanner.start_data()
    else:
        scanner.start_chunk(chunk)
    message = b""
    for start, end in itertools.pairwise([0, *sorted(cuts), len(stream)]):
        scanner.feed(stream[start:end])
        message += scanner.take()
    return None if scanner.receiving else message, scanner._buffer[scanner._start :]


def unstuffed(stream: bytes) -> tuple[bytes, bytes] | None:
    """A plain model of RFC 5321 §4.5.2: lines end in CRLF; a line of one dot ends the data."""
    kept = []
    while True:
        line, crlf, stream = stream.partition(b"\r\n")
        if not crlf:
            return None
        if line == b".":
            return b"".join(kept), stream
        kept.append(line.removeprefix(b".") + b"\r\n")


class TestLines:
    def test_cut_anywhere(self) -> None:
        stream = b"LHLO a\r\nMAIL FROM:<>\r\n\r\nNOOP\r\n"
        for cut in range(len(stream)):
            scanner = lmtp.Scanner()
            scanner.feed(stream[:cut])
            found = lines(scanner)
            scanner.feed(stream[cut:])
            assert found + lines(scanner) == [b"LHLO a", b"MAIL FROM:<>", b"", b"NOOP"]
            assert scanner.buffered == 0

    @pytest.mark.parametrize("line", [b"NOOP\n", b"\n", b"NO\rOP\n", b"NOOP\n\n"])
    def test_bare_lf_is_refused_and_gone(self, line: bytes) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"RSET\r\n" + line + b"QUIT\r\n")
        found = lines(scanner)
        assert found[0] == b"RSET"
        assert BadSyntax in found
        assert found[-1] == b"QUIT"
        assert b"NOOP" not in found

    def test_longest_line(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"N" * 2046 + b"\r\n")
        assert lines(scanner) == [b"N" * 2046]

    @pytest.mark.parametrize("step", [1, 7, 2048, 10_000])
    def test_too_long_is_told_once_and_not_held(self, step: int) -> None:
        scanner = lmtp.Scanner()
        stream = b"N" * 5000 + b"\r\nNOOP\r\n"
        found: list[bytes | type[Exception]] = []
        for start in range(0, len(stream), step):
            scanner.feed(stream[start : start + step])
            found += lines(scanner)
            assert scanner.buffered <= 2048
        assert found == [LineTooLong, b"NOOP"]

    def test_one_octet_over(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"N" * 2047 + b"\r\nNOOP\r\n")
        assert lines(scanner) == [LineTooLong, b"NOOP"]

    def test_clear_forgets_the_rest_of_a_long_line(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"N" * 3000)
        assert lines(scanner) == [LineTooLong]
        scanner.clear()
        scanner.feed(b"NOOP\r\n")
        assert lines(scanner) == [b"NOOP"]

    def test_clear_forgets_what_was_pipelined(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"STARTTLS\r\nNOOP\r\n")
        assert scanner.line() == b"STARTTLS"
        scanner.clear()
        assert scanner.line() is None


class TestData:
    @pytest.mark.parametrize(
        ("stream", "message"),
        [
            (b".\r\n", b""),
            (b"\r\n.\r\n", b"\r\n"),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b".a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
            (b"a..b\r\n...\r\n.\r\n", b"a..b\r\n..\r\n"),
            (b"..\r\n..\r\n.\r\n", b".\r\n.\r\n"),
            (b"\0\xff\r\n.\r\n", b"\0\xff\r\n"),
        ],
    )
    def test_dots(self, stream: bytes, message: bytes) -> None:
        for cut in range(len(stream) + 1):
            assert receive(stream + b"QUIT\r\n", [cut]) == (message, b"QUIT\r\n")

    # Every "end of data" that some server took for one, see CVE-2023-51764, -51765, -51766 and their kin: none of these
    # ends a message here, and each is stored as it came (RFC 5321 §2.3.8, §4.1.1.4).
    @pytest.mark.parametrize(
        "fake",
        [
            b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\r\n.\r\r\n", b"\n.\r", b"\r.\n",
            b"\r\n.\r\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\n\r.\r\n", b"\n\r.\n\r", b"\r\n .\r\n", b"\r\n. \r\n",
            b"\x85.\x85", b"\xe2\x80\xa8.\r\n", b"\x0b.\r\n", b"\x0c.\r\n", b"\r\n.\x0b\r\n", b"\r\n.\n\r\n",
            b"\n.\n\n", b"\r\n\r.\r\n", b"\r\n\n.\r\n",
        ],
    )  # fmt: skip
    def test_nothing_else_ends_the_data(self, fake: bytes) -> None:
        smuggled = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nx"
        stream = b"Subject: a\r\n\r\nb" + fake + smuggled + b"\r\n.\r\n"
        expected = unstuffed(stream)
        assert expected is not None
        assert smuggled in expected[0]
        for cut in range(len(stream)):
            assert receive(stream, [cut]) == expected

    def test_bare_cr_and_lf_are_stored_as_they_came(self) -> None:
        assert receive(b"a\rb\nc\r\rd\n.e\r.f\r\n.\r\n", [])[0] == b"a\rb\nc\r\rd\n.e\r.f\r\n"

    @given(
        st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\r\n.\r\n"]), max_size=30),
        st.lists(st.integers(0, 60), max_size=6),
    )
    def test_equals_the_model(self, parts: list[bytes], cuts: list[int]) -> None:
        stream = b"".join(parts) + b"\r\n.\r\n"
        assert receive(stream, [min(cut, len(stream)) for cut in cuts]) == unstuffed(stream)

    def test_lines_follow_the_message(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"DATA\r\nhello\r\n.\r\nQUIT\r\n")
        assert scanner.line() == b"DATA"
        scanner.start_data()
        assert scanner.receiving
        assert scanner.take() == b"hello\r\n"
        assert not scanner.receiving
        assert lines(scanner) == [b"QUIT"]

    def test_only_what_may_become_the_end_is_held_back(self) -> None:
        scanner = lmtp.Scanner()
        scanner.start_data()
        scanner.feed(b"x" * 100_000 + b"\r\n.\r")
        assert scanner.take() == b"x" * 100_000
        assert scanner.buffered == 0
        assert scanner.take() == b""

    def test_there_is_nothing_to_take_between_messages(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"NOOP\r\n")
        assert scanner.take() == b""
        assert lines(scanner) == [b"NOOP"]


class TestChunks:
    def test_any_octets_are_data(self) -> None:
        octets = bytes(range(256)) + b"\r\n.\r\nQUIT\r\n..\r\n"
        assert receive(octets + b"NOOP\r\n", [], len(octets)) == (octets, b"NOOP\r\n")

    @given(st.binary(max_size=60), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=6))
    def test_cut_anywhere(self, stream: bytes, size: int, cuts: list[int]) -> None:
        found = receive(stream, [min(cut, len(stream)) for cut in cuts], size)
        assert found == ((stream[:size], stream[size:]) if size <= len(stream) else (None, b""))

    def test_an_empty_chunk_has_ended(self) -> None:
        scanner = lmtp.Scanner()
        scanner.feed(b"NOOP\r\n")
        scanner.start_chunk(0)
        assert not scanner.receiving
        assert scanner.take() == b""
        assert lines(scanner) == [b"NOOP"]

    @pytest.mark.parametrize(
        ("text", "chunk"),
        [
            (b"0", lmtp.Chunk(0)),
            (b"100", lmtp.Chunk(100)),
            (b"0 LAST", lmtp.Chunk(0, last=True)),
            (b"00012  last", lmtp.Chunk(12, last=True)),
            (b"9" * 20, lmtp.Chunk(10**20 - 1)),
        ],
    )
    def test_commands(self, text: bytes, chunk: lmtp.Chunk) -> None:
        assert lmtp.parse_chunk(text) == chunk

    @pytest.mark.parametrize(
        "text", [b"", b"-1", b"+1", b"1x", b"LAST", b"1 FIRST", b"1 LAST 2", b"1LAST", b"9" * 21, "١".encode()]
    )
    def test_bad_commands(self, text: bytes) -> None:
        with pytest.raises(lmtp.BadArgument):
            lmtp.parse_chunk(text)


class TestCommands:
    @pytest.mark.parametrize(
        ("line", "command"),
        [
            (b"NOOP", ("NOOP", b"")),
            (b"rset ", ("RSET", b"")),
            (b"Mail  FROM:<> ", ("MAIL", b"FROM:<>")),
            (b"VRFY a b", ("VRFY", b"a b")),
        ],
    )
    def test_verb_and_arguments(self, line: bytes, command: tuple[str, bytes]) -> None:
        assert lmtp.parse_command(line) == command

    @pytest.mark.parametrize("line", [b"", b" NOOP", b"\x00", b"N\xc3\xb6\xc3\xb6p", b"NOOP\tx", b"\x16\x03\x01"])
    def test_no_verb(self, line: bytes) -> None:
        with pytest.raises(BadSyntax):
            lmtp.parse_command(line)

    @pytest.mark.parametrize("line", [b"A b" + b" " * 2000 + b"c", b"A b" + b"  x" * 600])
    def test_spaces_between_words_cost_no_more_than_words(self, line: bytes) -> None:
        """A line of 2 kB takes microseconds; by going back to every space it took 25 ms."""
        started = time.thread_time()
        for _ in range(100):
            assert lmtp.parse_command(line) == ("A", line[2:])
        assert time.thread_time() - started < 0.2

    @pytest.mark.parametrize("name", [b"mx.example.com", b"[127.0.0.1]", b"[IPv6:::1]", b"my_host"])
    def test_hello(self, name: bytes) -> None:
        assert lmtp.parse_hello(name) == name.decode()

    @pytest.mark.parametrize("name", [b"", b"two words", b"a\r\nX: y", b"(comment)", b"a;b", b"x" * 256, b"\xc3\xa4"])
    def test_bad_hello(self, name: bytes) -> None:
        with pytest.raises(lmtp.BadArgument):
            lmtp.parse_hello(name)


class TestMail:
    @pytest.mark.parametrize(
        ("text", "mail"),
        [
            (b"FROM:<>", lmtp.Mail(lmtp.Path("", "", ""))),
            (b"from:<a@b.c>", lmtp.Mail(lmtp.Path("a@b.c", "a", "b.c"))),
            (b"FROM: <a@b.c>", lmtp.Mail(lmtp.Path("a@b.c", "a", "b.c"))),
            (b"FROM:<@x.y,@z:a@b>", lmtp.Mail(lmtp.Path("a@b", "a", "b"))),
            (b"FROM:<a@[127.0.0.1]>", lmtp.Mail(lmtp.Path("a@[127.0.0.1]", "a", "[127.0.0.1]"))),
            (b"FROM:<a@[IPv6:::1]>", lmtp.Mail(lmtp.Path("a@[IPv6:::1]", "a", "[IPv6:::1]"))),
            (b'FROM:<"a> b\\"c"@d.e>', lmtp.Mail(lmtp.Path('"a> b\\"c"@d.e', 'a> b"c', "d.e"))),
            (b'FROM:<""@d.e>', lmtp.Mail(lmtp.Path('""@d.e', "", "d.e"))),
            (b"FROM:<a..b.@d_x.e>", lmtp.Mail(lmtp.Path("a..b.@d_x.e", "a..b.", "d_x.e"))),
            (
                b"FROM:<!#$%&'*+-/=?^_`{|}~@d>",
                lmtp.Mail(lmtp.Path("!#$%&'*+-/=?^_`{|}~@d", "!#$%&'*+-/=?^_`{|}~", "d")),
            ),
            (b"FROM:<a@b> SIZE=123 BODY=8bitmime", lmtp.Mail(lmtp.Path("a@b", "a", "b"), 123, False, "8BITMIME")),
            (b"FROM:<a@b> body=7BIT size=0", lmtp.Mail(lmtp.Path("a@b", "a", "b"))),
            ("FROM:<ä@ö.de> SMTPUTF8".encode(), lmtp.Mail(lmtp.Path("ä@ö.de", "ä", "ö.de"), 0, True)),
        ],
    )
    def test_good(self, text: bytes, mail: lmtp.Mail) -> None:
        assert lmtp.parse_mail(text) == mail

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b"", lmtp.BadArgument),
            (b"TO:<a@b>", lmtp.BadArgument),
            (b"FROM:", lmtp.BadSender),
            (b"FROM:a@b", lmtp.BadSender),
            (b"FROM:<a@b", lmtp.BadSender),
            (b"FROM:<a>", lmtp.BadSender),
            (b"FROM:<a b@c>", lmtp.BadSender),
            (b"FROM:<a@b@c>", lmtp.BadSender),
            (b"FROM:<a@-b>", lmtp.BadSender),
            (b"FROM:<a@b..c>", lmtp.BadSender),
            (b"FROM:<a@b.>", lmtp.BadSender),
            (b"FROM:<@x:>", lmtp.BadSender),
            (b"FROM:<@b>", lmtp.BadSender),
            (b"FROM:<a@[1.2.3.4>", lmtp.BadSender),
            (b"FROM:<a\r@b>", lmtp.BadSender),
            (b'FROM:<"a\rb"@c>', lmtp.BadSender),
            (b'FROM:<"a\0b"@c>', lmtp.BadSender),
            (b'FROM:<"a@c>', lmtp.BadSender),
            (b"FROM:<postmaster>", lmtp.BadSender),
            ("FROM:<ä@b>".encode(), lmtp.Utf8Needed),
            (b"FROM:<\xe4@b> SMTPUTF8", lmtp.BadSender),
            (b"FROM:<a\xc2\x85@b> SMTPUTF8", lmtp.BadSender),
            (b"FROM:<a@b>SIZE=1", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE=", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE=-1", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE=1x", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE=123456789012345678901", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE=1 SIZE=1", lmtp.BadArgument),
            (b"FROM:<a@b> BODY=16BIT", lmtp.BadArgument),
            (b"FROM:<a@b> SMTPUTF8=yes", lmtp.BadArgument),
            (b"FROM:<a@b> =x", lmtp.BadArgument),
            (b"FROM:<a@b> SIZE=1\xb2", lmtp.BadArgument),
            (b"FROM:<a@b> RET=FULL", lmtp.UnknownParameter),
            (b"FROM:<a@b> AUTH=<>", lmtp.UnknownParameter),
        ],
    )
    def test_bad(self, text: bytes, error: type[BadSyntax]) -> None:
        with pytest.raises(BadSyntax) as caught:
            lmtp.parse_mail(text)
        assert type(caught.value) is error

    @given(st.binary(max_size=60))
    def test_anything_else_is_bad_syntax(self, text: bytes) -> None:
        for arguments in (text, b"FROM:<" + text + b">", b"FROM:<a@b> " + text):
            try:
                mail = lmtp.parse_mail(arguments)
            except BadSyntax:
                continue
            assert not set(mail.sender.text) & set("\r\n\0")


class TestRecipient:
    def test_good(self) -> None:
        path = lmtp.parse_recipient(b"TO:<Alice+Lists@Example.COM>", utf8=False).path
        assert path.address == "Alice+Lists@Example.COM"

    def test_quoting_is_undone_for_lookup_only(self) -> None:
        path = lmtp.parse_recipient(rb'TO:<"al\ice"@example.com>', utf8=False).path
        assert path.address == "alice@example.com"
        assert path.text == r'"al\ice"@example.com'

    def test_forwarded_fields_come_from_trusted_peers_only(self) -> None:
        text = b"TO:<a@b> XRCPTFORWARD=session+3Dabc+09note+3Dx+01ty"
        assert lmtp.parse_recipient(text, utf8=False, trusted=True).forward == (("session", "abc"), ("note", "x\ty"))
        with pytest.raises(lmtp.UnknownParameter):
            lmtp.parse_recipient(text, utf8=False)

    @pytest.mark.parametrize("value", [b"", b"=", b"=+3", b"=+00", b"=a XRCPTFORWARD=b"])
    def test_bad_forwarded_fields(self, value: bytes) -> None:
        with pytest.raises(BadSyntax):
            lmtp.parse_recipient(b"TO:<a@b> XRCPTFORWARD" + value, utf8=False, trusted=True)

    def test_postmaster_needs_no_domain(self) -> None:
        assert lmtp.parse_recipient(b"TO:<PostMaster>", utf8=False).path.address == "PostMaster"

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b"TO:<>", lmtp.BadRecipient),
            (b"TO:<alice>", lmtp.BadRecipient),
            (b"TO:alice@example.com", lmtp.BadRecipient),
            (b"FROM:<a@b>", lmtp.BadArgument),
            (b"TO:<a@b> NOTIFY=NEVER", lmtp.UnknownParameter),
            (b"TO:<a@b> ORCPT=rfc822;a@b", lmtp.UnknownParameter),
            ("TO:<ä@b>".encode(), lmtp.Utf8Needed),
        ],
    )
    def test_bad(self, text: bytes, error: type[BadSyntax]) -> None:
        with pytest.raises(BadSyntax) as caught:
            lmtp.parse_recipient(text, utf8=False)
        assert type(caught.value) is error

    def test_utf8(self) -> None:
        assert lmtp.parse_recipient("TO:<ä@b>".encode(), utf8=True).path.address == "ä@b"


class TestReplies:
    def test_one_line(self) -> None:
        assert lmtp.write_reply(lmtp.Reply(250, "2.1.0", ("Sender ok",))) == b"250 2.1.0 Sender ok\r\n"

    def test_many_lines_carry_the_status_each(self) -> None:
        reply = lmtp.Reply(550, "5.1.1", ("No", "such", "user"))
        assert lmtp.write_reply(reply) == b"550-5.1.1 No\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n"

    def test_no_status_where_the_rfc_wants_none(self) -> None:
        assert lmtp.write_reply(lmtp.Reply(354, "", ("Go",))) == b"354 Go\r\n"

    def test_permanent(self) -> None:
        assert [lmtp.Reply(code, "", ("",)).permanent for code in (250, 452, 499, 500, 554)] == [
            False, False, False, True, True,
        ]  # fmt: skip


class TestTrace:
    trace = lmtp.Trace(
        sender="s@example.org",
        hello="mx.example.net",
        peer="192.0.2.1",
        host="store.example.com",
        tls=False,
        utf8=False,
        id="abc",
        received_at=datetime(2026, 3, 5, 4, 5, 6, tzinfo=UTC),
    )

    def test_headers(self) -> None:
        assert lmtp.write_trace(self.trace, "alice@example.com", ["a+x@example.com"]) == (
            b"Return-Path: <s@example.org>\r\n"
            b"Delivered-To: alice@example.com\r\n"
            b"Received: from mx.example.net ([192.0.2.1])\r\n"
            b"\tby store.example.com with LMTP id abc\r\n"
            b"\tfor <a+x@example.com>;\r\n"
            b"\tThu, 5 Mar 2026 04:05:06 +0000\r\n"
        )

    def test_several_recipients_are_not_told_of_each_other(self) -> None:
        text = lmtp.write_trace(self.trace, "alice@example.com", ["a@example.com", "b@example.com"])
        assert b"for <" not in text
        assert b"id abc;\r\n" in text

    def test_null_sender_socket_tls_and_utf8(self) -> None:
        trace = lmtp.Trace(
            sender="",
            hello="x",
            peer="local",
            host="h",
            tls=True,
            utf8=True,
            id="i",
            received_at=self.trace.received_at,
        )
        text = lmtp.write_trace(trace, "ä@b", ["ä@b"])
        assert text.startswith(b"Return-Path: <>\r\n")
        assert b"from x (local)\r\n" in text
        assert b"with UTF8LMTPS id i" in text
        assert "for <ä@b>".encode() in text

    def test_date_has_its_own_zone(self) -> None:
        moment = datetime(2025, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))
        assert lmtp.write_date(moment) == "Wed, 31 Dec 2025 23:59:59 -0530"


class TestLoops:
    @pytest.mark.parametrize(
        ("data", "header"),
        [
            (b"A: b\r\n\r\nbody", b"A: b\r\n"),
            (b"A: b\n\nbody\r\n\r\n", b"A: b\n"),
            (b"A: b\r\n\nbody", b"A: b\r\n"),
            (b"A: b\r\n", b"A: b\r\n"),
            (b"\r\nReceived: no", b""),
            (b"\nReceived: no", b""),
            (b"", b""),
        ],
    )
    def test_header(self, data: bytes, header: bytes) -> None:
        assert lmtp.header_of(data) == header

    def test_header_is_bounded(self) -> None:
        assert len(lmtp.header_of(b"x" * 10**6)) == lmtp.MAX_HEADER

    def test_count(self) -> None:
        header = b"Received: a\r\n\tby received: b\r\nX-Received: c\r\nRECEIVED : d\r\nreceived:e\n"
        assert lmtp.count_received(header) == 3

    def test_delivered_to(self) -> None:
        header = b"delivered-to: Alice@Example.com\r\nX: y\r\nDelivered-To:<b@c> \r\nX-Delivered-To: no@no\r\n"
        assert lmtp.delivered_to(header) == {"alice@example.com", "b@c"}
        assert lmtp.delivered_to(b"Subject: Delivered-To: a\r\n") == frozenset()
