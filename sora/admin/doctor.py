"""`sora-admin doctor`: a table of checks, and what to do if one fails.

Exit codes: 0 all is well, or there are notices only; 3 PostgreSQL or the object store does not answer; 4 warnings; 5
errors.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
from msgspec import Struct

from sora.admin import checkups
from sora.admin.checkups import ERROR, WARNING, Trouble
from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import SoraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHECK_TIMEOUT_S: Final = 10.0
WELL: Final = "ok"
UNKNOWN: Final = "unknown"
DOWN: Final = 3
WARNED: Final = 4
FAILED: Final = 5


class Check(NamedTuple):
    """A row of the table.

    Attributes:
        advice: What to do if it fails.
        alone: It needs no database; the others are not made if PostgreSQL is away.
    """

    run: Callable[[AdminContext], Awaitable[Trouble | None]]
    advice: str
    alone: bool = False


CHECKS: Final[dict[str, Check]] = {
    "postgresql": Check(
        checkups.postgresql, "Start it, or correct [database]; see `Read-only mode` in README.md.", alone=True
    ),
    "migrations": Check(
        checkups.migrations, "Run `sora-admin migrate up` of the newest release; upgrade nodes that are behind."
    ),
    "settings": Check(checkups.settings, "Correct postgresql.conf, then restart PostgreSQL."),
    "connections": Check(
        checkups.connections, "Raise max_connections, or lower database.pool_size or process.workers."
    ),
    "transactions": Check(
        checkups.transactions, "End the session that pg_stat_activity shows, or the prepared transaction; then VACUUM."
    ),
    "clock": Check(checkups.clock, "Let an NTP service set the clocks of all machines."),
    "nodes": Check(
        checkups.nodes,
        "Look at the node; if it is gone for good, `sora-admin uploads adopt` with its staging directory.",
    ),
    "leases": Check(checkups.leases, "Look at the log of the janitors; `soractl status` shows whether they run."),
    "stranded": Check(
        checkups.stranded, "Start that node again, or run `sora-admin uploads adopt` with its staging directory."
    ),
    "object store": Check(
        checkups.object_store, "Mail is accepted and waits in staging: bring it back before that is full.", alone=True
    ),
    "staging": Check(checkups.staging, "No mail is accepted: mount the disk, correct its owner.", alone=True),
    "uploads": Check(
        checkups.uploads, "`sora-admin uploads status` shows where; when the cause is gone, `sora-admin uploads retry`."
    ),
    "quarantine": Check(
        checkups.quarantine, "`sora-admin uploads quarantine` lists them; `sora-admin verify --repair` uses good ones."
    ),
    "orphans": Check(
        checkups.orphans, "`sora-admin cleanup orphans` lists them; they stay unless cleanup.orphan_grace is set."
    ),
    "verified": Check(checkups.verified, "Run `sora-admin verify --deep --repair`."),
    "backups": Check(checkups.backups, "See `Backup and restore` in README.md; a full disk of WAL stops PostgreSQL."),
    "recovery point": Check(
        checkups.recovery_point, "`sora-admin journal status` shows more, the log of the janitors why."
    ),
    "reservations": Check(
        checkups.reservations, "`sora-admin journal status` shows how old it is; look at the log of the janitors."
    ),
    "unfinished": Check(checkups.unfinished, "Give the same `sora-admin import` again: it goes on where it stopped."),
    "room": Check(
        checkups.room, "Make room, or make local_cache.capacity and uploader.max_staging_size smaller.", alone=True
    ),
    "certificates": Check(checkups.certificates, "Renew them, then `soractl reload`.", alone=True),
    "keys": Check(checkups.keys, "Put the keyring back from its safe copy; without its keys that mail is lost."),
    "shreddings": Check(checkups.shreddings, "`sora-admin keys shred` again; the log of the janitors says why."),
    "outbound": Check(checkups.outbound, "Set [outbound] host; `sora-admin queue list` shows what waits, and why."),
    "search": Check(checkups.search, "Look at the log of the janitors, which fill the index."),
}
"""By name, the most important first."""


class Diagnosis(Struct, frozen=True):
    """The outcome of one check.

    Attributes:
        level: `ok`, `notice`, `warning`, `error`, or `unknown`: PostgreSQL is away.
        advice: What to do; empty if all is well.
    """

    check: str
    level: str
    what: str = ""
    advice: str = ""


async def doctor(ctx: AdminContext) -> list[Diagnosis]:
    """Say what is wrong with the installation, and what to do."""
    first = await diagnose(ctx, "postgresql")
    names = [name for name in CHECKS if name != "postgresql"]
    if first.level != ERROR:
        return [first, *await asyncio.gather(*(diagnose(ctx, name) for name in names))]
    alone = await asyncio.gather(*(diagnose(ctx, name) for name in names if CHECKS[name].alone))
    return [first, *alone, *(Diagnosis(name, UNKNOWN) for name in names if not CHECKS[name].alone)]


async def diagnose(ctx: AdminContext, name: str) -> Diagnosis:
    """Make one check. One that raises has failed, whatever its level would be otherwise."""
    check = CHECKS[name]
    try:
        trouble = await asyncio.wait_for(check.run(ctx), CHECK_TIMEOUT_S)
    except TimeoutError:
        trouble = Trouble(f"no answer in {CHECK_TIMEOUT_S:.0f} s")
    except SoraError as error:
        trouble = Trouble(error.detail or error.text)
    except asyncpg.PostgresError as error:
        trouble = Trouble(str(error))
    except OSError as error:
        trouble = Trouble(error.strerror or str(error))
    if trouble is None:
        return Diagnosis(name, WELL)
    return Diagnosis(name, trouble.level, trouble.text, trouble.advice or check.advice)


def failed(found: list[Diagnosis]) -> int:
    """The exit code, see above."""
    levels = {row.check: row.level for row in found}
    if ERROR in (levels["postgresql"], levels["object store"]):
        return DOWN
    if ERROR in levels.values():
        return FAILED
    return WARNED if WARNING in levels.values() else 0
