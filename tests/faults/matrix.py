"""The fault matrix: `python -m tests.faults.matrix [--only PATTERN …] [--jobs 2] [--write]`.

One half has a row for every crash point on the path of an activity, and a column for who dies there: the process that
passes it, all processes of the node, or PostgreSQL. The other half has what can go wrong around the node in its
columns, and the activities in its rows. In every cell clients do the activity's work while the fault happens, and go on
until they were told that all of it is done; then a judge who shares no code with the store reads everything, with cache
and staging emptied, and compares it with the books of the clients, and what is in the object store with what was read.

A cell whose fault did not happen is a failure of the run, and so is a node that does not come back.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sora.crashpoints import POINTS
from tests.faults import report
from tests.faults.activities import ACTIVITIES, Cell
from tests.faults.bench import Bench
from tests.faults.books import Patience, StuckError, Verdict
from tests.faults.faults import TROUBLES, VICTIMS, Crash, DidNotHappenError, Fault, NotApplicableError
from tests.support.ledger import TRANSIENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "faults.md"
CLONE_NEWNS: Final = 0x20000

PATHS: Final = {
    "lmtp": "lmtp",
    "append": "append",
    "copy": "copy",
    "move": "move",
    "expunge": "expunge",
    "uploader": "upload",
    "cleanup": "cleanup",
    "reload": "reload",
}
"""The activity on whose path a crash point is, by the first word of its name."""
ELSEWHERE: Final = {
    "shred": "not on the path of these activities, and mail is lost on purpose; each point has a test of its own",
    "adopt": "needs a second node; uploads that are adopted are tested with two of them",
    "imapsieve": "needs a script; each point has a test of its own",
    "journal": "not on the path of these activities, no mail is touched; each point has a test of its own",
    "outbound": "needs a smarthost and mail in the queue; each point has a test of its own",
    "verify": "not on the path of these activities; each point has a test of its own",
    "rebuild": "no server runs; each point has a test of its own, and `python -m tests.faults.rebuild --crash POINT`",
    "import": "no server takes part; each point has a test of its own, and `python -m tests.faults.moving`",
    "export": "not on the path of these activities, no mail is touched; each point has a test of its own",
    "erase": "not on the path of these activities, and mail is lost on purpose; each point has a test of its own",
    "rotate": "not on the path of these activities, no body is touched; each point has a test of its own",
}
SEALED_POINTS: Final = frozenset({"uploader.key_put"})
"""Passed only where mail is encrypted."""


@dataclass(frozen=True)
class Spot:
    """One cell: where it is in the table, and what happens in it.

    Attributes:
        row: A crash point, or the activity.
        bench: Kind of node that it needs.
    """

    activity: str
    row: str
    column: str
    fault: Fault
    bench: str

    @property
    def name(self) -> str:
        """For `--only` and the report."""
        return f"{self.row}:{self.column}"


@dataclass
class Result:
    """What became of a cell.

    Attributes:
        problem: Why the cell is void: the fault did not happen, or somebody got stuck.
        impossible: Why the cell cannot be run here.
        bugs: Tracebacks in the node's log.
    """

    spot: Spot
    verdict: Verdict = field(default_factory=Verdict)
    proof: str = ""
    problem: str = ""
    impossible: str = ""
    bugs: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Run, and nothing is wrong."""
        return not (self.problem or self.bugs or self.verdict.wrong)

    @property
    def text(self) -> str:
        """The cell of the table."""
        if self.impossible:
            return "n/a"
        if self.problem:
            return f"**{self.problem.split(':')[0]}**"
        verdict = self.verdict
        text = " ".join(
            str(number)
            for number in (
                verdict.acknowledged, verdict.found, len(verdict.lost), len(verdict.doubled), len(verdict.altered),
            )
        )  # fmt: skip
        others = [kind for kind in verdict.wrong if kind not in ("lost", "doubled", "altered")]
        return " ".join([text, *(f"**{kind}**" for kind in others), *(["**traceback**"] if self.bugs else [])])


# ---------------------------------------------------------------------------------------------------- which cells


def spots() -> Iterator[Spot]:
    """Every cell of the matrix, in an order that lets one node serve many."""
    for point in POINTS:
        activity = PATHS.get(point.partition(".")[0])
        if activity is None:
            continue
        bench = "sealed" if point in SEALED_POINTS else "directory"
        for victim in VICTIMS:
            yield Spot(activity, point, victim, Crash(point, victim), bench)
    for fault in TROUBLES:
        for activity in ACTIVITIES:
            yield Spot(activity, activity, fault.name, fault, fault.store)


def groups(chosen: Iterable[Spot]) -> list[list[Spot]]:
    """Cells that one node does one after the other."""
    grouped: dict[tuple[str, str], list[Spot]] = {}
    for spot in chosen:
        key = spot.row if isinstance(spot.fault, Crash) else spot.column
        grouped.setdefault((spot.bench, key), []).append(spot)
    return [grouped[key] for key in sorted(grouped, key=lambda key: key[0])]


# ---------------------------------------------------------------------------------------------------- one cell


def run_cell(bench: Bench, spot: Spot) -> Result:
    """Everything about one cell; never raises."""
    began_mono = time.monotonic()
    result = Result(spot)
    marks = bench.log_marks()
    try:
        _run(bench, spot, result)
    except NotApplicableError as error:
        result.impossible = str(error)
    except DidNotHappenError as error:
        result.problem = f"did not happen: {error}"
    except StuckError as error:
        result.problem = f"stuck: {error}"
    except Exception:
        result.problem = f"broken: {traceback.format_exc()}"
    finally:
        bench.forget_crash()
    result.bugs = [
        f"{line.get('role')}: {line['traceback'].splitlines()[-1]}"
        for line in bench.log_since(marks)
        if "traceback" in line
    ]
    result.took_s = time.monotonic() - began_mono
    return result


