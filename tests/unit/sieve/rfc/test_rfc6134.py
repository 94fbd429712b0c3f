"""RFC 6134 (extlists), rule by rule."""

from __future__ import annotations

from sora.sieve.questions import ListContains, ListExists, ListMembers
from tests.support.sieverules import does, fails, is_, refuses, walk

L = "extlists envelope fileinto variables enotify relational"
KNOWN = {
    ListContains: lambda question: (
        {value for value in question.values if value == "coyote@desert.example.org"}
        if "addrbook" in question.list
        else None
    ),
    ListExists: lambda question: "addrbook" in question.list,
    ListMembers: lambda question: ["a@example.org", "b@example.org"] if "addrbook" in question.list else None,
}
test = walk(
    "6134",
    does("§3.1 example", "known senders", L, 'if envelope :list "from" ":addrbook:default" { fileinto "known"; }', ["fileinto known"], answers=KNOWN),
    is_("§2.2", "address :list", L, 'address :list "from" ":addrbook:default"', True, answers=KNOWN),
    is_("§2.2", "header :list", L, 'header :list "subject" ":addrbook:default"', False, answers=KNOWN),
    is_("§2.2", "string :list", L, 'string :list "coyote@desert.example.org" ":addrbook:default"', True, answers=KNOWN),
    does("§2.2", "${0} is what was found", L, 'if address :list "from" ":addrbook:x" { fileinto "${0}"; }', ["fileinto coyote@desert.example.org"], answers=KNOWN),
    fails("§2.2", "a list that is not there", L, 'if header :list "subject" "tag:nothing" {}', "no list", answers=KNOWN),
    refuses("§2.2", "one match type", L, 'if header :list :is "a" "b" {}', "Only one of"),
    does("§2.5 example", "redirect :list", L, 'redirect :list ":addrbook:x";', ["redirect a@example.org", "redirect b@example.org"], answers=KNOWN),
    is_("§2.4 example", "valid_ext_list", L, 'valid_ext_list ":addrbook:default"', True, answers=KNOWN),
    is_("§2.4", "valid_ext_list: all of them", L, 'valid_ext_list [":addrbook:default", "tag:nothing"]', False, answers=KNOWN),
    refuses("§2.1", "it is required", "", 'if header :list "a" "b" {}', "needs require"),
)  # fmt: skip
