"""The mail that every script gets, in this order: each message asks something that others do not."""

from __future__ import annotations

from base64 import b64encode
from textwrap import dedent
from typing import Final

from msgspec import Struct

ME: Final = b"me@example.com"
"""Stands for the recipient's address."""


class Letter(Struct, frozen=True):
    """One message with its envelope.

    Attributes:
        name: What it is there for.
        sender: Reverse-path; empty for the null one.
        data: Octets, with `ME` in place of the recipient.
        detail: Behind the `+` of the recipient's local part.
        besides: It has a second recipient in the same transaction.
        parameters: Of MAIL FROM.
    """

    name: str
    sender: str
    data: bytes
    detail: str = ""
    besides: bool = False
    parameters: str = ""

    def to(self, address: str) -> bytes:
        """The octets for one recipient."""
        return self.data.replace(ME, address.encode())


def _text(text: str) -> bytes:
    return dedent(text).lstrip("\n").encode().replace(b"\n", b"\r\n")


_PLAIN: Final = """
    From: Alice Liddell <alice@wonderland.example>
    To: me@example.com
    Subject: Tea party
    Date: Fri, 05 Jan 2024 08:30:00 +0100
    Message-ID: <plain-1@wonderland.example>

    Come to tea at four.
    Bring cake.
    """

_ALTERNATIVE: Final = """
    From: shop@store.example
    To: "Me, Myself" <me@example.com>
    Cc: accounts@store.example
    Subject: Your order 12345 $$$ FREE
    Date: Sat, 06 Jan 2024 23:59:59 -0800
    Message-ID: <alt-1@store.example>
    MIME-Version: 1.0
    Content-Type: multipart/alternative; boundary="b=1"
    X-Priority: 1
    X-Count: 12

    A preamble that speaks of zebras.
    --b=1
    Content-Type: text/plain; charset=utf-8
    Content-Transfer-Encoding: quoted-printable

    Gr=C3=BC=C3=9Fe: your order is on its way, pay =E2=82=AC 50.
    A line that goes on and=
     on without an end.
    --b=1
    Content-Type: text/html; charset=utf-8
    Content-Transfer-Encoding: 7bit

    <html><head><style>p { color: crimson }</style><title>Order</title></head>
    <body><p>Your <b>or</b>der is on its way &amp; paid.</p>
    <a href="http://tracker.example/x">see it</a><script>var evil = 1;</script></body></html>
    --b=1--
    An epilogue with giraffes.
    """

_ATTACHED: Final = """
    From: "Bob (the builder)" <Bob.Builder+work@Build.Example>
    Reply-To: bob@replies.example
    To: undisclosed-recipients:;
    Bcc: me@example.com
    Subject: Plans attached
    Date: Mon, 08 Jan 2024 12:00:00 +0000
    Message-ID: <att-1@build.example>
    MIME-Version: 1.0
    Content-Type: multipart/mixed; boundary=outer

    --outer
    Content-Type: multipart/related; boundary=inner

    --inner
    Content-Type: text/plain; charset=iso-8859-1
    Content-Transfer-Encoding: base64

    U2No9m5lIEdy/N9lCkFuYmVpIGRpZSBQbORuZS4K
    --inner
    Content-Type: image/png; name="plan.png"
    Content-Transfer-Encoding: base64
    Content-ID: <img1@build.example>
    Content-Disposition: inline; filename=plan.png

    iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9
    awAAAABJRU5ErkJggg==
    --inner--
    --outer
    Content-Type: application/pdf; name*0*=utf-8''Pl%C3%A4ne%20; name*1="2024.pdf"
    Content-Disposition: attachment; filename*=utf-8''Pl%C3%A4ne%202024.pdf; size=11
    Content-Transfer-Encoding: base64

    JVBERi0xLjQKJQ==
    --outer
    Content-Type: message/rfc822
    Content-Description: the letter before

    From: carol@inner.example
    To: bob@build.example
    Subject: Inner subject
    Message-ID: <inner-1@inner.example>
    MIME-Version: 1.0
    Content-Type: text/plain

    The inner letter speaks of walruses.
    --outer
    Content-Type: text/x-virus; name="danger.exe"
    Content-Disposition: attachment;
     filename="danger.exe"

    not really a program
    --outer--
    """

_ENCODED: Final = """
    From: =?utf-8?q?J=C3=BCrgen_M=C3=BCller?= <juergen@post.example>
    To: =?iso-8859-1?q?Andr=E9?= <me@example.com>
    Subject: =?utf-8?b?R3LDvMOfZSBhdXMgS8O2bG4=?= =?iso-8859-1?q?_und_=C4rger?=
    Comments: =?utf-8?q?split_=E2=82=AC?= and =?us-ascii?q?plain?= rest
    Keywords: =?koi8-r?b?8NLJ18XU?=, =?x-unknown?q?what?=, =?utf-8?q?br=ken?=
    X-Adjacent: =?utf-8?q?one?=  =?utf-8?q?two?=
     =?utf-8?q?three?=
    X-Language: =?utf-8*de?q?Stra=C3=9Fe?=
    Date: Tue, 09 Jan 2024 00:30:00 +1300
    Message-ID: <enc-1@post.example>
    MIME-Version: 1.0
    Content-Type: text/plain; charset=utf-8
    Content-Transfer-Encoding: 8bit

    Schöne Grüße, ÄÖÜ, Привет.
    """

