"""What stands behind each IMAP capability, and how to break it: the transcripts of the capability must notice.

A mutation replaces what a command's row runs. `bare` answers OK and does nothing; `without` lets the real handler run
on a command that lacks what the capability has added to it: an item, a key, an option. It does so with what the parser
made, so it does not depend on how a handler is written inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from sora.protocols.imap import catenate, events, login, mailboxes, progress
from sora.protocols.imap import quota as quota_module
from sora.protocols.imap.commands import COMMANDS
from sora.protocols.imap.session import Session
from sora.services.filters import imapruns
from sora.wire import imap_fetch
from sora.wire import imap_search as keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    import pytest


class Mutation(Protocol):
    """Breaks something until the patch is undone."""

    def __call__(self, patch: pytest.MonkeyPatch, /) -> None: ...


def _rows(name: str) -> Iterator[tuple[bytes, Any]]:
    """A command's row, and that of its UID variant."""
    found = [(key, COMMANDS[key]) for key in (name.encode(), b"UID " + name.encode()) if key in COMMANDS]
    assert found, f"there is no command {name}"
    yield from found


def bare(name: str) -> Mutation:
    """The command answers OK, and nothing else."""

    async def run(_s: Session, _cmd: object) -> None:
        """Nothing."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        for key, row in _rows(name):
            patch.setitem(COMMANDS, key, msgspec.structs.replace(row, run=run))

    return apply


def without(name: str, **changes: object) -> Mutation:
    """The command does as if so much had not been said; callables make the new value of a field from the old."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        for key, row in _rows(name):
            patch.setitem(COMMANDS, key, msgspec.structs.replace(row, run=_changed(row.run, changes)))

    return apply


def _changed(run: Callable[[Session, Any], Awaitable[Any]], changes: dict[str, object]) -> Any:
    async def changed(s: Session, cmd: Any) -> Any:
        new = {name: value(getattr(cmd, name)) if callable(value) else value for name, value in changes.items()}
        return await run(s, msgspec.structs.replace(cmd, **new))

    return changed


def less(*gone: object) -> Callable[[Any], Any]:
    """Without these members, or members of these types."""

    def filtered(members: Any) -> Any:
        kept = [m for m in members or () if m not in gone and type(m) not in gone]
        return members if members is None else type(members)(kept)

    return filtered


def no_key(*kinds: type) -> Callable[[Any], Any]:
    """A search in which keys of these kinds find everything."""

    def replaced(key: Any) -> Any:
        if isinstance(key, kinds):
            return keys.All()
        if isinstance(key, keys.And):
            return keys.And(tuple(map(replaced, key.keys)))
        if isinstance(key, keys.Or):
            return keys.Or(replaced(key.left), replaced(key.right))
        return keys.Not(replaced(key.key)) if isinstance(key, keys.Not) else key

    return replaced


def replacing(target: object, name: str, value: object) -> Mutation:
    """Something of a module or class is another."""
    return lambda patch: patch.setattr(target, name, value)


async def _nothing(*_arguments: object) -> None:
    """In the place of what changes something."""


def _attribute(name: bytes) -> Mutation:
    """LIST leaves an attribute out."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        real = mailboxes.responses.list_line

        def list_line(attributes: Iterable[bytes], *args: Any, **options: Any) -> bytes:
            return real([word for word in attributes if not word.startswith(name)], *args, **options)

        patch.setattr(mailboxes.responses, "list_line", list_line)

    return apply


def _resource(name: str) -> Mutation:
    """QUOTA says nothing of a resource."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        real = quota_module.resources
        patch.setattr(quota_module, "resources", lambda quota: [r for r in real(quota) if r.name != name])

    return apply


def _always_asked(patch: pytest.MonkeyPatch) -> None:
    """A literal is asked for, whether its client waits for that or not."""
    real = Session._take_literal

    async def take(s: Session, literal: Any, *more: Any) -> None:
        if not literal.synchronizing:
            s.write(b"+ OK\r\n")
        await real(s, literal, *more)

    patch.setattr(Session, "_take_literal", take)


def _enables_nothing(name: str) -> Mutation:
    return without("ENABLE", capabilities=less(name.upper()))


FETCH: Final = imap_fetch.Attribute
BASE: Final = (
    "CAPABILITY LOGOUT AUTHENTICATE LOGIN SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB "
    "STATUS APPEND CLOSE EXPUNGE SEARCH FETCH STORE COPY"
)
"""Not NOOP and CHECK: what they tell is told at the end of every command, and all they do is to look once more."""
ACL: Final = "SETACL DELETEACL GETACL LISTRIGHTS MYRIGHTS"

