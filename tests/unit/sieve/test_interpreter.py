"""Sequences of scripts, limits (RFC 5228 §2.10), and the budget."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora.errors import BadScript
from sora.sieve.actions import Discard, FileInto, Keep, Send
from sora.sieve.interpreter import Step, drive, run, worked
from sora.sieve.limits import Limits
from sora.sieve.mail import Mail
from sora.sieve.questions import Ask, IncludeScript, Pause
from sora.sieve.script import compile
from tests.support.sieve import MAIL, compiled, did, environment, execute, required
from tests.support.sievescripts import SCRIPTS
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


EDITING = """require ["fileinto", "editheader", "copy"]; fileinto "As it came";
addheader "X-A" "1"; fileinto "One"; redirect :copy "a@example.org";
addheader "X-A" "2"; redirect "b@example.org";"""


def test_versions_of_the_message_have_room_for_so_many_octets() -> None:
    """The one that came needs none, nor does one that two actions share."""
    one, two = len(MAIL) + len("X-A: 1\r\n"), len(MAIL) + 2 * len("X-A: 1\r\n")
    done = ["fileinto As it came", "fileinto One", "redirect a@example.org", "redirect b@example.org"]
    assert [line.partition(" {")[0] for line in did(EDITING, limits=Limits(edited_bytes=one + two))] == done
    error = f"error: script 1, line 3: The edited versions of this message have more than {one + two - 1} octets"
    assert did(EDITING, limits=Limits(edited_bytes=one + two - 1)) == [error, "keep"]
    shared = EDITING.rpartition("addheader")[0]
    assert execute(shared, limits=Limits(edited_bytes=one)).error == ""


def test_the_version_that_is_kept_in_the_end_is_one_of_them() -> None:
    script = 'require ["editheader", "fileinto"]; keep; addheader "X-A" "1"; fileinto "A"; addheader "X-B" "2";'
    assert execute(script, limits=Limits(edited_bytes=len(MAIL) + 20)).error == ""
    kept = script.replace('keep; addheader "X-A" "1"; fileinto "A"; ', 'addheader "X-A" "1"; stop; ')
    assert execute(kept, limits=Limits(edited_bytes=len(MAIL) + 8)).error == ""
    error = f"script 1, line 1: The edited versions of this message have more than {len(MAIL)} octets"
    assert execute(kept, limits=Limits(edited_bytes=len(MAIL))).error == error
    assert execute(kept, imap=True, limits=Limits(edited_bytes=len(MAIL))).error == "", "it is not stored"


def test_what_the_next_script_decides_anew_does_not_count() -> None:
    """A message that was kept goes on, and the version that is kept in the end is the only one."""
    scripts = ['require ["editheader"]; addheader "X-A" "1"; keep;'] * 3
    for most in (0, 1):
        limits = Limits(edited_bytes=len(MAIL) + 3 * len("X-A: 1\r\n") - 1 + most)
        error = f"script 3, line 1: The edited versions of this message have more than {limits.edited_bytes} octets"
        assert execute(*scripts, limits=limits).error == ("" if most else error)
    filing = 'require "fileinto"; fileinto "x"; keep;'
    error = "script 2, line 1: More than 2 actions"
    assert execute(filing, "keep;", limits=Limits(actions=2)).error == ""
    assert execute(filing, 'require "fileinto"; fileinto "y"; keep;', limits=Limits(actions=2)).error == error


def test_mail_that_is_made_has_room_for_so_many_octets() -> None:
    """For each of its recipients, and for the copy."""
    script = (
        'require ["enotify", "fcc", "fileinto"]; notify :fcc "Sent" "mailto:a@example.net,b@example.net";\n'
        'notify "mailto:c@example.net"; discard;'
    )
    copied, single = (action.data for action in execute(script).actions if isinstance(action, Send))
    most = 3 * len(copied) + len(single)
    assert execute(script, limits=Limits(made_bytes=most)).error == ""
    error = f"error: script 1, line 2: The mail that is made has more than {most - 1} octets"
    assert did(script, limits=Limits(made_bytes=most - 1)) == [error, "keep"]


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


@pytest.mark.parametrize(
    ("script", "least"),
    [
        ('if header :matches "subject" "a?b" {}', 150),
        ('if header :regex "subject" "a|b" {}', 40),
        ('addflag "' + " ".join(f"f{n}" for n in range(600)) + '";', 700),
        ("".join(f'fileinto "{n}";' for n in range(100)), 2500),
        ('set "a" "' + "x" * 60_000 + '"; set :quoteregex "b" "${a}";', 3500),
        ("if exists [" + ", ".join(['"subject"'] * 100) + "] {}", 100),
        ('addheader "X" "' + "x " * 2000 + '";', 1000),
        ('redirect "a@b.c";', 15),
        ("global [" + ", ".join(f'"v{n}"' for n in range(100)) + "];", 100),
    ],
)
def test_what_takes_long_costs_much(script: str, least: int) -> None:
    found = execute(required("regex", "imap4flags", "fileinto", "variables", "editheader", "include") + script)
    assert not found.error
    assert found.spent >= least


def test_flags_have_a_length() -> None:
    script = required("imap4flags") + 'addflag "' + " ".join(f"f{n}" for n in range(1000)) + '"; keep;'
    assert did(script) == ["error: script 1, line 2: Flags of more than 4096 characters", "keep"]


def test_long_work_can_be_done_elsewhere_and_costs_what_it_took() -> None:
    script = (
        required("regex", "variables", "fileinto") + 'if header :regex "x" "b(c*)(a|b){20}$" { fileinto "<${1}>"; }'
    )
    data = b"X: " + b"a" * 100_000 + b"bcc" + b"ab" * 10 + b"\r\n\r\n"
    requests: list[Pause] = []

    def spent(seconds: float | None) -> int:
        running = run([Step(compiled(script))], Mail(data), environment())
        reply: Any = None
        while True:
            try:
                request = running.send(reply)
            except StopIteration as end:
                outcome = end.value
                break
            assert isinstance(request, Pause)
            requests.append(request)
            reply = None if request.work is None else (request.work(), seconds)
        assert [action.mailbox for action in outcome.actions] == ["<cc>"]
        return int(outcome.spent)

    unmeasured, quick, slow = spent(None), spent(0.001), spent(100.0)
    assert any(request.work for request in requests)
    assert quick < unmeasured // 10
    assert slow == unmeasured


def test_work_is_measured_by_the_clock_of_whoever_drives() -> None:
    ticks = iter([1.0, 1.5])
    assert worked(Pause(lambda: "done"), lambda: next(ticks)) == ("done", 0.5)
    assert worked(Pause(lambda: "done")) == ("done", None)
    assert worked(Pause()) is None


def test_a_trace() -> None:
    outcome = execute(
        FILEINTO + 'if header :contains "subject" "present" {\n set "a" "b";\n fileinto "A"; }', trace=True
    )
    assert outcome.trace == ("2: header: true", '3: set a "b"', '4: fileinto "A"')
    assert execute("keep;").trace == ()


@pytest.mark.parametrize(
    "test",
    [
        'header :is "subject" ["a", "b"]',
        'header :contains "subject" "zzz"',
        'header :matches "subject" "*p?esent*"',
        'header :value "ge" "subject" "z"',
        'header :regex "subject" "pre.*t"',
        'header :count "ge" "subject" "1"',
        'body :contains "anvil"',
        'address :domain "from" "desert.example.org"',
    ],
)
def test_a_script_does_and_costs_the_same_in_every_run(test: str) -> None:
    """What compares with constants is made once; a run must not show whether it was the first one."""
    script = compiled(f'require ["relational", "regex", "body"]; if {test} {{ discard; }} elsif {test} {{ keep; }}')
    runs = [drive(run([Step(script)], Mail(MAIL), environment()), _answer) for _ in range(3)]
    assert len({(tuple(type(action) for action in outcome.actions), outcome.spent) for outcome in runs}) == 1


@pytest.mark.parametrize("kind", ["is", "contains", "matches"])
def test_keys_with_variables_are_other_ones_in_every_run(kind: str) -> None:
    script = compiled(
        'require ["variables", "fileinto"]; if header :matches "x-key" "*" { set "key" "${1}"; }\n'
        f'if header :{kind} "subject" ["no", "${{key}}"] {{ discard; }}'
    )
    for key, discarded in (("well", True), ("ill", False), ("well", True)):
        data = f"X-Key: {key}\r\nSubject: well\r\n\r\n".encode()
        outcome = drive(run([Step(script)], Mail(data), environment()), _answer)
        assert isinstance(outcome.actions[0], Discard) is discarded


# ---------------------------------------------------------------------------------------------------- anything


def _answer(question: Ask) -> Any:
    if isinstance(question, IncludeScript):
        return compile(b'require ["include", "variables"]; global "a"; set "a" "x";') if question.personal else None
    return {"Metadata": "x", "ListContains": set(), "ListMembers": ["a@b.c"]}.get(type(question).__name__, True)


@settings(max_examples=300)
@given(
    source=SCRIPTS,
    data=st.sampled_from([b"", MAIL, TREE, TREE.replace(b"\r\n", b"\n"), b"\xff\r\n\r\n"]),
    imap=st.booleans(),
)
def test_any_script_is_refused_or_ends_within_its_budget(source: str, data: bytes, imap: bool) -> None:
    limits = Limits(instructions=50_000, slice=500)
    script, found = None, ()
    try:
        script = compile(source.encode())
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
