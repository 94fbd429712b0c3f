"""Keyword names of an account, as its sessions on one worker share them.

A keyword is a number from 16 on in the bitmaps and a name on the wire. Names compare without regard to case; the first
spelling is kept, because there are clients that loop when FLAGS lists two spellings of one keyword.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from sora.errors import InvalidName
from sora.types import SYSTEM_FLAGS, AccountId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SYSTEM_NUMBERS: Mapping[bytes, int] = {name.lower(): number for number, name in SYSTEM_FLAGS.items()}


class KeywordStore(Protocol):
    """The part of the repository which is needed here."""

    async def list_keywords(self, account_id: AccountId, /) -> Mapping[int, str]: ...
    async def register_keywords(self, account_id: AccountId, names: Sequence[str], /) -> Mapping[str, int]: ...


class Keywords:
    """Names and numbers of one account's flags.

    Attributes:
        names: Number to name, system flags included.
    """

    __slots__ = ("__weakref__", "_numbers", "_store", "account_id", "names")

    def __init__(self, store: KeywordStore, account_id: AccountId) -> None:
        self.account_id = account_id
        self.names: dict[int, bytes] = dict(SYSTEM_FLAGS)
        self._numbers: dict[bytes, int] = dict(SYSTEM_NUMBERS)
        self._store = store

    def find(self, name: bytes) -> int | None:
        """Number of a flag, if a message of the account may bear it."""
        return self._numbers.get(name.lower())

    async def numbers(self, flags: Iterable[bytes]) -> list[int]:
        """Numbers of flags; keywords that are new get one.

        Raises:
            LimitExceeded: The account has as many keywords as it may have.
            InvalidName: One is `NIL`: an atom by the grammar, but clients read it in a list as no flag at all.
        """
        flags = tuple(flags)
        if any(flag.upper() == b"NIL" for flag in flags):
            raise InvalidName("NIL cannot be a keyword")
        unknown = [flag.decode() for flag in flags if flag.lower() not in self._numbers]
        if unknown:
            self._learn(await self._store.register_keywords(self.account_id, unknown))
        return sorted({self._numbers[flag.lower()] for flag in flags})

    def known(self, flags: Iterable[bytes]) -> list[int]:
        """Numbers of those flags that have one."""
        return sorted({n for flag in flags if (n := self.find(flag)) is not None})

    async def reload(self) -> None:
        """Read the names anew: a picture holds a number that somebody else has registered."""
        found = await self._store.list_keywords(self.account_id)
        self._learn({name: number for number, name in found.items()})

    def _learn(self, found: Mapping[str, int]) -> None:
        for name, number in found.items():
            spelling = self.names.setdefault(number, name.encode())
            self._numbers[spelling.lower()] = number
            self._numbers[name.encode().lower()] = number


class KeywordRegistry:
    """The keywords of every account with a session on this worker."""

    def __init__(self, store: KeywordStore) -> None:
        self._store = store
        self._accounts: WeakValueDictionary[AccountId, Keywords] = WeakValueDictionary()

    def of(self, account_id: AccountId) -> Keywords:
        """The account's keywords; whoever uses them keeps them."""
        keywords = self._accounts.get(account_id)
        if keywords is None:
            keywords = self._accounts[account_id] = Keywords(self._store, account_id)
        return keywords
