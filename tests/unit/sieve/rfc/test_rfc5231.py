"""RFC 5231 (relational), rule by rule."""

from __future__ import annotations

from tests.support.sieve import mail
from tests.support.sieverules import does, is_, refuses, walk

N = "relational comparator-i;ascii-numeric"
FEW = mail(From="a@example.com", To=["x@example.com", "y@example.com"], Cc="z@example.com", X_Priority="3")
SCRIPT = """if header :value "lt" :comparator "i;ascii-numeric" ["x-priority"] ["3"] { fileinto "Priority"; }
    elsif address :count "gt" :comparator "i;ascii-numeric" ["to"] ["5"] { fileinto "SPAM"; }
    elsif address :value "gt" :all :comparator "i;ascii-casemap" ["from"] ["M"] { fileinto "From N-Z"; }
    else { fileinto "From A-M"; }"""
test = walk(
    "5231",
    is_("§4.1", ":value gt", N, 'header :value "gt" :comparator "i;ascii-numeric" "x-priority" "2"', True, mail=FEW),
    is_("§4.1", ":value ge", N, 'header :value "ge" :comparator "i;ascii-numeric" "x-priority" "3"', True, mail=FEW),
    is_("§4.1", ":value lt", N, 'header :value "lt" :comparator "i;ascii-numeric" "x-priority" "3"', False, mail=FEW),
    is_("§4.1", ":value le", N, 'header :value "le" :comparator "i;ascii-numeric" "x-priority" "3"', True, mail=FEW),
    is_("§4.1", ":value eq", N, 'header :value "eq" :comparator "i;ascii-numeric" "x-priority" "03"', True, mail=FEW),
    is_("§4.1", ":value ne", N, 'header :value "ne" :comparator "i;ascii-numeric" "x-priority" "3"', False, mail=FEW),
    is_("§4.1", "the comparator's order", N, 'header :value "gt" "x-priority" "2"', True, mail=FEW),
    is_("§4.2", ":count of fields", N, 'header :count "eq" :comparator "i;ascii-numeric" ["to", "cc"] "3"', True, mail=FEW),
    is_("§4.2", ":count of addresses", N, 'address :count "ge" :comparator "i;ascii-numeric" ["to", "cc"] "3"', True, mail=FEW),
    is_("§4.2", ":count of the envelope", N + " envelope", 'envelope :count "eq" :comparator "i;ascii-numeric" ["from", "to"] "2"', True),
    is_("§4.2", ":count of nothing", N, 'header :count "eq" :comparator "i;ascii-numeric" "x-none" "0"', True),
    is_("§4.2", "each of the keys", N, 'header :count "eq" :comparator "i;ascii-numeric" "to" ["9", "2"]', True, mail=FEW),
    refuses("§3", "relations are six", N, 'if header :value "xx" "a" "b" {}', "Unknown relation"),
    refuses("§3", "the empty text is no relation", N, 'if header :count "" "a" "b" {}', 'Unknown relation ""'),
    refuses("§3", "one match type", N, 'if header :count "eq" :is "a" "b" {}', "Only one of"),
    refuses("§2", "it is required", "", 'if header :value "eq" "a" "b" {}', "needs require"),
    does("§7 example", "a low number", N + " fileinto", SCRIPT, ["fileinto Priority"], mail=mail(From="z@b.c", X_Priority="1")),
    does("§7 example", "many recipients", N + " fileinto", SCRIPT, ["fileinto SPAM"], mail=mail(From="a@b.c", To="a@b.c, b@b.c, c@b.c, d@b.c, e@b.c, f@b.c")),
    does("§7 example", "the second half of the alphabet", N + " fileinto", SCRIPT, ["fileinto From N-Z"], mail=mail(From="zoe@b.c")),
    does("§7 example", "the first half", N + " fileinto", SCRIPT, ["fileinto From A-M"], mail=mail(From="abe@b.c")),
)  # fmt: skip
