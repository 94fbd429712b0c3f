"""Everything of an account that is no mail, as one document that a person and a program can read; no secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sora.moving import files

if TYPE_CHECKING:
    from pathlib import Path

    from sora.store.accounts import Account, Credential, Quota
    from sora.store.domains import Alias
    from sora.store.scripts import ScriptInfo
    from sora.store.store import Store

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
    """One annotation (RFC 5464); `mailbox`: empty: of the account."""

    mailbox: str
    entry: str
    value: bytes


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


async def settings_of(store: Store, account: Account) -> Settings:
    """What is kept of an account now."""
    account_id = account.account_id
    mailboxes = []
    names = {0: ""}
    for mailbox in await store.mailboxes.list(account_id):
        rights: list[Any] = []
        if mailbox.status is not None:
            names[mailbox.status.mailbox_id] = mailbox.name
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
    rows = await store.db.fetch(
        "SELECT mailbox_id, entry, value FROM metadata WHERE account_id = $1 ORDER BY mailbox_id, entry", account_id
    )
    return Settings(
        account=account,
        quota=await store.accounts.get_quota(account_id),
        aliases=await store.domains.list_aliases(account_id),
        credentials=await store.accounts.list_credentials(account_id),
        mailboxes=mailboxes,
        annotations=[Annotation(names.get(row["mailbox_id"], ""), row["entry"], row["value"]) for row in rows],
        keywords=list((await store.mailboxes.list_keywords(account_id)).values()),
        scripts=await store.scripts.list_scripts(account_id),
    )


def write_settings(directory: Path, text: bytes) -> None:
    """The document, in an export's directory; blocks."""
    root = files.open_root(directory)
    try:
        files.write_file(root, SETTINGS_FILE, text + b"\n")
        os.fsync(root)
    finally:
        os.close(root)
