"""RFC 5228 with its own examples, `copy` (RFC 3894), `subaddress` (RFC 5233), `relational` (RFC 5231), `index`."""

from __future__ import annotations

import pytest

from tests.support.sieve import MAIL, did, errors, execute, holds, mail, required

# ---------------------------------------------------------------------------------------------------- control


def test_implicit_keep() -> None:
    assert did("") == ["keep"]
    assert execute("").actions[0].implicit  # type: ignore[union-attr]
    assert not execute("keep;").actions[0].implicit  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("coyote@a", "redirect acm@example.edu"),
        ("boss@frobnitzm.edu", "keep"),
        ("other@b", "redirect field@example.edu"),
    ],
)
def test_if_elsif_else(sender: str, expected: str) -> None:  # RFC 5228 §3.1, third example
    script = """
        if header :contains ["From"] ["coyote"] {
           redirect "acm@example.edu";
        } elsif header :contains "Subject" "$$$" {
           redirect "postmaster@example.edu";
        } elsif header :contains "from" "boss" {
           keep;
        } else {
           redirect "field@example.edu";
        }"""
    assert did(script, mail=mail(From=sender)) == [expected]


def test_an_inner_if_does_not_disturb_the_outer_one() -> None:
    assert did("if true { if false {} } else { discard; }") == ["keep"]
    assert did("if false { if true {} } else { discard; }") == ["discard"]
    assert did("if false {} elsif true {} elsif true { discard; } else { discard; }") == ["keep"]


def test_stop() -> None:
    assert did("discard; stop; keep;") == ["discard"]
    assert did("if true { stop; } discard;") == ["keep"]


# ---------------------------------------------------------------------------------------------------- actions


def test_fileinto() -> None:
    assert did('require "fileinto"; if header :contains "from" "coyote" { fileinto "INBOX.harassment"; }') == [
        "fileinto INBOX.harassment"
    ]
    assert errors('require "fileinto"; fileinto "";') == ["1:21 A mailbox has a name"]


def test_redirect_cancels_the_implicit_keep() -> None:
    assert did('redirect "bart@example.com";') == ["redirect bart@example.com"]
    assert did('redirect "Bart <bart@example.com>";') == ["redirect bart@example.com"]
    assert errors('redirect "bart";') == ['1:1 "bart" is no mail address']
    assert errors('redirect "a@b.c, d@e.f";') == ['1:1 "a@b.c, d@e.f" is no mail address']


def test_discard() -> None:
    assert did('if header :contains ["from"] ["idiot@example.com"] { discard; }') == ["keep"]
    assert did("discard;") == ["discard"]
    assert did("discard; keep;") == ["discard", "keep"]


def test_copy_leaves_the_implicit_keep() -> None:  # RFC 3894 §3
    assert did('require ["copy", "fileinto"]; fileinto :copy "incoming";') == ["fileinto incoming", "keep"]
    assert did('require "copy"; redirect :copy "a@example.com";') == ["redirect a@example.com", "keep"]
    assert errors('redirect :copy "a@example.com";') == ['1:10 :copy needs require "copy"']


# ---------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ("true", True), ("false", False), ("not false", True), ("not true", False),
        ("allof (true, true)", True), ("allof (true, false)", False),
        ("anyof (false, true)", True), ("anyof (false, false)", False),
        ("not anyof (false, not allof (true, true))", True),
    ],
)  # fmt: skip
def test_logic(test: str, result: bool) -> None:
    assert holds(test) is result


def test_logic_stops_where_it_is_decided() -> None:
    script = 'require ["variables"]; if {} (string :matches "a" "*", {}) {{}} redirect "x${{1}}@example.org";'
    assert did(script.format("anyof", 'string :matches "b" "*"')) == ["redirect xa@example.org"]
    assert did(script.format("allof", 'string :matches "b" "*"')) == ["redirect xb@example.org"]
    assert did(script.format("allof", 'false, string :matches "b" "*"')) == ["redirect xa@example.org"]


