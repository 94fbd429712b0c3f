"""How many connections one address and one account may hold.

A connection takes a `Slot` and gives it back once; a slot is a context manager and its release is idempotent, so that
no path can count twice or not at all. Taking is one step, "count it unless that would pass the limit": a check
followed by an increment lets a burst through.

The counts themselves lie behind the small interface `Counts`: `LocalCounts` for one process, `SharedCounts` for all
processes that are forked from one supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import ipaddress
import mmap
import os
from typing import TYPE_CHECKING, Final, Protocol, Self

from sora.errors import LimitExceeded
from sora.services.logins.failures import MEMORY_BYTES as FAILURES_BYTES
from sora.services.logins.failures import Failures
from sora.services.logins.remembered import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sora.types import AccountId

_IPV6_SITE: Final = 64
"""One customer holds a whole /64: counting single IPv6 addresses would count nothing."""


class Counts(Protocol):
    """Numbers by key; `add` and `remove` are each one step."""

    @property
    def failures(self) -> Failures:
        """Failed logins, counted by the same processes."""

    def add(self, key: str, limit: int) -> bool:
        """Count one more for *key*, unless there are *limit* already; says whether it was counted."""

    def remove(self, key: str) -> None:
        """Undo one successful `add` of this process."""


class Slot:
    """One counted connection."""

    __slots__ = ("_counts", "_key")

    def __init__(self, counts: Counts, key: str | None) -> None:
        self._counts = counts
        self._key = key

    def release(self) -> None:
        """Give the slot back; the second call does nothing."""
        key, self._key = self._key, None
        if key is not None:
            self._counts.remove(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Limits:
    """The limits of a node.

    Args:
        per_address: connections of one client address, 0 = unlimited.
        per_account: logged-in connections of one account, 0 = unlimited.
        exempt_networks: addresses in these are not counted, such as proxies and webmail.
        counts: may be those of earlier `Limits` (a reload): slots that are out keep counting.
    """

    def __init__(
        self,
        *,
        per_address: int = 200,
        per_account: int = 50,
        exempt_networks: Sequence[str] = ("127.0.0.0/8", "::1/128"),
        counts: Counts | None = None,
    ) -> None:
        self._counts = LocalCounts() if counts is None else counts
        self._per_address = per_address
        self._per_account = per_account
        self._exempt = tuple(ipaddress.ip_network(network, strict=False) for network in exempt_networks)
        self.site = functools.lru_cache(maxsize=4096)(self._find_site)
        """What an address is counted under; None: it is exempt, or no IP address, and is not counted."""

    def connect(self, address: str) -> Slot:
        """A slot for a connection from *address*; behind a proxy this is the forwarded address.

        Args:
            address: text of an IP address; anything else (a UNIX socket's peer) is not counted.

        Raises:
            LimitExceeded: the address holds as many as it may.
        """
        site = self.site(address)
        if site is None:
            return Slot(self._counts, None)
        return self._take(f"address {site}", self._per_address, "Too many connections from your address")

    def login(self, account_id: AccountId) -> Slot:
        """A slot for a logged-in connection of an account.

        Raises:
            LimitExceeded: the account holds as many as it may.
        """
        return self._take(f"account {account_id}", self._per_account, "Too many connections of this account")

    def is_exempt(self, address: str) -> bool:
        """Is *address* inside an exempt network? IPv4 inside IPv6 (`::ffff:…`) counts as IPv4."""
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._exempt)

    def _find_site(self, address: str) -> str | None:
        return None if self.is_exempt(address) else site_of(address)

    def _take(self, key: str, limit: int, text: str) -> Slot:
        if limit <= 0:
            return Slot(self._counts, None)
        if not self._counts.add(key, limit):
            raise LimitExceeded(text, detail=f"{key}: {limit}")
        return Slot(self._counts, key)


class LocalCounts:
    """Counts of this process alone."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.failures = Failures()

    def add(self, key: str, limit: int) -> bool:
        """See `Counts`."""
        held = self._numbers.get(key, 0)
        if held >= limit:
            return False
        self._numbers[key] = held + 1
        return True

    def remove(self, key: str) -> None:
        """See `Counts`; a key with nothing left costs no memory."""
        held = self._numbers[key]
        if held > 1:
            self._numbers[key] = held - 1
        else:
            del self._numbers[key]

    def __len__(self) -> int:
        return len(self._numbers)


class SharedCounts:
    """Counts of all processes of a node, in memory that they share.

    Made before the fork; every process that counts calls `attach` after it. The memory is a table: rows are keys (their
    fingerprints, in small buckets), columns are processes, and each column lies in one piece. Rules:

    - Every change happens under one lock of the kernel (POSIX, on a byte of the memory file). A killed process lets go
      of it; it can leave at most one of its own numbers changed.
    - A process owns its column by a second such lock, held for life. A column whose lock is free belongs to the
      dead: its number in a row is wiped before anybody is refused because of it, and all when it is taken over.
    - A row whose numbers are all zero is free, whatever key stands in it.
    - A key whose bucket is full is let in uncounted: a limit must never become an outage.

    Args:
        buckets: each has room for eight keys.
        columns: processes that may count at a time.
        handed: what `hand_over` gave in a process that became this one; its numbers go on.
    """

    BUCKET_ROWS: Final = 8

    def __init__(self, *, buckets: int = 4096, columns: int = 64, handed: SharedMemory | None = None) -> None:
        if handed is not None:
            buckets, columns = handed.shape
        self._buckets = buckets
        self._columns = columns
        self._rows = buckets * self.BUCKET_ROWS
        self._fd = os.memfd_create("sora-limits", os.MFD_CLOEXEC) if handed is None else handed.fd
        size = self._rows * (8 + 2 * columns)
        os.ftruncate(self._fd, size + FAILURES_BYTES)
        self._memory = mmap.mmap(self._fd, size + FAILURES_BYTES)
        table = memoryview(self._memory)
        self._keys = table[: self._rows * 8].cast("Q")
        self._numbers = table[self._rows * 8 : size].cast("H")
        self._salt = os.urandom(16) if handed is None else handed.secret
        self.failures = Failures(table[size:], self._locked, self._salt)
        self._column: int | None = None
        self._uncounted: dict[str, int] = {}

    def hand_over(self) -> SharedMemory:
        """What this process needs to go on with the same numbers after it executed another program."""
        return SharedMemory(self._fd, (self._buckets, self._columns), self._salt)

    def attach(self) -> None:
        """Take a column for this process.

        Raises:
            LimitExceeded: more processes than columns.
        """
        with self._locked():
            for column in range(self._columns):
                if self._own(column):
                    self._column = column
                    start = column * self._rows
                    self._numbers[start : start + self._rows] = memoryview(bytes(2 * self._rows)).cast("H")
                    return
        raise LimitExceeded("Too many processes", detail=f"{self._columns} columns of connection counts are taken")

    def add(self, key: str, limit: int) -> bool:
        """See `Counts`."""
        with self._locked():
            row = self._find(key)
            if row is None:
                self._uncounted[key] = self._uncounted.get(key, 0) + 1
                return True
            if self._sum(row) >= limit:
                self._bury(row)
                if self._sum(row) >= limit:
                    return False
            self._keys[row] = self._fingerprint(key)
            self._numbers[self._cell(row)] += 1
            return True

    def remove(self, key: str) -> None:
        """See `Counts`."""
        if self._uncounted.get(key):
            self._uncounted[key] -= 1
            if not self._uncounted[key]:
                del self._uncounted[key]
            return
        with self._locked():
            row = self._find(key)
            if row is not None and self._numbers[self._cell(row)]:
                self._numbers[self._cell(row)] -= 1

    def close(self) -> None:
        """Give the column and the memory back."""
        self.failures.close()
        self._keys.release()
        self._numbers.release()
        self._memory.close()
        os.close(self._fd)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)

    def _own(self, column: int) -> bool:
        """Try for the lock of a column; a lock this process holds already is had again."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + column)
        except OSError:
            return False
        return True

    def _cell(self, row: int) -> int:
        """Where this process's number of a row is."""
        assert self._column is not None, "attach() comes first"
        return self._column * self._rows + row

    def _sum(self, row: int) -> int:
        return sum(self._numbers[row :: self._rows])

    def _bury(self, row: int) -> None:
        """Wipe the numbers that dead processes left in one row."""
        for column, number in enumerate(self._numbers[row :: self._rows]):
            if number and column != self._column and self._own(column):
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 1 + column)
                self._numbers[column * self._rows + row] = 0

    def _find(self, key: str) -> int | None:
        """The row of *key*, else a free row of its bucket, else None."""
        mark = self._fingerprint(key)
        start = (mark % self._buckets) * self.BUCKET_ROWS
        bucket = range(start, start + self.BUCKET_ROWS)
        for row in bucket:
            if self._keys[row] == mark:
                return row
        return next((row for row in bucket if not self._sum(row)), None)

    def _fingerprint(self, key: str) -> int:
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, key=self._salt).digest(), "little") or 1


def site_of(address: str) -> str | None:
    """The one form in which an address is counted: itself, or the /64 of an IPv6 address; None: it is no IP address."""
    parsed = _parse(address)
    if parsed is None or isinstance(parsed, ipaddress.IPv4Address):
        return None if parsed is None else str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
