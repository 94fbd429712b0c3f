"""The targets `sieve`, `sievelexer` and `sieveparser`.

`sieve`: a script, a NUL, and the message that it runs on. A script is refused with `BadScript`, or ends within its
budget; a second run of it does the same as the first one. The other two: any text is read as the plain model reads it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sora._native import sievescan
from sora.errors import BadScript
from sora.sieve.actions import Keep
from sora.sieve.interpreter import Environment, Step, run, worked
from sora.sieve.language import COMMANDS, EXTENSIONS, TESTS
from sora.sieve.limits import Limits
from sora.sieve.mail import Mail
from sora.sieve.questions import Ask, IncludeScript, ListContains, ListMembers, Metadata, Pause
from sora.sieve.script import Script, compile
from tests.support import models_sieve

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS: Final = Limits(instructions=40_000, slice=400)
OVERSHOOT: Final = 200_000
"""Instructions that one step may ask for beyond the budget, which refuses it then."""
MESSAGE: Final = (
    b"From: A <a@example.org>\r\nTo: me@example.com\r\nSubject: [x] =?utf-8?q?=C3=BC?=\r\nMessage-ID: <1@x>\r\n"
    b"Date: Tue, 5 Mar 2024 09:00:00 +0000\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--b--\r\n"
)
_LIBRARY: Final = compile(b'require ["include", "variables"]; global "a"; set "a" "${a}x"; if false { return; } stop;')
_REQUIRE: Final = "require [" + ", ".join(f'"{name}"' for name in sorted(EXTENSIONS)) + "];\n"


def sieve(data: bytes) -> None:
    """The target."""
    source, _, message = data.partition(b"\0")
    script, found = None, ()
    try:
        script = compile(source)
    except BadScript as error:
        found = error.errors
    if script is None:
        _check_errors(found, source.count(b"\n") + 1)
        return
    first = _run(script, message or MESSAGE)
    assert first == _run(script, message or MESSAGE)


def sievelexer(data: bytes) -> None:
    """The target: tokens are those of the model, in the order of their places."""
    source = data.decode("utf-8", "replace")
    found = _read(sievescan.tokens, source)
    assert found == _read(models_sieve.tokens, source)
    if isinstance(found, tuple):
        _check_errors(found, source.count("\n") + 1)
    else:
        places = [(line, column) for _, line, column, _ in found]
        assert places == sorted(places)
        assert found[-1][0] == "END"


def sieveparser(data: bytes) -> None:
    """The target: the first octet says how deep things may nest, the others are the script."""
    nesting, source = data[:1] or b"\0", data[1:].decode("utf-8", "replace")
    found = _read(sievescan.parse, source, nesting[0] % 32)
    assert found == _read(models_sieve.parse, source, nesting[0] % 32)


def _read(read: Any, *arguments: Any) -> Any:
    """What is read; of what is refused a tuple of its errors."""
    try:
        return read(*arguments)
    except BadScript as error:
        return tuple(error.errors)


def _check_errors(errors: Sequence[tuple[int, int, str]], lines: int) -> None:
    assert errors
    for line, column, text in errors:
        assert 1 <= line <= lines
        assert column >= 1
        assert text


def _run(script: Script, message: bytes) -> tuple[Any, ...]:
    environment = Environment(
        datetime(2024, 3, 5, tzinfo=UTC),
        sender="a@example.org",
        recipient="me@example.com",
        owner="me@example.com",
        items={"location": "MDA"},
        external_id="id",
    )
    running = run([Step(script), Step(script)], Mail(message), environment, LIMITS, notes=[])
    reply: Any = None
    while True:
        try:
            request = running.send(reply)
        except StopIteration as end:
            outcome = end.value
            break
        reply = worked(request) if isinstance(request, Pause) else _answer(request)
    assert outcome.spent <= LIMITS.instructions + OVERSHOOT
    assert not outcome.error or isinstance(outcome.actions[-1], Keep)
    actions = []
    for action in outcome.actions:
        mail = getattr(action, "mail", None)
        assert mail is None or len(mail.data) == mail.size
        values = [getattr(action, name) for name in action.__struct_fields__ if name not in ("mail", "copy")]
        actions.append((type(action).__name__, values, mail.data if mail is not None else b""))
    return actions, outcome.error, outcome.remembered, outcome.trace, outcome.spent


def _answer(question: Ask) -> Any:
    match question:
        case IncludeScript():
            return _LIBRARY if question.personal else None
        case ListContains():
            return set(question.values[:1])
        case ListMembers():
            return ["a@example.org", "b@example.org"]
        case Metadata():
            return question.entry or None
    return len(repr(question)) % 2 == 0


def seeds() -> list[bytes]:
    """Scripts with everything that there is."""
    scripts = [
        'if header :is :comparator "i;octet" ["subject", "x"] "a" { keep; } elsif true { discard; } else { stop; }',
        'if anyof (not address :domain "from" "example.org", size :over 1K) { fileinto :copy :create "A${1}"; }',
        'if header :matches "subject" "[*]*?" { set :lower :length "a" "${1}${2}"; redirect :copy "${a}@b.c"; }',
        'if header :regex "subject" "(a|[b-d]*)+" { addflag "\\\\Seen"; } if hasflag :contains "v" '
        '"x" { removeflag "a"; }',
        'foreverypart :name "x" { if header :mime :anychild :param "b" "content-type" "c" { replace '
        '"r"; break :name "x"; }\n'
        'extracttext :first 3 "t"; foreverypart { enclose :subject "s" "t"; } }',
        'vacation :days 3 :addresses ["x@y.z"] :handle "h" :fcc "Sent" text:\nline\n..dot\n.\n;',
        'notify :importance "1" :message "m" "mailto:a@b.c?subject=x&body=y";',
        'addheader :last "X" "y"; deleteheader :index 1 :contains "Received" ["a", "b"]; keep;',
        'if allof (date :originalzone "date" "hour" "09", currentdate :value "ge" "date" '
        '"2024-01-01") { ereject "no"; }',
        'if body :raw :contains "text" {} if body :content "text/html" :matches "*<?>*" { discard; }',
        'if duplicate :handle "h" :seconds 5 :last {} include :personal :once "s"; global "a"; set '
        '"global.b" "${env.location}";',
        'if ihave "x" { x; } else { error "e"; } /* c */ # d\n if envelope :detail "to" "" {}',
        'if spamtest :value "ge" :comparator "i;ascii-numeric" "3" {} if virustest "1" {} if '
        'environment "location" "MDA" {}',
        'redirect :list "l"; redirect :notify "NEVER" :ret "HDRS" :bytimerelative 5 :bymode "notify" "a@b.c";',
        'if mailboxexists "a" {} if specialuse_exists "\\\\Junk" {} if metadata :contains "a" "/b" '
        '"c" {} if valid_ext_list "l" {}',
        'fileinto "${hex:40}${unicode: 41 42}"; fileinto "INBOX"; keep :flags "a b";',
    ]
    return [*((_REQUIRE + script).encode() for script in scripts), b"keep;\0Subject: x\n\nbody"]


WORDS: Final[list[bytes]] = [
    *(name.encode() for name in (*COMMANDS, *TESTS)),
    *sorted({tag.name.encode() for row in (*COMMANDS.values(), *TESTS.values()) for tag in row.tags}),
    *(b'"%s"' % name.encode() for name in sorted(EXTENSIONS)),
    *(
        _REQUIRE.encode(),
        b"text:\n",
        b"\n.\n",
        b"${a}",
        b"${1}",
        b"${hex:c3}",
        b"*",
        b"?",
        b"\\",
        b'"',
        b"[",
        b"]",
        b"{ ",
        b" }",
    ),
    *(
        b"(",
        b")",
        b", ",
        b";",
        b"/*",
        b"*/",
        b"9G",
        b"\0",
        b"\r\n",
        b"i;unicode-casemap",
        b"i;ascii-numeric",
        b"eq",
        b"(.*)+",
    ),
]
