"""Admin operations on the installation: health, migrations, uploads, figures, configuration."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora import config as configuration
from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import NotFound, Refused, SoraError
from sora.store import migrate
from sora.store.uploads import list_stranded

if TYPE_CHECKING:
    from collections.abc import Awaitable

CHECK_TIMEOUT_S: Final = 10.0
_PROBE: Final = "health/probe"


class Health(Struct, frozen=True):
    """`ok`, or what is wrong, of each dependency."""

    postgresql: str
    object_store: str
    staging: str
    uploads: str
    outbound: str

    @property
    def well(self) -> bool:
        """True if all are ok."""
        return self.postgresql == self.object_store == self.staging == self.uploads == self.outbound == "ok"


class Migration(Struct, frozen=True):
    """One file of the schema."""

    name: str
    applied: bool


class Migrated(Struct, frozen=True):
    """What `migrate up` did."""

    applied: list[str]


class Stats(Struct, frozen=True):
    """Figures of the whole installation."""

    domains: int
    accounts: int
    mailboxes: int
    messages: int
    bytes: int
    pending_uploads: int
    database_bytes: int


class Checked(Struct, frozen=True):
    """A configuration that can be used."""

    ok: bool = True


async def health(ctx: AdminContext) -> Health:
    """Ask every dependency whether it works."""
    postgresql, object_store, staging, uploads, outbound = await asyncio.gather(
        _verdict(ctx.store.db.ping()),
        _verdict(_probe(ctx)),
        _verdict(asyncio.to_thread(_write_probe, ctx.config.uploader.staging_path)),
        _verdict(_nobody_is_stranded(ctx)),
        _verdict(_mail_can_leave(ctx)),
    )
    return Health(postgresql, object_store, staging, uploads, outbound)


async def migrate_up(ctx: AdminContext) -> Migrated:
    """Bring the schema of the database to this release."""
    return Migrated(list(await migrate.up(ctx.dsn)))


async def migrate_status(ctx: AdminContext) -> list[Migration]:
    """Show which files of the schema are applied."""
    return [Migration(step.name, step.applied) for step in await migrate.status(ctx.dsn)]


async def stats(ctx: AdminContext) -> Stats:
    """Show figures of the whole installation."""
    row = await ctx.store.db.fetchrow(
        """
        SELECT (SELECT count(*) FROM domains) AS domains,
          (SELECT count(*) FROM accounts WHERE deleted_at IS NULL) AS accounts,
          count(*) AS mailboxes, coalesce(sum(s.message_count), 0)::bigint AS messages,
          coalesce(sum(s.total_size), 0)::bigint AS bytes,
          (SELECT count(*) FROM pending_uploads) AS pending_uploads,
          pg_database_size(current_database()) AS database_bytes
        FROM mailboxes m JOIN mailbox_stats s USING (account_id, mailbox_id) JOIN accounts a USING (account_id)
        WHERE m.deleted_at IS NULL AND a.deleted_at IS NULL
        """
    )
    assert row is not None
    return Stats(**row)


async def config_dump(ctx: AdminContext) -> dict[str, Any]:
    """Show every key of the configuration with its value; secrets are masked."""
    return configuration.dump(ctx.config)


async def config_check(ctx: AdminContext) -> Checked:
    """Say whether the configuration can be used."""
    return Checked()


async def _verdict(check: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(check, CHECK_TIMEOUT_S)
    except TimeoutError:
        return f"no answer in {CHECK_TIMEOUT_S:.0f} s"
    except SoraError as error:
        return error.detail or error.text
    except OSError as error:
        return error.strerror or str(error)
    return "ok"


async def _probe(ctx: AdminContext) -> None:
    """The store answers: an object that is not there is an answer."""
    try:
        await ctx.blobs.stat(_PROBE)
    except NotFound:
        return


async def _nobody_is_stranded(ctx: AdminContext) -> None:
    """No body has its only copy on a node that is silent.

    Raises:
        Refused: Some have; it names the nodes.
    """
    if found := await list_stranded(ctx.store.db):
        nodes = (f"{node.uploads} on {node.host or 'an unknown host'} ({node.instance_id})" for node in found)
        raise Refused(f"bodies whose only copy is on a silent node: {', '.join(nodes)}")


async def _mail_can_leave(ctx: AdminContext) -> None:
    """No mail waits for a smarthost that there is not.

    Raises:
        Refused: Some does.
    """
    if not ctx.config.outbound.host and (pending := (await ctx.store.outbound.backlog()).pending):
        raise Refused(f"{pending} mails wait, and outbound.host is not set")


def _write_probe(path: str) -> None:
    """A file can be made, reaches the disk, and goes away again."""
    with tempfile.NamedTemporaryFile(dir=path, prefix=".health-") as file:
        file.write(b"sora")
        file.flush()
        os.fdatasync(file.fileno())
