"""Accounts and credentials; who an address belongs to; who may log in.

Addresses come in any case and are compared in the form of `store/addresses.py`.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora.errors import AlreadyExists, LimitExceeded, NoPermission, NotFound
from sora.store.addresses import canonical_address, fold_address, split_detail
from sora.store.domains import claim
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from sora.store.db import Database

MAX_APP_PASSWORDS: Final = 32


class Recipient(Struct, frozen=True):
    """Where mail for one address goes.

    Attributes:
        account_id: of an account that is neither disabled nor deleted.
        address: the account's primary address.
        detail: what followed `+` in the local part, as it was spelled; empty: nothing.
        over_quota: the account has reached its limit; more mail is refused at commit too.
        room_bytes: octets left; None: neither the account nor its domain has a limit.
        script: another number after every change of its Sieve scripts; 0: none is active.
    """

    account_id: AccountId
    address: str
    detail: str = ""
    over_quota: bool = False
    room_bytes: int | None = None
    script: int = 0


class LoginCredential(Struct, frozen=True):
    """One stored hash of an account."""

    credential_id: int
    hash: str


class Login(Struct, frozen=True):
    """An active account that a login name stands for.

    Attributes:
        address: primary address.
        version: another number as soon as a credential or the account's state changes.
        credentials: all that may be tried; expired ones are left out.
    """

    account_id: AccountId
    address: str
    version: int
    credentials: tuple[LoginCredential, ...] = ()


class Account(Struct, frozen=True):
    """An account as an administrator sees it.

    Attributes:
        quota_bytes: None = the domain's default, 0 = unlimited.
        used_bytes: live mail, without what was expunged.
        legal_hold: nothing of it is removed, however long ago it was expunged or deleted.
        hold_reason: as given with the hold; empty: none.
    """

    account_id: AccountId
    address: str
    disabled: bool
    deleted_at: datetime | None
    created_at: datetime
    quota_bytes: int | None
    quota_messages: int | None
    used_bytes: int
    used_messages: int
    legal_hold: bool = False
    hold_reason: str = ""
    held_at: datetime | None = None


class Quota(Struct, frozen=True):
    """What an account uses and may; a limit of None: unlimited."""

    bytes_used: int
    bytes_limit: int | None
    messages_used: int
    messages_limit: int | None
    mailboxes_used: int
    mailboxes_limit: int | None


class Credential(Struct, frozen=True):
    """A credential without its hash."""

    credential_id: int
    kind: str
    name: str
    created_at: datetime
    expires_at: datetime | None


class Accounts:
    """Accounts and what belongs to them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # ── for the protocols ────────────────────────────────────────────────────────────────────────────────────────────

    async def find_recipients(self, addresses: Sequence[str]) -> list[Recipient | None]:
        """Where mail for each address goes, in one query for all.

        The first that fits: the address as it stands (account, then alias), the same without `+detail`, the catch-all
        of the domain. A disabled account takes no mail, and no catch-all takes it instead.

        Returns:
            One entry for each address, in order; None = nobody here.
        """
        asked = [fold_address(address) if _is_text(address) else "" for address in addresses]
        rows = await self._db.fetch(
            """
            SELECT r.*, room_left(r.account_id) AS room_bytes FROM resolve_recipients($1) r
            WHERE r.account_id IS NOT NULL AND NOT r.disabled
            """,
            asked,
        )
        found: dict[int, Record] = {}
        for row in rows:
            found[row["ord"]] = row
        return [_recipient(address, found.get(ord)) for ord, address in enumerate(addresses, 1)]

    async def find_login(self, login: str) -> Login | None:
        """The active account behind a login name, with every hash that may be tried; one query.

        Args:
            login: in canonical form; the primary address, or an alias that may log in.
        """
        rows = await self._db.fetch(
            """
            SELECT a.account_id, a.address, a.credential_version, c.credential_id, c.hash
            FROM (
              SELECT account_id FROM (
                SELECT account_id, 1 AS rank FROM accounts WHERE address = $1 AND deleted_at IS NULL
                UNION ALL SELECT account_id, 2 FROM aliases WHERE address = $1 AND login
              ) q ORDER BY rank, account_id LIMIT 1
            ) w
            JOIN accounts a ON a.account_id = w.account_id AND NOT a.disabled AND a.deleted_at IS NULL
            LEFT JOIN credentials c ON c.account_id = a.account_id AND c.kind IN ('password', 'app_password')
              AND (c.expires_at IS NULL OR c.expires_at > clock())
            ORDER BY c.kind DESC, c.credential_id
            """,
            login,
        )
        if not rows:
            return None
        first = rows[0]
        hashes = tuple(LoginCredential(row["credential_id"], row["hash"]) for row in rows if row["hash"] is not None)
        return Login(AccountId(first["account_id"]), first["address"], first["credential_version"], hashes)

    async def get_login_version(self, account_id: AccountId, credential_id: int) -> int | None:
        """Version of an account's credentials; None: the account or this credential may no longer log in."""
        version: int | None = await self._db.fetchval(
            """
            SELECT a.credential_version FROM accounts a
            JOIN credentials c ON c.account_id = a.account_id AND c.credential_id = $2
              AND (c.expires_at IS NULL OR c.expires_at > clock())
            WHERE a.account_id = $1 AND NOT a.disabled AND a.deleted_at IS NULL
            """,
            account_id,
            credential_id,
        )
        return version

    async def upgrade_hash(self, credential_id: int, old: str, new: str) -> None:
        """Replace a hash of the same password, unless it was changed meanwhile."""
        await self._db.execute(
            "UPDATE credentials SET hash = $3 WHERE credential_id = $1 AND hash = $2", credential_id, old, new
        )

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def create(
        self,
        address: str,
        *,
        password_hash: str | None = None,
        quota_bytes: int | None = None,
        quota_messages: int | None = None,
    ) -> AccountId:
        """Create an account with its default mailboxes; the domain is created with it if it is new.

        Raises:
            InvalidName: not an address.
            AlreadyExists: an account or alias has the address.
        """
        address = canonical_address(address)
        async with self._db.transaction() as conn:
            await claim(conn, address)
            account_id = AccountId(await conn.fetchval("SELECT create_account($1)", address))
            if quota_bytes is not None or quota_messages is not None:
                await conn.execute(_SET_QUOTA, account_id, quota_bytes, quota_messages, None)
            if password_hash is not None:
                await conn.execute(_SET_PASSWORD, account_id, password_hash)
        return account_id

    async def get(self, address: str, *, deleted: bool = False) -> Account:
        """One account by its primary address or an alias.

        Args:
            deleted: look among the deleted ones, the latest first.

        Raises:
            NotFound: nobody has the address.
        """
        row = await self._db.fetchrow(
            f"""
            {_ACCOUNTS} WHERE (a.deleted_at IS NOT NULL) = $2
              AND (a.address = $1 OR a.account_id IN (SELECT account_id FROM aliases WHERE address = $1))
            ORDER BY a.address = $1 DESC, a.deleted_at DESC, a.account_id LIMIT 1
            """,
            fold_address(address),
            deleted,
        )
        if row is None:
            raise NotFound(f"No {'deleted ' if deleted else ''}account {address}")
        return _account(row)

    async def list_accounts(
        self, *, domain: str | None = None, deleted: bool = False, after: str = "", limit: int = 1000
    ) -> list[Account]:
        """Accounts in the order of their addresses.

        Args:
            domain: only of this domain.
            deleted: only deleted ones that can be restored, instead of all others.
            after: begin behind this address, for the next page.
        """
        rows = await self._db.fetch(
            f"""
            {_ACCOUNTS} WHERE a.address > $1 AND (a.deleted_at IS NOT NULL) = $2
              AND ($3::text IS NULL OR a.domain_id = (SELECT domain_id FROM domains WHERE name = $3))
            ORDER BY a.address LIMIT $4
            """,
            fold_address(after), deleted, None if domain is None else fold_address(domain), limit,
        )  # fmt: skip
        return [_account(row) for row in rows]

    async def set_disabled(self, account_id: AccountId, disabled: bool) -> None:
        """Let an account in, or keep it and its mail out; remembered logins end within a minute."""
        await self._update(
            "UPDATE accounts SET disabled = $2 WHERE account_id = $1 AND deleted_at IS NULL", account_id, disabled
        )

    async def delete(self, account_id: AccountId) -> None:
        """Mark as deleted; until the grace period has passed, `restore` undoes it."""
        await self._update(
            "UPDATE accounts SET deleted_at = clock() WHERE account_id = $1 AND deleted_at IS NULL", account_id
        )

    async def restore(self, account_id: AccountId) -> None:
        """Undo `delete`; aliases that somebody else has got meanwhile stay with him.

        Past the grace period it brings back what the cleanup has not removed yet.

        Raises:
            NotFound: no such deleted account.
            AlreadyExists: somebody else has the address now.
        """
        async with self._db.transaction() as conn:
            address = await conn.fetchval(
                "SELECT address FROM accounts WHERE account_id = $1 AND deleted_at IS NOT NULL", account_id
            )
            if address is None:
                raise NotFound("No such deleted account")
            await claim(conn, address)
            await conn.execute(_LOCK_ALIAS_DOMAINS, account_id)
            await conn.execute(_DROP_LOST_ALIASES, account_id)
            # The cleanup may be at it: only statements that begin after its commit see what it did.
            if not await conn.fetchval(_LOCK_DELETED, account_id):
                raise NotFound("No such deleted account")
            await conn.execute(_RESTORE_MAILBOXES, account_id)
            await conn.execute("UPDATE accounts SET deleted_at = NULL WHERE account_id = $1", account_id)

    async def set_hold(self, account_id: AccountId, held: bool, reason: str, actor: str) -> bool:
        """Put a legal hold on an account, deleted or not, or release it; False: it was so already.

        What is being removed at this moment is waited for: afterwards no message goes, and no body that a message had.

        Args:
            actor: who did it, for the log of holds.

        Raises:
            NotFound: no such account.
            NoPermission: it was shredded; there is nothing to hold.
            Busy: somebody works on it for too long.
        """
        try:
            changed: bool = await self._db.fetchval(
                "SELECT set_legal_hold($1, $2, $3, $4)", account_id, held, reason, actor
            )
        except NoPermission as error:
            raise NoPermission("The account was shredded") from error
        return changed

    async def set_quota(
        self,
        account_id: AccountId,
        *,
        quota_bytes: int | None,
        quota_messages: int | None,
        quota_mailboxes: int | None = None,
    ) -> None:
        """Set all limits: None = the domain's default, 0 = unlimited."""
        await self._update(_SET_QUOTA, account_id, quota_bytes, quota_messages, quota_mailboxes)

    async def get_quota(self, account_id: AccountId) -> Quota:
        """Usage and the limits that hold, those of the domain included.

        Raises:
            NotFound: no such account.
        """
        row = await self._db.fetchrow("SELECT * FROM account_quota($1)", account_id)
        if row is None:
            raise NotFound("No such account")
        return Quota(**row)

    # ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def set_password(self, account_id: AccountId, password_hash: str) -> None:
        """Set the account's one password.

        Raises:
            NotFound: no such account.
        """
        await self._update(_SET_PASSWORD, account_id, password_hash)

    async def add_app_password(
        self, account_id: AccountId, name: str, password_hash: str, expires_at: datetime | None = None
    ) -> int:
        """Add an app password; gives its id.

        Raises:
            NotFound: no such account.
            AlreadyExists: the account has one of that name.
            LimitExceeded: the account has as many as it may.
        """
        async with self._db.transaction() as conn:
            if not await conn.fetchval("SELECT true FROM accounts WHERE account_id = $1 FOR UPDATE", account_id):
                raise NotFound("No such account")
            names = [r[0] for r in await conn.fetch(
                "SELECT name FROM credentials WHERE account_id = $1 AND kind = 'app_password'", account_id
            )]  # fmt: skip
            if name in names:
                raise AlreadyExists(f"An app password named {name!r} exists")
            if len(names) >= MAX_APP_PASSWORDS:
                raise LimitExceeded(f"An account has at most {MAX_APP_PASSWORDS} app passwords")
            credential_id: int = await conn.fetchval(
                "INSERT INTO credentials (account_id, kind, name, hash, expires_at)"
                " VALUES ($1, 'app_password', $2, $3, $4) RETURNING credential_id",
                account_id, name, password_hash, expires_at,
            )  # fmt: skip
            return credential_id

    async def list_credentials(self, account_id: AccountId) -> list[Credential]:
        """Every credential of an account, the password first."""
        rows = await self._db.fetch(
            "SELECT credential_id, kind, name, created_at, expires_at FROM credentials WHERE account_id = $1"
            " ORDER BY kind <> 'password', credential_id",
            account_id,
        )
        return [Credential(**row) for row in rows]

    async def remove_credential(self, account_id: AccountId, credential_id: int) -> None:
        """Remove a credential; logins with it end within a minute.

        Raises:
            NotFound: the account has none of that id.
        """
        await self._update(
            "DELETE FROM credentials WHERE account_id = $1 AND credential_id = $2", account_id, credential_id,
            missing="No such credential",
        )  # fmt: skip

    async def _update(self, sql: str, *args: Any, missing: str = "No such account") -> None:
        status = await self._db.execute(sql, *args)
        if status.endswith(" 0"):
            raise NotFound(missing)