MUTATIONS: Final[dict[str, tuple[Mutation, ...]]] = {
    "IMAP4rev1": tuple(map(bare, BASE.split())),
    "IMAP4rev2": (_enables_nothing("IMAP4rev2"),),
    "LITERAL+": (_always_asked,),
    "SASL-IR": (without("AUTHENTICATE", initial=None),),
    "ID": (bare("ID"),),
    "ENABLE": (bare("ENABLE"),),
    "STARTTLS": (bare("STARTTLS"),),
    "LOGINDISABLED": (replacing(login, "_require_privacy", lambda _s: None),),
    "AUTH=PLAIN": (bare("AUTHENTICATE"),),
    "AUTH=LOGIN": (bare("AUTHENTICATE"),),
    "CHILDREN": (_attribute(rb"\Has"),),
    "LIST-EXTENDED": (
        without("LIST", select=frozenset()),
        without("LIST", returns=frozenset()),
        without("LIST", patterns=lambda patterns: patterns[:1]),
    ),
    "LIST-STATUS": (without("LIST", status=None),),
    "LIST-MYRIGHTS": (without("LIST", returns=less("MYRIGHTS")),),
    "STATUS=SIZE": (without("STATUS", items=less("SIZE")),),
    "SPECIAL-USE": (_attribute(rb"\Sent"), without("LIST", select=less("SPECIAL-USE"))),
    "CREATE-SPECIAL-USE": (without("CREATE", special_use=()),),
    "MULTIAPPEND": (bare("APPEND"),),
    "BINARY": (without("FETCH", items=less(imap_fetch.Binary)), bare("APPEND")),
    "ESEARCH": (
        without("SEARCH", returns=None),
        *(without("SEARCH", returns=less(n)) for n in ("MIN", "MAX", "COUNT")),
    ),
    "WITHIN": (without("SEARCH", key=no_key(keys.Within)),),
    "QUOTA": (bare("GETQUOTA"), bare("GETQUOTAROOT")),
    "QUOTASET": (bare("SETQUOTA"),),
    "QUOTA=RES-STORAGE": (_resource("STORAGE"),),
    "QUOTA=RES-MESSAGE": (_resource("MESSAGE"),),
    "QUOTA=RES-MAILBOX": (_resource("MAILBOX"),),
    "APPENDLIMIT": (without("STATUS", items=less("APPENDLIMIT")), without("LIST", status=less("APPENDLIMIT"))),
    "COMPRESS=DEFLATE": (bare("COMPRESS"),),
    "NAMESPACE": (bare("NAMESPACE"),),
    "IDLE": (bare("IDLE"),),
    "UNSELECT": (bare("UNSELECT"),),
    "UIDPLUS": (without("EXPUNGE", uids=None), bare("COPY"), bare("APPEND")),
    "MOVE": (bare("MOVE"),),
    "OBJECTID": (
        without("FETCH", items=less(FETCH.EMAILID)),
        without("FETCH", items=less(FETCH.THREADID)),
        without("STATUS", items=less("MAILBOXID")),
        without("SEARCH", key=no_key(keys.ByObjectId)),
    ),
    "SAVEDATE": (without("FETCH", items=less(FETCH.SAVEDATE)), without("SEARCH", key=no_key(keys.ByDate))),
    "PREVIEW": (without("FETCH", items=less(imap_fetch.Preview)),),
    "CONDSTORE": (
        without("FETCH", items=less(FETCH.MODSEQ)),
        without("FETCH", changed_since=None),
        without("STORE", unchanged_since=None),
        without("STATUS", items=less("HIGHESTMODSEQ")),
        without("SEARCH", key=no_key(keys.ByModSeq)),
    ),
    "QRESYNC": (without("SELECT", qresync=None), without("FETCH", vanished=False), _enables_nothing("QRESYNC")),
    "UIDONLY": (_enables_nothing("UIDONLY"),),
    "UTF8=ACCEPT": (_enables_nothing("UTF8=ACCEPT"),),
    "SORT": (bare("SORT"),),
    "SORT=DISPLAY": (bare("SORT"),),
    "ESORT": (without("SORT", returns=None),),
    "I18NLEVEL=1": (bare("SORT"), bare("THREAD")),
    "THREAD=ORDEREDSUBJECT": (bare("THREAD"),),
    "THREAD=REFERENCES": (bare("THREAD"),),
    "THREAD=REFS": (bare("THREAD"),),
    "SEARCHRES": (without("SEARCH", returns=less("SAVE")),),
    "SEARCH=FUZZY": (without("SEARCH", key=no_key(keys.Fuzzy)),),
    "PARTIAL": (without("SEARCH", returns=less("PARTIAL")), without("FETCH", partial=None)),
    "CONTEXT=SEARCH": (without("SEARCH", returns=less("UPDATE")), bare("CANCELUPDATE")),
    "CONTEXT=SORT": (without("SORT", returns=less("UPDATE")),),
    "MULTISEARCH": (bare("ESEARCH"),),
    "FILTERS": (without("SEARCH", key=no_key(keys.Filter)),),
    "UIDBATCHES": (bare("UIDBATCHES"),),
    "INPROGRESS": (replacing(progress.Progress, "_notice", lambda _self: None),),
    "NOTIFY": (bare("NOTIFY"),),
    "ACL": tuple(map(bare, ACL.split())),
    "RIGHTS=texk": (bare("LISTRIGHTS"), bare("MYRIGHTS")),
    "METADATA": (bare("GETMETADATA"), bare("SETMETADATA")),
    "LIST-METADATA": (without("LIST", metadata=None),),
    "IMAPSIEVE": (
        replacing(events, "arrived", _nothing),
        replacing(events, "flagged", _nothing),
        replacing(events, "seen", _nothing),
        replacing(events, "alike", lambda _before, edit, changed: [(changed, edit.set)]),
        replacing(imapruns.Doing, "_mark", _nothing),
        replacing(imapruns.Doing, "_file", _nothing),
        replacing(imapruns, "NOWHERE", "Same"),
        bare("SETMETADATA"),
    ),
    "CATENATE": (bare("APPEND"),),
    "URL-PARTIAL": (replacing(catenate, "_cut", lambda data, _partial: data),),
    "REPLACE": (bare("REPLACE"),),
    "UNAUTHENTICATE": (bare("UNAUTHENTICATE"),),
    "MESSAGELIMIT": (bare("FETCH"), bare("STORE"), bare("SEARCH")),
    "SAVELIMIT": (bare("COPY"),),
}
"""By the name that is advertised, without what stands behind `=` where that is a number."""
