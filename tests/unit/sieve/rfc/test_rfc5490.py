"""RFC 5490 (mailbox, mboxmetadata, servermetadata), rule by rule."""

from __future__ import annotations

from sora.sieve.questions import MailboxesExist, Metadata, MetadataExists
from tests.support.sieverules import does, is_, refuses, walk

A = {
    MailboxesExist: lambda question: set(question.names) <= {"INBOX", "Partners"},
    Metadata: lambda question: {
        ("INBOX", "/private/vendor/vendor.isode/auto-replies"): "on",
        ("", "/private/x"): "a",
    }.get((question.mailbox, question.entry)),
    MetadataExists: lambda question: set(question.entries) <= {"/private/vendor/vendor.isode/auto-replies"},
}
test = walk(
    "5490",
    does("§3.1 example", "mailboxexists", "fileinto mailbox", 'if mailboxexists "Partners" { fileinto "Partners"; } else { keep; }', ["fileinto Partners"], answers=A),
    is_("§3.1", "all of them", "mailbox", 'mailboxexists ["INBOX", "Nothing"]', False, answers=A),
    does("§3.2 example", ":create", "fileinto mailbox", 'fileinto :create "Partners";', ["fileinto Partners create"]),
    refuses("§3.2", ":create is required", "fileinto", 'fileinto :create "a";', "needs require"),
    does("§3.3 example", "metadata", "mboxmetadata fileinto", 'if metadata :is "INBOX" "/private/vendor/vendor.isode/auto-replies" "on" { discard; }', ["discard"], answers=A),
    is_("§3.3", "a missing annotation matches nothing", "mboxmetadata", 'metadata :contains "INBOX" "/private/y" ""', False, answers=A),
    is_("§3.4", "metadataexists", "mboxmetadata", 'metadataexists "INBOX" ["/private/vendor/vendor.isode/auto-replies"]', True, answers=A),
    is_("§3.4", "metadataexists: all of them", "mboxmetadata", 'metadataexists "INBOX" ["/private/vendor/vendor.isode/auto-replies", "/x"]', False, answers=A),
    is_("§4.1", "servermetadata", "servermetadata", 'servermetadata "/private/x" "a"', True, answers=A),
    is_("§4.2", "servermetadataexists", "servermetadata", 'servermetadataexists "/private/nothing"', False, answers=A),
)  # fmt: skip
