"""The native modules, each beside its plain model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.native import durable, imapscan, mime, ring, seqset, viewcols

if TYPE_CHECKING:
    from benchmarks.cases import Case


def all_cases(messages: int) -> list[Case]:
    """All pairs, on a mailbox of so many messages where one is needed."""
    return [case for module in (durable, imapscan, mime, ring, seqset, viewcols) for case in module.cases(messages)]
