"""Scripts that ask many questions at once: each test with each match type, comparator and part of its subject.

The answer to a question is a keyword of the message, `t7` if the seventh test is true; what a variable holds is a
header field that the script adds.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST: Final = 40
"""Tests of one script."""
RELATIONS: Final = ("gt", "ge", "lt", "le", "eq", "ne")
COMPARATORS: Final = {
    "": "",
    "octet": ':comparator "i;octet"',
    "casemap": ':comparator "i;ascii-casemap"',
    "numeric": ':comparator "i;ascii-numeric"',
}
ALL: Final = (
    "fileinto", "envelope", "encoded-character", "subaddress", "comparator-i;ascii-numeric", "relational", "regex",
    "imap4flags", "variables", "body", "environment", "date", "index", "mime", "editheader", "spamtest", "spamtestplus",
    "virustest", "mailbox", "foreverypart", "special-use",
)  # fmt: skip


def probes() -> Iterator[tuple[str, str]]:
    """Name and text of every script."""
    for name, tests in QUESTIONS.items():
        asked = list(tests)
        for start in range(0, len(asked), MOST):
            number = f" {start // MOST + 1}" if len(asked) > MOST else ""
            yield f"asked: {name}{number}", _probe(asked[start : start + MOST])
    for name, values in VALUES.items():
        yield f"shown: {name}", _showing(values)


def _probe(tests: Iterable[str]) -> str:
    lines = [_require(), 'addflag "asked";\n']
    lines += [f'if {test} {{ addflag "t{number}"; }}\n' for number, test in enumerate(tests, 1)]
    return "".join(lines)


def _showing(values: Iterable[str]) -> str:
    """*values* are commands; a test that matches leaves its match variables in `X-Seen` fields."""
    lines = [_require()]
    for number, test in enumerate(values, 1):
        shown = "|".join(f"${{{place}}}" for place in range(5))
        lines.append(f'if {test} {{ addheader :last "X-Seen-{number}" "[{shown}]"; }}\n')
    return "".join(lines)


def _require() -> str:
    return "require [{}];\n".format(", ".join(f'"{name}"' for name in ALL))


def _each(before: str, kinds: Iterable[str], after: Iterable[str]) -> list[str]:
    return [f"{before} {kind} {rest}" for kind, rest in product(kinds, after)]


def _plain(kinds: Iterable[str] = (":is", ":contains", ":matches")) -> list[str]:
    return [
        f"{kind} {tag}".strip()
        for kind, (name, tag) in product(kinds, COMPARATORS.items())
        if name != "numeric" or kind == ":is"
    ]


def _ordered(kind: str, comparators: Iterable[str] = COMPARATORS) -> list[str]:
    return [f'{kind} "{relation}" {COMPARATORS[name]}'.strip() for relation, name in product(RELATIONS, comparators)]


_SUBJECTS: Final = (
    '"subject" "tea party"', '"subject" "Tea party"', '"SUBJECT" ["x", "Beer?"]', '"subject" "*party*"',
    '"subject" "?ea p*y"', '"subject" ""', '"x-empty" ""', '["x-nowhere", "x-blank"] ""', '"x-nowhere" ["", "*"]',
    '"x-glob" "a*b?c\\\\d"', '"x-glob" "a\\\\*b\\\\?c\\\\\\\\d"', '"subject" "Grüße aus Köln und Ärger"',
    '"subject" "grüße*"', '"subject" "GRÜSSE*"', '"subject" "*ÄRGER"', '"subject" "Übergröße roh"',
    '"x-twice" "second"', '["x-twice", "x-number"] ["", "42"]', '"x-folded" "first second third"',
    '"x-folded" "*second*third"', '"x-latin" "*caf*"', '"x-adjacent" "onetwothree"', '"x-adjacent" "one*"',
    '"comments" "split € and plain rest"', '"subject" "spaces   inside   and at the end"',
    '"from" "\\"Bob (the builder)\\" <Bob.Builder+work@Build.Example>"', '"x-number" "42"', '"x-mixed" "7"',
    '"x-negative" "-5"', '"x-language" "Straße"', '"keywords" "*Привет*"', '"subject" "Привет миру"',
    '"received" "*lists.list.example*"', '"subject" "R*sum*"', '"list-id" "*<sieve-talk.list.example>"',
)  # fmt: skip

_ADDRESSED: Final = (
    '"from" "alice@wonderland.example"', '"from" "Alice@Wonderland.Example"', '["from", "sender"] "sender@odd.example"',
    '"from" "john..doe@odd.example"', '"to" "me@example.com"', '["to", "cc"] ["plain@odd.example", "justlocal"]',
    '"cc" "UPPER@ODD.EXAMPLE"', '"cc" ["broken@", "@broken.example"]', '"resent-to" "resent+tag+more@odd.example"',
    '"reply-to" "routed@odd.example"', '"to" ""', '"bcc" "*example*"', '"from" "*@*.example"',
    '"to" "third@work.example"', '"from" "Bob.Builder+work@Build.Example"', '"to" "*"',
)  # fmt: skip
_PARTS: Final = (
    (":localpart", ("alice", "Bob.Builder+work", "john..doe", "justlocal", "resent+tag+more", "", "*b*")),
    (":domain", ("wonderland.example", "WONDERLAND.EXAMPLE", "build.example", "", "*.example", "odd.example")),
    (":user", ("alice", "bob.builder", "resent", "", "john..doe", "me", "*e*")),
    (":detail", ("work", "tag+more", "leading", "", "*", "tag")),
    (":all", ("alice@wonderland.example", "*+*", "", "broken@")),
)
_ENVELOPES: Final = (
    '"from" "alice@wonderland.example"', '"from" ""', '"from" "*"', '"to" "%me%@example.com"',
    '"to" "%ME%@example.com"',
    ':localpart "to" "%me%+talk"', ':detail "to" "talk"', ':detail "to" "self+note"', ':user "to" "%me%"',
    ':domain "to" "EXAMPLE.com"', ':domain "from" "*.example"', ':localpart "from" "john..doe"',
    ':detail "from" "work"',
    ':detail "to" "*"', ':domain "from" ""', ':localpart "from" ""', ':all "from" "bob.builder+work@build.example"',
    '["from", "to"] "me@example.com"', '"FROM" "*odd*"',
)  # fmt: skip
_BODIES: Final = (
    '"tea at four"', '"TEA"', '"zebra"', '"giraffe"', '"Grüße"', '"GRÜSSE"', '"grüße: your"', '"=C3=BC"',
    '"goes on and on"',
    '"<b>"', '"your order is"', '"crimson"', '"evil"', '"tracker.example"', '"& paid"', '"walrus"', '"inner subject"',
    '"iVBORw0"', '"PNG"', '"Schöne"', '"PDF"', '"not really a program"', '"мягких"', '"5LDl"', '"résumé est prêt"',
    '"café"',
    '"aardvark"', '"zebu"', '"Latin"', '"example/?id=1"', '"Could not be delivered"', '"lost@mta.example"',
    '"what was lost"', '"multipart"', '"--b=1"', '"a part without a type"', '"!!!!"', '"Broken"', '"=ZZ"', '""',
)  # fmt: skip
_BODY_KINDS: Final = (
    "", ":text", ":raw", ':content "text"', ':content "text/html"', ':content "text/plain"', ':content "message"',
    ':content "message/rfc822"', ':content "multipart"', ':content ""', ':content "application"',
    ':content ["image", "message/delivery-status"]',
)  # fmt: skip
_DATES: Final = tuple(
    f'"{part}" "{value}"'
    for part, value in (
        ("year", "2024"), ("month", "01"), ("day", "05"), ("day", "06"), ("day", "07"), ("date", "2024-01-08"),
        ("date", "2024-01-07"), ("julian", "60314"), ("hour", "08"), ("hour", "07"), ("hour", "23"), ("minute", "30"),
        ("second", "59"), ("time", "12:00:00"), ("iso8601", "2024-01-05T08:30:00+01:00"), ("iso8601",
        "2024-01-05T07:30:00Z"),
        ("std11", "Fri, 05 Jan 2024 08:30:00 +0100"), ("std11", "Fri,  5 Jan 2024 08:30:00 +0100"), ("zone", "+0100"),
        ("zone", "-0800"), ("zone", "+0000"), ("weekday", "5"), ("weekday", "0"), ("weekday", "6"),
    )
)  # fmt: skip
_ENVIRONMENT: Final = tuple(
    f'{kind} "{item}" "{value}"'
    for item, kind, value in (
        ("location", ":is", "MS"), ("phase", ":is", "during"), ("phase", ":is", "post"), ("domain", ":contains", "."),
        ("host", ":contains", "."), ("name", ":contains", "e"), ("version", ":matches", "*.*"), ("remote-ip", ":is",
        "127.0.0.1"),
        ("remote-ip", ":contains", "."), ("nowhere", ":contains", ""), ("nowhere", ":is", ""), ("LOCATION", ":is",
        "ms"),
        ("name", ":is", ""), ("location", ':value "ge"', "MS"), ("location", ':count "eq"', "1"), ("nowhere",
        ':count "eq"', "0"),
    )
)  # fmt: skip

QUESTIONS: Final[dict[str, list[str]]] = {
    "header": _each("header", _plain(), _SUBJECTS),
    "header, values": _each(
        "header", _ordered(":value"), ('"x-number" "42"', '"x-mixed" "7"', '"subject" "s"', '"x-seq" ["9", "10"]')
    ),
    "header, counts": _each(
        "header",
        _ordered(":count", ("", "numeric")),
        ('"x-twice" "3"', '["x-seq", "subject"] "4"', '"x-nowhere" "0"', '"received" ["2", "3"]', '"x-empty" "1"'),
    ),
    "header, regex": _each(
        "header",
        (":regex", ':regex :comparator "i;octet"'),
        (
            '"subject" "^tea"', '"subject" "party$"', '"subject" "[[:digit:]]{5}"', '"subject" "(a|b)eer\\\\?"',
            '"subject" "^\\\\[[^]]+\\\\] Re:"', '["from", "to"] "<.*@.*>"', '"subject" "^$"', '"x-folded" "d +t"',
            '"x-seq" "^(10|9)$"', '"subject" "\\\\$+"', '"subject" "[A-Z]{6}:"', '"subject" "ß"', '"subject" "^.{4}$"',
        ),
    ),
    "header, index": _each(
        "header",
        (":index 1", ":index 2", ":index 1 :last", ":index 3 :last", ":index 4"),
        ('"x-seq" "10"', '"x-seq" "9"', '"x-seq" "100"', ':contains "received" "origin"',
        '["x-twice", "x-seq"] "first"'),
    ),
    "exists and size": [
        'exists "subject"', 'exists ["subject", "date"]', 'exists ["subject", "x-nowhere"]', 'exists "x-empty"',
        'exists ["X-LOWER"]', 'exists "return-path"', 'exists "delivered-to"', 'exists "received"', "size :over 1K",
        "size :under 1K", "size :over 100K", "size :under 1M", "size :over 0", "size :under 0", "not size :over 2000",
        'not exists "list-id"', "true", "false", 'allof (true, exists "to", not false)',
        'anyof (false, exists "list-id")',
        'not anyof (exists "date", exists "list-post")', "not not true",
    ],
    "address": _each("address", _plain(), _ADDRESSED),
    "address, parts": [
        f'address {part} {kind} ["from", "to", "cc", "resent-to", "resent-from"] "{value}"'
        for part, values in _PARTS
        for value in values
        for kind in (":is", ":contains", ":matches")
    ],
    "address, relational": _each(
        "address",
        (*_ordered(":count", ("numeric",)), *_ordered(":value", ("", "octet"))),
        ('"to" "3"', '["to", "cc"] "5"', '"cc" "0"', ':localpart "from" "h"', ':domain "to" "example.com"'),
    ),
    "address, index": [
        f'address {index} :domain "{field}" "{value}"'
        for index in (":index 1", ":index 1 :last", ":index 2")
        for field, value in (("to", "example.com"), ("cc", "odd.example"), ("resent-to", "odd.example"), ("from", ""))
    ],
    "envelope": _each("envelope", (":is", ":contains", ":matches", ':is :comparator "i;octet"'), _ENVELOPES),
    "envelope, relational": _each(
        "envelope",
        (*_ordered(":count", ("numeric",)), ':value "gt"', ':value "le" :comparator "i;octet"'),
        ('"from" "1"', '"to" "1"', '["from", "to"] "2"', ':localpart "from" "k"'),
    ),
    "body": _each("body", [f"{kind} :contains".strip() for kind in _BODY_KINDS], _BODIES),
    "body, other matches": [
        f"body {kind} {match}"
        for kind in (":text", ":raw", ':content "text/plain"')
        for match in (
            ':matches "*tea*cake*"', ':matches "Come*"', ':is ""', ':regex "^Come to"', ':regex "cake\\\\.$"',
            ':contains :comparator "i;octet" "TEA"', ':contains :comparator "i;octet" "tea"', ':count "ge" "1"',
            ':count "gt" :comparator "i;ascii-numeric" "2"', ':regex "[[:upper:]]{3}"', ':matches "*\\r\\n*"',
            ':is "At seven.\r\n"', ':value "ge" "n"', ':contains ["nothing", "walrus", "seven"]',
        )
    ],
    "date, original zone": _each('date :originalzone "date"', ("",), _DATES),
    "date, zone": [
        f'date :zone "{zone}" "date" {asked}' for zone in ("+0000", "-0530") for asked in _DATES
    ],
    "date, received": [
        f'date {index} :zone "+0000" "received" "{part}" "{value}"'
        for index in (":index 2", ":index 1 :last", ":index 2 :last")
        for part, value in (("date", "2024-01-15"), ("hour", "15"), ("time", "15:15:10"), ("time", "15:15:20"))
    ],
    "date, relational": [
        f'date {kind} :zone "+0000" "date" "{part}" "{value}"'
        for kind in (':value "ge"', ':value "lt"', ':count "eq"', ":contains", ":matches",
        ':value "gt" :comparator "i;ascii-numeric"')
        for part, value in (("date", "2024-01-12"), ("hour", "12"), ("weekday", "3"), ("year", "1"), ("std11", "*Jan*"))
    ],
    "currentdate": [
        'currentdate :value "ge" "year" "2024"', 'currentdate :is "year" "1997"',
        'currentdate :matches "date" "????-??-??"',
        'currentdate :matches "time" "??:??:??"', 'currentdate :matches "iso8601" "*T*"',
        'currentdate :matches "std11" "???, ?? * *"',
        'currentdate :zone "+0200" "zone" "+0200"', 'currentdate :zone "-0000" "zone" "-0000"',
        'currentdate :count "eq" "day" "1"',
        'currentdate :value "le" :comparator "i;ascii-numeric" "weekday" "6"', 'currentdate :matches "julian" "?????"',
        'currentdate :regex "month" "^(0[1-9]|1[0-2])$"', 'currentdate :zone "+1400" :regex "hour" "^[0-2][0-9]$"',
        'currentdate :value "gt" :comparator "i;ascii-numeric" "julian" "60000"', 'currentdate :matches "iso8601" "*Z"',
    ],
    "environment": [f"environment {asked}" for asked in _ENVIRONMENT],
    "string": [
        f"string {kind} {rest}"
        for kind in _plain()
        for rest in ('"a" "A"', '["x", "yz"] "?z"', '"" ""', '"äöü" "ÄÖÜ"', '"a*b" "a\\\\*b"', '"10" "010"',
        '"${none}" ""')
    ],
    "string, relational": _each(
        "string",
        (*_ordered(":value"), *_ordered(":count", ("numeric",))),
        ('"10" "9"', '["", "a", "b"] "2"', '"x" "X"'),
    ),
    "spamtest": [
        *(f'spamtest {kind} "{value}"' for kind in _ordered(":value", ("numeric",)) for value in (1, 8)),
        *(f'spamtest :is "{value}"' for value in range(11)),
        *(f'spamtest :percent {kind} "{value}"' for kind in _ordered(":value", ("numeric",)) for value in (0, 75)),
        'spamtest :count "eq" "0"', 'spamtest :count "ge" "1"', 'spamtest :percent :is "75"', 'spamtest :contains "8"',
        'spamtest :percent :count "eq" "0"', 'spamtest :matches "*"',
    ],
    "virustest": [
        *(f'virustest :is "{value}"' for value in range(7)),
        *(f'virustest {kind} "3"' for kind in _ordered(":value", ("numeric",))),
        'virustest :count "eq" "0"', 'virustest :matches "*"',
    ],
    "mailboxes": [
        'mailboxexists "INBOX"', 'mailboxexists "inbox"', 'mailboxexists "Work"', 'mailboxexists "work"',
        'mailboxexists ["Work", "Lists/Sieve"]', 'mailboxexists ["Work", "Nowhere"]', 'mailboxexists "Été"',
        'mailboxexists "Lists"',
        'specialuse_exists "\\\\Junk"', 'specialuse_exists ["\\\\Junk", "\\\\Sent"]',
        'specialuse_exists "Junk" "\\\\Junk"',
        'specialuse_exists "Work" "\\\\Junk"', 'specialuse_exists "\\\\Flagged"', 'specialuse_exists "\\\\junk"',
        'specialuse_exists "Nowhere" "\\\\Junk"', 'mailboxexists ""',
    ],
    "mime": [
        f"{test}"
        for where in (":mime", ":mime :anychild")
        for test in (
            f'header {where} :type :is "content-type" "multipart"',
            f'header {where} :subtype :is "content-type" "html"',
            f'header {where} :contenttype :is "content-type" "text/plain"',
            f'header {where} :contenttype "content-type" "application/pdf"',
            f'header {where} :param "filename" :contains "content-disposition" "plan"',
            f'header {where} :param "name" :matches "content-type" "*.exe"',
            f'header {where} :param ["charset", "format"] :is "content-type" "UTF-8"',
            f'header {where} :is "content-transfer-encoding" "base64"',
            f'header {where} :contains "content-disposition" "attachment"', f'exists {where} "content-disposition"',
            f'address {where} :domain :is "from" "inner.example"', f'header {where} :is "subject" "Inner subject"',
            f'header {where} :type :is "content-disposition" "attachment"',
            f'header {where} :param "filename" :contains "content-disposition" "Pläne"',
            f'exists {where} ["content-type", "content-id"]', f'header {where} :count "ge" "content-type" "4"',
            f'header {where} :param "boundary" :contains "content-type" ""',
            f'header {where} :subtype :matches "content-type" "x-*"',
        )
    ],
    "hasflag": [
        *(f'hasflag {kind} "{value}"' for kind in _plain((":is", ":contains", ":matches")) for value in ("asked", "T1",
        "t*", "ask")),
        'hasflag :count "ge" "2"', 'hasflag :count "eq" :comparator "i;ascii-numeric" "1"',
        'hasflag ["none", "asked"]', 'hasflag "t1 asked"',
        'hasflag ""', 'hasflag :value "gt" "a"', 'hasflag :regex "^as"',
    ],
    "encoded characters": [
        'header "subject" "${hex:54 65 61} party"', 'header "subject" "${unicode:54 65 61 20}party"',
        'header :contains "subject" "${unicode:00DC}"',
        'header :contains "subject" "${hex:c3 9f}"', 'header :contains "subject" "${hex:}"',
        'header :contains "subject" "${HEX: 24 24 }"',
        'header :contains "subject" "${unicode: 1F600}"', 'header :contains "subject" "${hexx:24}"',
        'header :contains "subject" "$${hex:24}"',
        'header :contains "subject" "${unicode:24 24 24}"', 'header :contains "subject" "${hex:24}${hex:24}"',
        'header :is "x-nowhere" "${hex:4"',
    ],
}  # fmt: skip
"""Tests by name of the script."""

VALUES: Final[dict[str, list[str]]] = {
    "match variables": [
        'header :matches "subject" "*"', 'header :matches "subject" "* *"', 'header :matches "subject" "?*?"',
        'header :matches "from" "*<*@*>"', 'address :matches "from" "*@*.*"',
        'address :localpart :matches ["to", "cc"] "*+*"',
        'header :matches "subject" ["[*] *", "Re: *"]', 'envelope :matches "from" "*@*"',
        'string :matches "a.b.c" "*.*"',
        'header :matches "list-id" "*<*.*>"', 'header :matches "x-seq" "*0*"', 'header :matches "subject" "*e*"',
        'header :matches "comments" "*€*"', 'header :matches "x-folded" "* *"', 'envelope :detail :matches "to" "*"',
    ],
    "match variables of regex": [
        'header :regex "subject" "(.*) (.*)"', 'header :regex "subject" "^\\\\[([^]]*)\\\\] (Re: )?(.*)$"',
        'header :regex "subject" "([a-z]+)"', 'address :regex "from" "([^@]+)@(.+)\\\\.([a-z]+)"',
        'header :regex "subject" "(x)?e(a)?"', 'string :regex "aaa" "(a|aa)(a*)"', 'header :regex "x-seq" "^(1)(0*)$"',
        'header :regex "from" "<?([^ <>]+@[^ <>]+)>?$"', 'header :regex "subject" "(ü|Ü)(.)"',
    ],
    "match variables of dates": [
        'date :matches :originalzone "date" "iso8601" "*T*"', 'date :matches :zone "+0000" "date" "std11" "*, * *"',
        'date :matches :originalzone "date" "zone" "*"', 'date :matches :zone "-0330" "date" "time" "*:*:*"',
        'date :matches :zone "+0000" "date" "julian" "*"', 'date :matches :originalzone "date" "weekday" "*"',
        'date :matches :zone "+1345" "date" "date" "*"',
        'date :matches :index 1 :last :zone "+0000" "received" "year" "*"',
    ],
    "match variables of MIME": [
        'header :mime :anychild :param "filename" :matches "content-disposition" "*"',
        'header :mime :contenttype :matches "content-type" "*/*"',
        'header :mime :anychild :subtype :matches "content-type" "*"',
        'header :mime :param "boundary" :matches "content-type" "*"',
        'header :mime :anychild :type :matches "content-disposition" "*"',
        'header :mime :anychild :param "name" :matches "content-type" "*"',
    ],
    "match variables of scores": ['spamtest :matches "*"', 'spamtest :percent :matches "*"', 'virustest :matches "*"'],
    "match variables of environments": [
        'environment :matches "location" "*"', 'environment :matches "phase" "*"', 'environment :matches "nowhere" "*"',
        'environment :matches "LOCATION" "?*"',
    ],
}  # fmt: skip
"""Tests whose match variables are shown."""
