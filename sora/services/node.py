"""What the servers of one process share: configuration, database, bodies, delivery, login, changes, limits.

A worker makes one `Node` after the fork and hands it to every protocol. Opening one needs no database: a server whose
PostgreSQL is away starts, says "try again", and is well as soon as PostgreSQL is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sora.config import Config
    from sora.net.connection import Connections
    from sora.services.auth import Auth
    from sora.services.changes import Changes
    from sora.services.delivery import Delivery
    from sora.services.limits import Limits
    from sora.store.blobs import BlobStore
    from sora.store.bodies import Bodies
    from sora.store.staging import Staging
    from sora.store.store import Store


@dataclass(slots=True)
class Node:
    """The services of one process.

    Attributes:
        config: Replaced as a whole when a reload changes `live` keys: read a limit when it is needed.
        instance_id: Names this node's staging directory for ever, whatever the host is called.
        connections: Open connections of this process; give it to every `Connection`.
        store: SQL by noun; for queries.
        blobs: Object store.
        staging: Bodies on their way to the object store.
        bodies: Reads a body from wherever it is.
        delivery: LMTP and APPEND.
        auth: Logins.
        changes: What happened to a mailbox, from and to the other processes.
        limits: How many connections an address and an account may hold.
    """

    config: Config
    instance_id: str
    connections: Connections
    store: Store
    blobs: BlobStore
    staging: Staging
    bodies: Bodies
    delivery: Delivery
    auth: Auth
    changes: Changes
    limits: Limits
