"""The grammar of the IMAP commands, by cases, and what it must refuse."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.imapscan import Command, NeedLiteral, Scanner
from sora._native.seqset import SeqSet, UidSet
from sora.errors import BadSyntax
from sora.types import Rights
from sora.wire import imap_acl, imap_contexts, imap_metadata, imap_quota
from sora.wire import imap_commands as wire
from sora.wire.imap_append import Append, AppendItem, Replace, Text, Url, parse_append
from sora.wire.imap_commands import PARSERS, QResync, StoreMode
from sora.wire.imap_list import List, Lsub, Status
from sora.wire.imap_metadata import Asked
from sora.wire.imap_multisearch import MultiSearch, Scope, Source
from sora.wire.imap_search import All, InSeqs, Search


def parse(line: bytes) -> object:
    """Scan and parse one command; literals are accepted."""
    scanner = Scanner()
    scanner.feed(b"a " + line + b"\r\n")
    while isinstance(found := scanner.next(), NeedLiteral):
        scanner.accept()
    assert isinstance(found, Command)
    assert scanner.next() is None
    assert scanner.buffered == 0
    return PARSERS[found.name](found.cursor)


PLAIN = {
    b"CAPABILITY": wire.Capability,
    b"NOOP": wire.Noop,
    b"LOGOUT": wire.Logout,
    b"STARTTLS": wire.StartTls,
    b"NAMESPACE": wire.Namespace,
    b"CHECK": wire.Check,
    b"CLOSE": wire.Close,
    b"UNSELECT": wire.Unselect,
    b"IDLE": wire.Idle,
    b"UNAUTHENTICATE": wire.Unauthenticate,
    b"EXPUNGE": wire.Expunge,
}


@pytest.mark.parametrize("name", PLAIN)
def test_commands_without_arguments(name: bytes) -> None:
    assert parse(name.lower()) == PLAIN[name]()
    assert parse(name + b"  ") == PLAIN[name]()
    with pytest.raises(BadSyntax, match="follows the last argument"):
        parse(name + b" x")


DELETE = Rights.DELETE_MESSAGES | Rights.EXPUNGE
WHEN = datetime(1996, 7, 17, 9, 44, 25, tzinfo=UTC)
ALL = frozenset({"ALL"})
CASES: dict[bytes, object] = {
    b"AUTHENTICATE plain": wire.Authenticate("PLAIN"),
    b"AUTHENTICATE PLAIN =": wire.Authenticate("PLAIN", b""),
    b"AUTHENTICATE PLAIN AGEAYg==": wire.Authenticate("PLAIN", b"\0a\0b"),
    b'LOGIN joe "a b"': wire.Login("joe", "a b"),
    b"LOGIN {3+}\r\njoe {4+}\r\n\xc3\xa4\r\n": wire.Login("joe", "ä\r\n"),
    b"ENABLE condstore utf8=accept": wire.Enable(("CONDSTORE", "UTF8=ACCEPT")),
    b"ID nil": wire.Id(None),
    b"ID ()": wire.Id({}),
    b'ID ("Name" "x" {1+}\r\nv nil)': wire.Id({"name": "x", "v": None}),
    b"SELECT inbox": wire.Select("INBOX"),
    b"SELECT INBOX ": wire.Select("INBOX"),
    b"EXAMINE a": wire.Select("a", read_only=True),
    b"SELECT a (condstore)": wire.Select("a", condstore=True),
    b"SELECT a (QRESYNC (7 9))": wire.Select("a", qresync=QResync(7, 9)),
    b"EXAMINE a (CONDSTORE QRESYNC (7 9 1:5))": wire.Select(
        "a", read_only=True, condstore=True, qresync=QResync(7, 9, UidSet.parse(b"1:5"))
    ),
    b"SELECT a (QRESYNC (7 9 1:5 (1,2 3,4)))": wire.Select(
        "a", qresync=QResync(7, 9, UidSet.parse(b"1:5"), (SeqSet.parse(b"1:2"), UidSet.parse(b"3:4")))
    ),
    b"SELECT a (QRESYNC (7 9 (1 3)))": wire.Select(
        "a", qresync=QResync(7, 9, None, (SeqSet.parse(b"1"), UidSet.parse(b"3")))
    ),
    b"CREATE a/b/": wire.Create("a/b"),
    b"CREATE /": wire.Create("/"),
    b"CREATE a (USE (\\Sent \\Drafts))": wire.Create("a", (rb"\Sent", rb"\Drafts")),
    b"CREATE a (USE ())": wire.Create("a"),
    b"DELETE Entw&APw-rfe": wire.Delete("Entwürfe"),
    b'RENAME "a b" {1+}\r\nc': wire.Rename("a b", "c"),
    b"SUBSCRIBE a": wire.Subscribe("a"),
    b"UNSUBSCRIBE a": wire.Unsubscribe("a"),
    b'LIST "" ""': List("", ("",)),
    b'LIST "" *': List("", ("*",)),
    b'LIST () "" %': List("", ("%",), extended=True),
    b'LIST "" (a "b c")': List("", ("a", "b c"), extended=True),
    b"LIST (subscribed RecursiveMatch) ~/ % RETURN (children STATUS (messages unseen messages) SUBSCRIBED)": List(
        "~/",
        ("%",),
        frozenset({"SUBSCRIBED", "RECURSIVEMATCH"}),
        frozenset({"CHILDREN", "SUBSCRIBED"}),
        ("MESSAGES", "UNSEEN"),
        extended=True,
    ),
    b'LIST "" * return ()': List("", ("*",), extended=True),
    b'LIST (SPECIAL-USE REMOTE) "" * RETURN (SPECIAL-USE MYRIGHTS)': List(
        "", ("*",), frozenset({"SPECIAL-USE", "REMOTE"}), frozenset({"SPECIAL-USE", "MYRIGHTS"}), extended=True
    ),
    b'LSUB "" a%': Lsub("", "a%"),
    b"STATUS a (uidnext MESSAGES uidnext)": Status("a", ("UIDNEXT", "MESSAGES")),
    b"COMPRESS deflate": wire.Compress("DEFLATE"),
    b'GETQUOTA ""': imap_quota.GetQuota(b""),
    b"GETQUOTA {3+}\r\na b": imap_quota.GetQuota(b"a b"),
    b"GETQUOTAROOT inbox": imap_quota.GetQuotaRoot("INBOX"),
    b"GETMETADATA inbox /Private/a": imap_metadata.GetMetadata("INBOX", Asked(("/Private/a",))),
    b'GETMETADATA "" (/shared/a "/shared/b" /shared/a)': imap_metadata.GetMetadata(
        "", Asked(("/shared/a", "/shared/b"))
    ),
    b"GETMETADATA (maxsize 5 DEPTH infinity) a /shared": imap_metadata.GetMetadata("a", Asked(("/shared",), 2, 5)),
    b"GETMETADATA a (DEPTH 1) (/shared/b)": imap_metadata.GetMetadata("a", Asked(("/shared/b",), 1)),
    b"GETMETADATA a ({9+}\r\n/shared/b)": imap_metadata.GetMetadata("a", Asked(("/shared/b",))),
    b'SETMETADATA a (/Shared/B NIL /private/c "x")': imap_metadata.SetMetadata(
        "a", {"/shared/b": None, "/private/c": b"x"}
    ),
    b"SETMETADATA a (/private/d {1+}\r\ny /private/e ~{1+}\r\n\0)": imap_metadata.SetMetadata(
        "a", {"/private/d": b"y", "/private/e": b"\0"}
    ),
    b'LIST "" * RETURN (METADATA (DEPTH 1) /shared/a CHILDREN)': List(
        "", ("*",), returns=frozenset({"CHILDREN"}), extended=True, metadata=Asked(("/shared/a",), 1)
    ),
    b"SETACL a b@c lrda": imap_acl.SetAcl("a", "b@c", False, "=", DELETE | Rights(1 + 2 + 1024)),
    b"SETACL a -b@c +c": imap_acl.SetAcl("a", "b@c", True, "+", Rights.CREATE | Rights.DELETE_MAILBOX),
    b"SETACL a {4+}\r\nb@\xc3\xa9 -lrswipkxtea": imap_acl.SetAcl("a", "b@é", False, "-", Rights(2047)),
    b'SETACL a b@c ""': imap_acl.SetAcl("a", "b@c", False, "=", Rights(0)),
    b"DELETEACL inbox -Anyone": imap_acl.DeleteAcl("INBOX", "Anyone", True),
    b"GETACL inbox": imap_acl.GetAcl("INBOX"),
    b"LISTRIGHTS a -b@c": imap_acl.ListRights("a", "b@c", True, "-b@c"),
    b"MYRIGHTS &AOk-": imap_acl.MyRights("é"),
    b'SETQUOTA "" ()': imap_quota.SetQuota(b"", ()),
    b"SETQUOTA r (storage 9223372036854775807 MESSAGE 0)": imap_quota.SetQuota(
        b"r", (("STORAGE", 9223372036854775807), ("MESSAGE", 0))
    ),
    b"STATUS a (DELETED-storage)": Status("a", ("DELETED-STORAGE",)),
    b"STATUS a (RECENT UIDVALIDITY UNSEEN DELETED SIZE HIGHESTMODSEQ MAILBOXID APPENDLIMIT)": Status(
        "a", ("RECENT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "HIGHESTMODSEQ", "MAILBOXID", "APPENDLIMIT")
    ),
    b"APPEND inbox {2+}\r\nhi": Append("INBOX", (AppendItem((), None, 2, data=b"hi"),)),
    b'APPEND a (\\seen x) "17-Jul-1996 02:44:25 -0700" ~{1+}\r\n\0 () {0+}\r\n': Append(
        "a",
        (AppendItem((rb"\Seen", b"x"), WHEN, 1, binary=True, data=b"\0"), AppendItem((), None, 0, data=b"")),
    ),
    b'APPEND a (x) CATENATE (URL "/b/;UID=1" TEXT {2+}\r\nhi UTF8 (~{1+}\r\n.) URL {1+}\r\nu) {1+}\r\n.': Append(
        "a",
        (
            AppendItem((b"x",), None, 0, parts=(Url(b"/b/;UID=1"), Text(2), Text(1), Url(b"u"))),
            AppendItem((), None, 1, data=b"."),
        ),
    ),
    b"REPLACE * a {1+}\r\n.": Replace(SeqSet.parse(b"*"), "a", (AppendItem((), None, 1, data=b"."),)),
    b"UID REPLACE 7 a CATENATE (URL u)": Replace(
        UidSet.from_numbers([7]), "a", (AppendItem((), None, 0, parts=(Url(b"u"),)),)
    ),
    b"APPEND a UTF8 (~{2+}\r\nhi)": Append("a", (AppendItem((), None, 2, True, True, b"hi"),)),
    b"UID EXPUNGE 1:*": wire.Expunge(UidSet.parse(b"1:*")),
    b"STORE 1:2 FLAGS (\\Seen)": wire.Store(SeqSet.parse(b"1:2"), StoreMode.REPLACE, (rb"\Seen",)),
    b"STORE 1 FLAGS ()": wire.Store(SeqSet.parse(b"1"), StoreMode.REPLACE, ()),
    b"UID STORE * +flags.silent \\Deleted $x": wire.Store(
        UidSet.parse(b"*"), StoreMode.ADD, (rb"\Deleted", b"$x"), silent=True
    ),
    b"STORE 1 (UNCHANGEDSINCE 0) -FLAGS (a)": wire.Store(
        SeqSet.parse(b"1"), StoreMode.REMOVE, (b"a",), unchanged_since=0
    ),
    b"COPY 1:3 inbox": wire.Copy(SeqSet.parse(b"1:3"), "INBOX"),
    b"UID COPY $ a": wire.Copy(UidSet.parse(b"$"), "a"),
    b"MOVE 2 a": wire.Move(SeqSet.parse(b"2"), "a"),
    b"UID MOVE 2 a": wire.Move(UidSet.parse(b"2"), "a"),
    b'CANCELUPDATE "B01" "a b"': imap_contexts.CancelUpdate((b"B01", b"a b")),
    b"ESEARCH 1:9": MultiSearch((Source(Scope.SELECTED),), Search(InSeqs(SeqSet.parse(b"1:9")), True, ALL)),
    b"ESEARCH IN (mailboxes a subtree-one (b c) personal) RETURN (MIN) ALL": MultiSearch(
        (Source(Scope.MAILBOXES, ("a",)), Source(Scope.SUBTREE_ONE, ("b", "c")), Source(Scope.PERSONAL)),
        Search(All(), True, frozenset({"MIN"})),
    ),
    b"UIDBATCHES 2000": imap_contexts.UidBatches(2000),
    b"UIDBATCHES 2000 10:20": imap_contexts.UidBatches(2000, (10, 20)),
}


@pytest.mark.parametrize("line", CASES, ids=repr)
def test_parse(line: bytes) -> None:
    assert parse(line) == CASES[line]


REFUSED = [
    b"AUTHENTICATE",
    b"AUTHENTICATE PLAIN %",
    b"AUTHENTICATE PLAIN abc",
    b"AUTHENTICATE PLAIN AGEAYg== x",
    b"LOGIN a",
    b"LOGIN a b c",
    b"LOGIN  a b",
    b'LOGIN a "\xff"',
    b"ENABLE",
    b"ENABLE (x)",
    b"ID",
    b"ID x",
    b'ID ("a")',
    b'ID ("a" "b" )',
    b"ID NILX",
    b"SELECT",
    b"SELECT a b",
    b"SELECT a ()",
    b"SELECT a (FOO)",
    b"SELECT a (CONDSTORE CONDSTORE)",
    b"SELECT a (QRESYNC)",
    b"SELECT a (QRESYNC (0 1))",
    b"SELECT a (QRESYNC (1))",
    b"SELECT a (QRESYNC (1 2 3:*))",
    b"SELECT a (QRESYNC (1 2 $))",
    b"SELECT a (QRESYNC (1 2 (1,2 3)))",
    b"SELECT a (QRESYNC (1 2 3",
    b"SELECT a (QRESYNC (1 2 (1 *)))",
    b"SELECT &AGE-",
    b"CREATE",
    b"CREATE a (USE)",
    b"CREATE a (USE (Sent))",
    b"CREATE a (USE (\\Sent)",
    b"DELETE",
    b"DELETE a b",
    b"RENAME a",
    b"SUBSCRIBE *",
    b"UNSUBSCRIBE",
    b"LIST",
    b'LIST ""',
    b'LIST "" * x',
    b'LIST (FOO) "" *',
    b'LIST (RECURSIVEMATCH) "" *',
    b'LIST (RECURSIVEMATCH REMOTE) "" *',
    b'LIST "" ()',
    b'LIST "" * RETURN',
    b'LIST "" * RETURN (FOO)',
    b'LIST "" * RETURN (STATUS)',
    b'LIST "" * RETURN (STATUS ())',
    b'LSUB ""',
    b"STATUS a",
    b"STATUS a ()",
    b"COMPRESS",
    b"COMPRESS DEFLATE x",
    b"GETMETADATA a",
    b"GETMETADATA /private/a",
    b"GETMETADATA a private/a",
    b"GETMETADATA a /privates/a",
    b"GETMETADATA a /private/a/",
    b"GETMETADATA a /private//a",
    b"GETMETADATA a /private/a%",
    b"GETMETADATA a /private/a*",
    b"GETMETADATA a {10+}\r\n/private/\x01",
    b"GETMETADATA a {10+}\r\n/private/\xe9",
    b"GETMETADATA a /private/" + b"a" * 1000,
    b"GETMETADATA a ()",
    b"GETMETADATA (MAXSIZE -1) a /private/a",
    b"GETMETADATA (DEPTH 2) a /private/a",
    b"GETMETADATA (FOO 2) a /private/a",
    b"GETMETADATA () a /private/a",
    b"GETMETADATA (DEPTH 1) a (DEPTH 1) /private/a",
    b"SETMETADATA a",
    b"SETMETADATA a ()",
    b"SETMETADATA a (/private/a)",
    b"SETMETADATA a (/private/a b)",
    b"SETMETADATA a (/private NIL)",
    b"SETMETADATA a (/private/vendor/b NIL)",
    b"SETMETADATA a /private/b NIL",
    b"SETACL a b",
    b"SETACL a b lR",
    b"SETACL a b z",
    b"SETACL a b 0",
    b"SETACL a b +-l",
    b"SETACL a - l",
    b'SETACL a "" l',
    b"SETACL a {2+}\r\n\xff\xfe l",
    b"SETACL a b \xe9",
    b"DELETEACL a",
    b"DELETEACL a b c",
    b"GETACL",
    b"GETACL a b",
    b"LISTRIGHTS a",
    b"MYRIGHTS a b",
    b"GETQUOTA a b",
    b"GETQUOTAROOT",
    b"SETQUOTA a",
    b"SETQUOTA a (STORAGE)",
    b"SETQUOTA a (STORAGE -1)",
    b"SETQUOTA a (STORAGE 9223372036854775808)",
    b"STATUS a (FOO)",
    b"STATUS a (MESSAGES",
    b"APPEND",
    b"APPEND a",
    b"APPEND a x",
    b'APPEND a "x"',
    b"APPEND a (\\Foo) {1+}\r\nx",
    b"APPEND a {1+}\r\nx y",
    b"APPEND a UTF8 {1+}\r\nx",
    b"APPEND a UTF8 (~{1+}\r\nx",
    b"APPEND a{1+}\r\nx",
    b"UID EXPUNGE",
    b"UID EXPUNGE x",
    b"EXPUNGE 1",
    b"STORE 1 FLAGS",
    b"STORE 1 FLAGS ( )",
    b"STORE 1 ++FLAGS (a)",
    b"STORE 1 FLAGSX a",
    b"STORE 1 FLAGS.SILENTX a",
    b"STORE 1 FLAGS (\\Foo)",
    b"STORE x FLAGS (a)",
    b"STORE 1 (UNCHANGEDSINCE) FLAGS (a)",
    b"STORE 1 FLAGS (a) b",
    b"COPY 1",
    b"COPY a 1",
    b"COPY 0 a",
    b"COPY 1 a b",
    b"MOVE 1",
    b"ESEARCH",
    b"ESEARCH IN (selected)",
    b"ESEARCH IN () ALL",
    b"ESEARCH IN (selected-delayed) ALL",
    b"ESEARCH IN (mailboxes) ALL",
    b"ESEARCH IN (mailboxes ()) ALL",
    b"ESEARCH IN (inboxes (option)) ALL",
    b"ESEARCH IN inboxes ALL",
    b"ESEARCH IN (mailboxes (" + b"a " * 1000 + b"a)) ALL",
    b"CANCELUPDATE",
    b"CANCELUPDATE B01",
    b'CANCELUPDATE "B01"  "B02"',
    b"UIDBATCHES",
    b"UIDBATCHES 0",
    b"UIDBATCHES 500 10",
    b"UIDBATCHES 500 10:",
    b"UIDBATCHES 500 10:*",
    b"UIDBATCHES 500 1:2 x",
]


@pytest.mark.parametrize("line", REFUSED, ids=repr)
def test_refuse(line: bytes) -> None:
    with pytest.raises(BadSyntax) as caught:
        parse(line)
    assert caught.value.text.isprintable()


def test_every_command_has_cases() -> None:
    tried = {
        b" ".join(line.upper().split(b" ")[: 2 if line.startswith(b"UID ") else 1]) for line in CASES
    } | PLAIN.keys()
    elsewhere = (b"FETCH", b"SEARCH", b"SORT", b"THREAD")
    others = PARSERS.keys() & {prefix + name for name in elsewhere for prefix in (b"", b"UID ")}
    assert tried | others == PARSERS.keys() | {b"STORE", b"UID STORE"}


def test_passwords_do_not_show() -> None:
    assert "secret" not in repr(parse(b"LOGIN joe secret"))
    assert "secret" not in repr(wire.Authenticate("PLAIN", b"secret"))


def test_append_is_parsed_before_its_message_is_read() -> None:
    """The session decides by mailbox, flags and size; the whole command is parsed again at its end."""
    scanner = Scanner()
    scanner.feed(b"a APPEND box (\\Draft) {3}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    partial = scanner.partial()
    assert partial is not None
    mark = partial.cursor.mark()
    assert PARSERS[partial.name](partial.cursor) == Append("box", (AppendItem((rb"\Draft",), None, 3),))
    partial.cursor.reset(mark)
    scanner.stream()
    scanner.feed(b"abc UTF8 (~{2+}\r\n")
    assert scanner.take(3) == b"abc"
    assert isinstance(scanner.next(), NeedLiteral)
    assert scanner.partial() is partial
    both = parse_append(partial.cursor)
    assert both.items == (AppendItem((rb"\Draft",), None, 3), AppendItem((), None, 2, True, True))
    partial.cursor.reset(mark)
    scanner.accept()
    scanner.feed(b"xy)\r\n")
    assert scanner.next() is partial
    assert parse_append(partial.cursor).items[1].data == b"xy"


WORDS = [
    b"a",
    b"INBOX",
    b"1:*",
    b"$",
    b"(",
    b")",
    b" ",
    b"  ",
    b"\\Seen",
    b"\\",
    b'"',
    b'"x"',
    b"FLAGS",
    b"+FLAGS",
    b"BODY[",
    b"]",
    b"<0.1>",
    b"RETURN",
    b"NOT",
    b"OR",
    b"SINCE",
    b"1-Feb-1994",
    b"{1+}\r\nx",
    b"~{1+}\r\nx",
    b"USE",
    b"STATUS",
    b"CHARSET",
    b"NIL",
    b"=",
    b"MODSEQ",
    b"0",
    b"9" * 25,
    b"UTF8 (",
    b"CHANGEDSINCE",
    b"QRESYNC",
    b"UNCHANGEDSINCE",
    b".",
    b"HEADER.FIELDS",
    b"*",
    b"%",
    b"&",
]


@given(st.sampled_from(sorted(PARSERS)), st.lists(st.sampled_from(WORDS), max_size=10), st.booleans())
def test_no_line_raises_anything_but_bad_syntax(name: bytes, words: list[bytes], spaced: bool) -> None:
    line = name + b" " + (b" " if spaced else b"").join(words)
    with suppress(BadSyntax):
        assert repr(parse(line))
