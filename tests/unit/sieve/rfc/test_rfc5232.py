"""RFC 5232 (imap4flags), rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, is_, refuses, walk

F = "imap4flags fileinto variables relational comparator-i;ascii-numeric"
test = walk(
    "5232",
    does("§1.1 example", "one flag set for several mailboxes", F, """if size :over 500K { setflag "\\\\Deleted"; }
         if header :contains "from" "coyote" { addflag "\\\\Flagged"; fileinto "important"; }""", ["fileinto important (\\Flagged)"]),
    does("§3.1 example", "setflag", F, 'if header :contains "from" "coyote" { setflag "\\\\Flagged"; fileinto "INBOX.From Boss"; }',
         ["fileinto INBOX.From Boss (\\Flagged)"]),
    does("§3.1", "setflag replaces", F, 'setflag "a b"; setflag "c"; keep;', ["keep (c)"]),
    does("§3.1", "an empty list clears", F, 'setflag "a"; setflag ""; keep;', ["keep ()"]),
    does("§3.2 example", "addflag, three ways", F, 'addflag "flagvar" "\\\\Deleted"; addflag "flagvar" ["\\\\Deleted", "\\\\Answered"]; '
         'keep :flags "${flagvar}";', ["keep (\\Deleted \\Answered)"]),
    does("§3.3 example", "removeflag", F, 'setflag ["\\\\Deleted", "\\\\Answered"]; removeflag "\\\\Answered"; keep;', ["keep (\\Deleted)"]),
    does("§3.3", "flags in any case", F, 'setflag "\\\\SEEN"; removeflag "\\\\seen"; keep;', ["keep ()"]),
    does("§2", "a string can hold several", F, 'setflag "\\\\Answered \\\\Seen"; keep;', ["keep (\\Answered \\Seen)"]),
    does("§2", "duplicates do not matter", F, 'addflag "a"; addflag ["a", "A"]; keep;', ["keep (a)"]),
    does("§2", "what is no flag is left out", F, 'setflag ["a(b", "ok"]; keep;', ["keep (ok)"]),
    does("§2", "the internal variable is what :flags is without it", F, 'setflag "x"; fileinto "a";', ["fileinto a (x)"]),
    is_("§4 example", "hasflag", F, 'hasflag :contains ["b", "c"] ["x"]', False),
    does("§4 example", "hasflag: four that are true", F, """set "MyVar" "NonJunk Junk gnus-forward $Forwarded NotJunk JunkRecorded $Junk $NotJunk";
         if allof (hasflag :contains "MyVar" "Junk", hasflag :contains "MyVar" "forward", hasflag :contains "MyVar" ["label", "forward"],
                   hasflag :contains "MyVar" ["junk", "forward"]) { discard; }""", ["discard"]),
    does("§4 example", "hasflag: three that are false", F, """set "MyVar" "NonJunk Junk gnus-forward $Forwarded NotJunk JunkRecorded $Junk $NotJunk";
         if anyof (hasflag :contains "MyVar" "label", hasflag :contains "MyVar" ["label1", "label2"], hasflag "MyVar" ["a", "b"]) { discard; }""", ["keep"]),
    does("§4 example", "hasflag :count", F, """set "MyFlags" "A B"; if allof (hasflag :count "ge" :comparator "i;ascii-numeric" "MyFlags" "2",
         not hasflag :count "ge" :comparator "i;ascii-numeric" "MyFlags" "3") { discard; }""", ["discard"]),
    is_("§4", "hasflag without a variable", F, 'hasflag "\\\\Seen"', False),
    does("§5 example", "keep :flags", F, 'keep :flags ["\\\\Draft", "x"];', ["keep (\\Draft x)"]),
    does("§5 example", "fileinto :flags", F, 'fileinto :flags "\\\\Deleted" "INBOX.From Boss";', ["fileinto INBOX.From Boss (\\Deleted)"]),
    does("§5", ":flags is for this action alone", F, 'setflag "x"; fileinto :flags "y" "a"; keep;', ["fileinto a (y)", "keep (x)"]),
    does("§5 example", ":flags with variables", F, 'set "fb" "\\\\Flagged"; addflag "fb" "b"; fileinto :flags "${fb}" "a";', ["fileinto a (\\Flagged b)"]),
    does("§6", "the implicit keep has the flags", F, 'addflag "x";', ["keep (x)"]),
    refuses("§3", "a variable needs variables", "imap4flags", 'addflag "a" "b";', 'needs require "variables"'),
    refuses("§5", ":flags is required", "fileinto", 'fileinto :flags "a" "b";', "needs require"),
)  # fmt: skip