_BASE64: Final = (
    b"From: ivan@pochta.example\r\nTo: me@example.com\r\nSubject: =?koi8-r?b?8NLJ18XUIM3J0g==?=\r\n"
    b"Date: Wed, 10 Jan 2024 10:10:10 +0300\r\nMessage-ID: <koi-1@pochta.example>\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: text/plain; charset="koi8-r"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    + b64encode("Съешь же ещё этих мягких французских булок".encode("koi8-r"))
    + b"\r\n"
)

_QUOTED: Final = """
    From: amelie@france.example
    To: me@example.com, second@france.example
    Subject: Re: Re: R=E9sum=E9
    References: <a@france.example> <b@france.example>
    In-Reply-To: <b@france.example>
    Date: Thu, 11 Jan 2024 11:11:11 +0100
    Message-ID: <qp-1@france.example>
    MIME-Version: 1.0
    Content-Type: text/html; charset=iso-8859-1
    Content-Transfer-Encoding: quoted-printable

    <p>Le r=E9sum=E9 est pr=EAt.</p><p>100=25 caf=E9 cr=
    =E8me</p>
    """

_EIGHT: Final = (
    "From: Zoë <zoe@raw.example>\r\nTo: me@example.com\r\nSubject: Übergröße roh\r\n".encode()
    + b"X-Latin: caf\xe9 cr\xe8me\r\nDate: Fri, 12 Jan 2024 12:12:12 +0000\r\nMessage-ID: <raw-1@raw.example>\r\n"
    b"\r\nLatin \xe9\xe8 in a body without a charset.\r\n"
)

_ADDRESSES: Final = """
    From: "Quoted \\"local\\"" <"john..doe"@Odd.Example>
    Sender: (comment) sender@odd.example (another comment)
    Reply-To: <@route.example,@more.example:routed@odd.example>
    To: A Group: me@example.com, "x, y" <xy@odd.example>;, plain@odd.example
    Cc: Undisclosed: ;, broken@, @broken.example, justlocal, UPPER@ODD.EXAMPLE
    Resent-To: resent+tag+more@odd.example
    Resent-From: +leading@odd.example
    Subject:   spaces   inside   and at the end  
    Date: Sat, 13 Jan 2024 13:13:13 +0530
    Message-ID: <addr-1@odd.example>

    Odd addresses.
    """  # noqa: W291 — white space at the end of a field

_LARGE: Final = (
    b"From: big@large.example\r\nTo: me@example.com\r\nSubject: A large one\r\n"
    b"Date: Sun, 14 Jan 2024 14:14:14 -0330\r\nMessage-ID: <large-1@large.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=large\r\n\r\n--large\r\nContent-Type: text/plain\r\n\r\n"
    b"The beginning has an aardvark.\r\n"
    + b"".join(b"Line %05d of a long text that says nothing at all.\r\n" % number for number in range(2400))
    + b"The end has a zebu.\r\n--large\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + (b64encode(bytes(range(57))) + b"\r\n") * 800 + b"--large--\r\n"
)

_BARE: Final = """
    From: bare@minimal.example
    To: me@example.com

    No date, no subject, no id.
    """

_LIST: Final = """
    Received: from lists.list.example (lists.list.example [192.0.2.25])
     by mx.example.com with ESMTPS id abc123
     for <me@example.com>; Mon, 15 Jan 2024 15:15:20 +0000
    Received: from origin.list.example by lists.list.example
     with SMTP; Mon, 15 Jan 2024 17:15:10 +0200
    List-Id: Sieve talk <sieve-talk.list.example>
    List-Unsubscribe: <mailto:leave@list.example>
    List-Post: <mailto:sieve-talk@list.example>
    Precedence: list
    From: Dave via talk <dave@list.example>
    To: sieve-talk@list.example
    Cc: me@example.com
    Subject: [sieve-talk] Re: relational tests
    Date: Mon, 15 Jan 2024 15:15:00 +0000
    Message-ID: <list-1@list.example>
    X-Seq: 10
    X-Seq: 9
    X-Seq: 100

    > quoted
    an answer
    """

_SPAM: Final = """
    X-Spam-Score: 7.5
    X-Spam-Flag: YES
    X-Spam-Status: Yes, score=7.5 required=5.0
    X-Virus-Scan: infected
    From: win@lottery.example
    To: me@example.com
    Subject: You won!!!
    Date: Tue, 16 Jan 2024 16:16:16 +0000
    Message-ID: <spam-1@lottery.example>

    Click http://win.example/?id=1
    """

_HAM: Final = """
    X-Spam-Score: -2.1
    X-Virus-Scan: clean
    From: friend@pub.example
    To: me@example.com
    Subject: Beer?
    Date: Tue, 16 Jan 2024 18:00:00 GMT
    Message-ID: <ham-1@pub.example>

    At seven.
    """

