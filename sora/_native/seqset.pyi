# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""Sets of message numbers: RFC 9051 sequence-set, as sorted ranges in a C array.

`SeqSet` holds sequence numbers of one view, `UidSet` holds UIDs; they never mix. A set parsed from the wire may
still contain `*` (`has_star`) or be the saved search result `$` (`is_saved`); everything that counts, lists or
compares numbers needs `resolve()` first and raises ValueError otherwise.
"""

from collections.abc import Iterable, Iterator
from typing import Self

class NumSet:
    """An immutable set of numbers 1..4294967295; use `SeqSet` or `UidSet`."""

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse `1,3:5,7:*` or `$`. Raises errors.BadSyntax."""

    @classmethod
    def from_ranges(cls, ranges: Iterable[tuple[int, int]]) -> Self:
        """From inclusive ranges in any order; overlapping and adjacent ones are merged. ValueError if out of bounds."""

    @classmethod
    def from_numbers(cls, numbers: Iterable[int]) -> Self:
        """From single numbers in any order."""

    @classmethod
    def empty(cls) -> Self: ...
    @property
    def has_star(self) -> bool:
        """True while `*` stands for a number not known yet."""

    @property
    def is_saved(self) -> bool:
        """True for `$`, the saved search result (RFC 5182, RFC 9051 §6.4.4.1)."""

    @property
    def first(self) -> int:
        """The smallest number; 0 if empty."""

    @property
    def last(self) -> int:
        """The largest number; 0 if empty."""

    def resolve(self, largest: int) -> Self:
        """Replace `*` by *largest* (0: there are no messages, `*` vanishes); `n:*` always covers *largest*."""

    def ranges(self) -> list[tuple[int, int]]:
        """Inclusive ranges, ascending, at least one number apart."""

    def bounds(self) -> tuple[list[int], list[int]]:
        """The ranges as two parallel lists, first numbers and last numbers."""

    def __contains__(self, number: object) -> bool: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool:
        """False for the empty set; True for one that has `*` or is `$`."""

    def __iter__(self) -> Iterator[int]: ...
    def __bytes__(self) -> bytes: ...
    def __or__(self, other: Self) -> Self: ...
    def __and__(self, other: Self) -> Self: ...
    def __sub__(self, other: Self) -> Self: ...
    def __hash__(self) -> int: ...

class SeqSet(NumSet):
    """Sequence numbers of one session's view."""

class UidSet(NumSet):
    """UIDs of one mailbox."""
