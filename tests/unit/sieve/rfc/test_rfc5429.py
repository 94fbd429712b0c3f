"""RFC 5429 (reject, ereject), rule by rule."""

from __future__ import annotations

from tests.support.sieve import mail
from tests.support.sieverules import does, fails, refuses, walk

test = walk(
    "5429",
    does("§2.1 example", "ereject", "ereject", 'if address "from" "someone@example.com" { ereject text:\nI am not taking mail from you, and I don\'t\nwant your birdseed, either!\n.\n; }',
         ["ereject I am not taking mail from you, and I don't\r\nwant your birdseed, either!\r\n"], mail=mail(From="someone@example.com")),
    does("§2.2 example", "reject", "reject", 'if header :contains "from" "coyote@desert.example.org" { reject "I am not taking mail from you"; }',
         ["reject I am not taking mail from you"]),
    does("§2.1", "it cancels the implicit keep", "ereject", 'ereject "no";', ["ereject no"]),
    fails("§2.4", "not after keep", "reject", 'keep; reject "no";', "cannot be rejected"),
    fails("§2.4", "not after fileinto", "reject fileinto", 'fileinto "a"; reject "no";', "cannot be rejected"),
    fails("§2.4", "not after redirect", "ereject", 'redirect "a@example.org"; ereject "no";', "cannot be rejected"),
    fails("§2.4", "not before keep", "reject", 'reject "no"; keep;', "cannot be delivered"),
    fails("§2.4", "not with vacation", "reject vacation", 'vacation "x"; reject "no";', "cannot be rejected"),
    fails("§2.4", "once", "reject ereject", 'reject "no"; ereject "no";', "rejected twice"),
    does("§2.3", "with discard", "reject", 'discard; reject "no";', ["discard", "reject no"]),
    does("§2.1", "reasons may be no ASCII", "reject", 'reject "né";', ["reject né"]),
    refuses("§2", "each is required by its own name", "reject", 'ereject "x";', 'needs require "ereject"'),
)  # fmt: skip
