"""The world of POP3 transcripts: accounts with an INBOX on a real store, sessions without sockets.

    given alice: 3                  alice@example.com with so many plain messages, password "secret word"
    given alice: dots,bare          or with these of `SAMPLES`
    given cleartext: no             passwords need TLS
    given limits: bad_commands=3    the configuration's limits
    given database: away|back       PostgreSQL
    given objects: away|back        bodies
    given expunged: alice 2         somebody else removes the message with this UID
    given stolen: alice             somebody else has taken alice's maildrop
    given waited: alice             her login delay is over
    given no inbox: alice           her INBOX is gone
    given left: alice 1,3           these UIDs are in her INBOX (checked)

Placeholders: `<id UID>`, the unique id of alice's message; `<total>`, octets of what `given alice` stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sora._native.seqset import UidSet
from sora.errors import BlobDown
from sora.net.listener import Listener
from sora.protocols.pop3 import connection_factory
from sora.services.delivery import AppendItem
from sora.services.logins import passwords
from sora.store import leases
from tests.support.transcripts import Link

if TYPE_CHECKING:
    from sora.services.node import Node
    from sora.store.blobs import BlobRef
    from sora.types import AccountId

PASSWORD: Final = "secret word"


def plain(number: int) -> bytes:
    """A plain message, the same for the same number; 33 octets for one digit."""
    return b"Subject: %d\r\n\r\nOne\r\nTwo\r\nThree %d\r\n" % (number, number)


SAMPLES: Final[dict[str, bytes]] = {
    "dots": b".Subject: dots\r\n\r\n.\r\n..\r\n.a\r\nb.\r\n",
    "bare": b"Subject: bare\n\n.\nmore\n..\nno end",
    "headless": b"\r\nonly a body\r\n",
    "bodiless": b"Subject: no blank line\r\n",
    "empty": b"\r\n",
    "utf8": "Subject: Grüße\r\n\r\nÄ\r\n".encode(),
}


class NoServer:
    """A pool whose PostgreSQL is away."""

    async def acquire(self, **_: object) -> Any:
        raise ConnectionRefusedError


class NoBodies:
    """An object store that is away, and nothing of it here."""

    def get_now(self, ref: BlobRef) -> None:
        return None

    async def get(self, ref: BlobRef) -> bytes:
        raise BlobDown


class Pop3World:
    """Accounts and sessions on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.accounts: dict[str, AccountId] = {}
        self.total = 0
        self._pool = node.store.db._pool
        self._at_hand = node.store.db._at_hand
        self._bodies = node.bodies

    async def open(self) -> None:
        """Register the node, so that it can hold leases."""
        await self.node.store.leases.register(self.node.instance_id)

    async def close(self) -> None:
        """Leave the node as it was, without the accounts."""
        await self._database("back")
        await self._objects("back")
        for account_id in self.accounts.values():
            await self.node.store.accounts.delete(account_id)

    async def given(self, text: str) -> None:
        """See the module's head."""
        subject, _, rest = text.partition(":")
        words = rest.split()
        if subject == "cleartext":
            auth = msgspec.structs.replace(self.node.config.auth, allow_cleartext=words == ["yes"])
            self.node.config = msgspec.structs.replace(self.node.config, auth=auth)
        elif subject == "limits":
            self.limit(**{name: int(value) for name, _, value in (word.partition("=") for word in words)})
        elif subject in ("database", "objects", "expunged", "stolen", "waited", "no inbox", "left"):
            await getattr(self, f"_{subject.replace(' ', '_')}")(*words)
        else:
            await self.account(subject, rest.strip())

    def limit(self, **changes: float | tuple[str, ...]) -> None:
        """Change the limits of the node."""
        limits = msgspec.structs.replace(self.node.config.limits, **changes)
        self.node.take_live(msgspec.structs.replace(self.node.config, limits=limits))

    async def connect(self, number: int) -> Link:
        """A session behind its greeting."""
        link = Link(connection_factory(self.node, Listener("pop3", "127.0.0.1:110"))())
        greeting = await link.read_line()
        assert greeting == b"+OK Sora ready", greeting
        return link

    async def value(self, name: str) -> str:
        """A placeholder's value."""
        what, _, which = name.partition(" ")
        if what == "total":
            return str(self.total)
        assert what == "id", name
        mailbox = await self.node.store.mailboxes.get(self.accounts["alice"], "INBOX")
        return f"{mailbox.uidvalidity:x}.{int(which):x}"

    async def account(self, name: str, content: str) -> None:
        """An account with messages in its INBOX."""
        hashed = passwords.hash_password(PASSWORD, passwords.HashCost(memory_kib=8, passes=1, lanes=1))
        self.accounts[name] = await self.node.store.accounts.create(f"{name}@example.com", password_hash=hashed)
        samples = [plain(i + 1) for i in range(int(content))] if content.isdecimal() else []
        for data in samples or [SAMPLES[sample] for sample in content.split(",") if sample in SAMPLES]:
            await self.append(name, data)

    async def append(self, name: str, data: bytes) -> None:
        """Store a message."""
        inbox = await self.node.store.mailboxes.get(self.accounts[name], "INBOX")
        await self.node.delivery.append(self.accounts[name], inbox.mailbox_id, [AppendItem(data)])
        self.total += len(data)

    async def uids(self, name: str) -> list[int]:
        """What is in an INBOX."""
        inbox = await self.node.store.mailboxes.get(self.accounts[name], "INBOX")
        rows = await self.node.store.db.fetch(
            "SELECT uid FROM messages WHERE account_id = $1 AND mailbox_id = $2 AND expunged_at IS NULL ORDER BY uid",
            self.accounts[name],
            inbox.mailbox_id,
        )
        return [row["uid"] for row in rows]

    async def _database(self, state: str) -> None:
        database = self.node.store.db
        away = state == "away"
        database._pool = NoServer() if away else self._pool  # type: ignore[assignment]
        database._at_hand = [] if away else self._at_hand

    async def _objects(self, state: str) -> None:
        self.node.bodies = NoBodies() if state == "away" else self._bodies  # type: ignore[assignment]

    async def _expunged(self, name: str, uid: str) -> None:
        inbox = await self.node.store.mailboxes.get(self.accounts[name], "INBOX")
        await self.node.store.messages.expunge(
            self.accounts[name], inbox.mailbox_id, UidSet.from_numbers([int(uid)]), only_deleted=False
        )

    async def _stolen(self, name: str) -> None:
        await self.node.store.db.execute("UPDATE leases SET expires_at = clock() WHERE name = $1", self._lease(name))
        await self.node.store.leases.acquire(self._lease(name), self.node.instance_id)

    async def _waited(self, name: str) -> None:
        lease = f"pop3-login/{self.accounts[name]}"
        done = await self.node.store.db.execute("UPDATE leases SET expires_at = clock() WHERE name = $1", lease)
        assert done == "UPDATE 1"

    async def _no_inbox(self, name: str) -> None:
        await self.node.store.db.execute(
            "UPDATE mailboxes SET name = 'gone' WHERE account_id = $1 AND name = 'INBOX'", self.accounts[name]
        )

    def _lease(self, name: str) -> str:
        return leases.maildrop(self.accounts[name])

    async def _left(self, name: str, uids: str = "") -> None:
        assert await self.uids(name) == [int(uid) for uid in uids.split(",") if uid]
