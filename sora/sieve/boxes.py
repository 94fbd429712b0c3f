"""Mailboxes and what is known of them: RFC 5490, `special-use` (RFC 8579) and `mailboxid` (RFC 9042).

The tags that they give `fileinto` are read there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sora.sieve.checks import COMPARATOR_TAG, MATCH_TAGS, STRING, STRINGS, Tag, TestRow
from sora.sieve.interpreter import ASKED
from sora.sieve.questions import MailboxesExist, MailboxIdsExist, Metadata, MetadataExists, SpecialUsesExist

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run
    from sora.sieve.texts import Text

FILEINTO_TAGS: Final = (
    Tag(":create", extension="mailbox"),
    Tag(":specialuse", STRING, extension="special-use"),
    Tag(":mailboxid", STRING, extension="mailboxid"),
)


def target_of(check: Checker, bound: Bound) -> Callable[[Run], dict[str, Any]]:
    """What the tags of `fileinto` say about its mailbox, as fields of `FileInto`."""
    use: Text = bound.tags.get(":specialuse", "")
    mailbox_id: Text = bound.tags.get(":mailboxid", "")
    if ":specialuse" in bound.tags and ":mailboxid" in bound.tags:
        check.error(bound, "Only one of :specialuse and :mailboxid can be given (RFC 9042 §4)")
    if isinstance(use, str) and use and not use.startswith("\\"):
        check.error(bound, f'"{use}" is no special use')
    create = ":create" in bound.tags
    return lambda state: {
        "create": create,
        "special_use": state.text(use),
        "mailbox_id": state.text(mailbox_id),
    }


def _mailboxexists(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    names = bound.texts(0)

    def run(state: Run) -> Steps:
        return (yield MailboxesExist(state.named(names)))

    return run


def _mailboxidexists(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    ids = bound.texts(0)

    def run(state: Run) -> Steps:
        return (yield MailboxIdsExist(state.named(ids)))

    return run


def _specialuse_exists(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    mailbox = bound.text(0) if len(bound.positional) == 2 else None
    uses = bound.texts(len(bound.positional) - 1)

    def run(state: Run) -> Steps:
        name = None if mailbox is None else state.text(mailbox)
        return (yield SpecialUsesExist(name, state.named(uses)))

    return run


def _metadata(*, server: bool) -> Callable[[Checker, Bound], Callable[[Run], Steps]]:
    def build(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
        match = check.match(bound)
        mailbox: Text = "" if server else bound.text(0)
        entry, keys = bound.text(-2), check.keys(match, bound.texts(-1), bound)

        def run(state: Run) -> Steps:
            state.spend(ASKED)
            value = yield Metadata(state.text(mailbox), state.text(entry))
            if value is None and match.type != "count":
                return False
            return (yield from state.any_match(match, [] if value is None else [value], keys))

        return run

    return build


def _metadataexists(*, server: bool) -> Callable[[Checker, Bound], Callable[[Run], Steps]]:
    def build(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
        mailbox: Text = "" if server else bound.text(0)
        entries = bound.texts(-1)

        def run(state: Run) -> Steps:
            state.spend(ASKED)
            return (yield MetadataExists(state.text(mailbox), state.named(entries)))

        return run

    return build


EXTENSIONS: Final = frozenset({"mailbox", "mailboxid", "special-use", "mboxmetadata", "servermetadata"})
COMMANDS: Final = ()
_MATCHING: Final = (*MATCH_TAGS, COMPARATOR_TAG)
TESTS: Final = (
    TestRow(name="mailboxexists", build=_mailboxexists, extension="mailbox", positional=(STRINGS,)),
    TestRow(name="mailboxidexists", build=_mailboxidexists, extension="mailboxid", positional=(STRINGS,)),
    TestRow(
        name="specialuse_exists",
        build=_specialuse_exists,
        extension="special-use",
        positional=(STRING, STRINGS),
        leading=1,
    ),
    TestRow(
        name="metadata",
        build=_metadata(server=False),
        extension="mboxmetadata",
        positional=(STRING, STRING, STRINGS),
        tags=_MATCHING,
    ),
    TestRow(
        name="servermetadata",
        build=_metadata(server=True),
        extension="servermetadata",
        positional=(STRING, STRINGS),
        tags=_MATCHING,
    ),
    TestRow(
        name="metadataexists",
        build=_metadataexists(server=False),
        extension="mboxmetadata",
        positional=(STRING, STRINGS),
    ),
    TestRow(
        name="servermetadataexists",
        build=_metadataexists(server=True),
        extension="servermetadata",
        positional=(STRINGS,),
    ),
)
