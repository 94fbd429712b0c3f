"""Why a conversation may go in two ways: classes as those in `explained`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.oracle.classes import Explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.oracle.compare import Difference

_CHILDREN: Final = frozenset({b"\\haschildren", b"\\hasnochildren"})


def _only(d: Difference, fact: str) -> tuple[Any, Any] | None:
    """That fact on both sides, if nothing else differs."""
    if not d.kind.startswith("talk: ") or not isinstance(d.ours, dict) or not isinstance(d.theirs, dict):
        return None
    facts = d.ours.keys() | d.theirs.keys()
    if any(d.ours.get(other) != d.theirs.get(other) for other in facts - {fact}):
        return None
    return d.ours.get(fact), d.theirs.get(fact)


def _children(d: Difference) -> bool:
    """Nobody asked whether there are mailboxes below."""
    both = _only(d, "LIST")
    if both is None or "CHILDREN" in d.field or None in both:
        return False
    rows = [[(n, sorted({*flags} - _CHILDREN), *rest) for n, flags, *rest in side] for side in both]
    return rows[0] == rows[1] and all({*flags} & _CHILDREN for _, flags, *_ in both[0])


def _fetch_without(item: bytes) -> Callable[[Difference], bool]:
    """The same responses, but for an item that only ours have, all of them."""

    def holds(d: Difference) -> bool:
        both = _only(d, "fetch")
        if both is None or not both[0] or not both[1] or any(item not in items for items in both[0].values()):
            return False
        ours = {number: {k: v for k, v in items.items() if k != item} for number, items in both[0].items()}
        return bool(ours == both[1])

    return holds


def _unchanged(d: Difference) -> bool:
    """STORE that changes nothing and is not silent."""
    both = _only(d, "fetch")
    return both is not None and "STORE" in d.field and ".SILENT" not in d.field and bool(both[0]) and both[1] is None


def _closed(d: Difference) -> bool:
    both = _only(d, "codes")
    if both is None or not d.field.startswith("SELECT"):
        return False
    return (both[0] or set()) ^ (both[1] or set()) == {b"CLOSED"}


def _append(d: Difference) -> bool:
    both = _only(d, "codes")
    return d.field.startswith("APPEND") and both == (None, {b"HIGHESTMODSEQ"})


EXPLAINED_TALK: Final = (
    Explained(
        "children nobody asked for", "always says whether there are any", "if asked", "RFC 5258 §4, RFC 3348 §3",
        _children,
    ),
    Explained(
        "UID beside MODSEQ", "in a FETCH response to STORE too", "with QRESYNC only", "RFC 3501 §7.4.2",
        _fetch_without(b"UID"),
    ),
    Explained(
        "MODSEQ in every FETCH response", "once CONDSTORE is enabled", "where something changed", "RFC 7162 §3.1",
        _fetch_without(b"MODSEQ"),
    ),
    Explained(
        "STORE that changes nothing", "answers with the flags", "answers nothing", "RFC 3501 §6.4.6", _unchanged,
    ),
    Explained(
        "CLOSED", "to those who enabled QRESYNC; a SELECT that cannot be read leaves the mailbox selected",
        "to everybody; such a SELECT closes the mailbox", "RFC 7162 §3.2.11, RFC 3501 §6.3.1", _closed,
    ),
    Explained(
        "HIGHESTMODSEQ behind APPEND", "with the next SELECT", "at once", "RFC 7162 §3.1.2.1 (asked of SELECT)",
        _append,
    ),
)  # fmt: skip
"""The classes in the order in which they are tried."""
