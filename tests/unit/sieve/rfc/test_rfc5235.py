"""RFC 5235 (spamtest, spamtestplus, virustest), rule by rule."""

from __future__ import annotations

from types import SimpleNamespace

from sora.sieve.scores import ScoreHeader
from tests.support.sieve import mail
from tests.support.sieverules import does, is_, refuses, walk

SET = SimpleNamespace(
    spam_header=ScoreHeader("X-Score", maximum=10.0),
    virus_header=ScoreHeader("X-Virus", texts={"no": 1, "yes": 5, "cured": 3}, pattern="^(\\S+)"),
)
P = "spamtestplus relational comparator-i;ascii-numeric fileinto"
S = "spamtest relational comparator-i;ascii-numeric fileinto"
VT = "virustest relational comparator-i;ascii-numeric fileinto"
SPAM = """if spamtest :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "INBOX.unclassified"; }
    elsif spamtest :value "ge" :comparator "i;ascii-numeric" "3" { fileinto "INBOX.spam-trap"; }"""
PERCENT = """if spamtest :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "INBOX.unclassified"; }
    elsif spamtest :percent :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "INBOX.not-spam"; }
    elsif spamtest :percent :value "lt" :comparator "i;ascii-numeric" "37" { fileinto "INBOX.spam-trap"; } else { discard; }"""
COUNT = """if spamtest :percent :count "eq" :comparator "i;ascii-numeric" "0" { fileinto "INBOX.unclassified"; } else { keep; }"""
VIRUS = """if virustest :value "eq" :comparator "i;ascii-numeric" "0" { fileinto "INBOX.unclassified"; }
    if virustest :value "eq" :comparator "i;ascii-numeric" "4" { fileinto "INBOX.quarantine"; }
    elsif virustest :value "eq" :comparator "i;ascii-numeric" "5" { discard; }"""
test = walk(
    "5235",
    does("§2.2 example", "not tested", S, SPAM, ["fileinto INBOX.unclassified"], settings=SET),
    does("§2.2 example", "spam", S, SPAM, ["fileinto INBOX.spam-trap"], settings=SET, mail=mail(X_Score="8")),
    does("§2.2 example", "no spam", S, SPAM, ["keep"], settings=SET, mail=mail(X_Score="0")),
    is_("§2.2", "10 is spam beyond doubt", S, 'spamtest :value "eq" :comparator "i;ascii-numeric" "10"', True, settings=SET, mail=mail(X_Score="10")),
    is_("§2.2", "1 is no spam at all", S, 'spamtest :value "eq" :comparator "i;ascii-numeric" "1"', True, settings=SET, mail=mail(X_Score="0")),
    does("§2.3 example", "percent: not tested", P, PERCENT, ["fileinto INBOX.unclassified"], settings=SET),
    does("§2.3 example", "percent: none", P, PERCENT, ["fileinto INBOX.not-spam"], settings=SET, mail=mail(X_Score="0")),
    does("§2.3 example", "percent: some", P, PERCENT, ["fileinto INBOX.spam-trap"], settings=SET, mail=mail(X_Score="2")),
    does("§2.3 example", "percent: much", P, PERCENT, ["discard"], settings=SET, mail=mail(X_Score="9")),
    does("§2.3 example", ":count 0 is not tested", P, COUNT, ["fileinto INBOX.unclassified"], settings=SET),
    does("§2.3 example", ":count of one that was", P, COUNT, ["keep"], settings=SET, mail=mail(X_Score="0")),
    refuses("§2.3", ":percent is of spamtestplus", S, 'if spamtest :percent "1" {}', "needs require"),
    does("§3.2 example", "virus: not tested", VT, VIRUS, ["fileinto INBOX.unclassified"], settings=SET),
    does("§3.2 example", "virus: infected", VT, VIRUS, ["discard"], settings=SET, mail=mail(X_Virus="yes Foo")),
    does("§3.2 example", "virus: clean", VT, VIRUS, ["keep"], settings=SET, mail=mail(X_Virus="no")),
    is_("§3.2", "3 was cured", VT, 'virustest :value "eq" :comparator "i;ascii-numeric" "3"', True, settings=SET, mail=mail(X_Virus="cured")),
    is_("§2", "a site without a scanner", S, 'spamtest :value "eq" :comparator "i;ascii-numeric" "0"', True),
)  # fmt: skip
