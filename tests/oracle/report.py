"""Run the comparison, put every difference into its class, write the table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tests.oracle import dovecot
from tests.oracle.client import Client
from tests.oracle.collect import counts
from tests.oracle.compare import Comparison
from tests.oracle.criteria import CRITERIA, SORTS
from tests.oracle.dovecot import Dovecot
from tests.oracle.explained import EXPLAINED
from tests.oracle.explained_talk import EXPLAINED_TALK
from tests.oracle.made import THREADS
from tests.oracle.ordered import compare_orders, compare_threads
from tests.oracle.talk import TALKS, compare_talks
from tests.support import demo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.oracle.collect import Sample
    from tests.oracle.compare import Difference


CLASSES: Final = (*EXPLAINED, *EXPLAINED_TALK)


class Result(Struct, frozen=True):
    """What came of it.

    Attributes:
        samples: The messages.
        compared: Number of comparisons by kind.
        differing: Number of differences by kind.
        classes: Number of differences by class.
        unexplained: The rest.
    """

    samples: Sequence[Sample]
    compared: Counter[str]
    differing: Counter[str]
    classes: Counter[str]
    unexplained: list[Difference]


def run(directory: Path, samples: Sequence[Sample]) -> Result:
    """Start both servers in *directory*, which every user can enter, and compare."""
    directory.chmod(0o755)
    with (
        Dovecot(directory / "dovecot") as oracle,
        demo.Demo(directory / "sora", "--workers", "1", "--accounts", "1") as sora,
        Client(sora.ports["imap"], "user1@example.com", demo.PASSWORD) as ours,
        Client(oracle.port, dovecot.USER, dovecot.PASSWORD) as theirs,
    ):
        comparison = Comparison(ours, theirs, samples)
        comparison.run()
        compare_orders(comparison)
        compare_threads(comparison)
        compare_talks(comparison)
    return _classified(comparison, samples)


def _classified(comparison: Comparison, samples: Sequence[Sample]) -> Result:
    rows = [(d, next((row for row in CLASSES if row.holds(d)), None)) for d in comparison.differences]
    return Result(
        samples,
        comparison.compared,
        Counter(_merged(difference.kind) for difference, _ in rows),
        Counter(row.name for _, row in rows if row is not None),
        [difference for difference, row in rows if row is None],
    )


def _merged(kind: str) -> str:
    """`BODY[HEADER.FIELDS (…)]<…>` without names and numbers."""
    name, _, rest = kind.partition(" (")
    return name + "]" + ("<>" if "<" in rest else "") if rest else kind.partition("<")[0] + "<>" * ("<" in kind)


def write(result: Result) -> str:
    """The table, in Markdown."""
    sources = ", ".join(f"{number} {source}" for source, number in counts(result.samples).most_common())
    compared: Counter[str] = Counter()
    for kind, number in result.compared.items():
        compared[_merged(kind)] += number
    return "\n".join(
        [
            "# Answers of Sora beside those of Dovecot",
            "",
            f"`python -m tests.oracle --fetch` made this table: {len(result.samples)} messages ({sources}), "
            f"{compared.total()} comparisons with Dovecot {dovecot.version()}, {len(CRITERIA)} search criteria "
            f"and {len(SORTS)} SORT commands over all messages, THREAD over them and {len(THREADS)} made mailboxes, "
            f"{sum(map(len, TALKS.values()))} commands of conversations (LIST, STATUS, ESEARCH, CONDSTORE, QRESYNC), "
            f"{result.differing.total()} differences, {len(result.unexplained)} unexplained.",
            "",
            "A difference of SEARCH is counted once for each message that only one of the two finds, "
            "one of SORT and THREAD once for each message that stands elsewhere.",
            "",
            "| Asked | Compared | Different |",
            "|---|---:|---:|",
            *(f"| {kind} | {number} | {result.differing[kind]} |" for kind, number in sorted(compared.items())),
            "",
            "| Class | Sora | Dovecot | Decided by | Count |",
            "|---|---|---|---|---:|",
            *(f"| {r.name} | {r.ours} | {r.theirs} | {r.rfc} | {result.classes[r.name]} |" for r in CLASSES),
            "",
        ]
    )
