"""Messages made for questions that found mail does not ask: charsets, sorting keys, threads."""

from __future__ import annotations

from base64 import b64encode
from email.header import Header
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS: Final = {
    "utf-8": ("Zażółć gęślą jaźń", "naïve café ☺"),
    "iso-8859-1": ("Crème brûlée", "Señor Müller läßt grüßen"),
    "iso-8859-15": ("Cœur à 5 €", "Œuvre complète"),
    "iso-8859-2": ("Žluťoučký kůň", "příliš úpěl"),
    "windows-1251": ("Привет мир", "Съешь же ещё этих булок"),
    "koi8-r": ("Здравствуй", "чаю выпей"),
    "iso-2022-jp": ("日本語の件名", "本文は日本語です"),
    "shift_jis": ("東京タワー", "表示ソート能力"),
    "euc-jp": ("京都の秋", "金閣寺と銀閣寺"),
    "gb18030": ("中文主题", "简体字正文测试"),
    "gb2312": ("北京大学", "学习汉语"),
    "euc-kr": ("한국어 제목", "본문은 한국어"),
    "big5": ("繁體主旨", "臺灣的正文"),
    "utf-7": ("Übergröße", "§ 7 & Ärger"),
    "windows-1252": ("“Smart” quotes", "ellipsis… and dash–dash"),
    "iso-8859-7": ("Ελληνικά", "καλημέρα κόσμε"),
    "iso-8859-8": ("שלום", "עברית בגוף"),
    "iso-8859-5": ("Београд", "ћирилица"),
}
"""Subject and text by charset."""

SUBJECTS: Final = (
    "Alpha", "Re: Alpha", "RE : alpha", "Fwd: Alpha", "Fw: Re: Alpha", "[list] Alpha", "Re: [list] Alpha",
    "[list] Re: Alpha", "[list] [more] Alpha", "Alpha (fwd)", "Alpha (fwd) (FWD) ", "[fwd: Alpha]", "[Fwd: Re: Alpha]",
    "Re[2]: Alpha", "Re[list]: Alpha", "Re: [a] [b] Re: Alpha", "[only]", "[only] ", "Re:", "Re: ", "(fwd)", "[fwd:]",
    "", "Re: Re: Re:", "Rebecca", "Fwdly", "re alpha", "Re:Alpha", "Re:\tAlpha", "Alpha  beta", "Alpha beta",
    "AW: Alpha", "Re: =?utf-8?q?Alpha?=", "=?utf-8?q?Re:_Alpha?=", "=?utf-8?b?UmU6IEFscGhh?=",
    "[=?utf-8?q?list?=] Alpha", "Re: Alpha [tail]", "[a]b] Alpha", "[[a]] Alpha", "Re [x] : Alpha",
    "[x] Re [y]: [z] Alpha",
    "[fwd: [list] Alpha (fwd)]", "Ärger", "ärger", "Re: Ärger", "=?iso-8859-1?q?=C4rger?=", "Argus", "Zebra",
    "zebra", "ZEBRA", "_under", "10", "9",
    "=?utf-8?b?5pel5pys?=", "=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "Fwd: [fwd: Re: Alpha (fwd)] (fwd)",
)  # fmt: skip
"""What base subjects are made from (RFC 5256 §2.1)."""

PEOPLE: Final = (
    "alice@example.org", "Alice <alice@example.org>", "Bob <zoe@example.org>", "=?utf-8?q?=C3=84nne?= <a@b.example>",
    '"Zoe, the first" <c@d.example>', "alice@example.org, bob@example.org", "ALICE@EXAMPLE.ORG", "Bob@a.example",
    "group: x@y.example, z@y.example;", "undisclosed-recipients:;", '"" <empty@name.example>', "<only@addr.example>",
    "=?iso-2022-jp?b?GyRCRnxLXBsoQg==?= <nihon@example.jp>", "alice (Comment Name) <alice@example.org>",
    "dave@example.org (Dave Comment)", '"quoted local"@example.org', "Émile <emile@example.fr>",
)  # fmt: skip

DATES: Final = (
    "Mon, 01 Jan 2024 10:00:00 +0000", "Mon, 01 Jan 2024 12:00:00 +0200", "Mon, 01 Jan 2024 01:00:00 -0900",
    "Mon, 01 Jan 2024 09:59:59 +0000", "Sun, 31 Dec 2023 23:00:00 -1200", "Tue, 02 Jan 2024 00:30:00 +1400",
    "1 Jan 24 10:00 GMT", "Mon, 1 Jan 2024 05:00:00 EST",
)  # fmt: skip


def made() -> Iterator[tuple[str, bytes]]:
    """Name and octets of every message."""
    yield from _charsets()
    yield from _sorting()


