"""What the demo makes inside the running system: schema, object store and accounts.

It runs in a child of the supervisor, once PostgreSQL accepts and before any server starts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sora.errors import AlreadyExists
from sora.server import child as children
from sora.server.prepare import is_new, prepare_store, require_keys
from sora.services.logins.passwords import hash_password
from sora.services.seat import wait_for_seat
from sora.store import migrate
from sora.store.db import Database
from sora.store.store import Store

if TYPE_CHECKING:
    from sora.server.child import Child, Process
    from sora.server.demofiles import Facts

PARALLEL: Final = 8


def run(child: Child, facts: Facts) -> int:
    """In a child of the supervisor: schema, object store and accounts."""

    async def main(process: Process) -> None:
        await migrate.up(child.dsn)
        await require_keys(child.config, child.dsn)
        if is_new(child.config):
            await prepare_store(child.config)
        await wait_for_seat(child.config, child.dsn)
        await _ensure_accounts(child.dsn, facts)

    return children.run(child, main)


async def _ensure_accounts(dsn: str, facts: Facts) -> None:
    """Every account with the demo's password. One hash serves all: it is one password, and everybody knows it."""
    password_hash = await asyncio.to_thread(hash_password, facts.password)
    database = await Database.open(dsn, min_size=1, max_size=PARALLEL, application_name="sora demo")
    try:
        accounts = Store(database).accounts
        waiting = iter(facts.addresses)

        async def work() -> None:
            for address in waiting:
                try:
                    await accounts.create(address, password_hash=password_hash)
                except AlreadyExists:
                    account = await accounts.get(address)
                    await accounts.set_password(account.account_id, password_hash)

        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(work())
    finally:
        await database.close()
