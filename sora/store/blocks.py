"""Blocks after failed logins, as the nodes tell them to each other."""

from __future__ import annotations

from datetime import datetime, timedelta  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.store.db import Database

CHANNEL: Final = "sora_auth"
"""Notified when there is something new; the payload is empty."""
PAGE: Final = 1000

Scope = Literal["address", "account"]


class NewBlock(Struct, frozen=True):
    """A block that begins.

    Attributes:
        site: IP address, or network of one customer.
        login: In canonical form; empty if the scope is the whole address.
    """

    scope: Scope
    site: str
    login: str
    lasts: timedelta


class BlockNews(Struct, frozen=True):
    """What became of a block.

    Attributes:
        left_s: Seconds until it ends.
        lifted: It has ended already.
        seq: Greater than that of all earlier news.
    """

    scope: Scope
    site: str
    login: str
    left_s: float
    lifted: bool
    seq: int


class AuthBlock(Struct, frozen=True):
    """A block that holds, as an administrator sees it.

    Attributes:
        site: the client's IP address, or its network.
        login: the name that was tried; empty: all are blocked from there.
    """

    scope: Scope
    site: str
    login: str
    blocked_at: datetime
    expires_at: datetime


class AuthBlocks:
    """Rows of `auth_blocks`; their number is bounded."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, blocks: Sequence[NewBlock]) -> None:
        """Tell all nodes of blocks that began here."""
        await self._db.execute(
            "SELECT begin_auth_blocks($1, $2, $3, $4)",
            [block.scope for block in blocks],
            [block.site for block in blocks],
            [block.login for block in blocks],
            [block.lasts for block in blocks],
        )

    async def read_news(self, after: int) -> list[BlockNews]:
        """What happened behind `after`, in order; at most `PAGE` rows."""
        rows = await self._db.fetch(
            """
            SELECT scope, site, login, extract(epoch FROM expires_at - clock())::float8 AS left_s, lifted, seq
            FROM auth_blocks WHERE seq > $1 AND expires_at > clock() ORDER BY seq LIMIT $2
            """,
            after,
            PAGE,
        )
        return [BlockNews(**row) for row in rows]

    async def list_blocks(self) -> list[AuthBlock]:
        """Blocks that hold, those that end last first."""
        rows = await self._db.fetch(
            """
            SELECT scope, site, login, blocked_at, expires_at FROM auth_blocks
            WHERE NOT lifted AND expires_at > clock() ORDER BY expires_at DESC, seq DESC
            """
        )
        return [AuthBlock(**row) for row in rows]

    async def lift(self, *, site: str | None = None, login: str | None = None) -> list[AuthBlock]:
        """End the blocks of a site, or those of an account under any of its names; gives those that held."""
        rows = await self._db.fetch(
            "SELECT scope, site, login, blocked_at, expires_at FROM lift_auth_blocks($1, $2) ORDER BY site, login",
            site,
            login,
        )
        return [AuthBlock(**row) for row in rows]
