# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""Facts of messages as C arrays, for SEARCH by date and size, SORT and THREAD over many messages."""

from array import array
from collections.abc import Callable, Sequence
from typing import final

from sora._native.seqset import NumSet, UidSet

CONTENT_ID: int
INTERNAL_DATE: int
SENT_DATE: int
SAVED_DATE: int
SIZE: int
SORT_DATE: int
"""The sent date, or where there is none INTERNALDATE (RFC 5256 §2.2); a column that is made of the two."""

FROM_FIELD: int
SENDER_FIELD: int
REPLY_TO_FIELD: int
TO_FIELD: int
CC_FIELD: int
BCC_FIELD: int

@final
class Columns:
    """Immutable facts of some messages of a mailbox; dates are seconds since 1970."""

    def add(self, packed: bytes) -> None:
        """Take records of `message_columns()`; those that are here already are replaced.

        Raises:
            ValueError: The bytes are not such records, ascending by UID.
        """

    def __len__(self) -> int: ...
    @property
    def size_bytes(self) -> int:
        """Memory held."""

    def present(self, uids: UidSet) -> UidSet:
        """Those of *uids* that are here."""

    def missing(self, uids: UidSet) -> UidSet:
        """Those of *uids* that are not here."""

    def between(self, within: UidSet, column: int, low: int | None, high: int | None) -> UidSet:
        """Messages of *within* with *low* <= column < *high*; None: no bound. No date never matches."""

    def values(self, uids: UidSet, column: int) -> array[int]:
        """One column (`array("q")`), parallel to *uids*. Raises KeyError for a message that is not here."""

    def keep(self, uids: UidSet) -> None:
        """Forget all others."""

@final
class Texts:
    """Folded texts of some messages."""

    def add(self, packed: bytes, fold: Callable[[str], str], line: int = 0) -> None:
        """Take records of `message_texts()`, with UIDs above those that are here.

        Args:
            packed: UID (4 octets), length (4 octets) and UTF-8 text of each.
            fold: `mime.text.fold`; not called for ASCII.
            line: Which line of the text begins what is meant.

        Raises:
            ValueError: The bytes are not such records, ascending by UID.
        """

    def __len__(self) -> int: ...
    def ranks(self, uids: UidSet) -> array[int]:
        """For each of *uids* the place of its text among the different ones (`array("q")`); 0: empty, or not here."""

def first_mailboxes(packed: bytes, field: int) -> bytes:
    """Records of envelopes become records of the addr-mailbox of a field's first address.

    Raises:
        ValueError: The bytes are not such records, or there is no such field.
    """

def expand(numbers: NumSet) -> array[int]:
    """The numbers of a set, ascending (`array("I")`)."""

def sort_numbers(numbers: NumSet, keys: Sequence[tuple[array[int], bool]]) -> array[int]:
    """The numbers of a set by keys, the most significant first; ties stay ascending.

    Args:
        keys: Values (`array("q")`) parallel to the numbers, and whether the order is descending.
    """

def places(numbers: array[int], all: UidSet) -> array[int]:
    """The place of each number in a set, counted from 1: sequence numbers of UIDs. 0: it is not there."""

def write_numbers(numbers: array[int], first: int, last: int) -> bytes:
    """The numbers at the places *first* to *last* - 1, each with a space before it."""
