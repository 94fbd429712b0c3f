"""The world of ManageSieve transcripts: accounts with scripts on a real store, sessions without sockets.

    given alice: work,home*         alice@example.com with scripts of these names; * marks the active one
    given cleartext: no             passwords need TLS
    given limits: bad_commands=3    the configuration's limits
    given sieve: max_scripts=2      and what it allows to scripts
    given database: away|back       PostgreSQL
    given active: alice work        alice's active script (checked); without a name: none
    given left: alice work,home     her scripts (checked)

Every script says `keep;`. Placeholders: `<login alice>`, the initial response of PLAIN for her.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sora.net.listener import Listener
from sora.protocols.managesieve import connection_factory
from sora.services.filters.scripts import quota_of
from sora.services.logins import passwords
from tests.support.pop3 import NoServer
from tests.support.transcripts import Link

if TYPE_CHECKING:
    from sora.services.node import Node
    from sora.types import AccountId

PASSWORD: Final = "secret word"
KEEP: Final = b"keep;\r\n"


class SieveWorld:
    """Accounts and sessions on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.accounts: dict[str, AccountId] = {}
        self.greeting: list[bytes] = []
        self._pool = node.store.db._pool
        self._at_hand = node.store.db._at_hand

    async def close(self) -> None:
        """Leave the node as it was, without the accounts."""
        await self._database("back")
        for account_id in self.accounts.values():
            await self.node.store.accounts.delete(account_id)

    async def given(self, text: str) -> None:
        """See the module's head."""
        subject, _, rest = text.partition(":")
        words = rest.split()
        if subject == "cleartext":
            self.set("auth", allow_cleartext=words == ["yes"])
        elif subject in ("limits", "sieve"):
            self.set(subject, **{name: int(value) for name, _, value in (word.partition("=") for word in words)})
        elif subject in ("database", "active", "left"):
            await getattr(self, f"_{subject}")(*words)
        else:
            await self.account(subject, rest.strip())

    def set(self, table: str, **changes: Any) -> None:
        """Change the configuration of the node."""
        new = msgspec.structs.replace(getattr(self.node.config, table), **changes)
        self.node.take_live(msgspec.structs.replace(self.node.config, **{table: new}))

    async def connect(self, number: int) -> Link:
        """A session behind its greeting."""
        link = Link(connection_factory(self.node, Listener("managesieve", "127.0.0.1:4190"))())
        self.greeting = [await link.read_line()]
        while self.greeting[-1].startswith(b'"'):
            self.greeting.append(await link.read_line())
        assert self.greeting[-1] == b'OK "Sora ready"', self.greeting
        return link

    async def value(self, name: str) -> str:
        """A placeholder's value."""
        what, _, who = name.partition(" ")
        assert what == "login", name
        return base64.b64encode(f"\0{who}@example.com\0{PASSWORD}".encode()).decode()

    async def account(self, name: str, scripts: str = "") -> AccountId:
        """An account with scripts."""
        hashed = passwords.hash_password(PASSWORD, passwords.HashCost(memory_kib=8, passes=1, lanes=1))
        account_id = await self.node.store.accounts.create(f"{name}@example.com", password_hash=hashed)
        self.accounts[name] = account_id
        for script in filter(None, scripts.split(",")):
            await self.node.store.scripts.put(account_id, script.rstrip("*"), KEEP, quota_of(self.node.config.sieve))
            if script.endswith("*"):
                await self.node.store.scripts.set_active(account_id, script.rstrip("*"))
        return account_id

    async def _database(self, state: str) -> None:
        database = self.node.store.db
        away = state == "away"
        database._pool = NoServer() if away else self._pool  # type: ignore[assignment]
        database._at_hand = [] if away else self._at_hand

    async def _active(self, name: str, script: str = "") -> None:
        found = await self.node.store.scripts.find_active(self.accounts[name])
        assert (found.name if found else "") == script

    async def _left(self, name: str, scripts: str = "") -> None:
        found = await self.node.store.scripts.list_scripts(self.accounts[name])
        assert ",".join(script.name for script in found) == scripts
