"""RFC 5173 (body), rule by rule."""

from __future__ import annotations

from tests.support.sieverules import does, is_, refuses, walk
from tests.unit.sieve.test_bodies import TREE

JUKEBOX = b"Content-Type: audio/mp3\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
test = walk(
    "5173",
    does("§4.1 example", ":raw", "body", 'if body :raw :contains "MAKE MONEY FAST" { discard; }', ["discard"], mail=TREE),
    is_("§5.1", ":raw sees the structure", "body", 'body :raw :contains "--limit"', True, mail=TREE),
    is_("§5.1", ":raw is not decoded", "body", 'body :raw :contains "Grüße"', False, mail=TREE),
    is_("§5.1", ":raw has no header", "body", 'body :raw :contains "a@example.org"', False, mail=TREE),
    does("§5.2 example", ":content with words", "body fileinto",
         'if body :content "text" :contains ["missile", "coordinates"] { fileinto "secrets"; }', ["fileinto secrets"],
         mail=b"Content-Type: text/html\r\n\r\n<p>coordinates</p>"),
    does("§5.2 example", ":content of a type", "body fileinto", 'if body :content "audio/mp3" :contains "" { fileinto "jukebox"; }',
         ["fileinto jukebox"], mail=JUKEBOX),
    is_("§5.2", "a type stands for its subtypes", "body", 'body :content "text" :contains "Grüße"', True, mail=TREE),
    is_("§5.2", "a type and subtype", "body", 'body :content "text/html" :contains "Grüße"', False, mail=TREE),
    is_("§5.2", "the empty type is all", "body", 'body :content "" :contains "binary"', True, mail=TREE),
    is_("§5.2", "types in any case", "body", 'body :content "TEXT/Plain" :contains "Grüße"', True, mail=TREE),
    is_("§5.2", "a slash at the end matches nothing", "body", 'body :content "text/" :contains ""', False, mail=TREE),
    is_("§5.2", "a slash at the beginning matches nothing", "body", 'body :content "/plain" :contains ""', False, mail=TREE),
    is_("§5.2", "two slashes match nothing", "body", 'body :content "text/plain/x" :contains ""', False, mail=TREE),
    is_("§5.2", "multipart: what is around its parts", "body", 'body :content "multipart" :contains "Prologue"', True, mail=TREE),
    is_("§5.2", "multipart: the epilogue", "body", 'body :content "multipart" :contains "Epilogue"', True, mail=TREE),
    is_("§5.2", "multipart: not its parts", "body", 'body :content "multipart" :contains "MONEY"', False, mail=TREE),
    is_("§5.2", "message/rfc822: its header", "body", 'body :content "message/rfc822" :contains "inside"', True, mail=TREE),
    is_("§5.2", "message/rfc822: not its body", "body", 'body :content "message/rfc822" :contains "inner body"', False, mail=TREE),
    is_("§5.2", "charsets are decoded", "body", 'body :content "text/plain" :contains "Grüße"', True, mail=TREE),
    does("§5.3 example", ":text", "body fileinto", 'if body :text :contains "project schedule" { fileinto "project/schedule"; }',
         ["fileinto project/schedule"], mail=b"Subject: x\r\n\r\nThe project schedule is here.\r\n"),
    is_("§5.3", ":text is the default", "body", 'body :contains "Grüße"', True, mail=TREE),
    is_("§5.3", ":text of HTML is what is read", "body", 'body :text :contains "click here"', True, mail=TREE),
    is_("§4", "a message without a body", "body", 'body :contains ""', False, mail=b"Subject: x\r\n"),
    is_("§4", "no body, and not even an empty one", "body", 'body :raw :contains ""', False, mail=b"Subject: x\r\n"),
    is_("§4", "an empty body is the empty string", "body", 'body :is ""', True, mail=b"Subject: x\r\n\r\n"),
    refuses("§4", "one transform", "body", 'if body :raw :text "x" {}', "Only one of"),
    does("§6", "body sets no match variables", "body variables fileinto",
         'if header :matches "subject" "*have*" {} if body :matches "*anvil*" { fileinto "<${1}>"; }', ["fileinto <I >"]),
)  # fmt: skip
