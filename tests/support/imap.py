"""The world of IMAP transcripts: accounts with mailboxes on a real store, sessions without sockets.

    given alice: INBOX=3 Archive=0        mailboxes of alice@example.com with so many plain messages
    given alice: Mixed=multipart,latin    or with these of `SAMPLES`
    given bob                             an account; connections log in as the one that was named first
    given link 2: bob                     whom that connection logs in as
    given quota admins: root              accounts that may SETQUOTA
    given server: /shared/comment=Hello   an annotation of the server
    given no server: /shared/comment      no such annotation
    given managesieve: sieve://a.example  clients are told of that server, and mailboxes have scripts (IMAPSIEVE)
    given script alice work: keep;        her Sieve script of that name
    given scripts have run                of what happened before; they wait for this line
    given nobody                          connections are not logged in
    given cleartext: no                   passwords need TLS
    given tls: offered                    there is a certificate; or `active`: connections begin with TLS
    given notices: at once                of commands that take long (RFC 9585): all of them do
    given limits: bad_commands=3          the configuration's limits
    given quota alice: messages=5         of `bytes`, `messages` and `mailboxes`; the others are unlimited
    given saved alice: INBOX=2015-01-20   all messages of the mailbox came into it on that day, at noon
    given no previews alice               none could be made of her messages

Placeholders: `<uidvalidity NAME>`, `<size SAMPLE>`, `<mailboxid NAME>`, `<emailid NAME UID>`, `<threadid NAME UID>`.
"""

from __future__ import annotations

import functools
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from sora.net.listener import Listener
from sora.protocols.imap import connection_factory, progress
from sora.services.delivery import AppendItem
from sora.services.filters import imapsieve
from sora.services.logins import passwords
from sora.services.logins.auth import Identity
from sora.store import metadata
from sora.store.scripts import Quota
from tests.support import findings
from tests.support.certificates import write_certificate
from tests.support.transcripts import Link, SocketLink

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.services.node import Node
    from sora.types import AccountId

QUOTA: Final = Quota(100, 1 << 20, 1 << 24)
FIRST_DATE: Final = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def plain(number: int) -> bytes:
    """A plain message, the same for the same number."""
    return (
        f"From: Sender {number} <s{number}@example.org>\r\n"
        f"To: Alice <alice@example.com>\r\n"
        f"Subject: Message {number}\r\n"
        f"Date: Thu, {number % 28 + 1:02} Jan 2026 10:00:00 +0100\r\n"
        f"Message-ID: <m{number}@example.org>\r\n"
        f"\r\n"
        f"Body of message {number}.\r\n"
    ).encode()


SAMPLES: Final[dict[str, bytes]] = {
    "multipart": (
        b"From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>\r\nTo: alice@example.com\r\nCc: bob@example.com\r\n"
        b"Subject: =?iso-8859-1?q?Gr=FC=DFe?=\r\nDate: Fri, 2 Jan 2026 23:30:00 -0800\r\n"
        b"Message-ID: <multi@example.org>\r\nX-Spam-Score: 17\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\npreamble\r\n--b\r\n'
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b"Stra=C3=9Fe im Regen\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
        b"From: inner@example.org\r\nSubject: inner\r\n\r\ninner body\r\n--b\r\n"
        b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--b--\r\n"
    ),
    "uuencoded": b"Subject: odd\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nabcd",
    "attached": (
        b"From: alice@example.com\r\nSubject: attached\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed;\r\n boundary="------------030308070208000400050907"\r\n\r\n'
        b"--------------030308070208000400050907\r\nContent-Type: text/plain\r\n\r\nthe letter\r\n"
        b"--------------030308070208000400050907\r\nContent-Type: application/zip\r\n\r\n012345678901234567890\r\n"
        b"--------------030308070208000400050907--\r\n"
    ),
    "reply": (
        b"Subject: Re: question\r\n\r\nI agree.\r\n\r\nOn Thursday, Bob wrote:\r\n> Do you agree?\r\n\r\n"
        b"-- \r\nAlice\r\n"
    ),
    "html": (
        b"Content-Type: text/html\r\n\r\n<style>p { margin: 0 }</style>"
        b"<p>Dear <b>Alice</b>,</p><p>your order &amp; mine</p>"
    ),
    "textless": b"Content-Type: image/png\r\n\r\nPNG",
    "headless": b"\r\nno header at all\r\n",
    "bare": b"Subject: bare\n\nline feed only\n",
    "big": b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 20000,
    **findings.SAMPLES,
}