@pytest.mark.parametrize(
    ("test", "result"), [(":over 100", False), (":under 100", False), (":over 99", True), (":under 101", True)]
)
def test_size(test: str, result: bool) -> None:  # RFC 5228 §5.9: of exactly that size is neither over nor under
    assert holds(f"size {test}", mail=b"Subject: x\r\n\r\n" + b"y" * 86) is result


def test_exists() -> None:
    assert holds('exists ["From", "date"]')
    assert not holds('exists ["From", "X-Nothing"]')
    assert holds('not exists ["From","X-Nothing"]')
    assert holds('exists "x-empty"')


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('header :is ["X-Caffeine"] [""]', False),  # the example of §5.7
        ('header :contains ["X-Caffeine"] [""]', True),
        ('header :is "X-Empty" ""', True),
        ('header :is "X-Nothing" ""', False),
        ('header :contains "X-Nothing" ""', False),
        ('header "subject" "I HAVE a present for you"', True),
        ('header :comparator "i;octet" "subject" "I HAVE a present for you"', False),
        ('header :contains "subject" ["nothing", "PRESENT"]', True),
        ('header :contains ["x-nothing", "subject"] "present"', True),
        ('header :matches "subject" "i have*YOU"', True),
        ('header :matches "subject" "i have*yo"', False),
        ('header :matches "subject" "? have a ????ent for you"', True),
        ('header :contains "sub ject" "x"', False),
        ('header :contains "ü" ""', False),
    ],
)
def test_header(test: str, result: bool) -> None:
    assert holds(test) is result


def test_header_is_decoded_and_trimmed() -> None:
    data = b"Subject:   =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n  aus Bonn \r\n\r\n"
    assert holds('header "subject" "Grüße  aus Bonn"', mail=data) or holds(
        'header "subject" "Grüße aus Bonn"', mail=data
    )
    assert (
        holds(
            'header :contains :comparator "i;unicode-casemap" "subject" "GRÜSSE"',
            "comparator-i;unicode-casemap",
            mail=data,
        )
        is False
    )
    assert holds(
        'header :contains :comparator "i;unicode-casemap" "subject" "GRÜ"', "comparator-i;unicode-casemap", mail=data
    )
    assert not holds('header :contains "subject" "GRÜ"', mail=data)


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('address :is :all "from" "coyote@desert.example.org"', True),
        ('address "from" "Wile E. Coyote <coyote@desert.example.org>"', False),
        ('address :domain "from" "DESERT.example.org"', True),
        ('address :localpart "from" "coyote"', True),
        ('address :localpart :comparator "i;octet" "from" "Coyote"', False),
        ('address :contains "from" "Wile"', False),
        ('address :is "to" "bird@acme.example.com"', True),  # inside of a group
        ('address :contains "to" "Friends"', False),
        ('address :all ["cc", "bcc"] "ken+sales@example.org"', True),
        ('address "bcc" ""', False),
    ],
)
def test_address(test: str, result: bool) -> None:
    assert holds(test) is result


def test_addresses_that_are_none() -> None:
    assert not holds('address "from" "x"', mail=mail(From="undisclosed"))
    assert holds('address :localpart "from" "a b"', mail=mail(From='"a b"@example.org'))


def test_duplicates_of_fields_are_all_looked_at() -> None:
    assert holds('header :is "x" "2"', mail=mail(X=["1", "2"]))


# ---------------------------------------------------------------------------------------------------- RFC 5233


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('address :user "cc" "ken"', True),
        ('address :detail "cc" "sales"', True),
        ('address :detail "from" ""', False),  # no detail is not the empty detail (§4)
        ('address :user "from" "coyote"', True),
        ('address :localpart "cc" "ken+sales"', True),
    ],
)
def test_subaddress(test: str, result: bool) -> None:
    assert holds(test, "subaddress") is result


def test_an_empty_detail() -> None:
    assert holds('address :detail "to" ""', "subaddress", mail=mail(To="ken+@example.org"))
    assert holds('address :detail "to" "a+b"', "subaddress", mail=mail(To="ken+a+b@example.org"))
    assert errors('if address :user "to" "a" {}') == ['1:12 :user needs require "subaddress"']