def _charsets() -> Iterator[tuple[str, bytes]]:
    """A text in each charset: plainly, in quoted-printable and base64; its subject in words of both kinds."""
    for charset, (subject, text) in TEXTS.items():
        octets = text.encode(charset)
        words = f"=?{charset}?b?{b64encode(subject.encode(charset)).decode()}?="
        body = b64encode(octets) + b"\r\n"
        yield f"base64 in {charset}", _text(charset, words, "base64", body)
        quoted = f"=?{charset}?q?{''.join(f'={octet:02x}' for octet in subject.encode(charset))}?="
        body = b"".join(b"=%02X" % octet for octet in octets[:24]) + b"=\r\n"
        body += b"".join(b"=%02X" % octet for octet in octets[24:]) + b"\r\n"
        yield f"quoted-printable in {charset}", _text(charset.upper(), quoted, "quoted-printable", body)
        if b"\r" not in octets and b"\n" not in octets:
            yield f"8bit in {charset}", _text(charset, f"about {charset}", "8bit", octets + b"\r\n")
    name = Header("Überweisung für José", "utf-8").encode()
    yield (
        "words in other fields",
        b"From: " + name.encode() + b" <jose@example.org>\r\nTo: =?koi8-r?b?8NLJ18XU?= <p@example.ru>\r\n"
        b"Subject: plain\r\nComments: =?iso-8859-1?q?Gr=FC=DFe_aus_K=F6ln?=\r\n"
        b"X-Note: =?utf-8?q?split_=E2=82?= =?utf-8?q?=AC_sign?=\r\n"
        b"Keywords: =?utf-8?b?csOpc3Vtw6k=?=, plain\r\nContent-Type: text/plain; name*=utf-8''%e2%82%ac.txt\r\n"
        b"Content-Disposition: attachment; filename*0*=iso-8859-1''gr%fc; filename*1=sse.txt\r\n\r\nnothing\r\n",
    )


