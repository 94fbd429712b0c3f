"""RFC 5703."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest

from tests.support.sieve import MAIL, did, errors, execute, holds, required
from tests.unit.sieve.test_bodies import TREE

MIME = required(
    "mime",
    "foreverypart",
    "extracttext",
    "replace",
    "enclose",
    "variables",
    "fileinto",
    "relational",
    "editheader",
    "include",
)


def made(commands: str, data: bytes = TREE) -> tuple[bytes, Any]:
    outcome = execute(MIME + commands, mail=data)
    assert not outcome.error, outcome.error
    octets = outcome.actions[-1].mail.data  # type: ignore[union-attr]
    return octets, message_from_bytes(octets, policy=policy.default)


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('header :mime :type "Content-Type" "multipart"', True),
        ('header :mime :subtype "Content-Type" "mixed"', True),
        ('header :mime :contenttype "content-type" "multipart/mixed"', True),
        ('header :mime :param "boundary" "content-type" "LIMIT"', True),
        ('header :mime :param ["charset", "boundary"] "content-type" "limit"', True),
        ('header :mime :contenttype "content-type" "text/html"', False),
        ('header :mime :anychild :contenttype "content-type" "text/html"', True),
        ('header :mime :anychild "subject" "inside"', True),
        ('header :mime "subject" "inside"', False),
        ('exists :mime :anychild "content-transfer-encoding"', True),
        ('exists :mime "content-transfer-encoding"', False),
        ('address :mime :anychild "from" "inner@example.org"', True),
        ('address :mime "from" "inner@example.org"', False),
        ('header :mime :anychild :count "eq" :type "content-type" "5"', True),
        ('header :mime :type "content-disposition" "attachment"', False),
    ],
)
def test_tests(test: str, result: bool) -> None:
    assert holds(test, "mime", "relational", mail=TREE) is result


def test_disposition() -> None:
    data = b'Content-Disposition: attachment; filename="a/b.exe"\r\n\r\n'
    assert holds('header :mime :type "content-disposition" "attachment"', "mime", mail=data)
    assert holds('header :mime :param "filename" :matches "content-disposition" "*.exe"', "mime", mail=data)
    assert not holds('header :mime :subtype :contains "content-disposition" ""', "mime", mail=data)


def test_tags_need_mime() -> None:
    assert errors('require "mime"; if header :anychild "a" "b" {}') == ["1:20 :anychild needs :mime"]
    assert errors('require "mime"; if header :type "a" "b" {}') == ["1:20 :type needs :mime"]


def test_every_part() -> None:
    commands = """foreverypart { if header :mime :matches "content-type" "*;*" {
        set "a" "${a}<${1}>"; } else { set "a" "${a}-"; } }
        fileinto "${a}";"""
    assert did(MIME + commands, mail=TREE) == ["fileinto <multipart/mixed><text/plain>----"]


def test_loops_inside_of_loops() -> None:
    commands = 'foreverypart { set "a" "${a}x"; foreverypart { set "a" "${a}y"; } } fileinto "${a}";'
    assert did(MIME + commands, mail=TREE) == ["fileinto xyyyyyxxxxyx"]


def test_break() -> None:
    inner = 'foreverypart :name "inner" {{ set "a" "${{a}}y"; {} }}'
    loop = f'foreverypart {{{{ set "a" "${{{{a}}}}x"; {inner} }}}} fileinto "${{{{a}}}}";'
    assert did(MIME + loop.format("break;"), mail=TREE) == ["fileinto xyxxxxyx"]
    named = loop.replace("foreverypart {{ set", 'foreverypart :name "outer" {{ set')
    assert did(MIME + named.format('break :name "outer";'), mail=TREE) == ["fileinto xy"]
    assert did(MIME + named.format('break :name "inner";'), mail=TREE) == ["fileinto xyxxxxyx"]


def test_where_break_may_stand() -> None:
    assert errors(MIME + "break;") == ['2:1 "break" stands in no loop']
    assert errors(MIME + 'foreverypart { break :name "x"; }') == ["2:16 There is no loop of this name around it"]
    assert errors(MIME + 'extracttext "a";') == ['2:1 "extracttext" stands in no loop']


def test_extracttext() -> None:
    commands = (
        'foreverypart {{ if header :mime :subtype "content-type" "{}" {{ extracttext {} "a"; fileinto "<${{a}}>"; }} }}'
    )
    assert did(MIME + commands.format("plain", ""), mail=TREE) == ["fileinto <Grüße, MAKE MONEY FAST>"]
    assert did(MIME + commands.format("plain", ":first 5"), mail=TREE) == ["fileinto <Grüße>"]
    assert did(MIME + commands.format("plain", ":upper :first 3"), mail=TREE) == ["fileinto <GRü>"]
    assert did(MIME + commands.format("octet-stream", ""), mail=TREE) == ["fileinto <>"]
    assert "click here" in did(MIME + commands.format("html", ""), mail=TREE)[0]


def test_extracttext_is_not_led_astray_by_edits() -> None:
    commands = """foreverypart { if header :mime :subtype "content-type" "plain" {
        addheader "X-Long" "0123456789"; extracttext "a"; fileinto "<${a}>"; } }"""
    assert did(MIME + commands, mail=TREE) == ["fileinto <Grüße, MAKE MONEY FAST>"]


# ---------------------------------------------------------------------------------------------------- replace


def test_replace_a_part() -> None:
    octets, message = made('foreverypart { if header :mime :subtype "content-type" "html" { replace "Gone\u00fc."; } }')
    parts = list(message.iter_parts())
    assert [part.get_content_type() for part in parts] == [
        "text/plain", "text/plain", "application/octet-stream", "message/rfc822",
    ]  # fmt: skip
    assert parts[1].get_content() == "Goneü."
    assert octets.startswith(TREE[:200])


def test_replace_with_mime() -> None:
    _, message = made("""foreverypart { if header :mime :subtype "content-type" "html" { replace :mime text:
Content-Type: image/png

x
.
; } }""")
    assert [part.get_content_type() for part in message.iter_parts()][1] == "image/png"


def test_a_part_inside_of_a_replaced_one_goes_with_it() -> None:
    octets, _ = made(
        'foreverypart { if header :mime :type "content-type" "message" { replace "m"; } if header '
        '"subject" "x" {} if header :mime "subject" "inside" { replace "i"; } }'
    )
    assert b"inner body" not in octets
    assert b"\r\n\r\ni" not in octets


def test_replace_the_message() -> None:
    octets, message = made('replace :subject "New" :from "me@example.org" "text";', MAIL)
    assert message.get_content() == "text"
    assert message["Subject"] == "New"
    assert message["Original-Subject"] == "I have a present for you"
    assert message["From"] == "me@example.org"
    assert message["Original-From"] == "Wile E. Coyote <coyote@desert.example.org>"
    assert message["X-Caffeine"]
    assert b"anvil" not in octets


def test_replace_of_the_outermost_part_in_a_loop() -> None:
    octets, message = made('foreverypart { replace "all"; addheader "X-Later" "1"; }')
    assert message.get_content() == "all"
    assert message["X-Later"] == "1"
    assert b"limit" not in octets


def test_edits_and_replacements_both_stay() -> None:
    octets, message = made(
        'foreverypart { if header :mime :subtype "content-type" "html" { replace "r"; addheader "A" "b"; stop; } }'
    )
    assert message["A"] == "b"
    assert b"PHA+" not in octets
    assert len(list(message.iter_parts())) == 4


# ---------------------------------------------------------------------------------------------------- enclose


def test_enclose() -> None:
    octets, message = made('enclose :subject "Warning" :headers ["X-Caffeine"] "Look out\u00fc";', MAIL)
    assert message["Subject"] == "Warning"
    assert message["From"].endswith("<coyote@desert.example.org>")
    assert message["X-Caffeine"] == "C8H10N4O2"
    assert message["X-Empty"] is None
    text, inner = message.iter_parts()
    assert text.get_content().strip() == "Look outü"
    assert inner.get_content()["Subject"] == "I have a present for you"
    assert MAIL in octets


def test_enclose_without_subject() -> None:
    assert made('enclose "x";', MAIL)[1]["Subject"] == "I have a present for you"


def test_enclose_twice() -> None:
    octets, message = made('enclose "inner"; enclose "outer";', MAIL)
    assert octets.count(b"message/rfc822") == 2
    assert [part.get_content_type() for part in message.walk()].count("text/plain") == 3


def test_enclose_in_a_loop_fails() -> None:
    assert "inside of a loop" in execute(MIME + 'foreverypart { enclose "x"; }').error


def test_example() -> None:  # RFC 5703 §9.1, with fileinto for its actions
    script = """require ["foreverypart", "mime", "extracttext", "variables", "fileinto", "replace"];
        foreverypart {
            if anyof (header :mime :contenttype :is "Content-Type" "application/exe",
                      header :mime :param "filename" :matches ["Content-Type", "Content-Disposition"] [
                          "*.com", "*.exe"]) {
                replace "A dangerous file was removed."; }
            elsif header :mime :type "content-type" "text" {
                extracttext :first 100 "msgcontent"; fileinto "${msgcontent}"; break; } }"""
    assert did(script, mail=TREE) == ["fileinto Grüße, MAKE MONEY FAST"]


def test_parameters_are_decoded() -> None:  # RFC 5703 §4.2, RFC 2231
    field = "attachment; filename*0*=utf-8'de'Pl%C3%A4; filename*1=ne.pdf; size=5"
    data = f"Content-Disposition: {field}\r\n\r\n".encode()
    assert holds('header :mime :param "FileName" "content-disposition" "Pläne.pdf"', "mime", mail=data)
    assert holds('header :mime :param "size" "content-disposition" "5"', "mime", mail=data)
