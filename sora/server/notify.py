"""The two sides of systemd's protocol that a service needs, from the standard library.

`sd_notify(3)`: one datagram of `KEY=value` lines to the socket in NOTIFY_SOCKET. `sd_listen_fds(3)`: sockets opened by
systemd, from descriptor 3 on, if LISTEN_PID is this process.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Final

from sora import log

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_logger = log.get(__name__)
FIRST_FD: Final = 3
SEND_TIMEOUT_S: Final = 5.0
"""A manager that does not read for so long is not waited for: the children need us more."""


def notify(*lines: str) -> bool:
    """Tell the service manager; False if there is none or it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_TIMEOUT_S)
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _logger.warning("service manager not told", extra={"detail": str(error)})
        return False
    return True


def ready(status: str) -> None:
    """Start or reload is done."""
    notify("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")


def reloading() -> None:
    """A reload begins; the time stamp lets the manager match it with its own request."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping() -> None:
    """A stop begins."""
    notify("STOPPING=1")


def alive() -> None:
    """The watchdog need not bite."""
    notify("WATCHDOG=1")


def watchdog_interval(environment: MutableMapping[str, str] | None = None) -> float:
    """Seconds between two `WATCHDOG=1`, half of what the manager allows; 0: no watchdog."""
    environment = os.environ if environment is None else environment
    if environment.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return 0.0
    usec = environment.get("WATCHDOG_USEC", "")
    return int(usec) / 2e6 if usec.isascii() and usec.isdigit() else 0.0


def take_listen_fds(environment: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """Listening sockets that the service manager opened for this process; asked once, the variables go away."""
    environment = os.environ if environment is None else environment
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    sockets = [socket.socket(fileno=FIRST_FD + number) for number in range(int(count))]
    for sock in sockets:
        sock.set_inheritable(False)
        sock.setblocking(False)
    return sockets
