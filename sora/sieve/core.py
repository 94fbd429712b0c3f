"""Tests and commands of RFC 5228 itself, with `copy` (RFC 3894) and the tags that other extensions give `fileinto`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from sora.sieve.actions import Discard, FileInto, Keep
from sora.sieve.boxes import FILEINTO_TAGS, target_of
from sora.sieve.checks import (
    ADDRESS_PART_TAGS,
    COMPARATOR_TAG,
    INDEX_TAGS,
    MATCH_TAGS,
    NUMBER,
    STRING,
    STRINGS,
    CommandRow,
    How,
    Tag,
    TestRow,
)
from sora.sieve.flags import FLAGS_TAG, flags_of
from sora.sieve.interpreter import Stop
from sora.sieve.mimeparts import CONTENT_TAGS, MIME_TAGS, content_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sora._native.mimescan import Part
    from sora.sieve.checks import Bound, Checker, Node, Steps
    from sora.sieve.interpreter import Run
    from sora.sieve.mail import Address

ADDRESS_FIELDS: Final = frozenset(
    (
        "from to cc bcc sender reply-to resent-from resent-to resent-cc resent-bcc resent-sender resent-reply-to "
        "return-path delivered-to x-original-to envelope-to disposition-notification-to errors-to return-receipt-to "
        "apparently-to mail-followup-to mail-reply-to approved"
    ).split()
)
"""Fields that `address` looks into: it must not be used on others (RFC 5228 §5.1)."""

# ---------------------------------------------------------------------------------------------------- control


def _if(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    return partial(_run_if, bound.tests[0], bound.block)


def _run_if(test: Node, block: Sequence[Node], state: Run) -> Steps:
    holds = yield from state.holds(test)
    if holds:
        yield from state.block(block)
    state.taken = holds  # behind the block: an `if` in there has its own


def _elsif(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    return partial(_run_elsif, bound.tests[0], bound.block)


def _run_elsif(test: Node, block: Sequence[Node], state: Run) -> Steps:
    if not state.taken:
        yield from _run_if(test, block, state)


def _else(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    return partial(_run_else, bound.block)


def _run_else(block: Sequence[Node], state: Run) -> Steps:
    if not state.taken:
        yield from state.block(block)


def _require(check: Checker, bound: Bound) -> Callable[[Run], None]:
    names = [name for name in bound.texts(0) if isinstance(name, str)]
    check.require(names, bound)
    check.demanded.update(names)
    return lambda _state: None


def _stop(_check: Checker, _bound: Bound) -> Callable[[Run], None]:
    return _run_stop


def _run_stop(_state: Run) -> None:
    raise Stop


# ---------------------------------------------------------------------------------------------------- tests


# Of these a script can have hundreds of thousands: they are partial functions, which are smaller than closures.


def _not(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    return partial(_run_not, bound.tests[0])


def _run_not(test: Node, state: Run) -> Steps:
    return not (yield from state.holds(test))


def _allof(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    return partial(_run_allof, bound.tests)


def _run_allof(tests: Sequence[Node], state: Run) -> Steps:
    for test in tests:
        if not (yield from state.holds(test)):
            return False
    return True


def _anyof(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    return partial(_run_anyof, bound.tests)


def _run_anyof(tests: Sequence[Node], state: Run) -> Steps:
    for test in tests:
        if (yield from state.holds(test)):
            return True
    return False


def _constant(value: bool) -> Callable[[Checker, Bound], Callable[[Run], bool]]:
    def run(_state: Run) -> bool:
        return value

    return lambda _check, _bound: run


def _size(check: Checker, bound: Bound) -> Callable[[Run], bool]:
    limit = bound.number(0)
    side = bound.chosen(":over", ":under")
    if not side:
        check.error(bound, '"size" needs :over or :under')
    if side == ":over":
        return lambda state: state.mail.size > limit
    return lambda state: state.mail.size < limit


def _exists(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    names, parts = bound.texts(0), parts_of(check, bound)

    def run(state: Run) -> Steps:
        looked_at = parts(state)
        for name in state.texts(names):
            if not any(state.has_field(part, name) for part in looked_at):
                return False
            yield from state.rest()
        return True

    return run


def _header(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match = check.match(bound)
    names, keys = bound.texts(0), check.keys(match, bound.texts(1), bound)
    pick, parts = picker(check, bound), parts_of(check, bound)
    take = content_of(bound)

    def run(state: Run) -> Steps:
        wanted = state.texts(names)
        values: list[str] = []
        for part in parts(state):
            for name in wanted:
                found = state.known("fields", part, name) if take is None else None
                if found is None:
                    found = yield from (take or _fields)(state, part, name)
                values += pick(found)
                yield from state.rest()
        return (yield from state.any_match(match, values, keys))

    return run


def _fields(state: Run, part: Part, name: str) -> Steps:
    return state.fields(part, name)


def _address(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, part = check.match(bound), address_part(bound)
    names, keys = bound.texts(0), check.keys(match, bound.texts(1), bound)
    for name in names:
        if isinstance(name, str) and name.lower() not in ADDRESS_FIELDS:
            check.error(bound, f'The field "{name}" has no addresses')
    pick, parts = picker(check, bound), parts_of(check, bound)
    whole = (bound.chosen(*_PARTS) or ":all") == ":all"

    def run(state: Run) -> Steps:
        values: list[str] = []
        wanted = [name for name in state.texts(names) if name.lower() in ADDRESS_FIELDS]
        for part_of_mail in parts(state):
            for name in wanted:
                found = state.known("addresses", part_of_mail, name)
                if found is None:
                    found = yield from state.addresses(part_of_mail, name)
                for field in pick(found):
                    valid = field if whole else [address for address in field if address.is_valid]
                    values += [value for address in valid if (value := part(address)) is not None]
            yield from state.rest()
        return (yield from state.any_match(match, values, keys))

    return run


def address_part(bound: Bound) -> Callable[[Address], str | None]:
    """What of an address is compared (RFC 5228 §2.7.4, RFC 5233): a function that gives None for what is not there."""
    return _PARTS[bound.chosen(*_PARTS) or ":all"]


def _user(address: Address) -> str:
    return address.local.partition("+")[0]


def _detail(address: Address) -> str | None:
    _, plus, detail = address.local.partition("+")
    return detail if plus else None


_PARTS: Final[dict[str, Callable[[Address], str | None]]] = {
    ":all": str,
    ":localpart": lambda address: address.local,
    ":domain": lambda address: address.domain,
    ":user": _user,
    ":detail": _detail,
}


def picker(check: Checker, bound: Bound) -> Callable[[Sequence], Sequence]:  # type: ignore[type-arg]
    """`:index` and `:last` (RFC 5260 §6): which of several fields count; all of them without."""
    number = bound.tags.get(":index")
    if number is None:
        if ":last" in bound.tags:
            check.error(bound, ":last needs :index")
        return _all
    if number < 1:
        check.error(bound, ":index counts from 1")
    if ":last" in bound.tags:
        return lambda values: values[len(values) - number : len(values) - number + 1] if number <= len(values) else ()
    return lambda values: values[number - 1 : number]


def _all(values: Sequence) -> Sequence:  # type: ignore[type-arg]
    return values


# ---------------------------------------------------------------------------------------------------- actions


def _keep(check: Checker, bound: Bound) -> Callable[[Run], None]:
    if not bound.tags:
        return _run_keep
    flags = flags_of(check, bound)
    return lambda state: state.act(Keep(state.mail, flags(state)))


def _run_keep(state: Run) -> None:
    state.act(Keep(state.mail, state.flags))


def _discard(_check: Checker, _bound: Bound) -> Callable[[Run], None]:
    return lambda state: state.act(Discard())


def _fileinto(check: Checker, bound: Bound) -> Callable[[Run], None]:
    mailbox, copy, flags = bound.text(0), ":copy" in bound.tags, flags_of(check, bound)
    target = target_of(check, bound)
    if mailbox == "":
        check.error(bound, "A mailbox has a name")

    def run(state: Run) -> None:
        name = state.text(mailbox)
        if not name:
            state.fail("A mailbox has a name")
        action = FileInto(state.mail, name, flags(state), **target(state), where=state.where())
        state.act(action, cancels_keep=not copy)

    return run


COPY_TAG: Final = Tag(":copy", extension="copy")

EXTENSIONS: Final = frozenset(
    {"fileinto", "copy", "encoded-character", "relational", "subaddress", "comparator-i;octet",
     "comparator-i;ascii-casemap", "comparator-i;ascii-numeric", "comparator-i;unicode-casemap"}
)  # fmt: skip

TESTS: Final = (
    TestRow(name="true", build=_constant(True)),
    TestRow(name="false", build=_constant(False)),
    TestRow(name="not", build=_not, how=How.ONE),
    TestRow(name="allof", build=_allof, how=How.LIST),
    TestRow(name="anyof", build=_anyof, how=How.LIST),
    TestRow(
        name="size", build=_size, positional=(NUMBER,), tags=(Tag(":over", group="side"), Tag(":under", group="side"))
    ),
    TestRow(name="exists", build=_exists, positional=(STRINGS,), tags=MIME_TAGS),
    TestRow(
        name="header",
        build=_header,
        positional=(STRINGS, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG, *INDEX_TAGS, *MIME_TAGS, *CONTENT_TAGS),
    ),
    TestRow(
        name="address",
        build=_address,
        positional=(STRINGS, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG, *ADDRESS_PART_TAGS, *INDEX_TAGS, *MIME_TAGS),
    ),
)

COMMANDS: Final = (
    CommandRow(name="if", build=_if, how=How.ONE, block=True),
    CommandRow(name="elsif", build=_elsif, how=How.ONE, block=True, after=("if", "elsif")),
    CommandRow(name="else", build=_else, block=True, after=("if", "elsif")),
    CommandRow(name="require", build=_require, positional=(STRINGS,), outermost=True),
    CommandRow(name="stop", build=_stop),
    CommandRow(name="keep", build=_keep, tags=(FLAGS_TAG,)),
    CommandRow(name="discard", build=_discard),
    CommandRow(
        name="fileinto",
        build=_fileinto,
        positional=(STRING,),
        tags=(COPY_TAG, FLAGS_TAG, *FILEINTO_TAGS),
        extension="fileinto",
    ),
)
