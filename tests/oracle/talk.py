"""Conversations that both servers have: lists of mailboxes, STATUS, ESEARCH, CONDSTORE and QRESYNC.

What is equal in meaning is equal: attributes and items have no order, a mod-sequence is one that is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tests.oracle.client import fetched, parse
from tests.oracle.collect import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.oracle.client import Answer, Client
    from tests.oracle.compare import Comparison

_MESSAGE: Final = b"From: talk@example.org\r\nSubject: talk\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\n\r\nx\r\n"
_APPEND: Final = b"APPEND Talk {%d+}\r\n%b" % (len(_MESSAGE), _MESSAGE)
_IGNORED: Final = frozenset({b"\\marked", b"\\unmarked", b"\\recent"})

LISTS: Final = (
    b"CREATE Talk", b"CREATE Talk/A", b"CREATE Talk/A/B", b"CREATE Talk/C", b"CREATE Tally", b"SUBSCRIBE Talk/A/B",
    b"SUBSCRIBE Talk/C", b"SUBSCRIBE Tally", b"DELETE Tally", b"SUBSCRIBE Talk/Nowhere",
    b'LIST "" "Talk*"', b'LIST "" "Talk/%"', b'LIST "" "Tal%"', b'LIST "Talk/" "%"', b'LIST "Talk/" "A*"',
    b'LIST "" ""',
    b'LIST "" "talk*"', b'LIST "" ("Talk" "Talk/A/%" "Nobody")', b'LIST "" "Talk/*/B"', b'LIST "" "%/%/B"',
    b'LIST () "" "Talk*" RETURN (CHILDREN)', b'LIST "" "Talk*" RETURN (SUBSCRIBED)', b'LIST (SUBSCRIBED) "" "Tal*"',
    b'LIST (SUBSCRIBED) "" "Tal%"', b'LIST (SUBSCRIBED RECURSIVEMATCH) "" "Tal%"', b'LIST (RECURSIVEMATCH) "" "Tal%"',
    b'LIST (SUBSCRIBED RECURSIVEMATCH) "" "Talk/%"', b'LIST (SUBSCRIBED) "" "Tal*" RETURN (CHILDREN SUBSCRIBED)',
    b'LIST "" "Talk*" RETURN (STATUS (MESSAGES UNSEEN UIDNEXT))', b'LIST "" "Talk" RETURN (CHILDREN STATUS (MESSAGES))',
    b'LIST (NONSENSE) "" "Tal*"', b'LIST "" "Tal*" RETURN (NONSENSE)', b'LSUB "" "Tal*"', b'LSUB "" "Tal%"',
    b'LSUB "" "Talk/%"',
    b"UNSUBSCRIBE Tally", b'LSUB "" "Tal*"', b"RENAME Talk/C Talk/D", b'LIST "" "Talk*" RETURN (SUBSCRIBED)',
    b"DELETE Talk/A", b'LIST "" "Talk*" RETURN (CHILDREN)',
)  # fmt: skip

STATUSES: Final = (
    _APPEND, _APPEND, _APPEND.replace(b"Talk ", rb"Talk (\Seen) "),
    b"STATUS Talk (MESSAGES)", b"STATUS Talk (MESSAGES UIDNEXT UNSEEN RECENT)",
    b"STATUS Talk (UIDVALIDITY HIGHESTMODSEQ)",
    b"STATUS Talk ()", b"STATUS Talk (NONSENSE)", b"STATUS Nobody (MESSAGES)", b'STATUS "Talk" (unseen messages)',
)  # fmt: skip

SEARCHES: Final = (
    b"SELECT Talk", *[_APPEND] * 9, b"NOOP", rb"STORE 2,4,6:8 FLAGS.SILENT (\Flagged)",
    *(
        b"%bSEARCH RETURN (%b) %b" % (uid, options, what)
        for uid in (b"", b"UID ")
        for options in (b"", b"MIN", b"MAX", b"COUNT", b"ALL", b"MIN MAX", b"COUNT ALL", b"min max count all")
        for what in (b"ALL", b"FLAGGED", b"NOT FLAGGED", b"DELETED", b"5", b"CHARSET UTF-8 FLAGGED")
    ),
    b"SEARCH RETURN (NONSENSE) ALL", b"SEARCH RETURN MIN ALL", b"SEARCH RETURN (MIN)",
)  # fmt: skip

MOD_SEQUENCES: Final = (
    b"SELECT Talk (CONDSTORE)", b"@one", rb"STORE 3 +FLAGS (\Seen)", b"@two", rb"STORE 5,7 +FLAGS.SILENT (work)",
    b"FETCH 1:* (FLAGS) (CHANGEDSINCE %(one)d)", b"FETCH 1:* (UID FLAGS) (CHANGEDSINCE %(two)d)", b"FETCH 1:3 (MODSEQ)",
    b"UID FETCH 1:* (UID) (CHANGEDSINCE %(now)d)", b"SEARCH MODSEQ %(now)d", b"SEARCH MODSEQ %(beyond)d",
    b'SEARCH MODSEQ "/flags/\\\\seen" all %(one)d', b"SEARCH NOT MODSEQ %(now)d", b"SEARCH OR MODSEQ %(now)d 1",
    b"SEARCH RETURN (MIN) MODSEQ %(one)d", b"SEARCH RETURN (ALL COUNT) MODSEQ %(one)d",
    b"SEARCH RETURN () MODSEQ %(beyond)d",
    rb"STORE 3,5,9 (UNCHANGEDSINCE %(one)d) +FLAGS (\Answered)", rb"UID STORE 3,9 (UNCHANGEDSINCE %(two)d) FLAGS (x)",
    rb"STORE 1:2 (UNCHANGEDSINCE 0) +FLAGS.SILENT (\Answered)", rb"STORE 1 (UNCHANGEDSINCE %(now)d) -FLAGS (\Answered)",
    b"FETCH 1:* (FLAGS)", b"STATUS Talk (HIGHESTMODSEQ)", b"FETCH 1 (FLAGS) (CHANGEDSINCE)",
    b"FETCH 1 (FLAGS) (NONSENSE 1)",
    b"UNSELECT",
)  # fmt: skip

RESYNCHRONIZATION: Final = (
    b"SELECT Talk (QRESYNC (%(validity)d %(one)d))", b"ENABLE QRESYNC", b"SELECT Talk", b"@one",
    rb"STORE 2,4 +FLAGS (\Deleted)", b"EXPUNGE", b"@two", rb"STORE 1 +FLAGS (\Draft)", _APPEND, b"NOOP",
    b"UID FETCH 1:* (FLAGS) (CHANGEDSINCE %(one)d VANISHED)", b"UID FETCH 1:2 (FLAGS) (CHANGEDSINCE %(one)d VANISHED)",
    b"UID FETCH 1:* (FLAGS) (CHANGEDSINCE %(two)d VANISHED)", b"FETCH 1:* (FLAGS) (CHANGEDSINCE %(one)d VANISHED)",
    b"UID FETCH 1:* (FLAGS) (VANISHED)",
    b"SELECT Talk (QRESYNC (%(validity)d %(one)d))", b"SELECT Talk (QRESYNC (%(validity)d %(two)d))",
    b"SELECT Talk (QRESYNC (%(validity)d %(one)d 1:4))", b"SELECT Talk (QRESYNC (%(validity)d %(one)d 1:20 (1:3 1:3)))",
    b"SELECT Talk (QRESYNC (1 %(one)d))", b"EXAMINE Talk (QRESYNC (%(validity)d %(now)d))",
    b"SELECT Talk (QRESYNC (%(validity)d))", b"SELECT Talk (QRESYNC (%(validity)d %(one)d))",
    rb"UID STORE 1 +FLAGS (\Deleted)", b"UID EXPUNGE 1", rb"STORE 1 +FLAGS.SILENT (\Deleted)", b"CLOSE",
    b"SELECT Talk (QRESYNC (%(validity)d %(two)d 1:*))", b"UNSELECT",
)  # fmt: skip

TALKS: Final = {
    "lists": LISTS, "STATUS": STATUSES, "ESEARCH": SEARCHES, "CONDSTORE": MOD_SEQUENCES, "QRESYNC": RESYNCHRONIZATION,
}  # fmt: skip


def compare_talks(comparison: Comparison) -> None:
    """Every conversation, one command after the other."""
    for name, commands in TALKS.items():
        sample = Sample("talk", name, b"")
        both = [_answers(client, commands) for client in comparison.clients]
        for command, ours, theirs in zip(commands, *both, strict=True):
            comparison.note(sample, f"talk: {name}", command.decode("ascii"), ours, theirs)


def _answers(client: Client, commands: Sequence[bytes]) -> list[object]:
    """Meanings; `@name` remembers the highest mod-sequence by a name."""
    values = {"one": 1, "two": 1, "now": 1, "beyond": 2**40, "validity": 1}
    found: list[object] = []
    for command in commands:
        if command.startswith(b"@"):
            values[command[1:].decode()] = values["now"] = _status(client, b"HIGHESTMODSEQ")
            found.append(None)
            continue
        if b"%(" in command:
            values["now"], values["validity"] = _status(client, b"HIGHESTMODSEQ"), _status(client, b"UIDVALIDITY")
            command = command % {name.encode(): value for name, value in values.items()}
        found.append(meaning(client.ask([command])[0]))
    return found


def _status(client: Client, item: bytes) -> int:
    lines = client.ok(b"STATUS Talk (%b)" % item)
    match = re.search(item + rb" (\d+)", b" ".join(lines))
    assert match is not None, lines
    return int(match[1])


def meaning(answer: Answer) -> dict[str, Any]:
    """An answer without what may be said in several ways."""
    facts: dict[str, Any] = {"status": answer.status}
    if match := re.match(rb"\[MODIFIED ([\d:,]+)\]", answer.text):
        facts["modified"] = _numbers(match[1])
    for line in answer.untagged:
        if (response := fetched(line)) is not None:
            items = facts.setdefault("fetch", {}).setdefault(response[0], {})
            items.update((name.upper(), _item(name.upper(), value)) for name, value in response[1].items())
        else:
            _untagged(facts, line)
    return facts


def _item(name: bytes, value: Any) -> Any:
    if name == b"FLAGS":
        return {flag.lower() for flag in value} - _IGNORED
    return "some" if name == b"MODSEQ" else value


def _untagged(facts: dict[str, Any], line: bytes) -> None:
    word, _, rest = line.removeprefix(b"* ").partition(b" ")
    if word in (b"LIST", b"LSUB"):
        attributes, delimiter, name, *more = parse(b"(%b)" % rest)  # type: ignore[misc,attr-defined]
        seen = sorted({attribute.lower() for attribute in attributes} - _IGNORED)
        facts.setdefault(word.decode(), []).append((name, seen, delimiter, more))
        facts[word.decode()].sort(key=lambda row: row[0])
    elif word == b"STATUS":
        name, items = parse(b"(%b)" % rest)  # type: ignore[misc,attr-defined]
        vague = (b"UIDVALIDITY", b"HIGHESTMODSEQ")
        pairs = zip(items[::2], items[1::2], strict=True)
        facts[f"STATUS {name.decode()}"] = {key.upper(): "some" if key.upper() in vague else n for key, n in pairs}
    elif word == b"SEARCH":
        facts["search"] = sorted(rest.partition(b"(")[0].split(), key=int), b"MODSEQ" in rest
    elif word == b"ESEARCH":
        rest = re.sub(rb'^\(TAG "[^"]*"\) ?', b"", rest)
        words = rest.split()
        facts["uid"] = words[:1] == [b"UID"]
        words = words[facts["uid"] :]
        pairs = zip(words[::2], words[1::2], strict=True)
        facts["esearch"] = {key: "some" if key == b"MODSEQ" else _numbers(value) for key, value in pairs}
    elif word == b"VANISHED":
        earlier = rest.startswith(b"(EARLIER) ")
        facts.setdefault(f"vanished {earlier}", set()).update(_numbers(rest.removeprefix(b"(EARLIER) ")))
    elif rest in (b"EXISTS", b"EXPUNGE"):
        facts.setdefault(rest.decode(), []).append(word)
    elif match := re.match(rb"\* OK \[(HIGHESTMODSEQ|NOMODSEQ|CLOSED|UIDNEXT|UIDVALIDITY)", line):
        facts.setdefault("codes", set()).add(match[1])


def _numbers(text: bytes) -> list[int]:
    found: set[int] = set()
    for piece in text.split(b","):
        first, _, last = piece.partition(b":")
        low, high = sorted((int(first), int(last or first)))
        found.update(range(low, high + 1))
    return sorted(found)
