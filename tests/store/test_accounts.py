"""Accounts, domains, aliases, credentials, recipients and logins on a real database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sora.errors import AlreadyExists, InvalidName, LimitExceeded, NotFound, OverQuota, Refused
from sora.services.logins import passwords
from sora.services.logins.auth import Auth
from sora.services.logins.passwords import HashCost
from sora.store.accounts import MAX_APP_PASSWORDS, Recipient
from sora.types import AccountId

if TYPE_CHECKING:
    from sora.store.store import Store

CHEAP = HashCost(memory_kib=64, passes=1)
NOBODY = AccountId(999_999)


async def fill(store: Store, account_id: AccountId, size: int) -> None:
    """Pretend that the INBOX of an account holds one message of *size* octets."""
    await store.db.execute(
        """
        UPDATE mailbox_stats s SET message_count = 1, unseen_count = 1, total_size = $2 FROM mailboxes m
        WHERE s.mailbox_id = m.mailbox_id AND m.account_id = $1 AND m.name = 'INBOX'
        """,
        account_id,
        size,
    )


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_account_has_its_default_mailboxes_subscribed(store: Store) -> None:
    account_id = await store.accounts.create("Ann@Example.com", quota_bytes=10, quota_messages=0)
    account = await store.accounts.get("ANN@example.com")
    assert account.account_id == account_id
    assert account.address == "ann@example.com"
    assert (account.quota_bytes, account.quota_messages) == (10, 0)
    assert not account.disabled
    assert account.deleted_at is None
    boxes = await store.mailboxes.list(account_id)
    assert {box.name: box.special_use for box in boxes} == {
        "Archive": "\\Archive",
        "Drafts": "\\Drafts",
        "INBOX": None,
        "Junk": "\\Junk",
        "Sent": "\\Sent",
        "Trash": "\\Trash",
    }
    assert all(box.subscribed for box in boxes)


@pytest.mark.parametrize("taken_by", ["account", "alias"])
async def test_an_address_is_taken_once(store: Store, taken_by: str) -> None:
    ann = await store.accounts.create("ann@example.com")
    address = "ann@example.com"
    if taken_by == "alias":
        address = "info@example.com"
        await store.domains.add_alias("Info@example.com", ann)
    with pytest.raises(AlreadyExists):
        await store.accounts.create(address.upper())
    with pytest.raises(AlreadyExists):
        await store.domains.add_alias(address.title(), ann)


async def test_two_claims_of_one_address_follow_each_other(store: Store) -> None:
    bob = await store.accounts.create("bob@example.com")
    claims = [store.accounts.create("new@example.com") for _ in range(3)]
    aliases = [store.domains.add_alias("new@example.com", bob) for _ in range(3)]
    results = await asyncio.gather(*claims, *aliases, return_exceptions=True)
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 5


async def test_a_refused_account_leaves_nothing(store: Store) -> None:
    with pytest.raises(InvalidName):
        await store.accounts.create("no address")
    assert await store.domains.list_domains() == []
    assert await store.accounts.list_accounts() == []


async def test_list_pages_through_a_domain(store: Store) -> None:
    for address in ("b@x.org", "a@x.org", "c@x.org", "a@y.org"):
        await store.accounts.create(address)
    accounts = store.accounts
    assert [a.address for a in await accounts.list_accounts()] == ["a@x.org", "a@y.org", "b@x.org", "c@x.org"]
    assert [a.address for a in await accounts.list_accounts(domain="X.org", limit=2)] == ["a@x.org", "b@x.org"]
    page = await accounts.list_accounts(domain="x.org", limit=2, after="b@x.org")
    assert [a.address for a in page] == ["c@x.org"]
    assert await accounts.list_accounts(domain="nowhere.org") == []


async def test_usage_counts_live_mailboxes_only(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com", quota_messages=5)
    await fill(store, ann, 1234)
    account = await store.accounts.get("ann@example.com")
    assert (account.used_bytes, account.used_messages) == (1234, 1)
    quota = await store.accounts.get_quota(ann)
    assert (quota.bytes_used, quota.bytes_limit) == (1234, None)
    assert (quota.messages_used, quota.messages_limit) == (1, 5)
    assert quota.mailboxes_used == 6


async def test_quota_zero_is_unlimited_and_none_is_the_domains(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    await store.db.execute("UPDATE domains SET account_quota_bytes = 77")
    assert (await store.accounts.get_quota(ann)).bytes_limit == 77
    await store.accounts.set_quota(ann, quota_bytes=0, quota_messages=None)
    assert (await store.accounts.get_quota(ann)).bytes_limit is None
    await store.accounts.set_quota(ann, quota_bytes=5, quota_messages=3)
    quota = await store.accounts.get_quota(ann)
    assert (quota.bytes_limit, quota.messages_limit, quota.mailboxes_limit) == (5, 3, None)
    await store.accounts.set_quota(ann, quota_bytes=5, quota_messages=3, quota_mailboxes=6)
    assert (await store.accounts.get_quota(ann)).mailboxes_limit == 6
    with pytest.raises(OverQuota):
        await store.mailboxes.create(ann, "One too many")
    with pytest.raises(NotFound):
        await store.accounts.set_quota(NOBODY, quota_bytes=5, quota_messages=3)
    with pytest.raises(NotFound):
        await store.accounts.get_quota(NOBODY)


async def test_delete_and_restore(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    await store.accounts.delete(ann)
    with pytest.raises(NotFound):
        await store.accounts.delete(ann)
    with pytest.raises(NotFound):
        await store.accounts.get("ann@example.com")
    assert await store.accounts.list_accounts() == []
    assert [a.account_id for a in await store.accounts.list_accounts(deleted=True)] == [ann]
    gone = await store.accounts.get("ann@example.com", deleted=True)
    assert gone.deleted_at is not None
    await store.accounts.restore(ann)
    assert (await store.accounts.get("ann@example.com")).account_id == ann
    with pytest.raises(NotFound):
        await store.accounts.restore(ann)


async def test_a_restored_account_takes_no_alias_from_its_new_owner(store: Store) -> None:
    """Two targets of one address: mail for the one would reach the other."""
    old = await store.accounts.create("old@example.com")
    for alias in ("sales@example.com", "kept@example.org"):
        await store.domains.add_alias(alias, old)
    await store.accounts.delete(old)
    new = await store.accounts.create("new@example.com")
    await store.domains.add_alias("sales@example.com", new)
    await store.accounts.restore(old)
    found = await store.accounts.find_recipients(["sales@example.com", "kept@example.org"])
    assert [who and who.account_id for who in found] == [new, old]
    assert [alias.alias for alias in await store.domains.list_aliases(old)] == ["kept@example.org"]


async def test_restore_is_refused_when_the_address_has_a_new_owner(store: Store) -> None:
    old = await store.accounts.create("ann@example.com")
    await store.accounts.delete(old)
    new = await store.accounts.create("ann@example.com")
    with pytest.raises(AlreadyExists):
        await store.accounts.restore(old)
    assert (await store.accounts.get("ann@example.com")).account_id == new


async def test_get_finds_by_alias_too(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    await store.domains.add_alias("info@example.com", ann)
    assert (await store.accounts.get("Info@Example.com")).address == "ann@example.com"
    with pytest.raises(NotFound):
        await store.accounts.get("nobody@example.com")


# ── recipients ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_recipients_of_a_transaction_in_order(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    bob = await store.accounts.create("bob@example.com")
    await store.domains.add_alias("info@example.com", bob)
    found = await store.accounts.find_recipients(
        [
            "nobody@example.com",
            "Ann@EXAMPLE.com",
            "ann+Lists@example.com",
            "INFO@example.com",
            "info+x@example.com",
            "ann@elsewhere.org",
            "ann@example.com",
        ]
    )
    a, b = (
        (lambda detail="": Recipient(ann, "ann@example.com", detail)),
        (lambda detail="": Recipient(bob, "bob@example.com", detail)),
    )
    assert found == [None, a(), a("Lists"), b(), b("x"), None, a()]
    assert await store.accounts.find_recipients([]) == []


async def test_an_address_with_a_plus_of_its_own_goes_first(store: Store) -> None:
    await store.accounts.create("ann@example.com")
    plus = await store.accounts.create("ann+x@example.com")
    [found] = await store.accounts.find_recipients(["Ann+X@example.com"])
    assert found == Recipient(plus, "ann+x@example.com")


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "@",
        "ann",
        "@example.com",
        "ann@",
        "a\0b@example.com",
        "\udc80@example.com",
        "ann@@example.com",
        "+@example.com",
    ],
)
async def test_what_cannot_be_an_address_is_nobody(store: Store, odd: str) -> None:
    await store.accounts.create("ann@example.com")
    assert await store.accounts.find_recipients([odd]) == [None]


async def test_catch_all(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    bob = await store.accounts.create("bob@other.org")
    await store.domains.set_catch_all("Example.com", bob)
    found = await store.accounts.find_recipients(["any+thing@example.com", "ann@example.com", "any@other.org"])
    assert found[0] is not None
    assert found[0].account_id == bob
    assert found[1] is not None
    assert found[1].account_id == ann
    assert found[2] is None
    await store.domains.set_catch_all("example.com", None)
    assert await store.accounts.find_recipients(["any@example.com"]) == [None]
    with pytest.raises(NotFound):
        await store.domains.set_catch_all("nowhere.org", bob)


@pytest.mark.parametrize("how", ["disabled", "deleted"])
async def test_disabled_and_deleted_accounts_take_no_mail(store: Store, how: str) -> None:
    ann = await store.accounts.create("ann@example.com")
    await store.domains.add_alias("info@example.com", ann)
    if how == "disabled":
        await store.accounts.set_disabled(ann, True)
    else:
        await store.accounts.delete(ann)
    asked = ["ann@example.com", "ann+x@example.com", "info@example.com"]
    assert await store.accounts.find_recipients(asked) == [None] * 3
    if how == "disabled":
        bob = await store.accounts.create("bob@example.com")
        await store.domains.set_catch_all("example.com", bob)
        assert await store.accounts.find_recipients(asked) == [None] * 3
        await store.accounts.set_disabled(ann, False)
    else:
        await store.accounts.restore(ann)
    assert None not in await store.accounts.find_recipients(asked)


async def test_over_quota_is_told(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com", quota_bytes=1000)
    bob = await store.accounts.create("bob@example.com")
    for account_id in (ann, bob):
        await fill(store, account_id, 999)
    before = await store.accounts.find_recipients(["ann@example.com", "bob@example.com"])
    await fill(store, ann, 1000)
    after = await store.accounts.find_recipients(["ann@example.com", "bob@example.com"])
    assert [r.over_quota for r in before if r] == [False, False]
    assert [r.over_quota for r in after if r] == [True, False]


# ── aliases and domains ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_aliases(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    bob = await store.accounts.create("bob@example.com")
    await store.domains.add_alias("Sales@new.org", ann, login=False)
    await store.domains.add_alias("help@example.com", bob)
    listed = [(a.alias, a.address, a.login) for a in await store.domains.list_aliases()]
    assert listed == [("help@example.com", "bob@example.com", True), ("sales@new.org", "ann@example.com", False)]
    assert [a.alias for a in await store.domains.list_aliases(ann)] == ["sales@new.org"]
    await store.domains.remove_alias("SALES@new.org")
    assert await store.domains.list_aliases(ann) == []
    with pytest.raises(NotFound):
        await store.domains.remove_alias("sales@new.org")
    with pytest.raises(InvalidName):
        await store.domains.add_alias("a b@example.com", ann)


async def test_domains(store: Store) -> None:
    await store.domains.add("Empty.org")
    with pytest.raises(AlreadyExists):
        await store.domains.add("empty.org")
    ann = await store.accounts.create("ann@example.com")
    await store.domains.set_catch_all("empty.org", ann)
    domains = {d.name: d for d in await store.domains.list_domains()}
    assert (domains["example.com"].accounts, domains["example.com"].catch_all) == (1, None)
    assert (domains["empty.org"].accounts, domains["empty.org"].catch_all) == (0, "ann@example.com")
    with pytest.raises(Refused, match="still has accounts"):
        await store.domains.remove("example.com")
    await store.domains.add_alias("x@empty.org", ann)
    await store.domains.remove("EMPTY.org")
    assert await store.domains.list_aliases() == []
    assert [d.name for d in await store.domains.list_domains()] == ["example.com"]
    with pytest.raises(NotFound):
        await store.domains.remove("empty.org")


# ── logins ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_login_by_address_and_by_alias(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com", password_hash="$x")
    await store.domains.add_alias("info@example.com", ann)
    await store.domains.add_alias("mute@example.com", ann, login=False)
    for name in ("ann@example.com", "info@example.com"):
        found = await store.accounts.find_login(name)
        assert found is not None
        assert (found.account_id, found.address) == (ann, "ann@example.com")
        assert [c.hash for c in found.credentials] == ["$x"]
    assert await store.accounts.find_login("mute@example.com") is None
    assert await store.accounts.find_login("nobody@example.com") is None


async def test_an_account_without_a_password_has_no_hashes(store: Store) -> None:
    await store.accounts.create("ann@example.com")
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert found.credentials == ()


@pytest.mark.parametrize("change", ["password", "disable", "delete", "app password", "remove", "alias"])
async def test_every_change_raises_the_version(store: Store, change: str) -> None:
    ann = await store.accounts.create("ann@example.com", password_hash="$x")
    app = await store.accounts.add_app_password(ann, "phone", "$y")
    await store.domains.add_alias("info@example.com", ann)
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    main = found.credentials[0].credential_id
    assert await store.accounts.get_login_version(ann, main) == found.version
    match change:
        case "password":
            await store.accounts.set_password(ann, "$z")
        case "disable":
            await store.accounts.set_disabled(ann, True)
        case "delete":
            await store.accounts.delete(ann)
        case "app password":
            await store.accounts.add_app_password(ann, "tablet", "$w")
        case "remove":
            await store.accounts.remove_credential(ann, app)
            assert await store.accounts.get_login_version(ann, app) is None
        case "alias":
            await store.domains.remove_alias("info@example.com")
    version = await store.accounts.get_login_version(ann, main)
    assert version != found.version
    if change in ("disable", "delete"):
        assert version is None
        assert await store.accounts.find_login("ann@example.com") is None


async def test_an_expired_app_password_is_left_out(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    soon = datetime.now(UTC) + timedelta(days=1)
    app = await store.accounts.add_app_password(ann, "phone", "$y", expires_at=soon)
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert [c.credential_id for c in found.credentials] == [app]
    await store.db.execute("UPDATE credentials SET expires_at = now() - interval '1 s'")
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert found.credentials == ()
    assert await store.accounts.get_login_version(ann, app) is None


async def test_credentials(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    app = await store.accounts.add_app_password(ann, "phone", "$y")
    await store.accounts.set_password(ann, "$1")
    await store.accounts.set_password(ann, "$2")
    with pytest.raises(AlreadyExists):
        await store.accounts.add_app_password(ann, "phone", "$z")
    listed = await store.accounts.list_credentials(ann)
    assert [(c.kind, c.name) for c in listed] == [("password", ""), ("app_password", "phone")]
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert sorted(c.hash for c in found.credentials) == ["$2", "$y"]
    await store.accounts.remove_credential(ann, app)
    with pytest.raises(NotFound):
        await store.accounts.remove_credential(ann, app)
    bob = await store.accounts.create("bob@example.com")
    with pytest.raises(NotFound):
        await store.accounts.remove_credential(bob, listed[0].credential_id)


async def test_the_number_of_app_passwords_is_bounded(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com")
    for i in range(MAX_APP_PASSWORDS):
        await store.accounts.add_app_password(ann, str(i), "$y")
    with pytest.raises(LimitExceeded):
        await store.accounts.add_app_password(ann, "more", "$y")
    with pytest.raises(NotFound):
        await store.accounts.add_app_password(NOBODY, "phone", "$y")
    with pytest.raises(NotFound):
        await store.accounts.set_password(NOBODY, "$y")


async def test_upgrade_of_a_hash_that_was_changed_meanwhile_does_nothing(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com", password_hash="$old")
    [credential] = await store.accounts.list_credentials(ann)
    await store.accounts.upgrade_hash(credential.credential_id, "$other", "$new")
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert found.credentials[0].hash == "$old"
    await store.accounts.upgrade_hash(credential.credential_id, "$old", "$new")
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert found.credentials[0].hash == "$new"


async def test_a_whole_login_on_the_database(store: Store) -> None:
    ann = await store.accounts.create("ann@example.com", password_hash=passwords.hash_password("main", CHEAP))
    app = passwords.new_app_password()
    await store.accounts.add_app_password(ann, "phone", passwords.hash_app_password(app))
    await store.domains.add_alias("info@example.com", ann)
    auth = Auth(store.accounts, default_domain="example.com", cost=HashCost(memory_kib=128, passes=1))
    for name, password in (("ann", "main"), ("Info@example.com", app), ("ann@example.com", app)):
        identity = await auth.login(name, password, peer="192.0.2.1", protocol="imap")
        assert (identity.account_id, identity.address) == (ann, "ann@example.com")
    await auth.close()
    found = await store.accounts.find_login("ann@example.com")
    assert found is not None
    assert "m=128" in found.credentials[0].hash
