"""What goes wrong in a cell, and the proof that it did."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.faults.bench import is_alive, state_of
from tests.faults.books import Patience
from tests.support.faultproxy import Fault as StoreFault
from tests.support.pgproxy import PostgresProxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tests.faults.activities import Activity, Cell

GONE_S: Final = 5.0
READABLE: Final = ("read-0", "read-1")
REQUEST_OCTETS: Final = 300
"""Of a request that pass before the reset: less than the head of any."""
REPLY_OCTETS: Final = 900
"""Of a reply that pass before its end: more than its head, less than head and body."""


class DidNotHappenError(Exception):
    """The fault met nobody: the cell says nothing."""


class NotApplicableError(Exception):
    """The fault cannot be made here."""


class Fault(Protocol):
    """A column.

    Attributes:
        name: Head of the column.
        store: Which object store the cell needs.
    """

    name: str
    store: str

    def prepare(self, cell: Cell) -> None:
        """While all is well."""

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """Start the activity, let the fault happen to it, end the fault.

        Returns:
            The proof.

        Raises:
            DidNotHappenError, StuckError: The cell is void.
        """


# ---------------------------------------------------------------------------------------------------- crashes


class Crash:
    """Something dies when a process passes a crash point.

    Args:
        victim: `process`, `postgresql` or `all`.
    """

    store = "directory"

    def __init__(self, point: str, victim: str) -> None:
        self.name = f"{point} × {victim}"
        self._point = point
        self._victim = victim

    def prepare(self, cell: Cell) -> None:
        """Nothing."""

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """See `Fault`."""
        bench = cell.bench
        marks = bench.log_marks()
        bench.ask_for_crash(self._point, "kill" if self._victim == "process" else "stop")
        future = start()
        patience = Patience(f"{self._point} is not passed")
        while (pid := bench.crashed()) is None:
            _still_expected(future, self._point)
            patience.pause()
        return getattr(self, f"_{self._victim}")(cell, pid, marks)  # type: ignore[no-any-return]

    def _process(self, cell: Cell, pid: int, marks: Any) -> str:
        bench = cell.bench
        patience = Patience(f"process {pid} does not die")
        while is_alive(pid):
            patience.pause()
        while True:
            if not bench.is_up and bench.exit_status == -signal.SIGKILL:
                return f"supervisor {pid} ended by SIGKILL"
            for line in bench.log_since(marks):
                if line.get("text") == "process ended" and line.get("child_pid") == pid:
                    if line["status"] != -signal.SIGKILL:
                        raise DidNotHappenError(f"{line['role']} ended with {line['status']}")
                    return f"{line['role']} {pid} ended by SIGKILL"
            patience.pause()

    def _postgresql(self, cell: Cell, pid: int, marks: Any) -> str:
        await_stopped(pid)
        killed = cell.bench.kill_postgres()
        os.kill(pid, signal.SIGCONT)
        if not killed:
            raise DidNotHappenError("PostgreSQL did not run")
        return f"postmaster {killed[0]} and {len(killed) - 1} backends killed while {pid} stood at the point"

    def _all(self, cell: Cell, pid: int, marks: Any) -> str:
        await_stopped(pid)
        killed = cell.bench.kill_all()
        if pid not in killed or cell.bench.exit_status != -signal.SIGKILL:
            raise DidNotHappenError(f"{pid} is not among {killed}, or the supervisor ended otherwise")
        return f"{len(killed)} processes killed while {pid} stood at the point"


def await_stopped(pid: int) -> None:
    """Until the process stands still."""
    patience = Patience(f"process {pid} does not stop")
    while state_of(pid) != "T":
        patience.pause()


def _still_expected(future: Future[None], what: str) -> None:
    if future.done():
        future.result()
        raise DidNotHappenError(f"the work was done without {what}")


# ---------------------------------------------------------------------------------------------------- object store


class StoreTrouble:
    """The object store misbehaves while the activity runs, and while a client reads what is only there."""

    store = "s3"

    def __init__(self, name: str, fault: StoreFault, amount: int = 0) -> None:
        self.name = name
        self._fault = fault
        self._amount = amount

    def prepare(self, cell: Cell) -> None:
        """Messages that can be read from the object store alone."""
        client = cell.client()
        for key in READABLE:
            client.append(key, date='"01-Jan-2090 00:00:00 +0000"')
        cell.until_uploaded()
        cell.bench.empty_local(cell.user)

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """See `Fault`."""
        proxy = cell.bench.proxy
        assert proxy is not None
        before = proxy.happened[self._fault]
        proxy.set(self._fault, self._amount)
        proxy.cut()  # connections that are kept open would not meet it
        try:
            future = start()
            answers = [self._read(cell, key) for key in READABLE]
            patience = Patience(f"nobody meets: {self.name}")
            while proxy.happened[self._fault] == before or not (future.done() or activity.needs_store):
                patience.pause()
        finally:
            proxy.set(StoreFault.OK)
            proxy.cut()
        return f"{proxy.happened[self._fault] - before} requests met it; reading meanwhile: {', '.join(answers)}"

    def _read(self, cell: Cell, key: str) -> str:
        """What is read now must be right, or not be there for now."""
        client = cell.client()
        answer = client.try_read(key, cell.books.body(key))
        client.close()
        if answer is False:
            cell.wrong_reads.add(f"INBOX/{key}")
        return {True: "right", False: "WRONG", None: "refused"}[answer]


# ---------------------------------------------------------------------------------------------------- disk


class FullDisk:
    """The file system of the node is full, PostgreSQL's included, until somebody was refused or the work is done."""

    name = "disk full"
    store = "directory"

    def prepare(self, cell: Cell) -> None:
        """It must be possible."""
        if cell.bench.full_disk:
            raise NotApplicableError(cell.bench.full_disk)

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """See `Fault`."""
        bench = cell.bench
        with bench.disk_full():
            before = cell.refused
            future = start()
            patience = Patience("nobody is refused")
            while not future.done() and cell.refused == before:
                patience.pause()
                bench.fill()  # what other processes let go meanwhile
            refused = cell.refused - before
            if not refused and not bench.is_full():
                raise DidNotHappenError("there was room again")
        return f"full to the last page; {refused or 'no'} commands refused, {'' if future.done() else 'not '}all done"


