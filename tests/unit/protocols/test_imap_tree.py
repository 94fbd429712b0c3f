"""What an account can see, while notices come in the middle of reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sora.protocols.imap.tree import Sources, Tree
from sora.services.changes import TREE
from sora.store.acl import SharedMailbox
from sora.store.mailboxes import ListedMailbox, Status
from sora.store.trees import TreeChange
from sora.types import ALL_RIGHTS, AccountId, MailboxId, ModSeq, Uid, UidValidity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ALICE, BOB = AccountId(1), AccountId(2)
TEAM, SECRET = MailboxId(5), MailboxId(6)
NAME = "Shared/bob@example.com/Team"


class Account:
    """Bob's Team, of which Alice sees what is committed when she asks; a notice overtakes the answer."""

    def __init__(self) -> None:
        self.modseq = 1
        self.heard: dict[AccountId, Callable[[AccountId, MailboxId, ModSeq], None]] = {}
        self.reads = 0
        self.during: list[tuple[MailboxId, int]] = []
        self.log: list[TreeChange] = []
        self.next: list[TreeChange] = []

    def status_now(self) -> Status:
        return Status(TEAM, "Team", UidValidity(1), Uid(self.modseq), ModSeq(self.modseq), self.modseq, 0, 0, 0)

    async def list(self, _account_id: AccountId) -> list[Any]:
        self.log += self.next
        self.next = []
        names = [change.name for change in self.log if change.name is not None]
        return [ListedMailbox(name, False, False, True, False, None, UidValidity(0), None) for name in names]

    async def list_shared(self, _viewer_id: AccountId, *, unseen: bool) -> list[SharedMailbox]:
        assert unseen
        self.reads += 1
        seen = SharedMailbox(BOB, "bob@example.com", ALL_RIGHTS, "Team", None, False, self.status_now())
        while BOB in self.heard and self.during:
            mailbox_id, modseq = self.during.pop()
            if mailbox_id == TEAM:
                self.modseq = modseq
            self.heard[BOB](BOB, mailbox_id, ModSeq(modseq))
        return [seen]

    async def status(self, _owner_id: AccountId, names: Sequence[str], _viewer_id: AccountId) -> dict[str, Status]:
        self.reads += 1
        return dict.fromkeys(names, self.status_now())

    async def seq(self, _account_id: AccountId) -> ModSeq:
        return ModSeq(0)

    async def changes(self, known: Mapping[AccountId, ModSeq]) -> list[TreeChange]:
        return [change for change in self.log if change.seq > known[ALICE]]

    def watch_account(self, account_id: AccountId, callback: Callable[..., None]) -> Callable[[], None]:
        self.heard[account_id] = callback
        return lambda: None

    def learn(self, account_id: AccountId, known: Mapping[MailboxId, ModSeq]) -> None:
        assert TREE in known, account_id


def modseq_of(tree: Tree) -> int:
    status = tree.boxes[NAME].status
    assert status is not None
    return status.highest_modseq


async def test_a_notice_that_overtakes_the_first_list_is_not_lost() -> None:
    account = Account()
    account.during = [(TEAM, 7)]
    tree = Tree(ALICE, Sources(account, account, account, account))  # type: ignore[arg-type]
    await tree.refresh()
    assert modseq_of(tree) == 7
    assert not tree.behind
    assert account.reads == 3  # the shared mailboxes twice, because of their owner; the counters once


async def test_notices_of_what_is_not_shared_cost_nothing() -> None:
    account = Account()
    account.during = [(SECRET, 7), (SECRET, 8)]
    tree = Tree(ALICE, Sources(account, account, account, account))  # type: ignore[arg-type]
    await tree.refresh()
    account.heard[BOB](BOB, SECRET, ModSeq(9))
    assert not tree.behind
    assert account.reads == 2


async def test_the_list_holds_no_change_that_is_not_told() -> None:
    """It is read after the changes, so that it may know more of them: those are asked for too."""
    account = Account()
    tree = Tree(ALICE, Sources(account, account, account, account))  # type: ignore[arg-type]
    await tree.refresh()
    cursor = tree.ending
    account.next = [TreeChange(ALICE, ModSeq(seq), "subscribe", None, f"Name{seq}", None) for seq in (1, 2)]
    tree.touch()
    await tree.refresh()
    told = [happening.name for happening in tree.since(cursor) or ()]
    assert told == ["Name1", "Name2"]
    assert {"Name1", "Name2"} < tree.boxes.keys()
