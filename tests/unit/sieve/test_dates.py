"""RFC 5260."""

from __future__ import annotations

import pytest

from tests.support.sieve import compiled, did, errors, holds, mail


@pytest.mark.parametrize(
    ("part", "value"),
    [  # §4.2; 2024-03-05T07:10:00Z, seen from +0100
        ("year", "2024"), ("month", "03"), ("day", "05"), ("date", "2024-03-05"), ("julian", "60374"), ("hour", "08"),
        ("minute", "10"), ("second", "00"), ("time", "08:10:00"), ("iso8601", "2024-03-05T08:10:00+01:00"),
        ("std11", "Tue, 05 Mar 2024 08:10:00 +0100"), ("zone", "+0100"), ("weekday", "2"), ("YEAR", "2024"),
    ],
)  # fmt: skip
def test_parts(part: str, value: str) -> None:
    assert holds(f'date "date" "{part}" "{value}"', "date")


@pytest.mark.parametrize(
    ("zone", "hour", "name"),
    [
        (":originalzone", "23", "-0800"),
        (':zone "+0530"', "12", "+0530"),
        (':zone "-0330"', "03", "-0330"),
        ("", "08", "+0100"),
    ],
)
def test_zones(zone: str, hour: str, name: str) -> None:
    assert holds(f'date {zone} "date" "hour" "{hour}"', "date")
    assert holds(f'date {zone} "date" "zone" "{name}"', "date")


def test_the_weekday_of_a_sunday_is_0() -> None:
    assert holds('date "date" "weekday" "0"', "date", mail=mail(Date="Sun, 3 Mar 2024 12:00:00 +0100"))


def test_the_date_of_received_is_behind_its_semicolon() -> None:
    assert holds('date :zone "+0000" "received" "hour" "09"', "date")


@pytest.mark.parametrize(
    "value", ["", "yesterday", "Mon, 31 Feb 2024 10:00:00 +0000", "Mon, 1 Jan 2024 99:00:00 +0000"]
)
def test_what_is_no_date(value: str) -> None:
    assert not holds('date :matches "date" "year" "*"', "date", mail=mail(Date=value))
    assert holds('date :count "eq" "date" "year" "0"', "date", "relational", mail=mail(Date=value))


def test_dates_at_the_ends_of_time() -> None:
    for value in ("Fri, 31 Dec 9999 23:59:59 -1200", "Mon, 1 Jan 0001 00:00:00 +1200"):
        holds('date :zone "+1400" "date" "year" "x"', "date", mail=mail(Date=value))


def test_index() -> None:
    data = mail(Date=["Mon, 1 Jan 2018 10:00:00 +0000", "Tue, 1 Jan 2019 10:00:00 +0000"])
    assert holds('date "date" "year" "2018"', "date", "index", mail=data)
    assert not holds('date "date" "year" "2019"', "date", "index", mail=data)
    assert holds('date :index 2 "date" "year" "2019"', "date", "index", mail=data)
    assert holds('date :index 2 :last "date" "year" "2018"', "date", "index", mail=data)
    assert not holds('date :index 3 :matches "date" "year" "*"', "date", "index", mail=data)


def test_currentdate() -> None:
    assert holds('currentdate "iso8601" "2024-03-05T14:30:15+01:00"', "date")
    assert holds('currentdate :zone "-0800" "hour" "05"', "date")
    assert errors('require "date"; if currentdate :originalzone "hour" "5" {}') == [
        '1:32 "currentdate" has no argument :originalzone'
    ]


def test_examples() -> None:  # §4.3, §5
    script = """require ["date", "relational", "fileinto"];
        if allof(header :is "from" "boss@example.com",
                 date :value "ge" :originalzone "date" "hour" "09",
                 date :value "lt" :originalzone "date" "hour" "17") { fileinto "urgent"; }
        if anyof(currentdate :is "weekday" "0", currentdate :is "weekday" "6",
                 currentdate :value "lt" "hour" "09", currentdate :value "ge" "hour" "17") { redirect "a@b.c"; }
        if allof(currentdate :value "ge" "date" "2007-06-30", currentdate :value "le" "date" "2030-07-07") { keep; }"""
    assert did(script, mail=mail(From="boss@example.com", Date="Mon, 4 Mar 2024 10:00:00 -0500")) == [
        "fileinto urgent", "keep",
    ]  # fmt: skip


def test_mistakes() -> None:
    unknown = 'require "date"; if date :matches "date" "century" "*" { discard; }'
    assert compiled(unknown).warnings == ((1, 20, 'There is no date part "century": the test is never true'),)
    assert did(unknown) == ["keep"]
    assert errors('require "date"; if date :zone "CET" "date" "hour" "1" {}') == [
        '1:20 "CET" is no time zone such as "+0100"'
    ]
    assert errors('require "date"; if date :zone "+9900" "date" "hour" "1" {}')
    script = 'require ["date", "variables"]; set "z" "CET"; if currentdate :zone "${z}" "hour" "1" {}'
    assert did(script)[0] == 'error: script 1, line 1: A time zone looks like "+0100"'
    script = 'require ["date", "variables"]; set "p" "x"; if currentdate :matches "${p}" "*" { discard; }'
    assert did(script) == ["keep"]


def test_greenwich_is_z() -> None:  # RFC 3339 §5.6
    for zone, written in (("+0000", "2024-03-05T07:10:00Z"), ("+0100", "2024-03-05T08:10:00+01:00")):
        assert holds(f'date :zone "{zone}" "date" "iso8601" "{written}"', "date")
