"""RFC 8579 (special-use), rule by rule."""

from __future__ import annotations

from sora.sieve.questions import SpecialUsesExist
from tests.support.sieverules import does, is_, refuses, walk

U = "special-use fileinto mailbox"
USES = {SpecialUsesExist: lambda question: question.uses == ("\\Junk",) and question.mailbox in (None, "Spam")}
test = walk(
    "8579",
    is_("§3", "a mailbox with this use", U, 'specialuse_exists "\\\\Junk"', True, answers=USES),
    is_("§3", "this mailbox has it", U, 'specialuse_exists "Spam" "\\\\Junk"', True, answers=USES),
    is_("§3", "another one has not", U, 'specialuse_exists "INBOX" "\\\\Junk"', False, answers=USES),
    does("§4 example", ":specialuse", U, 'if environment "x" "y" {} fileinto :specialuse "\\\\Junk" "Spam";'.replace('if environment "x" "y" {} ', ""), ["fileinto Spam \\Junk"]),
    does("§4.1 example", ":specialuse with :create", U, 'fileinto :specialuse "\\\\Archive" :create "Archive/2024";', ["fileinto Archive/2024 \\Archive create"]),
    does("§4 example", "only if it is there", U, 'if specialuse_exists "\\\\Junk" { fileinto :specialuse "\\\\Junk" "Spam"; }', ["fileinto Spam \\Junk"], answers=USES),
    refuses("§4", "a use begins with a backslash", U, 'fileinto :specialuse "Junk" "Spam";', "is no special use"),
    refuses("§2", "it is required", "fileinto", 'fileinto :specialuse "\\\\Junk" "a";', "needs require"),
)  # fmt: skip
