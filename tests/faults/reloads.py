"""Reloads under load: `python -m tests.faults.reloads --sessions 20000 --reloads 20 --idle 200`.

Client processes open sessions all the time while Sora reloads again and again; one reload changes a live key. Beside
them sessions in IDLE wait in three cohorts: from before the first reload, from before the one in the middle, and from
after the last. The first two must hear BYE when the linger time of their generation is over, not before and not much
later; the last must be alive in the end. Prints a table; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.faults.crowd import PATIENCE_S, Idler, Tally, visit_often
from tests.support.demo import Demo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ACCOUNTS: Final = 20
SLACK_S: Final = 10.0
"""How much later than its linger time a session may hear BYE, on a busy machine."""
EARLY_S: Final = 0.1
LIVE_KEY: Final = "limits.recipients"


@dataclass(frozen=True)
class Plan:
    """How much is to be done.

    Attributes:
        clients: Client processes.
        parallel: Sessions that each of them has open at a time.
        linger_s: Of the generations that a reload replaces.
    """

    sessions: int
    reloads: int
    idle: int
    linger_s: float
    clients: int
    parallel: int
    workers: int

    @property
    def per_client(self) -> int:
        """Sessions of one client process."""
        return self.sessions // self.clients


@dataclass
class Report:
    """What happened; `faults` is empty if all is well."""

    plan: Plan
    visits: Tally
    idlers: Tally
    reload_s: list[float]
    faults: list[str]

    def rows(self) -> Iterator[tuple[str, str]]:
        """The table."""
        for title, tally in (("sessions", self.visits), ("in IDLE", self.idlers)):
            yield title, ", ".join(f"{count} {name}" for name, count in sorted(tally.counts.items()))
        longest = max(self.reload_s, default=0.0)
        yield "reloads", f"{len(self.reload_s)}, the longest {longest:.2f} s; load {os.getloadavg()[0]:.1f}"
        for fault in self.faults or ["none"]:
            yield "faults", fault


@dataclass
class Cohort:
    """Sessions in IDLE that began together.

    Attributes:
        replaced_mono: When the reload began and ended that replaced their workers; None: none did.
    """

    idlers: list[Idler]
    stays: list[asyncio.Task[str]]
    replaced_mono: tuple[float, float] | None = field(default=None)

    def judge(self, linger_s: float) -> Iterator[str]:
        """Whoever heard BYE at the wrong time."""
        for idler in self.idlers:
            heard = idler.said_goodbye_mono
            if self.replaced_mono is None:
                if heard is not None:
                    yield "a session of the last generation heard BYE"
            elif heard is None:
                yield "a session of an old generation heard no BYE"
            else:
                begin, end = self.replaced_mono
                if not begin + linger_s - EARLY_S <= heard <= end + linger_s + SLACK_S:
                    yield f"BYE {heard - end:.1f} s after the reload instead of {linger_s:.1f} s"


class Run:
    """One run on a demo that is up."""

    def __init__(self, plan: Plan, demo: Demo) -> None:
        self._plan = plan
        self._demo = demo
        self._cohorts: list[Cohort] = []
        self._context = multiprocessing.get_context("spawn")
        self._progress = self._context.Semaphore(0)
        self._tallies = self._context.SimpleQueue()
        self.report = Report(plan, Tally(), Tally(), [], [])

    async def whole(self) -> Report:
        """Start the clients, reload, collect."""
        plan = self._plan
        clients = self._start_clients()
        try:
            await self._begin_cohort(plan.idle // 3)
            for number in range(plan.reloads):
                await asyncio.to_thread(self._wait_for_sessions, plan.sessions // (plan.reloads + 1))
                if number == plan.reloads // 2:
                    await self._begin_cohort(plan.idle // 3)
                await self._reload(change=number == plan.reloads // 2)
            await self._begin_cohort(plan.idle - 2 * (plan.idle // 3))
            for _ in clients:
                self.report.visits.add(await asyncio.to_thread(self._tallies.get))
        finally:
            for client in clients:
                client.kill()
                client.join()
        await self._end_cohorts()
        self._judge()
        return self.report

    def _start_clients(self) -> list[Any]:
        plan = self._plan
        arguments = (self._demo.ports, plan.per_client, plan.parallel, ACCOUNTS, self._progress, self._tallies)
        clients = [self._context.Process(target=visit_often, args=arguments) for _ in range(plan.clients)]
        for client in clients:
            client.start()
        return clients

    def _wait_for_sessions(self, count: int) -> None:
        for _ in range(count):
            if not self._progress.acquire(timeout=2 * PATIENCE_S):
                raise RuntimeError("the clients make no progress")

    async def _begin_cohort(self, count: int) -> None:
        idlers = [await Idler.begin(self._demo.ports, number, ACCOUNTS) for number in range(count)]
        judge = self.report.idlers.judge
        self._cohorts.append(Cohort(idlers, [asyncio.create_task(judge(idler.stay(), "well")) for idler in idlers]))

    async def _reload(self, *, change: bool) -> None:
        if change:
            table, _, key = LIVE_KEY.partition(".")
            with open(self._demo.config, "a", encoding="utf-8") as file:
                file.write(f"\n[{table}]\n{key} = 7\n")
        begin = time.monotonic()
        done = await asyncio.to_thread(self._demo.ctl, "reload", "--json")
        end = time.monotonic()
        self.report.reload_s.append(end - begin)
        if done.returncode:
            self.report.faults.append(f"reload: {done.stderr.strip()}")
        elif json.loads(done.stdout)["changed"] != ([LIVE_KEY] if change else []):
            self.report.faults.append(f"reload: {done.stdout.strip()}")
        for cohort in self._cohorts:
            cohort.replaced_mono = cohort.replaced_mono or (begin, end)

    async def _end_cohorts(self) -> None:
        """Wait for the BYE of the old generations; the last one has DONE to say."""
        for cohort in self._cohorts:
            if cohort.replaced_mono is None:
                for idler in cohort.idlers:
                    idler.done()
                patience_s = PATIENCE_S
            else:
                patience_s = cohort.replaced_mono[1] + self._plan.linger_s + SLACK_S - time.monotonic()
            if cohort.stays:
                _, late = await asyncio.wait(cohort.stays, timeout=max(patience_s, 0.0))
                for task in late:
                    task.cancel()

    def _judge(self) -> None:
        report, plan = self.report, self._plan
        for tally, wanted in (
            (report.visits, {"served": plan.per_client * plan.clients}),
            (report.idlers, {"well": plan.idle}),
        ):
            if tally.counts != wanted:
                report.faults += [f"wanted {wanted}", *tally.first]
        report.faults += {fault for cohort in self._cohorts for fault in cohort.judge(plan.linger_s)}
        restarts = sum(process["restarts"] for process in self._demo.status()["processes"])
        if restarts:
            report.faults.append(f"{restarts} processes died")


def run(plan: Plan, directory: Path, *arguments: str) -> Report:
    """A run on a demo of its own, in a directory that is not there yet."""
    settings = [
        "--accounts",
        f"{ACCOUNTS}",
        "--workers",
        f"{plan.workers}",
        "--set",
        f"process.linger={plan.linger_s}s",
    ]
    with Demo(directory, *settings, *arguments) as demo:
        return asyncio.run(Run(plan, demo).whole())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--linger", type=float, default=30.0, help="seconds; default: %(default)s")
    parser.add_argument("--clients", type=int, default=2, help="client processes; default: %(default)s")
    parser.add_argument("--parallel", type=int, default=8, help="sessions at a time of each; default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--port-base", type=int)
    given = parser.parse_args(argv)
    plan = Plan(given.sessions, given.reloads, given.idle, given.linger, given.clients, given.parallel, given.workers)
    ports = ["--port-base", f"{given.port_base}"] if given.port_base else []
    with tempfile.TemporaryDirectory() as directory:
        report = run(plan, Path(directory) / "demo", *ports)
    sys.stdout.writelines(f"{name:<9} {value}\n" for name, value in report.rows())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