# ---------------------------------------------------------------------------------------------------- PostgreSQL


class PostgresGone:
    """Every connection to PostgreSQL is cut, and none is made for some seconds."""

    name = "PostgreSQL gone 5 s"
    store = "directory"

    def prepare(self, cell: Cell) -> None:
        """Nothing."""

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """See `Fault`."""
        with PostgresProxy(cell.bench.postgres_socket) as proxy:
            cell.bench.disconnect()
            cell.bench.come_back()
            future = start()
            cell.until("the work begins", lambda: future.done() or cell.begun)
            proxy.vanish()
            time.sleep(GONE_S)  # this is the fault itself
            proxy.return_()
            if not proxy.refused:
                raise DidNotHappenError("nobody was cut or refused")
            cell.bench.come_back()
            _finish(future)
            return f"{proxy.refused} connections cut or refused"


class PostgresHangs:
    """PostgreSQL stands still for some seconds."""

    name = "PostgreSQL hangs 5 s"
    store = "directory"

    def prepare(self, cell: Cell) -> None:
        """Nothing."""

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """See `Fault`."""
        future = start()
        cell.until("the work begins", lambda: future.done() or cell.begun)
        pids = cell.bench.postgres()
        _signal(pids, signal.SIGSTOP)
        try:
            time.sleep(GONE_S)  # this is the fault itself
        finally:
            _signal(pids, signal.SIGCONT)
        if not pids:
            raise DidNotHappenError("PostgreSQL did not run")
        return f"{len(pids)} processes stood still"


class LostAnswer:
    """PostgreSQL commits what the activity does; the connection ends before the answer is passed on.

    Args:
        times: Also the answer of the next one, which may be the second try of the same.
    """

    store = "directory"

    def __init__(self, name: str, times: int) -> None:
        self.name = name
        self._times = times

    def prepare(self, cell: Cell) -> None:
        """Nothing."""

    def inflict(self, cell: Cell, activity: Activity, start: Callable[[], Future[None]]) -> str:
        """See `Fault`."""
        with PostgresProxy(cell.bench.postgres_socket) as proxy:
            cell.bench.disconnect()
            cell.bench.come_back()
            proxy.lose(activity.statement, activity.application, self._times)
            future = start()
            patience = Patience("no answer is lost")
            while len(proxy.lost) < self._times:
                _still_expected(future, f"answers that are lost: {proxy.lost}")
                patience.pause()
            _finish(future)
            return f"lost: {'; '.join(proxy.lost)}"


def _finish(future: Future[None]) -> None:
    """The work ends while the proxy stands in the way: it need not be disturbed once more."""
    patience = Patience("the work does not end")
    while not future.done():
        patience.pause()


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


# ---------------------------------------------------------------------------------------------------- the columns

VICTIMS: Final = ("process", "all", "postgresql")
"""In this order a node is started anew between two deaths of the same process, as its restarts get slower."""

TROUBLES: Final[tuple[Fault, ...]] = (
    StoreTrouble("store refuses", StoreFault.REFUSE),
    StoreTrouble("store 503", StoreFault.UNAVAILABLE),
    StoreTrouble("store hangs", StoreFault.BLACK_HOLE),
    StoreTrouble("store lost reply", StoreFault.LOST_REPLY),
    StoreTrouble("store truncated read", StoreFault.TRUNCATE_REPLY, REPLY_OCTETS),
    StoreTrouble("store reset", StoreFault.RESET_REQUEST, REQUEST_OCTETS),
    FullDisk(),
    PostgresGone(),
    PostgresHangs(),
    LostAnswer("lost COMMIT answer", 1),
    LostAnswer("two lost COMMIT answers", 2),
)
