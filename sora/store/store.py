"""Everything that is kept in PostgreSQL, by noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.store.accounts import Accounts
from sora.store.acl import Acl
from sora.store.domains import Domains
from sora.store.effects import FilterMemory
from sora.store.events import Events
from sora.store.leases import Leases
from sora.store.mailboxes import Mailboxes
from sora.store.messages import Messages
from sora.store.metadata import Metadata
from sora.store.objectids import ObjectIds
from sora.store.outbound import Outbound
from sora.store.scripts import Scripts
from sora.store.search import Search
from sora.store.similar import Similar
from sora.store.transfers import Transfers
from sora.store.trees import Trees
from sora.store.undelete import Undelete

if TYPE_CHECKING:
    from sora.store.db import Database


class Store:
    """The repositories over one `Database`.

    Attributes:
        db: for what has no repository of its own.
    """

    __slots__ = (
        "accounts",
        "acl",
        "db",
        "domains",
        "events",
        "filter_memory",
        "leases",
        "mailboxes",
        "messages",
        "metadata",
        "object_ids",
        "outbound",
        "scripts",
        "search",
        "similar",
        "transfers",
        "trees",
        "undelete",
    )

    def __init__(self, db: Database) -> None:
        self.db = db
        self.accounts = Accounts(db)
        self.acl = Acl(db)
        self.domains = Domains(db)
        self.events = Events(db)
        self.filter_memory = FilterMemory(db)
        self.leases = Leases(db)
        self.mailboxes = Mailboxes(db)
        self.messages = Messages(db)
        self.metadata = Metadata(db)
        self.object_ids = ObjectIds(db)
        self.outbound = Outbound(db)
        self.scripts = Scripts(db)
        self.search = Search(db)
        self.similar = Similar(db)
        self.trees = Trees(db)
        self.transfers = Transfers(db)
        self.undelete = Undelete(db)
