"""Sequences of scripts, limits (RFC 5228 §2.10), and the budget."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sora.errors import BadScript
from sora.sieve.actions import FileInto, Keep
from sora.sieve.interpreter import Ask, IncludeScript, Limits, Pause, Step, drive, run
from sora.sieve.language import COMMANDS, EXTENSIONS, TESTS
from sora.sieve.mail import Mail
from sora.sieve.script import compile
from tests.support.sieve import MAIL, compiled, did, environment, execute, required
from tests.unit.sieve.test_bodies import TREE

FILEINTO = required("fileinto", "copy", "imap4flags", "editheader", "ihave", "variables")

# ---------------------------------------------------------------------------------------------------- sequences


def test_the_next_script_runs_if_the_message_is_left() -> None:
    assert did("", FILEINTO + 'fileinto "B";') == ["fileinto B"]
    assert did("keep;", FILEINTO + 'fileinto "B";') == ["fileinto B"]
    assert did("discard;", FILEINTO + 'fileinto "B";') == ["discard"]
    assert did("stop;", FILEINTO + 'fileinto "B";') == ["fileinto B"]
    assert did(FILEINTO + 'fileinto :copy "A";', "discard;") == ["fileinto A", "discard"]
    assert did(FILEINTO + 'fileinto "A";', "discard;") == ["fileinto A"]


def test_edits_and_flags_pass_on() -> None:
    outcome = execute(FILEINTO + 'addheader "A" "b"; keep :flags "x";', 'if header "a" "b" {}')
    [kept] = outcome.actions
    assert isinstance(kept, Keep)
    assert (kept.flags, kept.implicit) == (("x",), True)
    assert kept.mail.data == b"A: b\r\n" + MAIL


def test_variables_do_not() -> None:
    assert did(FILEINTO + 'set "a" "x"; if string :matches "y" "*" {}', FILEINTO + 'fileinto "<${a}${1}>";') == [
        "fileinto <>"
    ]


def test_a_script_that_fails_undoes_only_itself() -> None:
    first = FILEINTO + 'fileinto :copy "A"; addheader "X-A" "b"; addflag "f";'
    second = FILEINTO + 'fileinto "B"; addheader "X-B" "c"; removeflag "f"; error "broken";'
    outcome = execute(first, second, "discard;")
    filed, kept = outcome.actions
    assert outcome.error == "script 2, line 2: broken"
    assert isinstance(filed, FileInto)
    assert filed.mailbox == "A"
    assert isinstance(kept, Keep)
    assert (kept.flags, kept.mail.data) == (("f",), b"X-A: b\r\n" + MAIL)


# ---------------------------------------------------------------------------------------------------- once


def test_a_message_is_stored_in_a_mailbox_once() -> None:  # RFC 5228 §2.10.3
    assert did("keep; keep;") == ["keep"]
    assert did(FILEINTO + 'fileinto "A"; fileinto "B"; fileinto "A"; fileinto "a";') == [
        "fileinto A",
        "fileinto B",
        "fileinto a",
    ]
    assert did(FILEINTO + 'fileinto "inbox"; keep;') == ["keep"]
    assert did(FILEINTO + 'fileinto :copy "INBOX";') == ["keep"]
    assert did(FILEINTO + 'keep; fileinto "Here";', mailbox="Here") == ["keep"]
    assert did(FILEINTO + 'keep; fileinto "INBOX";', mailbox="Here") == ["keep", "fileinto INBOX"]


def test_filing_into_the_mailbox_of_keep_is_keeping() -> None:
    outcome = execute(FILEINTO + 'fileinto "INBOX"; fileinto "A"; keep;')
    kept, filed = outcome.actions
    assert isinstance(kept, Keep)
    assert not kept.implicit
    assert isinstance(filed, FileInto)


# ---------------------------------------------------------------------------------------------------- limits


def test_actions_have_a_number() -> None:
    script = FILEINTO + "".join(f'fileinto "{number}";' for number in range(101))
    assert did(script) == ["error: script 1, line 2: More than 100 actions", "keep"]
    assert len(did(script, limits=Limits(actions=101))) == 101


def test_the_budget_ends_a_script() -> None:
    outcome = execute("if true {}\n" * 100, limits=Limits(instructions=100))
    assert outcome.error == "script 1, line 17: The script takes too long"
    assert outcome.spent <= 100 + 10


def test_there_are_pauses() -> None:
    pauses = 0
    running = run([Step(compiled("if true {}\n" * 1000))], Mail(MAIL), environment(), Limits(slice=60))
    for request in running:
        assert isinstance(request, Pause)
        pauses += 1
    assert 40 <= pauses <= 100


def test_a_trace() -> None:
    outcome = execute(
        FILEINTO + 'if header :contains "subject" "present" {\n set "a" "b";\n fileinto "A"; }', trace=True
    )
    assert outcome.trace == ("2: header: true", '3: set a "b"', '4: fileinto "A"')
    assert execute("keep;").trace == ()


# ---------------------------------------------------------------------------------------------------- anything

_names = sorted({*COMMANDS, *TESTS})
_tags = sorted({tag.name for row in (*COMMANDS.values(), *TESTS.values()) for tag in row.tags})
_strings = st.sampled_from(
    ["subject", "from", "to", "a@b.c", "*", "?*", "(a|b)*", "${a}", "${1}", "a", "INBOX", "\\Seen",
    "i;octet", "eq", "+0100",
     "mailto:a@b.c", "text/plain", "year", "date", "message-id", "i;ascii-numeric", "Content-Type",
     "library", "global.a",
     "${unicode:41}", "é\n", "", "1", "NEVER", "2024-03-05T13:30:10Z", "received"]
)  # fmt: skip


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_string = _strings.map(_quoted)
_argument = st.one_of(
    _string,
    st.lists(_string, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    st.sampled_from(_tags),
    st.integers(0, 5000).map(str),
)
_nonsense = st.builds(
    lambda name, arguments: f"{name} {' '.join(arguments)}", st.sampled_from(_names), st.lists(_argument, max_size=4)
)


@st.composite
def _by_the_table(draw: st.DrawFn, name: str) -> str:
    """A test or command with arguments of the right kinds."""
    row = {**COMMANDS, **TESTS}[name]
    values = {"STRING": _string, "STRINGS": _string, "NUMBER": st.integers(0, 5000).map(str)}
    words = [name]
    for tag in draw(st.lists(st.sampled_from(row.tags), max_size=2, unique=True)) if row.tags else []:
        words += [tag.name, *([draw(values[tag.value.name])] if tag.value else [])]
    words += [draw(values[shape.name]) for shape in row.positional]
    return " ".join(words)


_tests = st.recursive(
    st.sampled_from(sorted(set(TESTS) - {"not", "allof", "anyof"})).flatmap(_by_the_table),
    lambda inner: st.one_of(
        inner.map(lambda test: f"not {test}"),
        st.lists(inner, min_size=1, max_size=3).map(lambda tests: f"anyof ({', '.join(tests)})"),
    ),
    max_leaves=3,
)
_actions = st.sampled_from(sorted(set(COMMANDS) - {"if", "elsif", "else", "foreverypart", "require"})).flatmap(
    _by_the_table
)
_commands = st.recursive(
    _actions.map(lambda action: f"{action};\n"),
    lambda inner: st.one_of(
        st.builds(lambda test, block: f"if {test} {{ {''.join(block)} }}\n", _tests, st.lists(inner, max_size=3)),
        st.lists(inner, max_size=3).map(lambda block: f"foreverypart {{ {''.join(block)} }}\n"),
    ),
    max_leaves=6,
)
_REQUIRE = "require [" + ", ".join(f'"{name}"' for name in sorted(EXTENSIONS - {"ihave"})) + "];\n"


def _answer(question: Ask) -> Any:
    if isinstance(question, IncludeScript):
        return compile(b'require ["include", "variables"]; global "a"; set "a" "x";') if question.personal else None
    return {"Metadata": "x", "ListContains": set(), "ListMembers": ["a@b.c"]}.get(type(question).__name__, True)


@settings(max_examples=300)
@given(
    commands=st.lists(st.one_of(_commands, _commands, _nonsense.map(lambda text: f"{text};")), max_size=6),
    data=st.sampled_from([b"", MAIL, TREE, TREE.replace(b"\r\n", b"\n"), b"\xff\r\n\r\n"]),
    imap=st.booleans(),
)
def test_any_script_is_refused_or_ends_within_its_budget(commands: list[str], data: bytes, imap: bool) -> None:
    limits = Limits(instructions=50_000, slice=500)
    script, found = None, ()
    try:
        script = compile((_REQUIRE + "".join(commands)).encode())
    except BadScript as error:
        found = error.errors
    if script is None:
        assert found
        assert all(line >= 1 and column >= 1 for line, column, _ in found)
        return
    outcome = drive(run([Step(script), Step(script)], Mail(data), environment(imap=imap), limits, notes=[]), _answer)
    assert outcome.spent <= limits.instructions + 60_000
    assert len(outcome.actions) <= limits.actions + 1
    if outcome.error:
        assert isinstance(outcome.actions[-1], Keep)
    for action in outcome.actions:
        mail = getattr(action, "mail", None)
        assert mail is None or len(mail.data) == mail.size
