"""RFC 5703 (mime, foreverypart, extracttext, replace, enclose), rule by rule."""

from __future__ import annotations

from typing import Any

from tests.support.sieverules import does, is_, made, refuses, walk

M = "mime foreverypart extracttext replace enclose variables fileinto"
ATTACHED = (
    b"From: a@b.c\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
    b'--b\r\nContent-Type: application/exe; name=x.com\r\nContent-Disposition: attachment; filename="x.com"\r\n\r\nMZ\r\n--b--\r\n'
)
DANGER = """foreverypart { if anyof (header :mime :contenttype :is "Content-Type" "application/exe",
    header :mime :param "filename" :matches ["Content-Type", "Content-Disposition"] ["*.com", "*.exe", "*.vbs", "*.scr", "*.pif", "*.hta", "*.bat", "*.zip"])
    { fileinto "INBOX.Dangerous"; break; } }"""
REMOVE = """foreverypart { if header :mime :param "filename" :matches ["Content-Type", "Content-Disposition"] ["*.com"] {
    replace "Attachment removed by user request"; } }"""


def data(action: Any) -> Any:
    return action.mail.data


test = walk(
    "5703",
    does("§3", "foreverypart goes over all parts, the outermost first", M, 'foreverypart { if header :mime :contenttype "content-type" "multipart/mixed" '
         '{ set "a" "${a}m"; } else { set "a" "${a}p"; } } fileinto "${a}";', ["fileinto mpp"], mail=ATTACHED),
    does("§3", "nested loops go over what is inside", M, 'foreverypart { foreverypart { set "a" "${a}x"; } } fileinto "<${a}>";', ["fileinto <xx>"], mail=ATTACHED),
    does("§3", "break ends the loop", M, 'foreverypart { set "a" "${a}x"; break; } fileinto "${a}";', ["fileinto x"], mail=ATTACHED),
    does("§3", "break by name", M, 'foreverypart :name "o" { foreverypart { break :name "o"; } set "a" "y"; } fileinto "<${a}>";', ["fileinto <>"], mail=ATTACHED),
    refuses("§3", "break stands in a loop", M, "break;", "stands in no loop"),
    refuses("§3", "break names a loop around it", M, 'foreverypart :name "a" { break :name "b"; }', "no loop of this name"),
    is_("§4.1", ":mime looks at one part", M, 'header :mime :contenttype "Content-Type" "text/plain"', False, mail=ATTACHED),
    is_("§4.1", ":anychild looks at all", M, 'header :mime :anychild :contenttype "Content-Type" "text/plain"', True, mail=ATTACHED),
    is_("§4.1", ":type", M, 'header :mime :type "Content-Type" "multipart"', True, mail=ATTACHED),
    is_("§4.1", ":subtype", M, 'header :mime :subtype "Content-Type" "mixed"', True, mail=ATTACHED),
    is_("§4.1", ":param", M, 'header :mime :param "boundary" "Content-Type" "b"', True, mail=ATTACHED),
    is_("§4.1", ":type of a disposition", M, 'header :mime :anychild :type "Content-Disposition" "attachment"', True, mail=ATTACHED),
    is_("§4.2", "address :mime :anychild", M, 'address :mime :anychild "from" "a@b.c"', True, mail=ATTACHED),
    is_("§4.3 example", "exists :mime :anychild", M, 'exists :mime :anychild "content-disposition"', True, mail=ATTACHED),
    refuses("§4", ":anychild needs :mime", M, 'if header :anychild "a" "b" {}', "needs :mime"),
    does("§4.1 example", "dangerous attachments", M, DANGER, ["fileinto INBOX.Dangerous"], mail=ATTACHED),
    made("§5.1", "replace a part", M, REMOVE, lambda action: (b"Attachment removed" in data(action), b"MZ" in data(action), b"hello" in data(action)),
         (True, False, True), mail=ATTACHED),
    made("§5.1", "replace the message", M, 'replace "gone";', lambda action: (b"gone" in data(action), b"hello" in data(action), b"Subject: s\r\n" in data(action)),
         (True, False, True), mail=ATTACHED),
    made("§5.1", "replace :subject keeps the old one", M, 'replace :subject "new" "gone";',
         lambda action: (b"Subject: new\r\n" in data(action), b"Original-Subject: s\r\n" in data(action)), (True, True), mail=ATTACHED),
    made("§5.1", "replace :mime", M, 'replace :mime text:\nContent-Type: text/html\n\n<p>x\n.\n;', lambda action: data(action).endswith(b"text/html\r\n\r\n<p>x\r\n"), True, mail=ATTACHED),
    made("§6 example", "enclose", M, 'enclose :subject "Warning" text:\nWARNING! This message contains an attachment.\n.\n;',
         lambda action: (b"Subject: Warning\r\n" in data(action), b"WARNING!" in data(action), b"message/rfc822" in data(action), ATTACHED in data(action)),
         (True, True, True, True), mail=ATTACHED),
    made("§6", "enclose :headers", M, 'enclose :headers ["X-A"] "x";', lambda action: data(action).count(b"X-A: 1\r\n"), 2, mail=b"X-A: 1\r\n" + ATTACHED),
    does("§7 example", "extracttext", M, 'foreverypart { if header :mime :contenttype "Content-Type" "text/plain" { extracttext :first 100 "msg"; break; } } '
         'fileinto "${msg}";', ["fileinto hello"], mail=ATTACHED),
    does("§7", ":first", M, 'foreverypart { extracttext :first 2 "a"; set "b" "${b}${a}"; } fileinto "${b}";', ["fileinto he"], mail=ATTACHED),
    does("§7", "modifiers", M, 'foreverypart { if header :mime :type "content-type" "text" { extracttext :upper "a"; } } fileinto "${a}";', ["fileinto HELLO"], mail=ATTACHED),
    refuses("§7", "extracttext stands in a loop", M, 'extracttext "a";', "stands in no loop"),
    refuses("§7", "it needs variables", "foreverypart extracttext", 'foreverypart { extracttext "a"; }', 'needs require "variables"'),
)  # fmt: skip
