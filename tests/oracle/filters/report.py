"""Run the comparison, put every difference into its class, write the table."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import asyncpg
from msgspec import Struct

from sora import config as configuration
from sora.cli.admin import find_dsn
from tests.oracle import dovecot
from tests.oracle.filters import pigeonhole
from tests.oracle.filters.compare import Comparison
from tests.oracle.filters.explained import EXPLAINED, explain
from tests.oracle.filters.mail import LETTERS
from tests.oracle.filters.pigeonhole import Pigeonhole
from tests.oracle.filters.scripts import GLOBAL
from tests.oracle.filters.sides import Side
from tests.oracle.filters.talks import Sink
from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.oracle.filters.compare import Difference
    from tests.oracle.filters.mail import Letter
    from tests.oracle.filters.scripts import Case
    from tests.oracle.filters.talks import Sent

SETTINGS: Final = {
    "outbound.host": "127.0.0.1",
    "outbound.tls": "none",
    "outbound.hourly_limit": 0,
    "sieve.spam_header": "X-Spam-Score",
    "sieve.spam_maximum": 10.0,
    "sieve.virus_header": "X-Virus-Scan",
    "sieve.virus_texts": ["clean=1", "replaced=2", "cured=3", "suspect=4", "infected=5"],
}
"""What Pigeonhole's configuration says too."""
SETTLED_S: Final = 60
LOOK_S: Final = 0.2
"""Between two looks at the queue, unless the sink takes a mail."""


class Result(Struct, frozen=True):
    """What came of it.

    Attributes:
        cases: The scripts.
        ran: Those that both took.
        letters: The mail that each of these got.
        compared: Number of comparisons by kind.
        differing: Number of differences by kind.
        classes: Number of differences by class.
        unexplained: The rest.
    """

    cases: Sequence[Case]
    ran: Sequence[Case]
    letters: Sequence[Letter]
    compared: Counter[str]
    differing: Counter[str]
    classes: Counter[str]
    unexplained: list[Difference]


class Sora(Side):
    """The demo as a side: what its scripts send goes through its queue."""

    def __init__(self, demo: Demo, sink: Sink) -> None:
        super().__init__(demo.ports, "%s@example.com", PASSWORD)
        self._dsn = find_dsn(configuration.load(demo.config))
        self._sink = sink

    def settle(self) -> None:
        """Until the queue is empty. A mail that the sink has may stand there still: what is taken is not yet marked."""
        ends_mono = time.monotonic() + SETTLED_S
        while queued := asyncio.run(self._queued()):
            if time.monotonic() > ends_mono:
                raise TimeoutError(f"{queued} mails stay in the queue")
            self._sink.wait(partial(_has, len(self._sink.taken()) + 1), LOOK_S)

    async def _queued(self) -> int:
        connection = await asyncpg.connect(self._dsn)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM sora.outbound_queue"))
        finally:
            await connection.close()


def _has(enough: int, taken: list[Sent]) -> bool:
    return len(taken) >= enough


def run(directory: Path, cases: Sequence[Case], letters: Sequence[Letter] = LETTERS) -> Result:
    """Start both servers in *directory*, which every user can enter, and compare."""
    directory.chmod(0o755)
    with (
        Sink() as own_sink,
        Sink() as other_sink,
        Pigeonhole(directory / "dovecot", other_sink.port, GLOBAL) as oracle,
        Demo(directory / "sora", *_options(directory / "global", own_sink.port, len(cases) + 1)) as demo,
        Sora(demo, own_sink) as ours,
        Side(oracle.ports, "%s", dovecot.PASSWORD) as theirs,
    ):
        comparison = Comparison((ours, theirs), (own_sink, other_sink), cases, letters)
        comparison.run()
    return _classified(comparison)


def _options(scripts: Path, sink: int, accounts: int) -> list[str]:
    """Of the demo; writes the scripts of the site."""
    scripts.mkdir()
    for name, text in GLOBAL.items():
        (scripts / f"{name}.sieve").write_text(text)
    settings = {**SETTINGS, "outbound.port": sink, "sieve.global_dir": str(scripts)}
    return [
        "--workers",
        "1",
        "--accounts",
        str(accounts),
        *(f"--set={name}={_toml(v)}" for name, v in settings.items()),
    ]


def _toml(value: object) -> str:
    return str(value).replace("'", '"') if not isinstance(value, str) else f'"{value}"'


def _classified(comparison: Comparison) -> Result:
    rows = [(difference, explain(difference)) for difference in comparison.differences]
    return Result(
        comparison.cases,
        comparison.ran,
        comparison.letters,
        comparison.compared,
        Counter(difference.kind for difference, _ in rows),
        Counter(row.name for _, row in rows if row is not None),
        [difference for difference, row in rows if row is None],
    )


def write(result: Result) -> str:
    """The table, in Markdown."""
    groups = ", ".join(f"{number} {name}" for name, number in Counter(case.group for case in result.cases).items())
    return "\n".join(
        [
            "# Filters of Sora beside those of Dovecot",
            "",
            f"`python -m tests.oracle.filters` made this table: {len(result.cases)} scripts ({groups}), "
            f"{len(result.ran)} of them taken by both and run on {len(result.letters)} messages each, put by "
            f"ManageSieve and delivered by LMTP; Pigeonhole {pigeonhole.version()} of Dovecot {dovecot.version()}; "
            f"{result.compared.total()} comparisons, {result.differing.total()} differences, "
            f"{len(result.unexplained)} unexplained.",
            "",
            "Compared are: whether a script is taken; the class of the LMTP reply; mailboxes, flags and octets of what "
            "is stored, apart from the trace fields; envelope, fields and text of what is sent.",
            "",
            "| Compared | Number | Different |",
            "|---|---:|---:|",
            *(f"| {kind} | {number} | {result.differing[kind]} |" for kind, number in sorted(result.compared.items())),
            "",
            "| Class | Sora | Pigeonhole | Decided by | Count |",
            "|---|---|---|---|---:|",
            *(f"| {r.name} | {r.ours} | {r.theirs} | {r.rfc} | {result.classes[r.name]} |" for r in EXPLAINED),
            "",
        ]
    )
