"""Everything of an account that is no mail, as one document that a person and a program can read; no secrets."""

from __future__ import annotations

import os
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora.moving import files

if TYPE_CHECKING:
    from pathlib import Path

    from sora.store.accounts import Account, Credential, Quota
    from sora.store.domains import Alias
    from sora.store.scripts import ScriptInfo
    from sora.store.store import Store
    from sora.types import AccountId

SETTINGS_FILE = b"account.json"


class MailboxSettings(Struct, frozen=True):
    """One mailbox; `rights`: what others may do there, by the grants as they were given."""

    name: str
    selectable: bool
    subscribed: bool
    special_use: str | None
    uidvalidity: int
    messages: int
    rights: list[Any]


class Annotation(Struct, frozen=True):
    """One annotation (RFC 5464), as everybody sees it or as the account alone does.

    Attributes:
        mailbox: Empty: of the server.
        owner: Whose mailbox it is.
    """

    owner: str
    mailbox: str
    entry: str
    value: bytes
    private: bool


class Waiting(Struct, frozen=True):
    """A mail of the account that waits to leave; its text is a message of the account, or what a filter wrote."""

    kind: str
    sender: str
    recipient: str
    size: int
    created_at: datetime


class Settings(Struct, frozen=True):
    """All of it."""

    account: Account
    quota: Quota
    aliases: list[Alias]
    credentials: list[Credential]
    mailboxes: list[MailboxSettings]
    annotations: list[Annotation]
    keywords: list[str]
    scripts: list[ScriptInfo]
    waiting: list[Waiting]


async def settings_of(store: Store, account: Account) -> Settings:
    """What is kept of an account now."""
    account_id = account.account_id
    mailboxes = []
    for mailbox in await store.mailboxes.list(account_id):
        rights: list[Any] = []
        if mailbox.status is not None:
            rights = list(await store.acl.entries(account_id, mailbox.status.mailbox_id))
        mailboxes.append(
            MailboxSettings(
                name=mailbox.name,
                selectable=mailbox.exists and not mailbox.noselect,
                subscribed=mailbox.subscribed,
                special_use=mailbox.special_use,
                uidvalidity=mailbox.uidvalidity,
                messages=mailbox.status.messages if mailbox.status else 0,
                rights=rights,
            )
        )
    annotations = await store.db.fetch(_ANNOTATIONS, account_id)
    waiting = await store.db.fetch(_WAITING, account_id)
    return Settings(
        account=account,
        quota=await store.accounts.get_quota(account_id),
        aliases=await store.domains.list_aliases(account_id),
        credentials=await store.accounts.list_credentials(account_id),
        mailboxes=mailboxes,
        annotations=[Annotation(**row) for row in annotations],
        keywords=list((await store.mailboxes.list_keywords(account_id)).values()),
        scripts=await store.scripts.list_scripts(account_id),
        waiting=[Waiting(**row) for row in waiting],
    )


async def count_deleted(store: Store, account_id: AccountId) -> int:
    """Messages that were expunged, or were in a mailbox that was deleted, and can be had back."""
    count: int = await store.db.fetchval(_DELETED, account_id)
    return count


_DELETED: Final = """
    SELECT count(*) FROM messages m JOIN mailboxes b USING (account_id, mailbox_id)
    WHERE m.account_id = $1 AND NOT b.shadow AND (m.expunged_at IS NOT NULL OR b.deleted_at IS NOT NULL)
"""
# Private annotations of others on mailboxes of this account are theirs; its own on mailboxes of others belong here.
_ANNOTATIONS: Final = """
    SELECT coalesce(a.address, '') AS owner, coalesce(b.name, '') AS mailbox, m.entry, m.value,
      m.viewer_id > 0 AS private
    FROM metadata m
    LEFT JOIN accounts a ON a.account_id = m.account_id
    LEFT JOIN mailboxes b ON b.account_id = m.account_id AND b.mailbox_id = m.mailbox_id
    WHERE (m.account_id = $1 AND m.viewer_id = 0 OR m.viewer_id = $1) AND b.deleted_at IS NULL
      AND b.shadow IS NOT TRUE
    ORDER BY 1, 2, 3
"""
_WAITING: Final = """
    SELECT kind, sender, recipient, size, created_at FROM outbound_queue WHERE account_id = $1 ORDER BY queue_id
"""


def write_settings(directory: Path, text: bytes) -> None:
    """The document, in an export's directory; blocks."""
    root = files.open_root(directory)
    try:
        files.write_file(root, SETTINGS_FILE, text + b"\n")
        os.fsync(root)
    finally:
        os.close(root)
