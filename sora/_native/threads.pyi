# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""Threads of messages (RFC 5256 §3), as the text of a THREAD response.

Keys are arrays with one number for each message, as `columns` makes them: when it was sent (`SORT_DATE`), when it
arrived (`INTERNAL_DATE`), and the rank of its base subject, 0 being the empty one.
"""

from array import array
from typing import final

from sora._native.seqset import UidSet

@final
class Threads:
    """The links between some messages of a mailbox by their message ids."""

    def __init__(self, uids: UidSet) -> None: ...
    def add(self, packed: bytes) -> None:
        """Link messages (step 1 of REFERENCES); those that are not among the UIDs are passed over.

        Args:
            packed: Records of `message_texts()`, 'references', ascending from call to call.

        Raises:
            ValueError: The bytes are not such records.
        """

    def doubtful(self, sent: array[int], ranks: array[int]) -> UidSet:
        """Messages of which `references` must know whether they are replies or forwards."""

    def references(self, sent: array[int], ranks: array[int], replies: UidSet, numbers: array[int]) -> bytes:
        """THREAD=REFERENCES.

        Args:
            replies: Those of the doubtful messages which are replies or forwards.
            numbers: What to write for each message: its UID or its sequence number.
        """

    def refs(self, sent: array[int], arrived: array[int], numbers: array[int]) -> bytes:
        """THREAD=REFS: threads by their latest arrival, messages inside them by when they were sent."""

def ordered_subject(sent: array[int], ranks: array[int], numbers: array[int]) -> bytes:
    """THREAD=ORDEREDSUBJECT."""
