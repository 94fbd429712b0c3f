"""RFC 6785 (imapsieve), its scripts, rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, fails, is_, walk

IM = "imapsieve environment fileinto imap4flags variables"
EVENT = {
    "imap.mailbox": "Work",
    "imap.cause": "FLAG",
    "imap.changedflags": "\\Flagged",
    "location": "MS",
    "phase": "post",
    "imap.user": "ken",
    "imap.email": "ken@example.org",
}
test = walk(
    "6785",
    does("§7.2 example", "flagged mail is sent on", IM, 'if environment :contains "imap.mailbox" "Work" { if allof (environment "imap.cause" "FLAG", '
         'environment :contains "imap.changedflags" "\\\\Flagged") { redirect "ken@example.org"; } }', ["redirect ken@example.org"], items=EVENT, imap=True),
    is_("§4", "items of the event", IM, 'allof (environment "location" "MS", environment "phase" "post", environment "imap.user" "ken", environment "imap.email" "ken@example.org")',
        True, items=EVENT, imap=True),
    is_("§4", "flags that the message has", IM, 'hasflag "\\\\Seen"', True, flags=("\\Seen",), imap=True),
    fails("§3.11", "no reject", "reject", 'reject "no";', "", imap=True),
    fails("§3.11", "no vacation", "vacation", 'vacation "x";', "", imap=True),
    does("§3.6", "keep leaves it in its mailbox", IM, 'keep; fileinto "Work";', ["keep"], imap=True, mailbox="Work"),
    does("§3.4", "addflag changes the message in place", IM, 'addflag "x";', ["keep (\\Seen x)"], flags=("\\Seen",), imap=True, mailbox="Work"),
)  # fmt: skip
