"""RFC 5293 (editheader), rule by rule."""

from __future__ import annotations

from typing import Any

from tests.support.sieve import mail
from tests.support.sieverules import does, fails, made, refuses, walk

E = "editheader index variables fileinto"


def head(action: Any) -> Any:
    return action.mail.head.decode()


TWO = mail(Subject=["a", "b"], X="1")
test = walk(
    "5293",
    made("§4 example", "addheader", E, 'addheader "X-Sieve-Filtered" "<kim@job.example.com>"; keep;', head,
         "X-Sieve-Filtered: <kim@job.example.com>\r\nSubject: a\r\nSubject: b\r\nX: 1\r\n\r\n", mail=TWO),
    made("§4", "addheader :last", E, 'addheader :last "Y" "2"; keep;', head, "Subject: a\r\nSubject: b\r\nX: 1\r\nY: 2\r\n\r\n", mail=TWO),
    fails("§4", "a name is a field's name", E, 'set "a" "b c"; addheader "${a}" "x";', "no name of a header field"),
    made("§4", "line ends in a value make no field", E, 'addheader "Y" text:\na\r\nX-Evil: b\n.\n; keep;', lambda action: "\r\nX-Evil:" in head(action), False, mail=TWO),
    made("§5 example", "deleteheader", E, 'deleteheader "Subject"; keep;', head, "X: 1\r\n\r\n", mail=TWO),
    made("§5 example", "deleteheader with a pattern", E, 'deleteheader :contains "Subject" ["b"]; keep;', head, "Subject: a\r\nX: 1\r\n\r\n", mail=TWO),
    made("§5 example", "deleteheader :index", E, 'deleteheader :index 1 "Subject"; keep;', head, "Subject: b\r\nX: 1\r\n\r\n", mail=TWO),
    made("§5", "deleteheader :index :last", E, 'deleteheader :index 1 :last "Subject"; keep;', head, "Subject: a\r\nX: 1\r\n\r\n", mail=TWO),
    made("§5", ":index with a pattern: both must hold", E, 'deleteheader :index 1 :is "Subject" "b"; keep;', head,
         "Subject: a\r\nSubject: b\r\nX: 1\r\n\r\n", mail=TWO),
    made("§5", "it is no error if nothing matches", E, 'deleteheader "Nothing"; keep;', head, "Subject: a\r\nSubject: b\r\nX: 1\r\n\r\n", mail=TWO),
    does("§4", "tests see the edited message", E, 'addheader "Y" "z"; if header "y" "z" { discard; }', ["discard"]),
    does("§6", "Received is not deleted", E, 'deleteheader "Received"; if exists "received" { discard; }', ["discard"]),
    does("§6", "Auto-Submitted is not deleted", E, 'deleteheader "Auto-Submitted"; if exists "auto-submitted" { discard; }', ["discard"], mail=mail(Auto_Submitted="no")),
    made("§7", "an earlier fileinto has the earlier message", E, 'fileinto "a"; addheader "Y" "z";', head, "Subject: a\r\nSubject: b\r\nX: 1\r\n\r\n", mail=TWO),
    refuses("§5", ":last needs :index", E, 'deleteheader :last "Subject";', ":last needs :index"),
    refuses("§3", "it is required", "", 'addheader "a" "b";', "needs require"),
)  # fmt: skip
