"""What a benchmark is: one of our functions and its plain model, on the same input, with the same answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable


class Case(Struct, frozen=True):
    """A pair to be timed.

    Attributes:
        name: Module and name of what is measured; the first word is looked for by the test of completeness.
        ours: Calls it, and returns something that can be compared.
        plain: Returns the same from the plain model.
        covers: Further names that this measures.
    """

    name: str
    ours: Callable[[], Any]
    plain: Callable[[], Any]
    covers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that this measures."""
        return (self.name.split()[0], *self.covers)