_CONTENT: Final = " FROM messages JOIN message_contents USING (account_id, content_id) WHERE account_id = $1"
_MESSAGE: Final = f"{_CONTENT} AND mailbox_id = $2 AND uid = $3"
_OF_MESSAGES: Final = {
    "emailid": "SELECT 'M' || rtrim(translate(encode(content_hash, 'base64'), E'+/\n', '-_'), '=')" + _MESSAGE,
    "threadid": "SELECT 'T' || thread_id" + _MESSAGE,
}


@functools.cache
def _certified() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as directory:
        context.load_cert_chain(*write_certificate(Path(directory)))
    return context


async def _over_socket(session: Session, listener: Listener) -> Link:
    link = SocketLink(session, tls=listener.tls if listener.implicit_tls else None)
    await link.open()
    return link


class ImapWorld:
    """Accounts, mailboxes and sessions on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.accounts: dict[str, AccountId] = {}
        self.sessions: list[Session] = []
        self._nobody = False
        self._tls = ""
        self._patch = pytest.MonkeyPatch()
        self._messages = 0
        self._links: dict[int, str] = {}
        self._held = 0

    async def given(self, text: str) -> None:
        """See the module's head."""
        subject, _, rest = text.partition(":")
        if subject == "nobody":
            self._nobody = True
        elif subject == "server":
            entry, _, value = rest.strip().partition("=")
            await self.node.store.metadata.set(metadata.SERVER, metadata.SERVER.account_id, {entry: value.encode()})
            self.node.imapsieve.names.forget(metadata.SERVER.account_id)
        elif subject.startswith("no server"):
            await self.node.store.metadata.set(metadata.SERVER, metadata.SERVER.account_id, {rest.strip(): None})
            self.node.imapsieve.names.forget(metadata.SERVER.account_id)
        elif subject == "managesieve":
            sieve = msgspec.structs.replace(self.node.config.sieve, url=rest.strip())
            self.node.config = msgspec.structs.replace(self.node.config, sieve=sieve)
            await self._hold_scripts()
        elif subject.startswith("script "):
            _, account, name = subject.split(" ", 2)
            await self.node.store.scripts.put(self.accounts[account], name, rest.strip().encode(), QUOTA)
        elif subject == "scripts have run":
            self._let_scripts_run()
            await self.node.imapsieve.settled()
            await self._hold_scripts()
        elif subject.startswith("link "):
            self._links[int(subject[5:])] = rest.strip()
        elif subject == "cleartext":
            auth = msgspec.structs.replace(self.node.config.auth, allow_cleartext=rest.strip() == "yes")
            self.node.config = msgspec.structs.replace(self.node.config, auth=auth)
        elif subject == "notices":
            self._patch.setattr(progress, "FIRST_S", 0.0)
        elif subject == "tls":
            self._tls = rest.strip()
        elif subject == "limits":
            changes = {name: int(value) for name, _, value in (item.partition("=") for item in rest.split())}
            limits = msgspec.structs.replace(self.node.config.limits, **changes)
            self.node.config = msgspec.structs.replace(self.node.config, limits=limits)
        elif subject.startswith("saved "):
            await self._saved(subject[6:], *rest.strip().split("="))
        elif subject.startswith("no previews "):
            await self.node.store.db.execute(
                "UPDATE message_contents SET preview = NULL WHERE account_id = $1", self.accounts[subject[12:]]
            )
        elif subject == "quota admins":
            admins = tuple(f"{name}@example.com" for name in rest.split())
            auth = msgspec.structs.replace(self.node.config.auth, quota_admins=admins)
            self.node.config = msgspec.structs.replace(self.node.config, auth=auth)
        elif subject.startswith("quota "):
            await self._quota(subject[6:], dict(item.split("=") for item in rest.split()))
        else:
            await self._account(subject, rest.split())

    def close(self) -> None:
        """Undo what is not the node's own."""
        self._patch.undo()
        self._let_scripts_run()

    async def _hold_scripts(self) -> None:
        """Or the answer to a command would tell what its script did, or would not."""
        while self._held < imapsieve.RUNS:
            await self.node.imapsieve.turns.acquire()
            self._held += 1

    def _let_scripts_run(self) -> None:
        while self._held:
            self.node.imapsieve.turns.release()
            self._held -= 1

    async def connect(self, number: int) -> Link:
        """A session, logged in unless the transcript says otherwise, behind its greeting."""
        context = _certified() if self._tls else None
        listener = Listener("imap", "127.0.0.1:143", tls=context, implicit_tls=self._tls == "active")
        session = connection_factory(self.node, listener)()
        self.sessions.append(session)
        link = await _over_socket(session, listener) if self._tls else Link(session)
        greeting = await link.read_line()
        assert greeting.startswith(b"* OK [CAPABILITY "), greeting
        if self.accounts and not self._nobody:
            name = self._links.get(number, next(iter(self.accounts)))
            session.log_in(Identity(self.accounts[name], f"{name}@example.com"))
        return link

    async def value(self, name: str) -> str:
        """A placeholder's value."""
        what, _, which = name.partition(" ")
        if what == "size":
            return str(len(SAMPLES[which] if which in SAMPLES else plain(int(which))))
        which, _, uid = which.partition(" ")
        account_id = next(iter(self.accounts.values()))
        mailbox = await self.node.store.mailboxes.get(account_id, which)
        if what in _OF_MESSAGES:
            return str(await self.node.store.db.fetchval(_OF_MESSAGES[what], account_id, mailbox.mailbox_id, int(uid)))
        return {"uidvalidity": str(mailbox.uidvalidity), "mailboxid": f"F{mailbox.mailbox_id}"}[what]

    async def append(self, account: str, mailbox: str, data: bytes, flags: tuple[int, ...] = ()) -> int:
        """Store a message; returns its UID."""
        account_id = self.accounts[account]
        found = await self.node.store.mailboxes.get(account_id, mailbox)
        date = FIRST_DATE + timedelta(days=self._messages)
        self._messages += 1
        done = await self.node.delivery.append(account_id, found.mailbox_id, [AppendItem(data, flags, date)])
        return done.uids[0]

    async def _saved(self, account: str, mailbox: str, day: str) -> None:
        account_id = self.accounts[account]
        found = await self.node.store.mailboxes.get(account_id, mailbox)
        await self.node.store.db.execute(
            "UPDATE messages SET saved_at = $3 WHERE account_id = $1 AND mailbox_id = $2",
            account_id, found.mailbox_id, datetime.fromisoformat(f"{day}T12:00:00+00:00"),
        )  # fmt: skip

    async def _quota(self, account: str, limits: dict[str, str]) -> None:
        await self.node.store.db.execute(
            "UPDATE accounts SET quota_bytes = $2, quota_messages = $3, quota_mailboxes = $4 WHERE account_id = $1",
            self.accounts[account],
            *(int(limits.get(name, 0)) for name in ("bytes", "messages", "mailboxes")),
        )

    async def _account(self, name: str, mailboxes: list[str]) -> None:
        if name not in self.accounts:
            hashed = passwords.hash_password("secret", passwords.HashCost(memory_kib=8, passes=1, lanes=1))
            self.accounts[name] = await self.node.store.accounts.create(f"{name}@example.com", password_hash=hashed)
        for item in mailboxes:
            mailbox, _, content = item.partition("=")
            account_id = self.accounts[name]
            if await self.node.store.mailboxes.find(account_id, mailbox) is None:
                await self.node.store.mailboxes.create(account_id, mailbox)
            messages = (
                [plain(i + 1) for i in range(int(content))]
                if content.isdecimal()
                else [SAMPLES.get(sample) or plain(int(sample)) for sample in content.split(",")]
            )
            for data in messages:
                await self.append(name, mailbox, data)
