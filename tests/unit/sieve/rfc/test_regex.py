"""draft-ietf-sieve-regex, rule by rule."""

from __future__ import annotations

from tests.support.sieve import mail
from tests.support.sieverules import does, is_, refuses, walk

R = "regex variables fileinto"
EMAIL = 'address :comparator "i;ascii-casemap" :regex "from" ["^ca[nr]tor(-|[.])owner@.*\\\\.com$", "^postmaster@"]'
test = walk(
    "regex",
    does("§4 example", "mail about lists", R, 'if ' + EMAIL + ' { discard; }', ["discard"], mail=mail(From="cantor-owner@example.com")),
    does("§4 example", "match variables", R, 'if header :regex "subject" "^\\\\[(.*)\\\\] (.*)$" { fileinto "${1}|${2}"; }', ["fileinto list|hello"], mail=mail(Subject="[list] hello")),
    is_("§3", "POSIX classes", R, 'header :regex "subject" "^[[:alpha:] ]+$"', True),
    is_("§3", "repetitions with bounds", R, 'header :regex "subject" "^.{24}$"', True),
    is_("§3", "alternatives", R, 'header :regex "subject" "past|present|future"', True),
    is_("§3", "it matches anywhere", R, 'header :regex "subject" "pres"', True),
    is_("§3", "the comparator decides about case", R, 'header :regex :comparator "i;octet" "subject" "PRESENT"', False),
    does("§5", "${0} is what matched", R, 'if header :regex "subject" "p[a-z]*" { fileinto "${0}"; }', ["fileinto present"]),
    does("§5", "the leftmost of the longest", R, 'if header :regex "subject" "a|ab|abc" { fileinto "${0}"; }', ["fileinto abc"], mail=mail(Subject="xabcd")),
    does("§5", "a group that took no part is empty", R, 'if header :regex "subject" "(x)?(p)resent" { fileinto "<${1}${2}>"; }', ["fileinto <p>"]),
    does("§6", ":quoteregex", R, 'set :quoteregex "a" "a.b*"; fileinto "${a}";', ["fileinto a\\.b\\*"]),
    refuses("§3", "an expression that is none", R, 'if header :regex "a" "(" {}', "Bad regular expression"),
    refuses("§3", "no back references", R, r'if header :regex "a" "(a)\\1" {}', "Bad regular expression"),
    refuses("§2", "it is required", "", 'if header :regex "a" "b" {}', "needs require"),
)  # fmt: skip