_SEVERAL: Final = """
    From: Boss <boss@work.example>
    To: me@example.com, colleague@work.example,
     "Third, The" <third@work.example>
    Cc: fourth@work.example, fifth@work.example
    Subject: =?us-ascii?q?URGENT:?= meeting
    Importance: High
    Date: Wed, 17 Jan 2024 17:17:17 -0500 (EST)
    Message-ID: <several-1@work.example>
    X-Folded: first
     second
    \tthird

    Now!
    """

_BOUNCE: Final = """
    From: Mail Delivery <mailer-daemon@mta.example>
    To: me@example.com
    Subject: Undelivered Mail
    Auto-Submitted: auto-replied
    Date: Thu, 18 Jan 2024 18:18:18 +0000
    Message-ID: <bounce-1@mta.example>
    MIME-Version: 1.0
    Content-Type: multipart/report; report-type=delivery-status; boundary=report

    --report
    Content-Type: text/plain

    Could not be delivered.
    --report
    Content-Type: message/delivery-status

    Reporting-MTA: dns; mta.example

    Final-Recipient: rfc822; lost@mta.example
    Action: failed
    Status: 5.1.1
    --report
    Content-Type: text/rfc822-headers

    Subject: what was lost
    --report--
    """

_EMPTY: Final = """
    From: empty@fields.example
    To: me@example.com
    Subject:
    X-Empty:
    X-Blank:   \t
    X-Twice: first
    X-Twice: second
    X-Twice:
    X-Number: 0042
    X-Negative: -5
    X-Mixed: 7up
    X-Glob: a*b?c\\d
    x-lower: lower name
    Date: 19 Jan 24 19:19 EST
    Message-ID: <empty-1@fields.example>

    """

_DETAIL: Final = """
    From: me@example.com
    To: "Me with tag" <me@example.com>
    Subject: note to self
    Date: Sat, 20 Jan 2024 20:20:20 -0000
    Message-ID: <self-1@example.com>

    From myself, by a tagged address.
    """

_AGAIN: Final = """
    From: Alice Liddell <alice@wonderland.example>
    To: me@example.com
    Subject: Tea party, again
    Date: Sun, 21 Jan 2024 21:21:21 +0000
    Message-ID: <plain-1@wonderland.example>
    X-Event: 42

    The same id as the first letter had.
    """

_ROBOT: Final = """
    From: robot@machine.example
    To: me@example.com
    Subject: Nightly report
    Auto-Submitted: auto-generated
    Precedence: bulk
    Date: Mon, 22 Jan 2024 22:22:22 +0000
    Message-ID: <robot-1@machine.example>
    X-Event: 42

    All is well.
    """

_BROKEN: Final = """
    From: broken@mime.example
    To: me@example.com
    Subject: =?utf-8?q?never_ends
    Date: yesterday at noon
    Message-ID: broken id
    MIME-Version: 1.0
    Content-Type: multipart/mixed; boundary=lost
    X-Event: 43

    --lost
    Content-Type: text/plain; charset=martian
    Content-Transfer-Encoding: quoted-printable

    Broken =ZZ escapes and =
    --lost
    Content-Type: text
    Content-Transfer-Encoding: base64

    !!!! this is no base64 !!!!
    --lost
    Content-Disposition: attachment; filename="no-type.txt"

    a part without a type and without an end
    """

LETTERS: Final = (
    Letter("plain", "alice@wonderland.example", _text(_PLAIN)),
    Letter("alternative", "bounce-77@store.example", _text(_ALTERNATIVE)),
    Letter("attachments", "Bob.Builder+work@Build.Example", _text(_ATTACHED)),
    Letter("encoded headers", "juergen@post.example", _text(_ENCODED), parameters=" BODY=8BITMIME"),
    Letter("base64 in koi8-r", "ivan@pochta.example", _BASE64),
    Letter("quoted-printable HTML", "amelie@france.example", _text(_QUOTED), detail="talk"),
    Letter("8-bit headers", "zoe@raw.example", _EIGHT, parameters=" BODY=8BITMIME"),
    Letter("odd addresses", '"john..doe"@Odd.Example', _text(_ADDRESSES)),
    Letter("large", "big@large.example", _LARGE),
    Letter("no date", "bare@minimal.example", _text(_BARE)),
    Letter("mailing list", "sieve-talk-bounces@list.example", _text(_LIST)),
    Letter("spam", "win@lottery.example", _text(_SPAM)),
    Letter("ham", "friend@pub.example", _text(_HAM)),
    Letter("several recipients", "boss@work.example", _text(_SEVERAL), besides=True),
    Letter("null sender", "", _text(_BOUNCE)),
    Letter("empty fields", "empty@fields.example", _text(_EMPTY)),
    Letter("tagged recipient", "me@example.com", _text(_DETAIL), detail="self+note"),
    Letter("same id again", "alice@wonderland.example", _text(_AGAIN)),
    Letter("robot", "robot@machine.example", _text(_ROBOT)),
    Letter("broken", "broken@mime.example", _text(_BROKEN)),
)
