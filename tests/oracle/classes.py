"""A class of differences between two servers, and the one that a difference is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Explained(Struct, frozen=True):
    """A class of differences.

    Attributes:
        name: Short, unique.
        ours: What Sora does.
        theirs: What the other server does.
        rfc: What decides, or leaves it open.
        holds: Whether a difference is of this class.
    """

    name: str
    ours: str
    theirs: str
    rfc: str
    holds: Callable[[Any], bool]


def first_of(classes: Iterable[Explained], difference: Any) -> Explained | None:
    """The class of a difference; None if it is unexplained."""
    return next((row for row in classes if row.holds(difference)), None)
