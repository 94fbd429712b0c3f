"""Runs checked scripts on a message.

`run` is a generator. It yields what it cannot know itself (`Ask`), and `Pause` after every slice of work, so that
whoever drives it can let others have their turn; its value is the `Outcome`. Nothing here waits, reads a clock or draws
a random number.

Several scripts run one after the other as one (those of the site, the person's own): the next one runs if the last one
left the message, implicitly or by `keep`.

The budget counts instructions: a test or command costs `STEP`, and what looks at text costs by its length. An
instruction is worth about a microsecond; `benchmarks/sieve.py` measures that.

What a script asks for twice is done once: a message is stored in a mailbox once (RFC 5228 §2.10.3), with the flags that
were given last, and redirected to an address once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from msgspec import Struct, field

from sora.errors import ScriptFailed
from sora.sieve.actions import FileInto, Keep, Outcome, Redirect, Reject, kept_once, merged, same_as, told
from sora.sieve.limits import Limits, Weight
from sora.sieve.mail import addresses_of, field_of, raw_header_of
from sora.sieve.matching import RELATIONS
from sora.sieve.questions import ListContains, Pause
from sora.sieve.texts import Text, Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from datetime import datetime

    from sora._native.mimescan import Part
    from sora.sieve.actions import Action, Remembered
    from sora.sieve.checks import Node, Steps
    from sora.sieve.mail import Mail
    from sora.sieve.matching import Keys, Match, Work
    from sora.sieve.questions import Ask, Request
    from sora.sieve.script import Script

STEP: Final = 3
"""Instructions of a test or command by itself."""
ACTION: Final = 3
"""Of an action, besides half of one for each that was taken before."""
COMPARISON: Final = 1
"""Of a value with a key, besides what their lengths cost."""
HEADER_OCTETS: Final = 8192
"""Of a header that one instruction looks through for a field."""
FIELD: Final = 3
"""Instructions that it takes to decode a short field."""
FIELD_OCTETS: Final = 24
"""Of a field that one instruction decodes."""
ASKED: Final = 1_000
"""Of a question that the database answers: so many are asked in a run at most as it has thousands of instructions."""
NAMED: Final = 3
"""Of each name in a question, and of a question that is answered without the database."""
MOST_NAMES: Final = 1_000
"""In one question: it is answered without a pause."""
COPIED: Final = 1024
"""Characters that one instruction copies."""
NOT_FOR_CHANGES: Final = frozenset({"reject", "ereject", "vacation", "vacation-seconds"})
"""Extensions that answer a delivery (RFC 6785 §3.11)."""
INSTRUCTIONS_A_SECOND: Final = 1_000_000
BIG: Final = 1_500
"""Instructions of one comparison that is made in pieces."""
SHORT: Final = 2_048
"""Characters of a value that is never so big."""


class Environment(Struct, frozen=True):
    """What surrounds a run.

    Attributes:
        now: Aware; the time zone is that of `currentdate`.
        sender: Reverse-path; empty for the null sender; None: there is no envelope.
        recipient: Forward-path, as given.
        owner: Primary address of the account.
        addresses: All its addresses, in lower case.
        items: Of the `environment` test (RFC 5183), by lower-case name; also behind `${env.…}`.
        envelope: Further parts of the envelope: `notify`, `ret`, `envid`, `orcpt`, `auth` … (RFC 6009).
        external_id: A random name for messages that are made.
        imap: It runs for a change in a mailbox and not for a delivery (RFC 6785).
        mailbox: Where the message goes if it is kept; filing it there is the same as keeping it.
        flags: That the message has; for IMAPSIEVE.
        settings: Of the site, for extensions that need some (spam headers, notification methods).
    """

    now: datetime
    sender: str | None = None
    recipient: str = ""
    owner: str = ""
    addresses: frozenset[str] = frozenset()
    items: Mapping[str, str] = field(default_factory=dict)
    envelope: Mapping[str, Sequence[str]] = field(default_factory=dict)
    external_id: str = ""
    imap: bool = False
    mailbox: str = "INBOX"
    flags: tuple[str, ...] = ()
    settings: Any = None


class Step(Struct, frozen=True):
    """One script of a sequence.

    Attributes:
        name: For messages.
        log: Where a failure is told, in the words of whoever runs it.
    """

    script: Script
    name: str = ""


class Stop(Exception):
    """`stop`: ends the script, with all that include it."""


class Return(Exception):
    """`return`: ends an included script (RFC 6609 §3.3)."""


class Run:
    """One run, as tests and actions see it.

    Attributes:
        mail: The message in its present version.
        original: As it came.
        actions: Taken so far.
        implicit_keep: Nothing has cancelled it.
        taken: The last `if` or `elsif` of the present block was true.
        variables: Of the present script; names in lower case.
        globals: Shared by scripts that include each other.
        captures: Match variables.
        flags: The internal variable of imap4flags.
        remembered: Ids to be noted.
        part: The MIME part that `foreverypart` is at; None outside of it.
        state: What modules remember during one script and those that it includes.
        notes: The trace; None: not asked for.
    """

    def __init__(self, mail: Mail, environment: Environment, limits: Limits, notes: list[str] | None = None) -> None:
        self.mail = mail
        self.original = mail
        self.environment = environment
        self.limits = limits
        self.notes = notes
        self.actions: list[Action] = []
        self._weight = Weight(limits, mail)
        self.implicit_keep = True
        self.taken = False
        self.variables: dict[str, str] = {}
        self.globals: dict[str, str] = {}
        self.captures: tuple[str, ...] = ()
        self.flags: tuple[str, ...] | None = None
        self.remembered: list[Remembered] = []
        self.part: Any = None
        self.state: dict[str, Any] = {}
        self.spent = 0
        self._pause_at = limits.slice
        self._line = 0
        self.begin()

    def begin(self, name: str = "") -> None:
        """Make ready for the next script of a sequence: it shares the message and the actions, and nothing else."""
        self._name = name
        self.variables, self.globals, self.captures, self.state = {}, {}, (), {}
        self.taken = False
        self._begun = len(self.actions), len(self.remembered), self.mail, self.flags

    # ------------------------------------------------------------------ texts

    def text(self, text: Text) -> str:
        """A string of the script with its variables filled in."""
        if isinstance(text, str):
            return text
        pieces, left = [], self.limits.text_characters
        for part in text.parts:
            piece = self.variable(part.name) if isinstance(part, Variable) else part
            self.spend(len(piece) // COPIED)
            left -= len(piece)
            if left < 0:
                self.fail(f"A text is longer than {self.limits.text_characters} characters")
            pieces.append(piece)
        return "".join(pieces)

    def texts(self, texts: Iterable[Text]) -> list[str]:
        """All of these."""
        return [text if isinstance(text, str) else self.text(text) for text in texts]

    def named(self, texts: Sequence[Text]) -> tuple[str, ...]:
        """The names of one question.

        Raises:
            ScriptFailed: They are too many.
        """
        if len(texts) > MOST_NAMES:
            self.fail(f"A test asks for more than {MOST_NAMES} names")
        self.spend(NAMED * len(texts))
        return tuple(self.texts(texts))

    def variable(self, name: str) -> str:
        """Value of a variable (RFC 5229 §3); one that is not set is empty."""
        if name[0].isdigit():
            number = int(name)
            return self.captures[number] if number < len(self.captures) else ""
        namespace, _, rest = name.partition(".")
        if rest and namespace == "env":
            return self.environment.items.get(rest, "")
        if rest and namespace == "global":
            return self.globals.get(rest, "")
        if name in self.state.get("global names", ()):
            return self.globals.get(name, "")
        return self.variables.get(name, "")

    # ------------------------------------------------------------------ the message

    def fields(self, part: Part, name: str) -> Steps:
        """Decoded values of the fields of a name; those of the message itself are kept for the next test."""
        return self._found("fields", field_of, part, name)

    def addresses(self, part: Part, name: str) -> Steps:
        """Lists of the addresses in each field of a name."""
        return self._found("addresses", addresses_of, part, name)

    def has_field(self, part: Part, name: str) -> bool:
        """There is a field of this name."""
        self.spend((part.header_end - part.header_start) // HEADER_OCTETS + COMPARISON)
        return bool(raw_header_of(part, name))

    def known(self, kind: str, part: Part, name: str) -> list[Any] | None:
        """What `fields` or `addresses` found before, so that nobody has to wait for it."""
        found: list[Any] | None = self._memo_of(part).get((kind, name.lower()))
        if found is not None:
            self.spend(COMPARISON)
        return found

    def _found(self, kind: str, read: Callable[[bytes], Any], part: Part, name: str) -> Steps:
        key = kind, name.lower()
        memo = self._memo_of(part)
        if key in memo:
            self.spend(COMPARISON)
            return memo[key]
        self.spend((part.header_end - part.header_start) // HEADER_OCTETS + COMPARISON)
        found = []
        for value in raw_header_of(part, name):
            self.spend(FIELD + len(value) // FIELD_OCTETS)
            found.append(read(value))
            if self.spent >= self._pause_at:
                yield from self.rest()
        memo[key] = found
        return found

    def _memo_of(self, part: Part) -> dict[Any, Any]:
        if part is self.mail.top:
            return self.mail.memo
        return self.original.memo if part is self.original.top else {}

    # ------------------------------------------------------------------ matching

    def any_match(self, match: Match, values: Sequence[str], keys: Keys, folded: dict[Any, Any] | None = None) -> Steps:
        """Whether some value matches some key; sets the match variables. `:count` compares how many there are.

        The first value that matches decides, and of its keys the first one.

        Args:
            folded: Keeps what is made of long values for the next test.
        """
        if match.type == "count":
            return (yield from self._counts(match, str(len(values)), keys.texts))
        if match.type == "list":
            return (yield from self._in_lists(values, self.texts(keys.texts)))
        deciders = keys.deciders
        if deciders is None:
            deciders = yield from self._deciders(match, keys)
        else:
            self.spend(keys.cost)
        for place, value in enumerate(values):
            length = len(value)
            if length < SHORT:
                self.spend(match.fold_cost(value))
                form = match.folded(value)
            else:
                form = yield from self._folded(match, value, place, folded)
            for decider in deciders:
                cost = decider.cost(length)
                if cost < BIG:
                    self.spend(cost + COMPARISON)
                    captures = decider.decide(value, form)
                else:
                    captures = yield from self._pieces(decider.decide_slowly(value, form))
                if captures is not None:
                    self.captures = captures or self.captures
                    return True
                if self.spent >= self._pause_at:
                    yield from self.rest()
        return False

    def _counts(self, match: Match, count: str, wanted: Sequence[Text]) -> Steps:
        holds = RELATIONS[match.relation]
        for key in wanted:
            self.spend(COMPARISON)
            if holds(match.comparator.compare(count, self.text(key))):
                return True
            yield from self.rest()
        return False

    def _deciders(self, match: Match, keys: Keys) -> Steps:
        deciders, cost = [], 0
        for text in keys.texts:
            key = self.text(text)
            costs = match.key_cost(key)
            self.spend(costs)
            try:
                deciders.append(match.of(key))
            except ValueError as error:
                self.fail(f"Bad pattern: {error}")
            cost += costs
            yield from self.rest()
        found = tuple(deciders)
        keys.keep(found, cost)
        return found

    def _folded(self, match: Match, value: str, place: int, kept: dict[Any, Any] | None) -> Steps:
        known = (match.type == "regex", match.type == "matches", match.comparator.name, place)
        if kept is not None and known in kept:
            self.spend(COMPARISON)
            return kept[known]
        cost = match.fold_cost(value)
        if cost < BIG:
            self.spend(cost)
            found = match.folded(value)
        else:
            found = yield from self._pieces(match.fold_slowly(value))
        if kept is not None:
            kept[known] = found
        return found

    def _pieces(self, work: Generator[int | Work, Any, Any]) -> Steps:
        """Work that tells beforehand what its next piece costs, or gives it away."""
        result = None
        while True:
            try:
                piece = work.send(result)
            except StopIteration as end:
                return end.value
            result = None
            if isinstance(piece, int):
                self.spend(piece)
                yield from self.rest()
            else:
                result = yield from self._elsewhere(piece)

    def _elsewhere(self, work: Work) -> Steps:
        self.spend(work.least)
        result, seconds = yield Pause(work.function)
        self._pause_at = self.spent + self.limits.slice
        took = work.cost if seconds is None else min(round(seconds * INSTRUCTIONS_A_SECOND), work.cost)
        self.spend(max(took - work.least, 0))
        return result

    def _in_lists(self, values: Sequence[str], lists: Sequence[str]) -> Steps:
        for name in lists:
            self.spend(NAMED + len(values))
            yield from self.rest()
            found = yield ListContains(name, tuple(values))
            if found is None:
                self.fail(f'There is no list "{name}"')
            if found:
                self.captures = (next(value for value in values if value in found),)
                return True
        return False

    # ------------------------------------------------------------------ actions

    def act(self, action: Action, *, cancels_keep: bool = True) -> None:
        """Take an action."""
        self._check_together(action)
        self.note(f"{type(action).__name__.lower()} {told(action)}".rstrip())
        if cancels_keep:
            self.implicit_keep = False
        self.spend(ACTION + len(self.actions) // 2)
        key = same_as(action)
        for place, taken in enumerate(self.actions) if key is not None else ():
            if same_as(taken) == key:
                self.actions[place] = merged(taken, action)
                return
        if over := self._weight.add(action):
            self.fail(over)
        self.actions.append(action)

    def end(self) -> None:
        """What a script leaves behind where it ends.

        Raises:
            ScriptFailed: Its last version of the message, which is kept, is one too many.
        """
        if self.implicit_keep and not self.environment.imap:  # where a mailbox changes, the one that came stays
            if over := self._weight.over(self.mail):
                self.fail(over)

    def keep_again(self) -> None:
        """The next script is to decide what becomes of a message that was kept."""
        self.actions = [action for action in self.actions if not isinstance(action, Keep)]
        self._weight = Weight(self.limits, self.original)
        for action in self.actions:
            self._weight.add(action)
        self.implicit_keep = True

    def _check_together(self, action: Action) -> None:
        """A message that is rejected is neither delivered nor answered besides (RFC 5429 §2.4).

        What scripts before this one did does not count: they belong to somebody else.
        """
        taken = self.actions[self._begun[0] :]
        if isinstance(action, Reject):
            if any(isinstance(other, Reject) for other in taken):
                self.fail("The message is rejected twice")
            if any(isinstance(other, (Keep, FileInto, Redirect)) for other in taken) or "vacation" in self.state:
                self.fail("The message is delivered or answered, and cannot be rejected")
        elif isinstance(action, (Keep, FileInto, Redirect)) and any(isinstance(other, Reject) for other in taken):
            self.fail("The message is rejected, and cannot be delivered")

    def where(self, line: int = 0) -> str:
        """Script and line, the present one unless given, for messages."""
        name = f"{self._name}, " if self._name else ""
        return f"{name}line {line or self._line}"

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self.notes is not None:
            self.notes.append(f"{self._line}: {text}")

    def fail(self, text: str) -> NoReturn:
        """The script cannot go on.

        Raises:
            ScriptFailed: Always.
        """
        raise ScriptFailed(text, self._line)

    # ------------------------------------------------------------------ the machine

    def spend(self, instructions: int) -> None:
        """Count work.

        Raises:
            ScriptFailed: It is too much.
        """
        self.spent += instructions
        if self.spent > self.limits.instructions:
            self.fail("The script takes too long")

    def holds(self, test: Node) -> Steps:
        """Evaluate a test."""
        self._line = test.line
        self.spend(STEP)
        if self.spent >= self._pause_at:
            yield from self.rest()
        result = test.run(self)
        if test.asks:
            result = yield from result
        if self.notes is not None:
            self.note(f"{test.name}: {'true' if result else 'false'}")
        return bool(result)

    def block(self, commands: Sequence[Node]) -> Steps:
        """Run commands."""
        for command in commands:
            self._line = command.line
            self.spend(STEP)
            if self.spent >= self._pause_at:
                yield from self.rest()
            result = command.run(self)
            if command.asks:
                yield from result

    def admit(self, script: Script) -> None:
        """Look whether a script may run here.

        Raises:
            ScriptFailed: It requires what a change in a mailbox has no use for (RFC 6785 §3.11).
        """
        if self.environment.imap and (names := script.demanded & NOT_FOR_CHANGES):
            self.fail(f'"{min(names)}" cannot be required where a mailbox changes (RFC 6785 §3.11)')

    def rest(self) -> Steps:
        """Let others have their turn if a slice is used up."""
        if self.spent >= self._pause_at:
            self._pause_at = self.spent + self.limits.slice
            yield Pause()

    def outcome(self, error: str = "") -> Outcome:
        """What has become of the message.

        Nothing is lost by a mistake: the message is kept, and nothing else is done (RFC 5228 §2.10.6) but what scripts
        before the one that failed wanted.
        """
        actions, remembered = list(self.actions), tuple(self.remembered)
        if error:
            acted, noted, mail, flags = self._begun
            actions, remembered = [*actions[:acted], Keep(mail, flags, implicit=True)], remembered[:noted]
        elif self.implicit_keep:
            actions.append(Keep(self.mail, self.flags, implicit=True))
        return Outcome(
            tuple(kept_once(actions, self.environment.mailbox)),
            remembered,
            error,
            tuple(self.notes or ()),
            self.spent,
        )


def run(
    steps: Sequence[Step],
    mail: Mail,
    environment: Environment,
    limits: Limits | None = None,
    *,
    notes: list[str] | None = None,
) -> Generator[Request, Any, Outcome]:
    """Run scripts on a message, one after the other.

    The driver sends the answer to each request: see `Ask`'s kinds; `drive` does it where every answer is at hand.

    Args:
        notes: Gets the trace line by line, so that the driver can put its answers between them; None: there is none.
    """
    state = Run(mail, environment, limits or Limits(), notes)
    state.flags = environment.flags or None
    for place, step in enumerate(steps):
        if place and not _goes_on(state):
            break
        state.begin(step.name)
        try:
            state.admit(step.script)
            with suppress(Stop, Return):
                yield from state.block(step.script.commands)
            state.end()
        except ScriptFailed as error:
            return state.outcome(f"{state.where(error.line)}: {error.text}")
    return state.outcome()


def _goes_on(state: Run) -> bool:
    """The next script runs if the last one left the message; its `keep` meant no more than that."""
    if state.implicit_keep:
        return True
    kept = [action for action in state.actions if isinstance(action, Keep)]
    if not kept:
        return False
    state.flags = kept[-1].flags
    state.keep_again()
    return True


def worked(pause: Pause, clock: Callable[[], float] | None = None) -> tuple[Any, float | None] | None:
    """The answer to a pause, after its work if there is some.

    Args:
        clock: CPU seconds of this thread; None: nobody measures.
    """
    if pause.work is None:
        return None
    if clock is None:
        return pause.work(), None
    started = clock()
    return pause.work(), clock() - started


def drive(
    generator: Generator[Request, Any, Outcome],
    answer: Callable[[Ask], Any],
    clock: Callable[[], float] | None = None,
) -> Outcome:
    """Run to the end where nobody has to wait.

    Args:
        answer: Gives the answer to a question.
        clock: As for `worked`.
    """
    reply: Any = None
    while True:
        try:
            request = generator.send(reply)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        reply = worked(request, clock) if isinstance(request, Pause) else answer(request)
