"""What `sora-admin doctor` looks at: one function a check. What it says is what is wrong; None: all is well.

The table that names them, and what to do, is in `doctor.py`. A check that raises has found its dependency away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from sora.errors import DatabaseReadOnly, NotFound
from sora.services.recovery.mending import KINDS
from sora.store import migrate
from sora.store.account_keys import WrappedKeys
from sora.store.keyring import open_keyring
from sora.store.leases import DEAD_AFTER_S
from sora.store.readings import AHEAD
from sora.store.upkeep import Upkeep
from sora.store.uploads import list_stranded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.admin.context import AdminContext

NOTICE: Final = "notice"
WARNING: Final = "warning"
ERROR: Final = "error"

OLD_UPLOAD_S: Final = 900.0
OLD_MAIL_S: Final = 4 * 3600.0
OLD_KEY_S: Final = 3600.0
LONG_TRANSACTION_S: Final = 3600.0
CLOCK_S: Final = 5.0
CLOCK_FAR_S: Final = 60.0
CERTIFICATE_DAYS: Final = 21
ROOM: Final = 0.1
LITTLE_ROOM: Final = 0.03
CROWDED: Final = 0.8
OLD_TRANSACTIONS: Final = 1_000_000_000
"""PostgreSQL stops at two thousand millions, and vacuums by itself at two hundred."""
VERIFIED_DAYS: Final = 35
RECOVERY_S: Final = 300.0
RECOVERY_FAR_S: Final = 3600.0
JOURNAL_LATE: Final = 3
OLD_IMPORT_S: Final = 86400.0
LAST_UID: Final = 2**32
"""Nothing is reserved beyond it."""
QUEUED_TEXTS: Final = 100_000
_PROBE: Final = "health/probe"


class Trouble(Struct, frozen=True):
    """What is wrong.

    Attributes:
        level: `notice`: to know; `warning`: it gets worse; `error`: mail is late, or in danger.
        advice: What to do, where it is not what the check usually advises.
    """

    text: str
    level: str = ERROR
    advice: str = ""


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def postgresql(ctx: AdminContext) -> Trouble | None:
    """It answers, and takes writes."""
    try:
        await ctx.store.db.ping()
    except DatabaseReadOnly as error:
        return Trouble(f"read-only: {error.detail}", WARNING)
    if ctx.config.database.read_only:
        return Trouble("read-only: database.read_only is set on this node", WARNING)
    return None


async def migrations(ctx: AdminContext) -> Trouble | None:
    """The schema is that of this release."""
    found = await migrate.standing(ctx.dsn)
    if found.missing:
        return Trouble(f"{len(found.missing)} files are not applied: {_some(found.missing)}")
    if found.ahead:
        return Trouble(f"the schema is of a newer release than this node: {_some(found.ahead)}", WARNING)
    if found.waiting:
        return Trouble(f"{len(found.waiting)} files wait until all nodes are upgraded: {_some(found.waiting)}", NOTICE)
    return None


async def settings(ctx: AdminContext) -> Trouble | None:
    """No setting loses mail, or makes it slow."""
    rows = await ctx.store.db.fetch(
        """
        SELECT name, reset_val, pending_restart FROM pg_settings
        WHERE pending_restart OR name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'jit')
        """
    )
    now = {row["name"]: row["reset_val"] for row in rows}
    unsafe = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if now[name] == "off"]
    if unsafe:
        return Trouble(f"a crash of the machine loses mail: {', '.join(f'{name} = off' for name in unsafe)}")
    if now["autovacuum"] == "off":
        return Trouble("autovacuum = off: tables grow without end")
    waiting = [row["name"] for row in rows if row["pending_restart"]]
    if waiting:
        return Trouble(f"changed, and waiting for a restart of PostgreSQL: {', '.join(waiting)}", NOTICE)
    return Trouble("jit = on: it costs more than it gains here", NOTICE) if now["jit"] == "on" else None


async def connections(ctx: AdminContext) -> Trouble | None:
    """PostgreSQL has room for more connections."""
    row = await ctx.store.db.fetchrow(
        """
        SELECT count(*) AS used, current_setting('max_connections')::int AS most FROM pg_stat_activity
        WHERE backend_type = 'client backend'
        """
    )
    assert row is not None, "an aggregate is one row"
    if row["used"] < CROWDED * row["most"]:
        return None
    return Trouble(f"{row['used']} of {row['most']} connections are in use", WARNING)


async def transactions(ctx: AdminContext) -> Trouble | None:
    """No transaction is so old that nothing behind it can be vacuumed, and ids are not running out."""
    row = await ctx.store.db.fetchrow(
        """
        SELECT (SELECT max(age(datfrozenxid)) FROM pg_database) AS ids,
          (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
           FROM pg_stat_activity WHERE backend_type = 'client backend') AS longest_s,
          (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - prepared)), 0)::float8
           FROM pg_prepared_xacts) AS prepared_s
        """
    )
    assert row is not None, "a SELECT without FROM is one row"
    if row["ids"] > OLD_TRANSACTIONS:
        return Trouble(f"the oldest unfrozen transaction is {row['ids']:,} back: PostgreSQL stops at 2,147,483,648")
    if (oldest := max(row["longest_s"], row["prepared_s"])) > LONG_TRANSACTION_S:
        return Trouble(f"a transaction is open for {_age(oldest)}", WARNING)
    return None


async def clock(ctx: AdminContext) -> Trouble | None:
    """This machine and that of PostgreSQL agree on the time."""
    before = time.time()
    theirs: datetime = await ctx.store.db.fetchval("SELECT clock_timestamp()")
    apart = max(0.0, abs(theirs.timestamp() - (before + time.time()) / 2) - (time.time() - before) / 2)
    if apart < CLOCK_S:
        return None
    return Trouble(f"the clocks of this node and of PostgreSQL are {apart:.0f} s apart", _over(apart, CLOCK_FAR_S))


# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def nodes(ctx: AdminContext) -> Trouble | None:
    """Every node that has not said that it stops is heard of, and all run the same release."""
    rows = await ctx.store.db.fetch(
        """
        SELECT host, instance_id, version, extract(epoch FROM clock() - heartbeat_at)::float8 AS silent_s FROM instances
        WHERE stopped_at IS NULL ORDER BY host, instance_id
        """
    )
    dead = [row for row in rows if row["silent_s"] > DEAD_AFTER_S]
    if dead:
        names = [f"{row['host'] or row['instance_id']} ({_age(row['silent_s'])})" for row in dead]
        return Trouble(f"silent, and has not said that it stops: {_some(names)}", WARNING)
    versions = sorted({row["version"] for row in rows})
    return Trouble(f"nodes of several releases: {', '.join(versions)}", NOTICE) if len(versions) > 1 else None


async def leases(ctx: AdminContext) -> Trouble | None:
    """Somebody does the housekeeping, if any node is there."""
    if await Upkeep(ctx.store.db).leader() is not None:
        return None
    alive = await ctx.store.db.fetchval(
        """
        SELECT count(*) FROM instances WHERE stopped_at IS NULL AND heartbeat_at > clock() - make_interval(secs => $1)
          AND started_at < clock() - make_interval(secs => $1)
        """,
        DEAD_AFTER_S,
    )
    return Trouble(f"{alive} nodes live, and none has the lease of the housekeeping", WARNING) if alive else None


async def stranded(ctx: AdminContext) -> Trouble | None:
    """No body has its only copy on a node that is silent."""
    found = await list_stranded(ctx.store.db)
    if not found:
        return None
    names = (f"{node.uploads} on {node.host or 'an unknown host'} ({node.instance_id})" for node in found)
    return Trouble(f"bodies whose only copy is on a silent node: {', '.join(names)}")


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def object_store(ctx: AdminContext) -> Trouble | None:
    """It answers: an object that is not there is an answer."""
    try:
        await ctx.blobs.stat(_PROBE)
    except NotFound:
        return None
    return None


async def staging(ctx: AdminContext) -> Trouble | None:
    """A file can be made there, reaches the disk, and goes away again."""
    await asyncio.to_thread(_write_probe, ctx.config.uploader.staging_path)
    return None


async def uploads(ctx: AdminContext) -> Trouble | None:
    """Bodies reach the object store soon."""
    row = await ctx.store.db.fetchrow(
        """
        SELECT count(*) AS n, coalesce(extract(epoch FROM clock() - min(created_at)), 0)::float8 AS oldest_s,
          (SELECT last_error FROM pending_uploads WHERE last_error IS NOT NULL ORDER BY next_try DESC LIMIT 1) AS error
        FROM pending_uploads
        """
    )
    assert row is not None, "an aggregate is one row"
    if row["oldest_s"] < OLD_UPLOAD_S:
        return None
    why = f"; the last error: {row['error']}" if row["error"] else ""
    return Trouble(f"{row['n']} bodies wait for the object store, the oldest for {_age(row['oldest_s'])}{why}")


async def quarantine(ctx: AdminContext) -> Trouble | None:
    """No staged file was put aside."""
    folder = Path(ctx.config.uploader.staging_path) / "quarantine"
    count = await asyncio.to_thread(lambda: len(os.listdir(folder)) if folder.is_dir() else 0)
    return Trouble(f"{count} staged files were put aside: damaged, or without a message", WARNING) if count else None


async def orphans(ctx: AdminContext) -> Trouble | None:
    """The object store has nothing that the database does not know."""
    count, octets = await Upkeep(ctx.store.db).count_orphans()
    return Trouble(f"{count} objects ({octets:,} octets) without a row", NOTICE) if count else None


_LOST: Final = "Bring what is lost back from a backup of the bucket, then run `sora-admin verify --deep --repair`."
_LEFT: Final = "`Proving that nothing is missing` in README.md says what it means; it stays as it is."


async def verified(ctx: AdminContext) -> Trouble | None:
    """Everything was compared lately, and nothing is left to mend."""
    row = await ctx.store.db.fetchrow(
        """
        SELECT run_id, extract(epoch FROM clock() - finished_at)::float8 AS age_s FROM verify_runs
        WHERE finished_at IS NOT NULL AND account_id IS NULL ORDER BY run_id DESC LIMIT 1
        """
    )
    if row is None:
        return Trouble("the store was never verified", NOTICE)
    left = await ctx.store.db.fetch(
        """
        SELECT kind, count(*) AS n, bool_or(state = 'lost') AS lost,
          bool_or(state = 'found' AND kind <> 'object without row') AS mendable FROM verify_findings
        WHERE run_id = $1 AND state <> 'mended' GROUP BY 1 ORDER BY 1
        """,
        row["run_id"],
    )
    if left:
        names = ", ".join(f"{found['kind']} ({found['n']})" for found in left if found["kind"] in KINDS)
        lost = any(found["lost"] for found in left)
        advice = _LOST if lost else "" if any(found["mendable"] for found in left) else _LEFT
        return Trouble(f"left by the last run, {_age(row['age_s'])} ago: {names}", ERROR if lost else WARNING, advice)
    if row["age_s"] > VERIFIED_DAYS * 86400:
        return Trouble(f"the last run ended {_age(row['age_s'])} ago", NOTICE)
    return None


async def recovery_point(ctx: AdminContext) -> Trouble | None:
    """The journal in the object store is not far behind the database, and has all accounts."""
    if not ctx.config.journal.interval:
        return Trouble("journal.interval is 0: the database cannot be built anew from the object store", NOTICE)
    row = await ctx.store.db.fetchrow(
        """
        SELECT extract(epoch FROM clock() - recovery_point)::float8 AS age_s, skipped,
          extract(epoch FROM clock() - stopped_at)::float8 AS stopped_s,
          (SELECT coalesce(extract(epoch FROM clock() - min(started_at)), 0)::float8 FROM instances) AS served_s
        FROM journal_state
        """
    )
    assert row is not None, "the migration makes it"
    if row["stopped_s"] is not None:
        return Trouble(f"nothing is written to the journal for {_age(row['stopped_s'])}: it was turned off")
    if row["age_s"] is None:
        return Trouble("no segment of the journal was ever closed", ERROR if row["served_s"] > RECOVERY_S else NOTICE)
    if row["age_s"] > max(RECOVERY_S, JOURNAL_LATE * ctx.config.journal.interval):
        text = f"the journal was closed {_age(row['age_s'])} ago: what came later is in the database alone"
        return Trouble(text, _over(row["age_s"], RECOVERY_FAR_S))
    if row["skipped"]:
        return Trouble(f"the journal leaves {row['skipped']} accounts out: their keys cannot be had", ERROR)
    return None


async def reservations(ctx: AdminContext) -> Trouble | None:
    """The journal reserves UIDs and modseqs before they are needed: at the end of what it has, mail is refused."""
    near = await ctx.store.db.fetchval(
        """
        SELECT count(*) FROM mailbox_stats s
        WHERE uid_next > uid_reserved - $1 AND uid_reserved < $2 OR highest_modseq > modseq_reserved - $1
        """,
        AHEAD // 16,
        LAST_UID,
    )
    return Trouble(f"{near} mailboxes have nearly used up what the journal has reserved for them") if near else None


async def unfinished(ctx: AdminContext) -> Trouble | None:
    """What was begun to be moved in or built anew has come to its end."""
    if await ctx.store.db.fetchval("SELECT EXISTS (SELECT 1 FROM rebuild_state WHERE finished_at IS NULL)"):
        return Trouble("the database is not yet built anew from the object store")
    rows = await ctx.store.db.fetch(
        """
        SELECT a.address, i.source FROM imports i JOIN accounts a USING (account_id)
        WHERE i.finished_at IS NULL AND i.started_at < clock() - make_interval(secs => $1) ORDER BY 1, 2 LIMIT 100
        """,
        OLD_IMPORT_S,
    )
    if not rows:
        return None
    return Trouble(f"imports without an end: {_some([f'{row[1]} to {row[0]}' for row in rows])}", NOTICE)


async def backups(ctx: AdminContext) -> Trouble | None:
    """WAL that is to be archived is, and the bucket keeps what a restore may go back to."""
    row = await ctx.store.db.fetchrow(
        """
        SELECT current_setting('archive_mode') <> 'off' AS archives, last_failed_wal AS wal, failed_count AS n,
          extract(epoch FROM clock_timestamp() - last_archived_time)::float8 AS age_s,
          coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) AS failing
        FROM pg_stat_archiver
        """
    )
    assert row is not None, "the view has one row"
    if not row["archives"]:
        return Trouble("PostgreSQL archives no WAL: it cannot be restored to a moment", NOTICE)
    if row["failing"]:
        since = "never worked" if row["age_s"] is None else f"worked {_age(row['age_s'])} ago"
        return Trouble(f"archive_command fails with {row['wal']} ({row['n']} times), and last {since}")
    if not ctx.config.cleanup.recovery_window:
        days = ctx.config.cleanup.grace_period / 86400
        return Trouble(f"cleanup.recovery_window is not set: bodies are kept for restores of {days:g} days", NOTICE)
    return None


# ── this node ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def room(ctx: AdminContext) -> Trouble | None:
    """The disks have room."""
    return await asyncio.to_thread(_room, ctx)


async def certificates(ctx: AdminContext) -> Trouble | None:
    """Every certificate can be read, belongs to its key, and stays valid for a while."""
    found = await asyncio.to_thread(lambda: list(_certificates(ctx)))
    return max(found, key=lambda trouble: (trouble.level == ERROR, trouble.level == WARNING), default=None)


async def keys(ctx: AdminContext) -> Trouble | None:
    """The keyring has the master keys that the database needs, and the object store has the wrapped keys."""
    keyring = await asyncio.to_thread(open_keyring, ctx.config)
    uses = await WrappedKeys(ctx.store.db).uses()
    have = {key.id: key.fingerprint for key in keyring.keys} if keyring is not None else {}
    missing = [f"{use.key_id} ({use.accounts} accounts)" for use in uses if use.key_id not in have]
    if missing:
        return Trouble(f"mail cannot be read without master keys that are not in the keyring: {_some(missing)}")
    rows = await ctx.store.db.fetch("SELECT key_id, fingerprint FROM master_keys")
    other = [row["key_id"] for row in rows if have.get(row["key_id"], row["fingerprint"]) != row["fingerprint"]]
    if other:
        return Trouble(f"master keys with other octets than this database knows: {_some(other)}")
    late = await ctx.store.db.fetchval(
        "SELECT count(*) FROM account_keys WHERE stored_at IS NULL AND created_at < clock() - make_interval(secs => $1)"
        " AND EXISTS (SELECT 1 FROM message_contents c WHERE c.account_id = account_keys.account_id"
        " AND c.uploaded_at IS NOT NULL)",
        OLD_KEY_S,
    )
    return Trouble(f"the keys of {late} accounts are not in the object store", WARNING) if late else None


async def shreddings(ctx: AdminContext) -> Trouble | None:
    """What was to be shredded is."""
    left = await ctx.store.db.fetchval(
        "SELECT count(*) FROM shreddings WHERE finished_at IS NULL AND requested_at < clock() - interval '1 h'"
    )
    return Trouble(f"{left} accounts are being shredded for more than an hour", WARNING) if left else None


async def outbound(ctx: AdminContext) -> Trouble | None:
    """Mail that scripts send can leave."""
    waits = await ctx.store.outbound.backlog()
    if not ctx.config.outbound.host:
        return Trouble(f"{waits.pending} mails wait, and outbound.host is not set") if waits.pending else None
    if down := await ctx.store.outbound.unreached():
        nodes = "; ".join(f"{one.node}, since {one.since:%Y-%m-%d %H:%M} UTC: {one.error}" for one in down)
        return Trouble(f"the smarthost {ctx.config.outbound.host} cannot be reached by {nodes}")
    if waits.pending and waits.failing == waits.pending and waits.oldest_s > OLD_UPLOAD_S:
        return Trouble(f"the smarthost takes nothing: {waits.pending} mails wait, all of them failed", WARNING)
    if waits.oldest_s < OLD_MAIL_S:
        return None
    return Trouble(
        f"{waits.pending} mails wait for the smarthost, {waits.failing} were refused or failed; the oldest for"
        f" {_age(waits.oldest_s)}",
        WARNING,
    )


async def search(ctx: AdminContext) -> Trouble | None:
    """New mail gets into the full-text index."""
    count = await ctx.store.db.fetchval("SELECT count(*) FROM search_queue")
    return Trouble(f"{count:,} messages wait for the full-text index", WARNING) if count > QUEUED_TEXTS else None


# ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_probe(path: str) -> None:
    with tempfile.NamedTemporaryFile(dir=path, prefix=".health-") as file:
        file.write(b"sora")
        file.flush()
        os.fdatasync(file.fileno())


def _room(ctx: AdminContext) -> Trouble | None:
    config = ctx.config
    folders = {
        "staging": config.uploader.staging_path,
        "cache": config.local_cache.path if config.local_cache.capacity else "",
        "PostgreSQL": config.database.embedded,
        "objects": config.object_store.path if config.object_store.kind == "directory" else "",
        "runtime": config.process.runtime_path,
    }
    full: dict[str, float] = {}
    for name, folder in folders.items():
        if folder and Path(folder).is_dir():
            usage = shutil.disk_usage(folder)
            full[name] = usage.free / usage.total
    tight = [f"{name} {share:.0%}" for name, share in full.items() if share < ROOM]
    if not tight:
        return None
    return Trouble(f"free room: {', '.join(tight)}", ERROR if min(full.values()) < LITTLE_ROOM else WARNING)


def _certificates(ctx: AdminContext) -> Iterator[Trouble]:
    now = datetime.now(UTC)
    for name, server in ctx.config.servers.items():
        if not server.tls_cert:
            continue
        try:
            certificate = x509.load_pem_x509_certificate(Path(server.tls_cert).read_bytes())
            key = serialization.load_pem_private_key(Path(server.tls_key).read_bytes(), None)
        except OSError as error:
            yield Trouble(f"servers.{name}: {error.filename}: {error.strerror}")
            continue
        except (ValueError, TypeError) as error:
            yield Trouble(f"servers.{name}: {server.tls_cert} and its key cannot be read: {error}")
            continue
        ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        if key.public_key() != certificate.public_key():
            yield Trouble(f"servers.{name}: {server.tls_key} is not the key of {server.tls_cert}")
        elif ends <= now:
            yield Trouble(f"servers.{name}: {server.tls_cert} expired {ends:%Y-%m-%d}")
        elif begins > now:
            yield Trouble(f"servers.{name}: {server.tls_cert} is not valid before {begins:%Y-%m-%d %H:%M}")
        elif ends < now + timedelta(days=CERTIFICATE_DAYS):
            yield Trouble(f"servers.{name}: {server.tls_cert} expires {ends:%Y-%m-%d}", WARNING)


def _over(value: float, bound: float) -> str:
    return ERROR if value > bound else WARNING


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
