"""The native modules, each beside its plain model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.native import columns, durable, imapscan, mime, modseqs, ring, seqset, sievescan, threads, viewcols

if TYPE_CHECKING:
    from benchmarks.cases import Case


def all_cases(messages: int) -> list[Case]:
    """All pairs, on a mailbox of so many messages where one is needed."""
    modules = (columns, durable, imapscan, mime, modseqs, ring, seqset, sievescan, threads, viewcols)
    return [case for module in modules for case in module.cases(messages)]
