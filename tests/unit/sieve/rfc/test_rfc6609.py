"""RFC 6609 (include), rule by rule."""

from __future__ import annotations

from typing import Any

from sora.sieve.questions import IncludeScript
from sora.sieve.script import compile
from tests.support.sieve import mail
from tests.support.sieverules import does, fails, refuses, walk

SOURCES = {
    ("always_allow", True): 'if address :is "from" "boss@example.com" { keep; stop; }',
    (
        "spam_tests",
        False,
    ): 'require ["reject", "variables", "include"]; global "test"; if header :contains "Subject" "$$$" { set "test" "yes"; }',
    ("mailing_lists", True): 'require "fileinto"; if header :is "List-ID" "sieve.ietf.org" { fileinto "lists.sieve"; }',
    ("returns", True): 'require "include"; return; discard;',
    ("stops", True): "stop;",
    ("own", True): 'require ["variables", "fileinto"]; fileinto "<${a}>";',
    ("sets", True): 'require ["variables", "include"]; set "global.a" "x";',
    ("loop", True): 'require "include"; include "loop";',
    ("counts", True): 'require ["variables", "include"]; global "n"; set "n" "${n}x";',
}


def library(question: Any) -> Any:
    source = SOURCES.get((question.name, question.personal))
    return None if source is None else compile(source.encode())


Q = {IncludeScript: library}
INC = "include variables fileinto"
EXAMPLE = 'include :personal "always_allow"; include :global "spam_tests"; include :personal "mailing_lists";'
test = walk(
    "6609",
    does("§3.2 example", "mail of the boss stops it all", INC, EXAMPLE + " discard;", ["keep"], answers=Q, mail=mail(From="boss@example.com")),
    does("§3.2 example", "mail of a list", INC, EXAMPLE, ["fileinto lists.sieve"], answers=Q, mail=mail(From="a@b.c", List_ID="sieve.ietf.org")),
    fails("§3.2", "a script that is not there", INC, 'include "nothing";', "There is no script", answers=Q),
    does("§3.2", ":optional", INC, 'include :optional "nothing"; discard;', ["discard"], answers=Q),
    does("§3.2", ":once", INC, 'include :once "counts"; include :once "counts"; global "n"; fileinto "${n}";', ["fileinto x"], answers=Q),
    does("§3.2", "without :once twice", INC, 'include "counts"; include "counts"; global "n"; fileinto "${n}";', ["fileinto xx"], answers=Q),
    fails("§3.2", ":personal is the default", INC, 'include "spam_tests";', "There is no script", answers=Q),
    fails("§3.2", "no script includes itself", INC, 'include "loop";', "includes itself", answers=Q),
    refuses("§3.2", "one location", INC, 'include :personal :global "a";', "Only one of"),
    refuses("§3.2", "names are constants", INC, 'include "${a}";', "is a constant"),
    does("§3.3", "return ends the included script alone", INC, 'include "returns"; fileinto "a";', ["fileinto a"], answers=Q),
    does("§3.3", "stop ends all", INC, 'include "stops"; discard;', ["keep"], answers=Q),
    does("§3.3", "return in the outermost script", INC, "return; discard;", ["keep"], answers=Q),
    does("§3.4", "variables are a script's own", INC, 'set "a" "x"; include "own";', ["fileinto <>"], answers=Q),
    does("§3.4.1 example", "global", INC, 'global "test"; include :global "spam_tests"; if string "${test}" "yes" { discard; }', ["discard"], answers=Q,
         mail=mail(Subject="$$$")),
    does("§3.4.2 example", "the namespace global", INC, 'include "sets"; fileinto "${global.a}";', ["fileinto x"], answers=Q),
    refuses("§3.4.1", "global needs variables", "include", 'global "a";', 'needs require "variables"'),
    refuses("§3.1", "it is required", "", 'include "a";', "needs require"),
)  # fmt: skip
