"""RFC 7352 (duplicate), rule by rule."""

from __future__ import annotations

from sora.sieve.questions import IsDuplicate
from tests.support.sieve import mail
from tests.support.sieverules import does, refuses, walk

DUP = "duplicate fileinto variables"
SEEN = {IsDuplicate: lambda question: question.unique_id in ("<1@desert.example.org>", "abc")}
test = walk(
    "7352",
    does("§5.1 example", "duplicates are discarded", DUP, "if duplicate { discard; }", ["discard"], answers=SEEN),
    does("§5.1", "the first one is not", DUP, "if duplicate { discard; }", ["keep"], mail=mail(Message_ID="<new@x>"), answers=SEEN),
    does("§5.2 example", "alerts by their subject", DUP, 'if header :matches "subject" "ALERT: *" { if duplicate :seconds 60 :uniqueid "${1}" { setflagless; } }'.replace("setflagless;", "discard;"),
         ["discard"], mail=mail(Subject="ALERT: abc"), answers=SEEN),
    does("§5.3 example", "by another field", DUP, 'if duplicate :header "X-Event-ID" :handle "notifier" { discard; }', ["discard"], mail=mail(X_Event_ID="abc"), answers=SEEN),
    does("§3.1", "without the field it is never one", DUP, 'if duplicate :header "X-Nothing" { discard; }', ["keep"], answers={IsDuplicate: True}),
    does("§3.1", "without Message-ID it is never one", DUP, "if duplicate { discard; }", ["keep"], mail=mail(Subject="x"), answers={IsDuplicate: True}),
    refuses("§3.1", ":header or :uniqueid", DUP, 'if duplicate :header "a" :uniqueid "b" {}', "Only one of"),
    refuses("§3.3", ":seconds is a number", DUP, 'if duplicate :seconds "1" {}', "must be followed by a number"),
    does("§3.2", "handles keep lists apart", DUP, 'if duplicate :handle "b" { discard; }', ["keep"], answers={IsDuplicate: lambda question: question.handle == "a"}),
    does("§3.3", ":last", DUP, "if duplicate :last { discard; }", ["discard"], answers=SEEN),
)  # fmt: skip
