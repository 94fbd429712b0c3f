"""RFC 5229 (variables), rule by rule."""

from __future__ import annotations

from sora.sieve.limits import Limits
from tests.support.sieve import mail
from tests.support.sieverules import does, fails, is_, refuses, walk

BUSINESS = (
    """if address :matches ["To", "Cc"] ["coyote@**.com", "wile@**.com"] { fileinto "INBOX.business.${2}"; stop; }"""
)
V = "variables fileinto"
test = walk(
    "5229",
    does("§3 example", "references", V, 'set "company" "ACME"; fileinto "&%${}! ${doh!} ${Company} ${President, ${Company} Inc.}";',
         ["fileinto &%${}! ${doh!} ACME ${President, ACME Inc.}"]),
    does("§3", "names in any case", V, 'set "aB" "x"; fileinto "${Ab}";', ["fileinto x"]),
    does("§3", "an unknown one is empty", V, 'fileinto "<${nothing}>";', ["fileinto <>"]),
    does("§3", "strings are expanded once", V, 'set "a" "${b"; set "b" "x"; fileinto "${a}}";', ["fileinto ${b}"]),
    does("§3", "without require nothing is expanded", "fileinto", 'fileinto "${a}";', ["fileinto ${a}"]),
    does("§3.1", "no quoting of the dollar sign but a variable", V, 'set "dollar" "$"; fileinto "${dollar}{a}";', ["fileinto ${a}"]),
    does("§3.2 example", "a list's name", V, 'if header :matches "List-ID" "*<*@*" { fileinto "INBOX.lists.${2}"; stop; }',
         ["fileinto INBOX.lists.sieve"], mail=mail(List_ID="Sieve <sieve@ietf.org>")),
    does("§3.2 example", "brackets in a subject", V, 'if header :matches "Subject" "[*] *" { fileinto "${1}|${2}"; }',
         ["fileinto acme-users|[fwd] version 1.0 is out"], mail=mail(Subject="[acme-users] [fwd] version 1.0 is out")),
    does("§3.2 example", "two stars", V, BUSINESS, ["fileinto INBOX.business.ACME.Example"], mail=mail(To="coyote@ACME.Example.COM")),
    does("§3.2 example", "a test that is not evaluated sets nothing", V,
         'if anyof (true, address :domain :matches "To" "*.com") { fileinto "<${0}>"; stop; }', ["fileinto <>"], mail=mail(To="a@b.com")),
    does("§3.2", "${0} is the whole value", V, 'if header :matches "subject" "I*you" { fileinto "${0}"; }', ["fileinto I have a present for you"]),
    does("§3.2", "stars take as little as they can", V, 'if header :matches "x" "*-*" { fileinto "${1}|${2}"; }', ["fileinto a|b-c"], mail=mail(X="a-b-c")),
    does("§3.2", "a failed match leaves them", V,
         'if header :matches "subject" "I*" {} if header :matches "subject" "x*" {} fileinto "${1}";', ["fileinto  have a present for you"]),
    does("§3.2", ":is and :contains leave them", V,
         'if header :matches "subject" "I*" {} if header :contains "subject" "have" {} fileinto "${1}";', ["fileinto  have a present for you"]),
    does("§3.2", "a number without a wildcard is empty", V, 'if header :matches "subject" "I*" { fileinto "<${2}>"; }', ["fileinto <>"]),
    does("§3.2", "leading zeros do not count", V, 'if header :matches "subject" "I *" { fileinto "${01}"; }', ["fileinto have a present for you"]),
    does("§3.2", "case is that of the value", V, 'if header :matches "subject" "i HAVE*" { fileinto "${0}"; }', ["fileinto I have a present for you"]),
    does("§4 example", "set", V, 'set "honorific" "Mr"; set "vacation" text:\nDear ${HONORIFIC} ${last_name},\nI am out.\n.\n; fileinto "${vacation}";',
         ["fileinto Dear Mr ,\r\nI am out.\r\n"]),
    refuses("§4", "a name is a constant", V, 'set "${a}" "x";', "no name of a variable"),
    refuses("§4", "no match variable is set", V, 'set "1" "x";', "no name of a variable"),
    refuses("§3", "no unknown namespace is set", V, 'set "foo.bar" "x";', "no name of a variable"),
    does("§4.1 example", ":length", V, 'set "a" "juMBlEd lETteRS"; set :length "b" "${a}"; fileinto "${b}";', ["fileinto 15"]),
    does("§4.1 example", ":lower", V, 'set "a" "juMBlEd lETteRS"; set :lower "b" "${a}"; fileinto "${b}";', ["fileinto jumbled letters"]),
    does("§4.1 example", ":upperfirst", V, 'set "a" "juMBlEd lETteRS"; set :upperfirst "b" "${a}"; fileinto "${b}";', ["fileinto JuMBlEd lETteRS"]),
    does("§4.1 example", ":upperfirst :lower", V, 'set "a" "juMBlEd lETteRS"; set :upperfirst :lower "b" "${a}"; fileinto "${b}";', ["fileinto Jumbled letters"]),
    does("§4.1.1", ":upper", V, 'set :upper "a" "aé"; fileinto "${a}";', ["fileinto Aé"]),
    does("§4.1.1", ":lowerfirst", V, 'set :lowerfirst "a" "ABC"; fileinto "${a}";', ["fileinto aBC"]),
    does("§4.1.2 example", ":quotewildcard", V, r'set :quotewildcard "a" "Rock*?\\"; fileinto "${a}";', [r"fileinto Rock\*\?\\"]),
    does("§4.1.3", ":length counts characters", V, 'set :length "a" "é"; fileinto "${a}";', ["fileinto 1"]),
    refuses("§4.1", "one of a precedence", V, 'set :lower :upper "a" "x";', "Only one of"),
    is_("§5 example", "string", "variables", r'string :matches " ${state} " "* pending *"', False),
    does("§5 example", "string after set", V, 'set "state" "${state} pending"; if string :matches " ${state} " "* pending *" { fileinto "p"; }', ["fileinto p"]),
    is_("§5", ":count counts strings that are not empty", "variables relational comparator-i;ascii-numeric",
        'string :count "eq" :comparator "i;ascii-numeric" ["a", "", "b"] "2"', True),
    does("§6", "a value is cut at the limit, in whole characters", V, 'set "a" "ééééé"; fileinto "${a}";', ["fileinto éé"], limits=Limits(variable_bytes=5)),
    does("§6", "128 variables at least", V, "".join(f'set "a{n}" "x";' for n in range(128)) + 'fileinto "${a127}";', ["fileinto x"]),
    fails("§4", "an error of the run in a name of a mailbox", V, 'fileinto "${a}";', "A mailbox has a name"),
)  # fmt: skip
