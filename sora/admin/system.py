"""Admin operations on the installation: health, migrations, uploads, figures, configuration."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct

from sora import config as configuration
from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.admin.doctor import diagnose
from sora.store import migrate


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
    """One file of the schema.

    Attributes:
        contract: The oldest release that can do without what the file takes away; empty: it takes nothing away.
    """

    name: str
    applied: bool
    contract: str = ""


class Migrated(Struct, frozen=True):
    """What `migrate up` did.

    Attributes:
        waiting: Files that take something away from nodes of an older release that still run; give it again later.
    """

    applied: list[str]
    waiting: list[str]


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
    found = await asyncio.gather(
        *(diagnose(ctx, name) for name in ("postgresql", "object store", "staging", "stranded", "outbound"))
    )
    return Health(*(row.what or row.level for row in found))


async def migrate_up(ctx: AdminContext) -> Migrated:
    """Bring the schema of the database to this release."""
    applied = await migrate.up(ctx.dsn)
    return Migrated(applied, (await migrate.standing(ctx.dsn)).waiting)


async def migrate_status(ctx: AdminContext) -> list[Migration]:
    """Show which files of the schema are applied."""
    return [Migration(step.name, step.applied, step.contract) for step in await migrate.status(ctx.dsn)]


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
