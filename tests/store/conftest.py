"""An account with its INBOX, and a keyring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.store import keyring

if TYPE_CHECKING:
    from pathlib import Path

    from sora.store.store import Store
    from sora.types import AccountId, MailboxId


@pytest.fixture
async def ann(store: Store) -> AccountId:
    return await store.accounts.create("ann@example.com")


@pytest.fixture
async def inbox(store: Store, ann: AccountId) -> MailboxId:
    return (await store.mailboxes.get(ann, "INBOX")).mailbox_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one master key."""
    keyring.add_key(tmp_path / "keyring.toml")
    return tmp_path / "keyring.toml"
