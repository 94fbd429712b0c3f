"""RFC 9042 (mailboxid), rule by rule."""

from __future__ import annotations

from sora.sieve.questions import MailboxIdsExist
from tests.support.sieverules import does, is_, refuses, walk

B = "mailboxid fileinto mailbox special-use"
IDS = {MailboxIdsExist: lambda question: set(question.ids) <= {"F6352ae03-b7f5-463c-896f-d8b48ee3"}}
test = walk(
    "9042",
    does("§4 example", ":mailboxid", B, 'if header :contains ["from"] "coyote" { fileinto :mailboxid "F6352ae03-b7f5-463c-896f-d8b48ee3" "INBOX.harassment"; }',
         ["fileinto INBOX.harassment F6352ae03-b7f5-463c-896f-d8b48ee3"]),
    does("§4.1 example", "with :create", B, 'fileinto :mailboxid "FX" :create "INBOX.no-such-folder";', ["fileinto INBOX.no-such-folder FX create"]),
    refuses("§4.3", "not with :specialuse", B, 'fileinto :mailboxid "F" :specialuse "\\\\Junk" "a";', "Only one of"),
    does("§5 example", "mailboxidexists", B, 'if mailboxidexists "F6352ae03-b7f5-463c-896f-d8b48ee3" { fileinto :mailboxid "F6352ae03-b7f5-463c-896f-d8b48ee3" "INBOX.name.will.not.be.used"; } '
         'else { fileinto "INBOX.harassment"; }', ["fileinto INBOX.name.will.not.be.used F6352ae03-b7f5-463c-896f-d8b48ee3"], answers=IDS),
    is_("§5", "all of them", B, 'mailboxidexists ["F6352ae03-b7f5-463c-896f-d8b48ee3", "FY"]', False, answers=IDS),
    refuses("§3", "it is required", "fileinto", 'fileinto :mailboxid "F" "a";', "needs require"),
)  # fmt: skip