def _text(charset: str, subject: str, encoding: str, body: bytes) -> bytes:
    head = (
        f"From: charset@example.org\r\nTo: reader@example.org\r\nSubject: {subject}\r\n"
        f"Date: Fri, 05 Jan 2024 08:00:00 +0000\r\nMessage-ID: <{encoding}.{charset.lower()}@charset.example>\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode() + body


def _sorting() -> Iterator[tuple[str, bytes]]:
    """Every subject, every kind of address; the dates repeat, so that later keys decide."""
    for number, subject in enumerate(SUBJECTS):
        date = DATES[number % len(DATES)]
        who = PEOPLE[number % len(PEOPLE)]
        whom = PEOPLE[(number * 7 + 3) % len(PEOPLE)]
        copy = PEOPLE[(number * 5 + 1) % len(PEOPLE)]
        head = f"From: {who}\r\nTo: {whom}\r\nCc: {copy}\r\nSubject: {subject}\r\nDate: {date}\r\n"
        yield f"sorting {number}", head.encode() + b"\r\n" + b"x" * (number % 9) + b"\r\n"
    yield "no subject", b"From: a@example.org\r\nDate: Mon, 01 Jan 2024 10:00:00 +0000\r\n\r\nx\r\n"
    yield "no from", b"Subject: Alpha\r\nTo: b@example.org\r\nDate: Mon, 01 Jan 2024 10:00:00 +0000\r\n\r\nx\r\n"
    yield "no date", b"Subject: Alpha\r\nFrom: b@example.org\r\nTo: c@example.org\r\n\r\nx\r\n"


# ------------------------------------------------------------------------------------------------------------- threads


def one(name: str, subject: str, day: int, references: str = "", reply_to: str = "", hour: int = 10) -> bytes:
    """A message of a thread; *name*, *references* and *reply_to* are local parts of ids, separated by spaces."""
    lines = [f"Message-ID: {_ids(name)}"] if name else []
    lines += ["From: t@example.org", f"Subject: {subject}"]
    if day:
        lines.append(f"Date: {day:02d} Feb 2024 {hour:02d}:00:00 +0000")
    if references:
        lines.append(f"References: {_ids(references)}")
    if reply_to:
        lines.append(f"In-Reply-To: {_ids(reply_to)}")
    return "\r\n".join([*lines, "", "x", ""]).encode()


def _ids(names: str) -> str:
    return " ".join(name if name[0] in '<"(' else f"<{name}@thread.example>" for name in names.split())


THREADS: Final = {
    "chain": [one("a", "s", 1), one("b", "Re: s", 2, "a"), one("c", "Re: s", 3, "a b")],
    "chain in reverse": [one("c", "Re: s", 3, "a b"), one("b", "Re: s", 2, "a"), one("a", "s", 1)],
    "two answers": [one("a", "s", 1), one("c", "Re: s", 3, "a"), one("b", "Re: s", 2, "a")],
    "answers of one day": [one("a", "s", 1), one("b", "Re: s", 2, "a"), one("c", "Re: s", 2, "a")],
    "missing root": [one("b", "Re: s", 2, "a"), one("c", "Re: s", 3, "a"), one("d", "other", 4)],
    "missing parent": [one("a", "s", 1), one("c", "Re: s", 3, "a b"), one("d", "Re: s", 4, "a b")],
    "missing line": [one("d", "Re: s", 4, "a b c"), one("x", "other", 5)],
    "two missing roots": [one("b", "Re: s", 2, "a"), one("d", "Re: s", 4, "c")],
    "missing root with two": [one("b", "Re: q", 2, "a"), one("c", "Re: r", 1, "a")],
    "loop of two": [one("a", "s", 1, "b"), one("b", "Re: s", 2, "a")],
    "loop of three": [one("a", "s", 1, "c"), one("b", "Re: s", 2, "a"), one("c", "Re: s", 3, "b")],
    "own parent": [one("a", "s", 1, "a"), one("b", "Re: s", 2, "a b")],
    "id twice in references": [one("a", "s", 1), one("c", "Re: s", 3, "a b a b"), one("b", "Re: s", 2, "a")],
    "conflicting references": [
        one("a", "s", 1), one("b", "Re: s", 2, "a"), one("c", "Re: s", 3, "b"), one("d", "Re: s", 4, "c a b"),
    ],
    "duplicate ids": [one("a", "s", 1), one("a", "s two", 2), one("b", "Re: s", 3, "a")],
    "duplicate ids of answers": [one("a", "s", 1), one("b", "Re: s", 2, "a"), one("b", "Re: s", 3, "a")],
    "no ids": [one("", "s", 1), one("", "Re: s", 2), one("", "t", 3)],
    "in-reply-to": [one("a", "s", 1), one("b", "t", 2, reply_to="a"), one("c", "u", 3, reply_to="b a")],
    "references before in-reply-to": [one("a", "s", 1), one("b", "t", 2), one("c", "u", 3, "a", "b")],
    "in-reply-to in words": [one("a", "s", 1), one("b", "t", 2, reply_to='"your <x>" <a@thread.example>')],
    "unreadable references": [one("a", "s", 1), one("b", "u", 2, "<a", "a"), one("c", "v", 3, "(none)", "a")],
    "same subject": [one("a", "s", 1), one("b", "s", 2), one("c", "s", 3)],
    "same subject, answers": [one("a", "s", 1), one("b", "Re: s", 2), one("c", "Re: s", 3)],
    "answer first": [one("b", "Re: s", 1), one("a", "s", 2)],
    "answers only": [one("a", "Re: s", 2), one("b", "Fwd: s", 1), one("c", "s (fwd)", 3)],
    "subject joins threads": [
        one("a", "s", 1), one("b", "Re: s", 2, "a"), one("c", "Re: s", 3), one("d", "x", 4, "c"),
    ],
    "subject joins a missing root": [one("b", "Re: s", 2, "a"), one("c", "Re: s", 3, "a"), one("d", "s", 4)],
    "missing roots with one subject": [
        one("b", "Re: s", 2, "a"), one("c", "Re: s", 3, "a"), one("e", "Re: s", 4, "d"), one("f", "s", 5, "d"),
    ],
    "subject of others": [one("a", "s", 1), one("b", "t", 2, "a"), one("c", "Re: t", 3), one("d", "t", 4)],
    "changed subject": [one("a", "s", 1), one("b", "new (was: s)", 2, "a"), one("c", "Re: new (was: s)", 3, "a b")],
    "empty subjects": [one("a", "", 1), one("b", "", 2), one("c", "Re:", 3), one("d", "[x]", 4)],
    "lists": [one("a", "[l] s", 1), one("b", "Re: [l] s", 2), one("c", "[l] Re: s", 3), one("d", "S", 4)],
    "case": [one("a", "Ärger", 1), one("b", "Re: ärger", 2), one("c", "=?utf-8?q?=C3=84RGER?=", 3)],
    "no dates": [one("a", "s", 0), one("b", "Re: s", 0, "a"), one("c", "t", 0), one("d", "Re: t", 1, "c")],
    "late roots": [one("a", "s", 9), one("b", "Re: s", 2, "a"), one("c", "t", 5), one("d", "Re: t", 6, "c")],
    "grandchildren": [
        one("a", "s", 1), one("b", "Re: s", 5, "a"), one("c", "Re: s", 3, "a"), one("d", "Re: s", 4, "a c"),
        one("e", "Re: s", 6, "a b"), one("f", "Re: s", 2, "a b"),
    ],
    "quoted ids": [
        one('<"q1"@thread.example>', "s", 1), one("b", "t", 2, "<q1@thread.example>"),
        one("c", "u", 3, '<"q1"@thread.example>'),
    ],
    "ids in folds": [one("a", "s", 1), one("b", "t", 2, "a", "c").replace(b"References: ", b"References:\r\n\t")],
    "comments between ids": [one("a", "s", 1), one("b", "t", 2), one("c", "u", 3, "a (say<>) b")],
    "same day": [one(name, f"s{name}", 1, hour=9) for name in "abcd"],
    "many": [
        one(f"m{n}", "Re: big" if n % 3 else f"big {n % 4}", n + 1, f"m{n * 5 % 17} m{n * 3 % 11}" if n % 4 else "")
        for n in range(24)
    ],
}  # fmt: skip
"""Mailboxes by what is odd about them."""
