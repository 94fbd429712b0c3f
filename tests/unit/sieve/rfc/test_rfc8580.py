"""RFC 8580 (fcc), rule by rule."""

from __future__ import annotations

from typing import Any

from tests.support.sieverules import made, refuses, walk

C = "fcc vacation enotify fileinto mailbox imap4flags special-use"


def filed(action: Any) -> Any:
    return action.copy and (action.copy.mailbox, action.copy.flags, action.copy.create, action.copy.special_use)


test = walk(
    "8580",
    made("§3.1 example", "vacation :fcc", C, 'vacation :days 7 :fcc "INBOX.Sent" "Gone Fishing";', filed, ("INBOX.Sent", None, False, "")),
    made("§4.1 example", "vacation :fcc :flags", C, 'vacation :fcc "INBOX.Sent" :flags ["\\\\Seen"] "Gone";', filed, ("INBOX.Sent", ("\\Seen",), False, "")),
    made("§3.2 example", "vacation :fcc :create", C, 'vacation :fcc "INBOX.Sent" :create "Gone";', filed, ("INBOX.Sent", None, True, "")),
    made("§3.4 example", "vacation :fcc :specialuse", C, 'vacation :fcc "Sent" :specialuse "\\\\Sent" "Gone";', filed, ("Sent", None, False, "\\Sent")),
    made("§4.2 example", "notify :fcc", C, 'notify :fcc "INBOX.Sent" :message "You got mail!" "mailto:ken@example.com";', filed, ("INBOX.Sent", None, False, "")),
    made("§3", "without :fcc nothing is filed", C, 'vacation "Gone";', filed, None),
    made("§3", "the copy is what is sent", C, 'vacation :fcc "a" "Gone";', lambda action: action.copy.mail.data == action.data, True),
    refuses("§3.2", ":create alone", C, 'vacation :create "Gone";', "needs :fcc"),
    refuses("§4.3", "reject has no :fcc", C + " reject", 'reject :fcc "a" "b";', "has no argument :fcc"),
    refuses("§3", "it is required", "vacation", 'vacation :fcc "a" "b";', "needs require"),
)  # fmt: skip