def test_subaddress_example() -> None:  # RFC 5233 §5
    script = """require ["envelope", "subaddress", "fileinto"];
        if envelope :user "to" "postmaster" { fileinto "inbox.postmaster"; stop; }
        if envelope :detail "to" "mta-filters" { fileinto "inbox.ietf-mta-filters"; }
        elsif envelope :detail :is ["from", "to"] "sales" { redirect "x@example.org"; }"""
    assert did(script, recipient="ken+mta-filters@example.org") == ["fileinto inbox.ietf-mta-filters"]
    assert did(script, recipient="ken+sales@example.org") == ["redirect x@example.org"]
    assert did(script, recipient="postmaster+x@example.org") == ["fileinto inbox.postmaster"]


# ---------------------------------------------------------------------------------------------------- RFC 5231

NUMERIC = ("relational", "comparator-i;ascii-numeric")


@pytest.mark.parametrize(
    ("relation", "value", "result"),
    [("gt", "3", False), ("gt", "2", True), ("ge", "3", True), ("ge", "4", False), ("lt", "4",
    True), ("lt", "3", False),
     ("le", "3", True), ("le", "2", False), ("eq", "3", True), ("eq", "03", True), ("ne", "3",
     False), ("ne", "4", True)],
)  # fmt: skip
def test_relations(relation: str, value: str, result: bool) -> None:
    test = f'header :{{}} "{relation}" :comparator "i;ascii-numeric" "x" "{value}"'
    assert holds(test.format("value"), *NUMERIC, mail=mail(X="3 points")) is result
    assert holds(test.format("count"), *NUMERIC, mail=mail(X=["a", "b", "c"])) is result


def test_value_compares_with_the_comparator() -> None:
    assert holds('header :value "lt" "x" "M"', "relational", mail=mail(X="apple"))
    assert not holds('header :value "gt" :comparator "i;octet" "x" "a"', "relational", mail=mail(X="Z"))
    assert holds('header :value "gt" :comparator "i;ascii-numeric" "x" "9"', *NUMERIC, mail=mail(X="10"))
    assert holds('header :value "eq" :comparator "i;ascii-numeric" "x" "none"', *NUMERIC, mail=mail(X="nothing"))
    assert holds('header :value "gt" :comparator "i;ascii-numeric" "x" "99"', *NUMERIC, mail=mail(X="nothing"))


def test_count_of_what_is_not_there() -> None:
    assert holds('header :count "eq" :comparator "i;ascii-numeric" "x-nothing" "0"', *NUMERIC)
    assert holds('header :count "eq" :comparator "i;ascii-numeric" ["from", "to", "x-empty"] "3"', *NUMERIC)
    assert holds('address :count "eq" :comparator "i;ascii-numeric" ["to", "cc"] "3"', *NUMERIC)


def test_relations_are_known() -> None:
    assert errors(required("relational") + 'if header :value "xx" "a" "b" {}') == ['2:11 Unknown relation "xx"']


def test_relational_example() -> None:  # RFC 5231 §7
    script = """require ["relational", "comparator-i;ascii-numeric", "fileinto"];
        if header :value "lt" :comparator "i;ascii-numeric" ["x-priority"] ["3"] { fileinto "Priority"; }
        elsif address :count "gt" :comparator "i;ascii-numeric" ["to"] ["5"] { fileinto "SPAM"; }
        elsif address :value "gt" :all :comparator "i;ascii-casemap" ["from"] ["M"] { fileinto "From N-Z"; }
        else { fileinto "From A-M"; }"""
    assert did(script, mail=mail(From="a@b.c", X_Priority="1 (Highest)")) == ["fileinto Priority"]
    assert did(script, mail=mail(From="a@b.c", To="a@b.c, b@b.c, c@b.c, d@b.c, e@b.c, f@b.c")) == ["fileinto SPAM"]
    assert did(script, mail=mail(From="zoe@b.c")) == ["fileinto From N-Z"]
    assert did(script, mail=mail(From="abe@b.c")) == ["fileinto From A-M"]


