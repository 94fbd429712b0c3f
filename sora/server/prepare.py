"""What must be there before the first process starts; runs in a child of the supervisor, once PostgreSQL accepts."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from sora import log
from sora.errors import BlobDown, ConfigError, NotFound, Unavailable
from sora.server import child as children
from sora.services import rotation
from sora.services.node import INSTANCE_FILE
from sora.services.seat import wait_for_seat
from sora.store import journal, migrate
from sora.store.account_keys import WrappedKeys
from sora.store.bodies import open_blob_store
from sora.store.db import Database
from sora.store.keyring import open_keyring
from sora.store.rebuilding import Rebuilding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sora.config import Config
    from sora.server.child import Child, Process
    from sora.store.blobs import BlobEntry, BlobStore

_logger = log.get(__name__)


def run(child: Child) -> int:
    """Schema of an embedded database, object store of a new node, and whether the node may live here."""

    async def main(process: Process) -> None:
        if child.config.database.embedded:
            # It belongs to us: its schema is kept up to date without asking. Any other is the administrator's.
            await migrate.up(child.dsn)
        else:
            await require_schema(child.dsn)
        await require_whole(child.dsn)
        await require_known_journal(child.config, child.dsn)
        await require_keys(child.config, child.dsn)
        if is_new(child.config):
            await prepare_store(child.config)
        await wait_for_seat(child.config, child.dsn)

    return children.run(child, main)


async def require_schema(dsn: str) -> None:
    """See that a database of the administrator's has the schema of this release; one that is away is believed.

    Raises:
        ConfigError: It has an older one, or none, or one of a release that took away what this one needs.
    """
    try:
        found = await migrate.standing(dsn)
    except Unavailable as error:
        _logger.warning("schema not checked", extra={"detail": str(error)})
        return
    if found.missing:
        raise ConfigError("the schema is missing or old: run `sora-admin migrate up`", detail=", ".join(found.missing))
    if found.ahead:
        _logger.warning("the schema is of a newer release", extra={"detail": ", ".join(found.ahead)})


async def require_whole(dsn: str) -> None:
    """See that the database is not being built anew from the bucket; one that is away is believed.

    Raises:
        ConfigError: It is, and a server would take what is there for all there was.
    """
    database = await Database.open(dsn, min_size=0, max_size=1, application_name="sora prepare")
    try:
        state = await Rebuilding(database).state()
    except Unavailable as error:
        _logger.warning("not asked whether the database is whole", extra={"detail": str(error)})
        return
    finally:
        await database.close()
    if state is not None and state.finished_at is None:
        raise ConfigError("the database is being built anew: run `sora-admin import s3` to its end")


async def require_known_journal(config: Config, dsn: str) -> None:
    """See that an empty database does not write over the journal of one that was lost; what is away is believed.

    Raises:
        ConfigError: It would.
    """
    database = await Database.open(dsn, min_size=0, max_size=1, application_name="sora prepare")
    blobs = open_blob_store(config.object_store)
    try:
        if not await Rebuilding(database).is_untouched():
            return
        async with aclosing(_entries(blobs, journal.PREFIX)) as entries:
            async for entry in entries:
                if journal.parse_segment_key(entry.key) is not None:
                    raise ConfigError(
                        "the database is empty, and the bucket has the journal of another one: build it anew by "
                        "`sora-admin import s3`, or remove `journal/` from the bucket"
                    )
    except (Unavailable, NotFound) as error:
        _logger.warning("not asked whether the bucket has a journal", extra={"detail": str(error)})
    finally:
        blobs.close()
        await database.close()


async def _entries(blobs: BlobStore, prefix: str) -> AsyncGenerator[BlobEntry]:
    async for entry in blobs.list(prefix):
        yield entry


async def require_keys(config: Config, dsn: str) -> None:
    """See that the keyring and the database belong together; a database that is away is believed.

    Raises:
        ConfigError: They do not, or the keyring cannot be used.
    """
    try:
        await check_keys(config, dsn)
    except Unavailable as error:
        _logger.warning("keyring not compared with the database", extra={"detail": str(error)})


async def check_keys(config: Config, dsn: str) -> None:
    """`require_keys`, but a database that is away is an error.

    Raises:
        ConfigError: See `require_keys`.
        Unavailable: The database is away.
    """
    keyring = open_keyring(config)
    database = await Database.open(dsn, min_size=0, max_size=1, application_name="sora prepare")
    try:
        await rotation.check(WrappedKeys(database), keyring)
    finally:
        await database.close()


def is_new(config: Config) -> bool:
    """True if this node never ran. Later a missing bucket or directory is an outage: making it would hide that."""
    return not (Path(config.uploader.staging_path) / INSTANCE_FILE).exists()


async def prepare_store(config: Config) -> None:
    """Make the bucket or directory of a new node; a store that is away is made by its operator later."""
    blobs = open_blob_store(config.object_store)
    try:
        await blobs.prepare()
    except BlobDown as error:
        # Mail is taken all the same, and uploaded later.
        _logger.warning("object store not prepared", extra={"detail": str(error)})
    finally:
        blobs.close()
