"""The matrix as tables."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sora.crashpoints import POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.matrix import Result

LEGEND: Final = """\
Each cell has five numbers: messages that the clients were promised, messages found, lost, doubled, altered. Words in
bold stand for anything else that is wrong: a message that came back after it was expunged or moved (`returned`), flags
that are not those that were promised (`flags`), objects that belong to no message when all is settled (`leftover`), a
fault that did not happen, a node or client that got stuck, a traceback in the log. Messages may be found that were not
promised only where a mailbox keeps them for another reason; none does here.
"""


def render(results: Sequence[Result], took_s: float, arguments: Sequence[str]) -> str:
    """The page."""
    return "\n".join(
        [
            "# Faults",
            "",
            f"`python -m tests.faults.matrix {' '.join(arguments)}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, "
            f"commit {_commit()}, {os.cpu_count()} CPUs, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}.",
            "",
            totals(results, took_s),
            "",
            LEGEND,
            *_table("Crash points", results, crash=True),
            *_table("Around the node", results, crash=False),
            *_not_run(results),
            *_proofs(results),
        ]
    )


def totals(results: Sequence[Result], took_s: float) -> str:
    """In one sentence or two."""
    verdicts = [result.verdict for result in results if not result.problem]
    kinds = ("lost", "doubled", "altered", "returned", "flags", "leftover")
    wrong = ", ".join(f"{kind} {sum(len(getattr(verdict, kind)) for verdict in verdicts)}" for kind in kinds)
    good = sum(result.is_good and not result.impossible for result in results)
    return (
        f"{len(results)} cells in {took_s / 60:.1f} minutes: {good} without fault, "
        f"{sum(bool(result.impossible) for result in results)} n/a, {sum(not r.is_good for r in results)} with faults. "
        f"Promised {sum(verdict.acknowledged for verdict in verdicts)}, "
        f"found {sum(verdict.found for verdict in verdicts)}; {wrong}."
    )


def _table(title: str, results: Sequence[Result], *, crash: bool) -> Iterator[str]:
    from tests.faults.matrix import spots  # which needs this module

    cells = {(result.spot.row, result.spot.column): result.text for result in results}
    places = [(spot.row, spot.column) for spot in spots() if (spot.row in POINTS) == crash]
    places = [place for place in places if place in cells]
    if not places:
        return
    columns = list(dict.fromkeys(column for _, column in places))
    yield f"## {title}"
    yield ""
    yield f"| {'point' if crash else 'activity'} | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in dict.fromkeys(row for row, _ in places):
        yield f"| {row} | {' | '.join(cells.get((row, column), '') for column in columns)} |"
    yield ""


def _not_run(results: Sequence[Result]) -> Iterator[str]:
    from tests.faults.matrix import ELSEWHERE  # which needs this module

    yield "## Not applicable"
    yield ""
    for result in results:
        if result.impossible:
            yield f"- {result.spot.name}: {result.impossible}"
    for point in POINTS:
        if reason := ELSEWHERE.get(point.partition(".")[0]):
            yield f"- {point}: {reason}"
    yield ""


def _proofs(results: Sequence[Result]) -> Iterator[str]:
    yield "## What happened in each cell"
    yield ""
    yield "| cell | s | the fault |"
    yield "|---|---|---|"
    for result in sorted(results, key=lambda result: result.spot.name):
        words = " ".join((result.impossible or result.problem or result.proof).split()).replace("|", "/")
        yield f"| {result.spot.name} | {result.took_s:.1f} | {words[:200]} |"
    yield ""


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