# ---------------------------------------------------------------------------------------------------- RFC 5260 §6


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('header :index 1 "x" "1"', True),
        ('header :index 1 "x" "2"', False),
        ('header :index 1 :last "x" "3"', True),
        ('header :last :index 3 "x" "1"', True),
        ('header :index 4 "x" "3"', False),
        ('header :index 4 :last "x" "1"', False),
        ('address :index 2 "to" "c@example.org"', True),  # fields count, and not the addresses in them
        ('address :index 1 "to" "b@example.org"', True),
        ('address :index 2 "to" "b@example.org"', False),
    ],
)
def test_index(test: str, result: bool) -> None:
    data = mail(X=["1", "2", "3"], To=["a@example.org, b@example.org", "c@example.org"])
    assert holds(test, "index", mail=data) is result


def test_mistakes_with_index() -> None:
    assert errors(required("index") + 'if header :last "a" "b" {}') == ["2:4 :last needs :index"]
    assert errors(required("index") + 'if header :index 0 "a" "b" {}') == ["2:4 :index counts from 1"]


# ---------------------------------------------------------------------------------------------------- encoded-character


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("$${hex:40}", "$@"),
        ("${hex: 40 }", "@"),
        ("${HEX:40}", "@"),
        ("${hex:40", "${hex:40"),
        ("${hex:400}", "${hex:400}"),
        ("${hex:4${hex:30}}", "${hex:40}"),
        ("${unicode:40}", "@"),
        ("${ unicode:40}", "${ unicode:40}"),
        ("${UNICODE:40}", "@"),
        ("${UnICoDE:0000040}", "@"),
        ("${Unicode:40}", "@"),
        ("${Unicode:Cool}", "${Unicode:Cool}"),
        ("${hex:c3 bc}", "ü"),
    ],
)
def test_encoded_character(written: str, name: str) -> None:  # the table of RFC 5228 §2.4.2.4
    assert did(f'require ["encoded-character", "fileinto"]; fileinto "{written}";') == [f"fileinto {name}"]


@pytest.mark.parametrize("written", ["${unicode:200000}", "${Unicode:DF01}", "${hex:ff}"])
def test_characters_that_are_none(written: str) -> None:
    assert errors(f'require ["encoded-character", "fileinto"]; fileinto "{written}";')


def test_without_encoded_character_nothing_is_decoded() -> None:
    assert did('require "fileinto"; fileinto "${hex:40}";') == ["fileinto ${hex:40}"]


# ---------------------------------------------------------------------------------------------------- RFC 5228 §9


def test_the_extended_example() -> None:
    script = """
        require ["fileinto"];
        if header :is "Sender" "owner-ietf-mta-filters@imc.org" { fileinto "filter"; }
        elsif address :DOMAIN :is ["From", "To"] "example.com" { keep; }
        elsif anyof (NOT address :all :contains ["To", "Cc", "Bcc"] "me@example.com",
                     header :matches "subject" ["*make*money*fast*", "*university*dipl*mas*"]) { fileinto "spam"; }
        else { fileinto "personal"; }"""
    assert did(script, mail=mail(Sender="owner-ietf-mta-filters@imc.org")) == ["fileinto filter"]
    assert did(script, mail=mail(From="x@EXAMPLE.com")) == ["keep"]
    assert did(script, mail=mail(From="x@a.b", To="me@example.org")) == ["fileinto spam"]
    assert did(script, mail=mail(Cc="me@example.com.au", Subject="MAKE some money FAST")) == ["fileinto spam"]
    assert did(script, mail=mail(Cc="me@example.com.au", Subject="hello")) == ["fileinto personal"]
    assert did(script, mail=MAIL) == ["fileinto spam"]


def test_what_is_no_address_has_no_parts() -> None:  # RFC 5228 §2.7.4
    odd = mail(To="broken@, @nowhere.example, justlocal, whole+tag@example.org")
    assert holds('address :is "to" "justlocal"', mail=odd)
    for part in (":localpart", ":domain"):
        assert not holds(f'address {part} "to" ["broken", "justlocal", "nowhere.example", ""]', mail=odd)
    assert not holds('address :user "to" ["broken", "justlocal", ""]', "subaddress", mail=odd)
    assert holds('address :user "to" "whole"', "subaddress", mail=odd)
