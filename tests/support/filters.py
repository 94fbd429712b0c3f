"""Filters at work: accounts with scripts on a real node, mail by LMTP, and what is where afterwards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.net.listener import Listener
from sora.protocols import lmtp
from sora.services.filters.scripts import quota_of
from sora.store.metadata import Place
from tests.support.transcripts import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sora.services.node import Node
    from sora.types import AccountId, MailboxId

DOMAIN: Final = "example.com"
SENDER: Final = "sender@example.org"
MAIL: Final = (
    b"From: Sender <sender@example.org>\r\nTo: alice@example.com\r\nSubject: Hello\r\n"
    b"Message-ID: <1@example.org>\r\nDate: Sun, 1 Mar 2026 12:00:00 +0000\r\n\r\nbody\r\n"
)


class Stored(Struct):
    """A message in a mailbox; `flags` in lower case and in order."""

    octets: bytes
    flags: tuple[str, ...]

    @property
    def received(self) -> bytes:
        """What stands below our trace fields."""
        lines = self.octets.split(b"\r\n")
        place = next(n for n, line in enumerate(lines) if line.startswith(b"Received:"))
        while lines[place + 1].startswith((b"\t", b" ")):
            place += 1
        return b"\r\n".join(lines[place + 1 :])


class Queued(Struct):
    """A row of the queue."""

    kind: str
    sender: str
    recipient: str
    content_id: int | None
    header: bytes
    body: bytes | None


class FilterWorld:
    """A node with accounts whose mail is filtered.

    Attributes:
        queries: Statements of the query connections since they were last looked at.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.accounts: dict[str, AccountId] = {}
        self.listener = Listener("lmtp", "127.0.0.1:24", trusted_networks=("127.0.0.0/8",))

    async def account(self, name: str, script: str = "", *mailboxes: str) -> AccountId:
        """An account with an active script and some mailboxes."""
        account_id = await self.node.store.accounts.create(f"{name}@{DOMAIN}")
        self.accounts[name] = account_id
        for mailbox in mailboxes:
            await self.node.store.mailboxes.create(account_id, mailbox)
        if script:
            await self.put(name, script)
        return account_id

    async def put(self, name: str, script: str, title: str = "main", *, active: bool = True) -> None:
        """Store a script as ManageSieve does, without a look inside."""
        account_id = self.accounts[name]
        quota = quota_of(self.node.config.sieve)
        await self.node.store.scripts.put(account_id, title, script.encode(), quota)
        if active:
            await self.node.store.scripts.set_active(account_id, title)
        self.node.recipients.forget(account_id)

    async def annotate(self, name: str, mailbox_id: int, entry: str, value: bytes) -> None:
        """Set an annotation of a mailbox; 0: of the account."""
        account_id = self.accounts[name]
        place = Place(account_id, mailbox_id)  # type: ignore[arg-type]
        assert await self.node.store.metadata.set(place, account_id, {entry: value})

    async def deliver(
        self,
        mail: bytes = MAIL,
        *recipients: str,
        sender: str = SENDER,
        parameters: str = "",
        before: Sequence[str] = (),
    ) -> list[str]:
        """Hand a message in by LMTP; the replies to its end, their lines joined by `|`.

        Args:
            recipients: Addresses, or names of accounts; none: alice.
            parameters: Of MAIL.
            before: Lines that are said first.
        """
        link = Link(lmtp.connection_factory(self.node, self.listener)())
        await _reply(link)
        for line in before:
            await link.send(line.encode() + b"\r\n")
            await _reply(link)
        await link.send(b"LHLO mx.example.net\r\n")
        await _reply(link)
        paths = [path if "@" in path else f"{path}@{DOMAIN}" for path in recipients or ("alice",)]
        lines = [f"MAIL FROM:<{sender}>{parameters}", *(f"RCPT TO:<{path}>" for path in paths), "DATA"]
        for line in lines:
            await link.send(line.encode() + b"\r\n")
            reply = await _reply(link)
            assert reply[:3] in ("250", "354"), reply
        await link.send(mail.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        replies = [await _reply(link) for _ in paths]
        await link.hang_up()
        return replies

    async def boxes(self, name: str = "alice") -> dict[str, list[Stored]]:
        """What is in each mailbox that is not empty."""
        account_id = self.accounts[name]
        found: dict[str, list[Stored]] = {}
        for mailbox in await self.node.store.mailboxes.list(account_id):
            if mailbox.status is not None and mailbox.status.messages:
                found[mailbox.name] = await self._messages(account_id, mailbox.status.mailbox_id)
        return found

    async def places(self, name: str = "alice") -> dict[str, tuple[str, ...]]:
        """Mailboxes that are not empty, with the flags of their one message."""
        boxes = await self.boxes(name)
        assert all(len(messages) == 1 for messages in boxes.values()), boxes
        return {box: messages[0].flags for box, messages in boxes.items()}

    async def _messages(self, account_id: AccountId, mailbox_id: MailboxId) -> list[Stored]:
        store = self.node.store
        keywords = await store.mailboxes.list_keywords(account_id)
        names = {0: r"\seen", 1: r"\answered", 2: r"\flagged", 3: r"\deleted", 4: r"\draft"}
        names |= {number: keyword.lower() for number, keyword in keywords.items()}
        rows = await store.db.fetch(
            """
            SELECT m.uid, c.content_hash, array(
              SELECT f.flag_no FROM message_flags f
              WHERE f.account_id = m.account_id AND f.mailbox_id = m.mailbox_id AND f.block_no = m.uid >> 10
                AND get_bit(f.bits, (m.uid & 1023)::int) = 1 ORDER BY 1) AS flags
            FROM messages m JOIN message_contents c USING (account_id, content_id)
            WHERE m.account_id = $1 AND m.mailbox_id = $2 AND m.expunged_at IS NULL ORDER BY m.uid
            """,
            account_id,
            mailbox_id,
        )
        found = []
        for row in rows:
            octets = await self.node.staging.read(account_id, row["content_hash"])
            assert octets is not None
            found.append(Stored(bytes(octets), tuple(sorted(names[number] for number in row["flags"]))))
        return found

    async def queued(self) -> list[Queued]:
        """The outbound queue, oldest first."""
        rows = await self.node.store.db.fetch(
            "SELECT kind, sender, recipient, content_id, header, body FROM outbound_queue ORDER BY queue_id"
        )
        return [Queued(**row) for row in rows]

    @contextlib.contextmanager
    def counting(self) -> Iterator[list[str]]:
        """The statements that filters make meanwhile; who the recipients are is asked with or without them."""
        seen: list[str] = []
        database = self.node.store.db
        watched = ("fetch", "fetchrow", "fetchval", "execute")
        originals = {name: getattr(type(database), name) for name in watched}

        def counted(name: str) -> object:
            async def call(own: object, sql: str, *args: object, **kwargs: object) -> object:
                if own is database and "resolve_recipients" not in sql:
                    seen.append(" ".join(sql.split()))
                return await originals[name](own, sql, *args, **kwargs)

            return call

        try:
            for name in watched:
                setattr(type(database), name, counted(name))
            yield seen
        finally:
            for name, original in originals.items():
                setattr(type(database), name, original)


async def _reply(link: Link) -> str:
    """One reply, its lines joined by `|`, without the code in all but the first."""
    lines = [(await link.read_line()).decode()]
    while lines[-1][3:4] == "-":
        lines.append((await link.read_line()).decode())
    return "|".join([lines[0], *(line[4:] for line in lines[1:])])


@contextlib.asynccontextmanager
async def filter_world(node: Node) -> AsyncIterator[FilterWorld]:
    """A world on a node, once notices come in."""
    await node.changes.listening.wait()
    node.delivery.host = node.filters.host = "store.example.com"
    yield FilterWorld(node)
