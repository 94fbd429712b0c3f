"""RFC 5260 (date, index), rule by rule."""

from __future__ import annotations

from tests.support.sieve import mail
from tests.support.sieverules import does, is_, refuses, walk

D = "date relational index variables fileinto"
RECEIVED = mail(
    Received=["by a; Tue, 5 Mar 2024 09:00:00 +0000", "by b; Mon, 4 Mar 2024 08:00:00 +0000"],
    Date="Fri, 1 Mar 2024 23:30:00 -0800",
)
test = walk(
    "5260",
    is_("§4 example", "date of two dates", D, 'allof (header :is "from" "boss@example.com", date :value "ge" :originalzone "date" "hour" "09", '
        'date :value "lt" :originalzone "date" "hour" "17")', True, mail=mail(From="boss@example.com", Date="Mon, 4 Mar 2024 11:00:00 -0800")),
    is_("§4", "the date of a Received field is behind its semicolon", D, 'date :zone "+0000" "received" "date" "2024-03-05"', True, mail=RECEIVED),
    is_("§4.1", ":zone", D, 'date :zone "+0100" "date" "date" "2024-03-02"', True, mail=RECEIVED),
    is_("§4.1", ":originalzone", D, 'date :originalzone "date" "date" "2024-03-01"', True, mail=RECEIVED),
    refuses("§4.1", "one zone", D, 'if date :zone "+0000" :originalzone "date" "year" "2024" {}', "Only one of"),
    refuses("§4.1", "a zone is ±hhmm", D, 'if date :zone "CET" "date" "year" "2024" {}', "no time zone"),
    *(is_("§4.2", part, D, f'date :originalzone "date" "{part}" "{value}"', True, mail=RECEIVED) for part, value in {
        "year": "2024", "month": "03", "day": "01", "date": "2024-03-01", "julian": "60370", "hour": "23", "minute": "30", "second": "00",
        "time": "23:30:00", "iso8601": "2024-03-01T23:30:00-08:00", "std11": "Fri, 01 Mar 2024 23:30:00 -0800", "zone": "-0800", "weekday": "5",
    }.items()),
    is_("§4.2", "parts in any case", D, 'date :originalzone "date" "YEAR" "2024"', True, mail=RECEIVED),
    is_("§4", "a date that is none matches nothing", D, 'date :matches "date" "year" "*"', False, mail=mail(Date="soon")),
    is_("§4", "a field that is not there", D, 'date :matches "x-date" "year" "*"', False),
    does("§4 example", "the date in a mailbox's name", D, 'if date :matches :originalzone "date" "year" "*" { fileinto "${1}"; }', ["fileinto 2024"], mail=RECEIVED),
    is_("§5 example", "currentdate between two days", D, 'allof (currentdate :value "ge" "date" "2024-03-01", currentdate :value "le" "date" "2024-03-31")', True),
    does("§5 example", "weekday of currentdate", D, 'if anyof (currentdate :is "weekday" "0", currentdate :is "weekday" "6") { discard; } '
         'elsif currentdate :value "ge" "hour" "17" { discard; } else { keep; }', ["keep"]),
    does("§5 example", "folders of the month", D, 'if currentdate :matches "month" "*" { set "month" "${1}"; } if currentdate :matches "year" "*" '
         '{ set "year" "${1}"; } fileinto "${month}-${year}";', ["fileinto 03-2024"]),
    is_("§5", "its zone is the server's, or :zone", D, 'currentdate :zone "-0500" "hour" "08"', True),
    is_("§6 example", ":index 1 :last", D, 'date :value "gt" :index 2 :zone "-0500" "received" "iso8601" "2024-03-04T02:00:00-05:00"', True, mail=RECEIVED),
    is_("§6", ":index of header", D, 'header :index 2 :contains "received" "by b"', True, mail=RECEIVED),
    is_("§6", ":last counts from the end", D, 'header :index 1 :last :contains "received" "by b"', True, mail=RECEIVED),
    is_("§6", "beyond the last there is nothing", D, 'header :index 3 :contains "received" ""', False, mail=RECEIVED),
    is_("§6", ":index of address counts fields", D, 'address :index 2 "to" "c@d.e"', True, mail=mail(To=["a@d.e, b@d.e", "c@d.e"])),
    refuses("§6", ":last needs :index", D, 'if header :last "a" "b" {}', ":last needs :index"),
    refuses("§6", ":index is required", "date", 'if header :index 1 "a" "b" {}', "needs require"),
)  # fmt: skip
