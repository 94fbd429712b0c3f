"""Answers to what a script asks while it runs: of mailboxes, annotations, lists, other scripts, ids seen before.

Mailboxes are looked up in the tree that the process keeps of the account. That something is not there is said only
after it was read anew: the notice of a mailbox that was just made may be on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora import log
from sora.errors import BadScript, InvalidName
from sora.sieve import questions
from sora.store.mailboxes import canonical_name
from sora.store.metadata import PRIVATE, SERVER, SERVER_MAILBOX, Place, Wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from sora.services.filters.scripts import CompiledScripts
    from sora.services.filters.site_scripts import SiteScripts
    from sora.services.filters.trees import Trees
    from sora.sieve.questions import Ask
    from sora.sieve.script import Script
    from sora.store.store import Store
    from sora.store.trees import Leaf, Tree
    from sora.types import AccountId, MailboxId

_log = log.get(__name__)

OWN_ADDRESSES: Final = "urn:sora:own-addresses"
"""The external list (RFC 6134) that every account has: its addresses."""


class _Index(Struct):
    """Mailboxes by what a script may ask for a thousand times; an account may have thousands of them."""

    ids: dict[str, Leaf]
    uses: dict[str, Leaf]


class Answers:
    """What one run wants to know.

    Args:
        reserved: What names of mailboxes cannot begin with; empty: nothing.
        number: Another one after every change of the account's scripts; 0: it is not known.
        delivery: What another try has in common with this run, by which its effects are known; empty: there is none.
    """

    def __init__(
        self,
        account_id: AccountId,
        number: int,
        *,
        store: Store,
        trees: Trees,
        scripts: CompiledScripts,
        site: SiteScripts,
        reserved: str = "",
        delivery: bytes = b"",
    ) -> None:
        self.account_id = account_id
        self.delivery = delivery
        self._number = number
        self._store = store
        self._trees = trees
        self._scripts = scripts
        self._site = site
        self._reserved = f"{reserved.removesuffix('/')}/" if reserved else ""
        self._tree: Tree | None = None
        self._fresh = False
        self._indexed: tuple[Tree, _Index] | None = None

    async def __call__(self, ask: Ask) -> Any:
        """The answer to a question, as the question says.

        Raises:
            Unavailable: It cannot be had now.
        """
        return await _ANSWERS[type(ask)](self, ask)

    async def tree(self) -> Tree:
        """The account as it was lately.

        Raises:
            NotFound: There is no such account.
        """
        if self._tree is None:
            self._tree, self._fresh = await self._trees.get(self.account_id)
        return self._tree

    async def read_again(self) -> Tree:
        """The account as it is now."""
        self._tree, self._fresh = await self._trees.read(self.account_id), True
        return self._tree

    async def mailbox(self, name: str) -> Leaf | None:
        """A mailbox that mail can be filed into."""
        try:
            wanted = canonical_name(name)
        except InvalidName:
            return None
        return await self._find(lambda tree: _can_hold(tree.mailboxes.get(wanted)))

    def may_make(self, name: str) -> bool:
        """A mailbox may have this name: it is none of those that show deleted mail."""
        return not self._reserved or not f"{name}/".startswith(self._reserved)

    async def mailbox_by_use(self, use: str) -> Leaf | None:
        """The mailbox with a special use."""
        wanted = use.lower()
        return await self._find(lambda tree: self._index(tree).uses.get(wanted))

    async def mailbox_by_id(self, text: str) -> Leaf | None:
        """A mailbox by its id (RFC 9042), as MAILBOXID of RFC 8474 tells it."""
        return await self._find(lambda tree: self._index(tree).ids.get(text))

    async def mailbox_by_number(self, mailbox_id: MailboxId) -> Leaf | None:
        """A mailbox by its number."""
        return await self._find(
            lambda tree: next((leaf for leaf in _leaves(tree) if leaf.mailbox_id == mailbox_id), None)
        )

    def _index(self, tree: Tree) -> _Index:
        if self._indexed is None or self._indexed[0] is not tree:
            leaves = list(_leaves(tree))
            self._indexed = (
                tree,
                _Index(
                    {object_id(leaf): leaf for leaf in leaves},
                    {use: leaf for leaf in reversed(leaves) for use in _uses(leaf)},
                ),
            )
        return self._indexed[1]

    async def _find(self, look: Callable[[Tree], Leaf | None]) -> Leaf | None:
        found = look(await self.tree())
        if found is None and not self._fresh:
            found = look(await self.read_again())
        return found

    async def _include(self, ask: questions.IncludeScript) -> Script | None:
        if not ask.personal:
            return self._site.shared.get(ask.name)
        try:
            return await self._scripts.named(self.account_id, self._number, ask.name)
        except BadScript as error:
            fields = {"account_id": self.account_id, "script": ask.name, "error": str(error)}
            _log.warning("included script has errors", extra=fields)
            return None

    async def _list(self, name: str) -> frozenset[str] | None:
        if name == OWN_ADDRESSES:
            return (await self.tree()).addresses
        return self._site.lists.get(name)

    async def _list_contains(self, ask: questions.ListContains) -> frozenset[str] | None:
        members = await self._list(ask.list)
        return None if members is None else frozenset(value for value in ask.values if value.lower() in members)

    async def _list_members(self, ask: questions.ListMembers) -> Sequence[str] | None:
        members = await self._list(ask.list)
        return None if members is None else sorted(members)

    async def _list_exists(self, ask: questions.ListExists) -> bool:
        return await self._list(ask.list) is not None

    async def _mailboxes_exist(self, ask: questions.MailboxesExist) -> bool:
        return all([await self.mailbox(name) for name in ask.names])

    async def _mailbox_ids_exist(self, ask: questions.MailboxIdsExist) -> bool:
        return all([await self.mailbox_by_id(text) for text in ask.ids])

    async def _special_uses_exist(self, ask: questions.SpecialUsesExist) -> bool:
        if ask.mailbox is None:
            return all([await self.mailbox_by_use(use) for use in ask.uses])
        leaf = await self.mailbox(ask.mailbox)
        return leaf is not None and {use.lower() for use in ask.uses} <= _uses(leaf)

    async def _metadata(self, ask: questions.Metadata) -> str | None:
        found = await self._entries(ask.mailbox, (ask.entry,))
        value = found.get(ask.entry.lower())
        return None if value is None else value.decode("utf-8", "replace")

    async def _metadata_exists(self, ask: questions.MetadataExists) -> bool:
        found = await self._entries(ask.mailbox, ask.entries)
        return all(entry.lower() in found for entry in ask.entries)

    async def _entries(self, mailbox: str, names: Iterable[str]) -> Mapping[str, bytes]:
        """Annotations of a mailbox, or of the server; private ones are those of the account."""
        entries = {name.lower() for name in names}
        if mailbox:
            leaf = await self.mailbox(mailbox)
            if leaf is None:
                return {}
            asked = {Place(self.account_id, leaf.mailbox_id): entries}
        else:
            private = {entry for entry in entries if entry.startswith(f"{PRIVATE}/")}
            asked = {Place(self.account_id, SERVER_MAILBOX): private, SERVER: entries - private}
        found: dict[str, bytes] = {}
        for place, wanted in asked.items():
            if wanted:
                rows = await self._store.metadata.get([place], self.account_id, Wanted(tuple(wanted)))
                found |= {entry.name: entry.value for entry in rows.get(place, ()) if entry.value is not None}
        return found

    async def _is_duplicate(self, ask: questions.IsDuplicate) -> bool:
        return await self._store.filter_memory.is_duplicate(self.account_id, ask.handle, ask.unique_id, self.delivery)


_ANSWERS: Final[Mapping[type[Ask], Callable[[Answers, Any], Awaitable[Any]]]] = {
    questions.IncludeScript: Answers._include,
    questions.ListContains: Answers._list_contains,
    questions.ListMembers: Answers._list_members,
    questions.ListExists: Answers._list_exists,
    questions.MailboxesExist: Answers._mailboxes_exist,
    questions.MailboxIdsExist: Answers._mailbox_ids_exist,
    questions.SpecialUsesExist: Answers._special_uses_exist,
    questions.Metadata: Answers._metadata,
    questions.MetadataExists: Answers._metadata_exists,
    questions.IsDuplicate: Answers._is_duplicate,
}


def list_schemes(site: SiteScripts) -> list[str]:
    """URI schemes of the external lists that there are, as ManageSieve announces them (RFC 6134 §6)."""
    return sorted({name.partition(":")[0].lower() for name in (OWN_ADDRESSES, *site.lists) if ":" in name})


def object_id(leaf: Leaf) -> str:
    """What MAILBOXID tells of a mailbox (RFC 8474 §4)."""
    return f"F{leaf.mailbox_id}"


def _can_hold(leaf: Leaf | None) -> Leaf | None:
    return None if leaf is None or leaf.noselect else leaf


def _leaves(tree: Tree) -> Iterable[Leaf]:
    return (leaf for leaf in tree.mailboxes.values() if not leaf.noselect)


def _uses(leaf: Leaf) -> set[str]:
    return set((leaf.special_use or "").lower().split())