_SET_QUOTA: Final = """
    UPDATE accounts SET quota_bytes = $2, quota_messages = $3, quota_mailboxes = $4 WHERE account_id = $1
"""
_LOCK_ALIAS_DOMAINS: Final = """
    SELECT FROM domains WHERE name IN (SELECT split_part(address, '@', -1) FROM aliases WHERE account_id = $1)
    ORDER BY domain_id FOR UPDATE
"""
_DROP_LOST_ALIASES: Final = """
    DELETE FROM aliases l WHERE l.account_id = $1 AND EXISTS (
      SELECT FROM aliases o JOIN accounts a USING (account_id)
      WHERE o.address = l.address AND o.account_id <> $1 AND a.deleted_at IS NULL)
"""
_LOCK_DELETED: Final = "SELECT deleted_at IS NOT NULL FROM accounts WHERE account_id = $1 FOR UPDATE"
# Those that the cleanup had begun with have the account's own time of deletion; it looks at that under the lock of the
# account's row, so it stops here. What the user had deleted has a time of its own.
_RESTORE_MAILBOXES: Final = """
    UPDATE mailboxes m SET deleted_at = NULL
    FROM accounts a
    WHERE a.account_id = $1 AND m.account_id = a.account_id AND m.deleted_at = a.deleted_at
"""
_SET_PASSWORD: Final = """
    INSERT INTO credentials (account_id, kind, name, hash)
    SELECT account_id, 'password', '', $2 FROM accounts WHERE account_id = $1
    ON CONFLICT (account_id, kind, name) DO UPDATE SET hash = EXCLUDED.hash, created_at = clock()
"""
_ACCOUNTS: Final = """
    SELECT a.account_id, a.address, a.disabled, a.deleted_at, a.created_at, a.quota_bytes, a.quota_messages,
      u.bytes AS used_bytes, u.messages AS used_messages, a.legal_hold, a.hold_reason, a.held_at
    FROM accounts a CROSS JOIN LATERAL account_usage(a.account_id) u
"""


def _account(row: Record) -> Account:
    return Account(**row)


def _recipient(address: str, row: Record | None) -> Recipient | None:
    if row is None:
        return None
    return Recipient(
        account_id=AccountId(row["account_id"]),
        address=row["address"],
        detail="" if row["detail"] is None else split_detail(address.strip())[1],
        over_quota=row["over_quota"],
        room_bytes=row["room_bytes"],
        script=row["script"],
    )


def _is_text(text: str) -> bool:
    """PostgreSQL can hold it: neither NUL nor half a character."""
    return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)