def _run(bench: Bench, spot: Spot, result: Result) -> None:
    cell = Cell(bench, bench.new_user())
    activity = ACTIVITIES[spot.activity]
    pool = ThreadPoolExecutor(1)
    try:
        activity.prepare(cell)
        spot.fault.prepare(cell)
        cell.mark = cell.books.changes
        futures: list[Future[None]] = []

        def start() -> Future[None]:
            futures.append(pool.submit(activity.run, cell))
            return futures[0]

        result.proof = spot.fault.inflict(cell, activity, start)
        bench.come_back()
        futures[0].result()
        result.verdict = judge(cell)
    finally:
        pool.shutdown(wait=False)
        cell.close()


def judge(cell: Cell) -> Verdict:
    """Read everything from the object store alone, and compare that with the object store itself."""
    bench = cell.bench
    cell.until_uploaded()
    bench.empty_local(cell.user)
    reader = cell.client()
    patience = Patience("the mail cannot be read")
    while True:
        try:
            mail = reader.read_all()
            break
        except TRANSIENT:
            reader.close()
            patience.pause()
    verdict = cell.books.judge(mail)
    verdict.altered |= cell.wrong_reads
    wanted = {found.body for messages in mail.values() for found in messages}
    _compare_objects(cell, wanted, verdict)
    return verdict


def _compare_objects(cell: Cell, wanted: set[bytes], verdict: Verdict) -> None:
    """In the end there is one object for each body, and no other."""
    objects: dict[str, bytes] = {}
    sealed = cell.bench.sealed

    def is_right() -> bool:
        nonlocal objects
        objects = cell.bench.objects(cell.user)
        return len(objects) == len(wanted) and (sealed or set(objects.values()) == wanted)

    try:
        cell.until("objects", is_right)
    except StuckError:
        bodies = set(objects.values())
        verdict.leftover |= {key for key, body in objects.items() if body not in wanted}
        verdict.lost |= {f"object of {body[:60]!r}" for body in wanted - bodies}
        if len(objects) > len(bodies):
            verdict.leftover.add(f"{len(objects) - len(bodies)} objects more than bodies")


# ---------------------------------------------------------------------------------------------------- all cells


class Benches:
    """The nodes of one job, made when they are first needed."""

    def __init__(self, directory: Path, job: int) -> None:
        self._directory = directory
        self._job = job
        self._made = 0
        self._benches: dict[str, tuple[Bench, ExitStack]] = {}

    def get(self, kind: str) -> Bench:
        """A node that is up."""
        if kind not in self._benches:
            self._made += 1
            stack = ExitStack()
            store = "s3" if kind == "s3" else "directory"
            place = self._directory / f"{self._job}-{self._made}"
            bench = stack.enter_context(Bench(place, store, encrypted=kind == "sealed"))
            bench.come_back()
            self._benches[kind] = bench, stack
        return self._benches[kind][0]

    def discard(self, kind: str) -> None:
        """It got stuck: the next cell gets another."""
        if kind in self._benches:
            self._benches.pop(kind)[1].close()

    def close(self) -> None:
        """End all."""
        for kind in list(self._benches):
            self.discard(kind)


def run_all(chosen: Sequence[Spot], directory: Path, jobs: int) -> list[Result]:
    """Run cells, some at a time."""
    work: queue.SimpleQueue[list[Spot]] = queue.SimpleQueue()
    for group in groups(chosen):
        work.put(group)
    results: list[Result] = []
    failures: list[BaseException] = []
    all_benches: list[Benches] = []

    def job(number: int) -> None:
        benches = Benches(directory, number)
        all_benches.append(benches)
        try:
            while True:
                for spot in work.get_nowait():
                    result = run_cell(benches.get(spot.bench), spot)
                    results.append(result)
                    _say(_progress(result, len(results), len(chosen)))
                    if result.problem:
                        benches.discard(spot.bench)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            benches.close()

    threads = [threading.Thread(target=job, args=(number,), daemon=True) for number in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except (KeyboardInterrupt, SystemExit):
        for benches in all_benches:
            benches.close()
        os._exit(1)  # threads that wait for a node that is gone are not waited for
    if failures:
        raise failures[0]
    return results


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _progress(result: Result, number: int, total: int) -> str:
    lines = [f"[{number}/{total}] {result.spot.name}: {result.text} ({result.took_s:.1f} s) {result.proof}"]
    lines += [f"    {kind}: {', '.join(keys)}" for kind, keys in result.verdict.wrong.items()]
    lines += [f"    {problem}" for problem in [*result.problem.splitlines(), *result.bugs] if not result.is_good]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """See the head of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW:COLUMN", help="cells, with * and ?")
    parser.add_argument("--jobs", type=int, default=2, help="nodes at a time (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _private_mounts()
    chosen = [spot for spot in spots() if not options.only or any(_fits(spot, only) for only in options.only)]
    began_mono = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sora-faults-") as directory:
        results = run_all(chosen, Path(directory), options.jobs)
    took_s = time.monotonic() - began_mono
    text = report.render(results, took_s, sys.argv[1:] if arguments is None else arguments)
    if options.write:
        RESULTS.write_text(text)
    _say(report.totals(results, took_s))
    return 0 if len(results) == len(chosen) and all(result.is_good for result in results) else 1


def _fits(spot: Spot, pattern: str) -> bool:
    row, _, column = pattern.partition(":")
    return fnmatch.fnmatch(spot.row, row) and fnmatch.fnmatch(spot.column, column or "*")


def _private_mounts() -> None:
    """File systems that are mounted from here on are ours alone, and go with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
