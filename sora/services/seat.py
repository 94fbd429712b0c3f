"""Whether this node may live under its name: a copy of its disk must not, while it lives itself.

The name is kept in the staging directory, because it stands for what is staged there. Whoever copies the directory (a
cloned machine, a restored snapshot) copies the name. Such a process would store mail under a name whose rows lead to
another disk, so it is refused at the start, and fenced if it is noticed later.

The seat tells the two apart: this boot of this machine, and the very file that has the name. A restart keeps its seat,
and goes on at once. Any other seat has to wait until the node was silent for `DEAD_AFTER_S`, unless it had said that it
stops; if the node is heard of meanwhile, it lives, and the other one is the copy.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import ConfigError, Unavailable
from sora.services.node import INSTANCE_FILE, open_database, own_instance_id
from sora.store.leases import DEAD_AFTER_S, Leases

if TYPE_CHECKING:
    from sora.config import Config
    from sora.store.leases import Instance

LOOK_S: Final = 1.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = log.get(__name__)


def own_seat(config: Config) -> str:
    """This machine since it was booted, and the file with the node's name; empty where no copy could meet us.

    Raises:
        ConfigError: The staging directory cannot be used.
    """
    if config.database.embedded:
        return ""  # nobody else reaches this database
    own_instance_id(config)
    try:
        machine = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        machine = socket.gethostname()
    found = (Path(config.uploader.staging_path) / INSTANCE_FILE).stat()
    return hashlib.blake2b(f"{machine} {found.st_dev} {found.st_ino}".encode(), digest_size=16).hexdigest()


async def wait_for_seat(config: Config, dsn: str) -> None:
    """Return when this node may start; a database that is away is asked again by the janitor.

    Raises:
        ConfigError: The node lives somewhere else.
    """
    if config.database.embedded:
        return
    database = await open_database(config, dsn, "sora seat")
    try:
        await wait_until_free(Leases(database), own_instance_id(config), own_seat(config), config)
    except Unavailable as error:
        _log.warning("the seat of this node was not looked at", extra={"detail": str(error)})
    finally:
        await database.close()


async def wait_until_free(
    leases: Leases, instance_id: str, seat: str, config: Config, *, look_s: float = LOOK_S
) -> None:
    """See `wait_for_seat`."""
    before: Instance | None = None
    while (found := await leases.find_instance(instance_id)) is not None and _is_taken(found, seat):
        if before is None:
            _log.warning("waiting until this node's former seat is silent", extra={"seat_host": found.host})
        elif found.silent_s < before.silent_s or found.incarnation != before.incarnation:
            raise ConfigError(
                f"this node ({instance_id}) lives on {found.host}: "
                f"{config.uploader.staging_path} is a copy of its staging directory, or the original of a copy. "
                f"Move it away, the file {INSTANCE_FILE} included, and this becomes a node of its own; "
                "delete it only when `sora-admin uploads verify` finds every body, which it may have alone"
            )
        before = found
        await asyncio.sleep(look_s)


def _is_taken(found: Instance, seat: str) -> bool:
    return found.seat != seat and not found.stopped and not found.fenced and found.silent_s < DEAD_AFTER_S
