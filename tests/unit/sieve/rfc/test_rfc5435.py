"""RFC 5435, RFC 5436 (enotify, mailto), rule by rule."""

from __future__ import annotations

from typing import Any

from tests.support.sieve import mail
from tests.support.sieverules import does, is_, made, refuses, walk

NOT = "enotify variables envelope fileinto relational"


def has(piece: str) -> Any:
    return lambda action: piece in action.data.decode()


OPTIONS = """notify :message "[SIEVE] ${subject}" "mailto:alm@example.com";"""
SCRIPT = """if header :contains "from" "boss@example.org" { notify :importance "1" :message "This is probably very important" "mailto:alm@example.com"; stop; }
    if header :contains "to" "sievemailinglist@example.org" {
        if header :matches "Subject" "*" { set "subject" "${1}"; }
        if envelope :all :matches "from" "*" { set "env_from" " [really: ${1}]"; }
        notify :importance "3" :message "[SIEVE] ${subject}${env_from}" "mailto:alm@example.com";
        fileinto "INBOX.sieve"; }"""
test = walk(
    "5435",
    does("§3.8 example", "mail of the boss", NOT, SCRIPT, ["notify alm@example.com", "keep"], mail=mail(From="boss@example.org")),
    does("§3.8 example", "mail of a list", NOT, SCRIPT, ["notify alm@example.com", "fileinto INBOX.sieve"],
         mail=mail(From="a@b.c", To="sievemailinglist@example.org", Subject="x")),
    made("§3.8 example", "its message", NOT, SCRIPT, has("Subject: [SIEVE] x [really: coyote@desert.example.org]\r\n"), True,
         mail=mail(From="a@b.c", To="sievemailinglist@example.org", Subject="x")),
    does("§3", "the implicit keep stays", NOT, 'notify "mailto:a@b.c";', ["notify a@b.c", "keep"]),
    refuses("§3.2", "a method that is not there", NOT, 'notify "xmpp:a@b.c";', "no method of notification"),
    made("§3.3", ":from of the owner's", NOT, 'notify :from "bird@acme.example.com" "mailto:a@b.c";', has("From: bird@acme.example.com\r\n"), True),
    made("§3.4", ":importance", NOT, 'notify :importance "1" "mailto:a@b.c";', has("Importance: High\r\n"), True),
    made("§3.4", "normal without", NOT, 'notify "mailto:a@b.c";', has("Importance: Normal\r\n"), True),
    refuses("§3.4", "1, 2 or 3", NOT, 'notify :importance "0" "mailto:a@b.c";', ":importance is 1, 2 or 3"),
    does("§3.5", "unknown :options are passed over", NOT, 'notify :options "x=y" "mailto:a@b.c";', ["notify a@b.c", "keep"]),
    made("§3.6", ":message", NOT, 'notify :message "hello" "mailto:a@b.c";', has("Subject: hello\r\n"), True),
    is_("§4 example", "valid_notify_method", NOT, 'valid_notify_method ["mailto:", "http://gw.example.net/notify?test"]', False),
    is_("§4", "all of them", NOT, 'valid_notify_method ["mailto:a@b.c", "mailto:d@e.f"]', True),
    is_("§5 example", "notify_method_capability", NOT, 'notify_method_capability "xmpp:tim@example.com?message;subject=SIEVE" "Online" "yes"', False),
    is_("§5", "mailto cannot know", NOT, 'notify_method_capability "mailto:a@b.c" "online" "maybe"', True),
    does("§6 example", ":encodeurl", NOT, 'set :encodeurl "body_param" "Safe body&evil=evilbody"; fileinto "${body_param}";',
         ["fileinto Safe%20body%26evil%3Devilbody"]),
    made("§2.7 of 5436", "Auto-Submitted: auto-notified", NOT, 'notify "mailto:a@b.c";', has("Auto-Submitted: auto-notified; owner-email="), True),
    made("§2.7 of 5436", "the URI's subject", NOT, 'notify "mailto:a@b.c?subject=x%20y";', has("Subject: x y\r\n"), True),
    made("§2.7 of 5436", ":message is before the URI's subject", NOT, 'notify :message "m" "mailto:a@b.c?subject=x";', has("Subject: m\r\n"), True),
    made("§2.7 of 5436", "the URI's body", NOT, 'notify "mailto:a@b.c?body=hello";', has("\r\n\r\nhello"), True),
    made("§2.3 of 5436", "no From by the URI", NOT, 'notify "mailto:a@b.c?from=evil@x.y";', has("evil"), False),
    made("§2.3 of 5436", "no Auto-Submitted by the URI", NOT, 'notify "mailto:a@b.c?auto-submitted=no";', has("Auto-Submitted: no"), False),
    does("§2.7 of 5436", "no notification of a notification", NOT, 'notify "mailto:a@b.c";', ["keep"], mail=mail(Auto_Submitted="auto-notified", From="a@b.c")),
    refuses("§3.1", "it is required", "", 'notify "mailto:a@b.c";', "needs require"),
)  # fmt: skip
