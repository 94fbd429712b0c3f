"""RFC 5230 (vacation), rule by rule."""

from __future__ import annotations

from typing import Any

from tests.support.sieve import mail
from tests.support.sieverules import Rule, does, fails, made, refuses, walk

VAC = "vacation variables fileinto"


def text(action: Any) -> Any:
    return action.data.decode()


def has(piece: str) -> Any:
    return lambda action: piece in text(action)


def answered(says: str, section: str, **arguments: Any) -> Rule:
    return does(section, says, VAC, 'vacation "gone";', ["keep"], **arguments)


ME = "roadrunner@acme.example.com"
test = walk(
    "5230",
    does("§4 example", "an answer", VAC, 'vacation :days 23 :addresses ["tjs@example.edu", "ts4z@landru.example.edu"] '
         '"I\'m away until October 19. If it\'s an emergency, call 911, I guess.";', ["vacation coyote@desert.example.org", "keep"]),
    does("§4", "the implicit keep stays", VAC, 'vacation "x";', ["vacation coyote@desert.example.org", "keep"]),
    fails("§4", "once in a script", VAC, 'vacation "x"; vacation "y";', "used twice"),
    made("§4.1", ":days", VAC, 'vacation :days 3 "x";', lambda action: action.seconds, 3 * 86400),
    made("§4.1", "7 days without", VAC, 'vacation "x";', lambda action: action.seconds, 7 * 86400),
    made("§4.1", "at least one", VAC, 'vacation :days 0 "x";', lambda action: action.seconds, 86400),
    made("§4.1", "longer ones are cut", VAC, 'vacation :days 4000 "x";', lambda action: action.seconds, 90 * 86400),
    made("§4.2 example", ":handle", VAC, 'vacation :handle "ran-away" "x";', lambda action: action.handle, "ran-away"),
    made("§4.3", ":from", VAC, 'vacation :from "bird@acme.example.com" "x";', has("From: bird@acme.example.com\r\n"), True),
    made("§4.3 example", ":subject", VAC, 'if header :matches "Subject" "*" { vacation :subject "Automatic response to: ${1}" "I\'m away"; }',
         has("Subject: Automatic response to: I have a present for you\r\n"), True),
    made("§4.4 example", ":mime", VAC, 'vacation :mime text:\nContent-Type: multipart/alternative; boundary=foo\n\n--foo\n\nI\'m at the beach.\n\n--foo--\n.\n;',
         has("Content-Type: multipart/alternative; boundary=foo\r\n\r\n--foo\r\n"), True),
    answered("to nobody but who is addressed", "§4.5", mail=mail(To="other@example.org")),
    does("§4.5", ":addresses are the owner's", VAC, 'vacation :addresses "Other@example.org" "x";', ["vacation coyote@desert.example.org", "keep"],
         mail=mail(To="other@example.org")),
    answered("not to the null sender", "§4.6", sender=""),
    answered("not to oneself", "§4.6", sender=ME),
    answered("not to MAILER-DAEMON", "§4.6", sender="MAILER-DAEMON@example.org"),
    answered("not to owner-", "§4.6", sender="owner-list@example.org"),
    answered("not to -request", "§4.6", sender="list-request@example.org"),
    answered("not to mailing lists", "§4.6", mail=mail(To=ME, List_Id="<x.y>")),
    answered("not to programs", "§4.6", mail=mail(To=ME, Auto_Submitted="auto-generated")),
    does("§4.6", "Auto-Submitted: no is a person", VAC, 'vacation "x";', ["vacation coyote@desert.example.org", "keep"], mail=mail(To=ME, Auto_Submitted="no")),
    does("§4.7", "with fileinto", VAC, 'fileinto "a"; vacation "x";', ["fileinto a", "vacation coyote@desert.example.org"]),
    does("§4.7", "with discard", VAC, 'discard; vacation "x";', ["discard", "vacation coyote@desert.example.org"]),
    fails("§4.7", "not with reject", VAC + " reject", 'reject "no"; vacation "x";', "cannot be answered"),
    made("§5.1", "the reverse-path is empty", VAC, 'vacation "x";', lambda action: action.sender, ""),
    made("§5.2", "Date", VAC, 'vacation "x";', has("Date: Tue, 05 Mar 2024 14:30:15 +0100\r\n"), True),
    made("§5.3", "Subject: Auto and the old one", VAC, 'vacation "x";', has("Subject: Auto: I have a present for you\r\n"), True),
    made("§5.4", "To is the envelope's sender", VAC, 'vacation "x";', has("To: coyote@desert.example.org\r\n"), True),
    made("§5.4", "From is the owner", VAC, 'vacation "x";', has(f"From: {ME}\r\n"), True),
    made("§5.5", "Auto-Submitted: auto-replied", VAC, 'vacation "x";', has("Auto-Submitted: auto-replied"), True),
    made("§5.7", "UTF-8 in the body", VAC, 'vacation "é";', has("charset=utf-8"), True),
    made("§5.8", "In-Reply-To and References", VAC, 'vacation "x";', has("In-Reply-To: <1@desert.example.org>\r\nReferences: <1@desert.example.org>\r\n"), True),
    refuses("§3", "it is required", "", 'vacation "x";', "needs require"),
)  # fmt: skip
