"""What a command that moves mail works with: the parts of a node without its servers.

It runs beside them on a node, as the same user, and stages bodies in the same directory: the uploader of the node takes
them from there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from msgspec import Struct

from sora.errors import ConfigError
from sora.services.changes import Changes
from sora.services.node import own_instance_id, own_peer_address
from sora.services.peers import Peers
from sora.store.account_keys import open_sealers
from sora.store.bodies import Bodies, open_staging
from sora.store.copies import BodyCopies
from sora.store.keyring import open_keyring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.config import Config
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.bodies import Source
    from sora.store.db import Database
    from sora.store.staging import Staging


class Offline(Struct, frozen=True):
    """See the fields of `services.node.Node`."""

    config: Config
    database: Database
    instance_id: str
    staging: Staging
    sealers: Sealers
    bodies: Bodies
    changes: Changes


@contextlib.asynccontextmanager
async def opened(config: Config, dsn: str, database: Database, blobs: BlobStore) -> AsyncIterator[Offline]:
    """The parts, closed in the end.

    Raises:
        ConfigError: A directory or keyring that cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            staging = open_staging(config)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        stack.callback(staging.close)
        instance_id = own_instance_id(config)
        sealers = open_sealers(open_keyring(config), database)
        copies = BodyCopies(database)
        before: list[Source] = [copies] if config.uploader.durability == "database" else []
        if own_peer_address(config):
            peers = Peers(database, instance_id)
            stack.callback(peers.close)
            before.append(peers)
        # No cache: what passes through here once would push out what users read every day.
        after = () if copies in before else (copies,)
        bodies = Bodies(None, staging, blobs, sealers, recent_bytes=0, before=before, after=after)
        stack.push_async_callback(bodies.close)
        changes = Changes(dsn)
        changes.start(listen=False)
        stack.push_async_callback(changes.close)
        yield Offline(config, database, instance_id, staging, sealers, bodies, changes)
