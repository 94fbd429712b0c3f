"""What filters know of accounts: mailboxes, keywords, addresses; read once, and again after each change.

The tree of an account is kept until something in it changes, and `Changes` says so: what is done to names anywhere is
announced as it is committed. Whoever finds that something is not there asks again before he says so, because the notice
may be on its way; and a mailbox that is gone refuses the delivery to it, after which the tree is read anew. Addresses
and keywords are not announced: new ones are seen after `KEPT_S` at the latest. While no notices come in, nothing is
kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import NotFound
from sora.services.changes import TREE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.services.changes import Changes
    from sora.store import trees
    from sora.store.trees import Tree
    from sora.types import AccountId

KEPT_S: Final = 60.0
MAX_ACCOUNTS: Final = 2_000
MAX_NAMES: Final = 100_000
"""Of mailboxes and keywords of all accounts together."""


class _Kept(Struct):
    """A tree, how long it may be used, and what ends the watch over it."""

    tree: Tree
    until_mono: float
    unwatch: Callable[[], None]

    @property
    def names(self) -> int:
        return len(self.tree.mailboxes) + len(self.tree.keywords)


class Trees:
    """The trees that one process keeps.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, store: trees.Trees, changes: Changes, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock
        self._kept: OrderedDict[AccountId, _Kept] = OrderedDict()
        self._names = 0

    async def get(self, account_id: AccountId) -> tuple[Tree, bool]:
        """The tree of an account, and whether it was read just now.

        Raises:
            NotFound: There is no such account.
            Unavailable: It cannot be read now.
        """
        kept = self._kept.get(account_id)
        if kept is not None and self._clock() < kept.until_mono and self._changes.listening.is_set():
            self._kept.move_to_end(account_id)
            return kept.tree, False
        return await self.read(account_id), True

    async def read(self, account_id: AccountId) -> Tree:
        """The tree as it is now.

        Raises:
            NotFound, Unavailable: See `get`.
        """
        self.forget(account_id)
        changed = []
        unwatch = self._changes.watch(account_id, TREE, lambda *_: changed.append(True))
        try:
            tree = await self._store.get(account_id)
        finally:
            unwatch()
        if tree is None:
            raise NotFound("No such account")
        if not changed:
            self._keep(account_id, tree)
        return tree

    def forget(self, account_id: AccountId) -> None:
        """Read it anew when it is asked for next."""
        kept = self._kept.pop(account_id, None)
        if kept is not None:
            self._names -= kept.names
            kept.unwatch()

    def close(self) -> None:
        """Keep nothing any more."""
        for account_id in list(self._kept):
            self.forget(account_id)

    def _keep(self, account_id: AccountId, tree: Tree) -> None:
        """Without a pause since the last watch ended, so that no notice falls between the two."""
        self.forget(account_id)  # somebody else may have read it meanwhile
        unwatch = self._changes.watch(account_id, TREE, lambda *_: self.forget(account_id), tree.seq)
        kept = self._kept[account_id] = _Kept(tree, self._clock() + KEPT_S, unwatch)
        self._names += kept.names
        while len(self._kept) > MAX_ACCOUNTS or (self._names > MAX_NAMES and len(self._kept) > 1):
            self.forget(next(iter(self._kept)))
