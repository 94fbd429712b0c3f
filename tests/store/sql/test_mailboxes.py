"""Accounts and the mailbox tree: names, parents and children, deletion, changes that others must hear of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.sql.tools import ALL, Account, fails_with

if TYPE_CHECKING:
    from sora.store.db import Connection


async def create(conn: Connection, account: Account, name: str, special_use: str | None = None) -> int:
    """Create a mailbox; its id."""
    row = await conn.fetchrow("SELECT * FROM create_mailbox($1, $2, $3)", account.id, name, special_use)
    await account.refresh()
    mailbox_id: int = row["mailbox_id"]
    return mailbox_id


async def test_an_account_starts_with_six_mailboxes(account: Account) -> None:
    rows = {
        row["name"]: (row["special_use"], row["subscribed"], row["uid_next"], row["highest_modseq"])
        for row in await account.list()
    }
    assert rows == {
        "INBOX": (None, True, 1, 1), "Sent": ("\\Sent", True, 1, 1), "Drafts": ("\\Drafts", True, 1, 1),
        "Archive": ("\\Archive", True, 1, 1), "Junk": ("\\Junk", True, 1, 1), "Trash": ("\\Trash", True, 1, 1),
    }  # fmt: skip


async def test_addresses_are_folded_and_unique(conn: Connection, account: Account) -> None:
    async with fails_with(conn, "23505"):
        await conn.execute("SELECT create_account('User@EXAMPLE.com')")
    await conn.execute("INSERT INTO aliases (address, account_id) VALUES ('info@example.com', $1)", account.id)
    async with fails_with(conn, "23505"):
        await conn.execute("SELECT create_account('info@example.com')")
    for address in ("nobody", "@example.com", "a b@example.com", "a@b@c", "x" * 250 + "@example.com"):
        async with fails_with(conn, "SR003"):
            await conn.execute("SELECT create_account($1)", address)


async def test_every_change_of_credentials_ends_cached_logins(conn: Connection, account: Account) -> None:
    versions = [await conn.fetchval("SELECT credential_version FROM accounts WHERE account_id = $1", account.id)]
    for statement in (
        "INSERT INTO credentials (account_id, kind, hash) VALUES ($1, 'password', 'x')",
        "UPDATE credentials SET hash = 'y' WHERE account_id = $1",
        "DELETE FROM credentials WHERE account_id = $1",
        "UPDATE accounts SET disabled = true WHERE account_id = $1",
        "UPDATE accounts SET deleted_at = clock() WHERE account_id = $1",
        "INSERT INTO aliases (address, account_id, login) VALUES ('a@example.com', $1, true)",
    ):
        await conn.execute(statement, account.id)
        versions.append(
            await conn.fetchval("SELECT credential_version FROM accounts WHERE account_id = $1", account.id)
        )
    assert versions == list(range(versions[0], versions[0] + 7))


async def test_recipients_are_found_in_order_of_nearness(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    await conn.execute(
        "INSERT INTO aliases (address, account_id) VALUES ('info@example.com', $1), ('user+x@example.com', $2)",
        account.id,
        other.id,
    )
    asked = [
        "USER@example.com",
        "info@example.com",
        "user+Folder@example.com",
        "user+x@example.com",
        "info+y@example.com",
        "no@example.com",
        "user@elsewhere.org",
    ]

    async def resolve() -> list[tuple[int | None, str | None]]:
        rows = await conn.fetch("SELECT * FROM resolve_recipients($1)", asked)
        return [(row["account_id"], row["detail"]) for row in rows]

    expected = [
        (account.id, None),
        (account.id, None),
        (account.id, "Folder"),
        (other.id, None),
        (account.id, "y"),
        (None, None),
        (None, None),
    ]
    assert await resolve() == expected
    await conn.execute("UPDATE domains SET catch_all_account_id = $1", other.id)
    assert (await resolve())[5:] == [(other.id, None), (None, None)]
    await conn.execute("UPDATE accounts SET deleted_at = clock() WHERE account_id = $1", account.id)
    assert (await resolve())[0] == (None, None), "mail for a deleted account is not for the catch-all"
    await conn.execute("UPDATE accounts SET deleted_at = clock() WHERE account_id = $1", other.id)
    assert (await resolve())[5] == (None, None)


async def test_a_full_account_shows_at_rcpt(conn: Connection, account: Account) -> None:
    await account.deliver(1)
    await conn.execute("UPDATE accounts SET quota_messages = 1")
    row = await conn.fetchrow("SELECT * FROM resolve_recipients('{user@example.com}')")
    assert (row["over_quota"], row["disabled"]) == (True, False)


async def test_keywords_keep_their_first_spelling(conn: Connection, account: Account) -> None:
    call = "SELECT * FROM register_keywords($1, $2)"
    assert [tuple(row) for row in await conn.fetch(call, account.id, ["$Label1", "Work", "$label1"])] == [
        ("$Label1", 16),
        ("Work", 17),
    ]
    assert [tuple(row) for row in await conn.fetch(call, account.id, ["WORK", "new"])] == [("Work", 17), ("new", 18)]
    await conn.fetch(call, account.id, [f"k{i}" for i in range(997)])
    async with fails_with(conn, "SR004"):
        await conn.fetch(call, account.id, ["one-too-many"])
    assert len(await conn.fetch(call, account.id, ["$LABEL1"])) == 1


async def test_missing_parents_are_created(conn: Connection, account: Account) -> None:
    await create(conn, account, "a/b/c", "\\Important")
    rows = {row["name"]: row for row in await account.list() if row["name"].startswith("a")}
    assert [(name, row["special_use"], row["has_children"]) for name, row in rows.items()] == [
        ("a", None, True), ("a/b", None, True), ("a/b/c", "\\Important", False),
    ]  # fmt: skip
    assert [name for kind, name in await account.changes() if kind == "create"] == ["a", "a/b", "a/b/c"]


async def test_names_are_normal_and_inbox_is_one(conn: Connection, account: Account) -> None:
    for spelling in ("inbox", "InBox", "INBOX/"):
        async with fails_with(conn, "23505"):
            await create(conn, account, spelling)
    await create(conn, account, "Cafe\u0301")
    await create(conn, account, "inbox/child")
    await create(conn, account, "trash")
    assert {"Café", "INBOX/child", "trash", "Trash"} <= account.boxes.keys()
    for name in ("", "/", "/a", "a//b", "a\nb", "x" * 1025, "/".join("x" * 33)):
        async with fails_with(conn, "SR003"):
            await create(conn, account, name)
    async with fails_with(conn, "23514"):
        await conn.execute("UPDATE mailboxes SET name = 'iNBOX' WHERE name = 'Trash'")


async def test_uidvalidity_only_grows(conn: Connection, account: Account) -> None:
    values = []
    for _ in range(3):
        row = await conn.fetchrow("SELECT * FROM create_mailbox($1, 'again')", account.id)
        values.append(row["uidvalidity"])
        await conn.execute("SELECT delete_mailbox($1, 'again')", account.id)
    assert values == sorted(set(values))
    assert 1_700_000_000 < values[0] < 2**32


async def test_uidvalidity_passes_the_clock_after_a_restore(conn: Connection, account: Account) -> None:
    last = await conn.fetchval("SELECT last_value FROM uidvalidities")
    await conn.execute("SELECT setval('uidvalidities', 1000)")  # an old backup
    await conn.execute("SELECT raise_uidvalidity()")
    raised = await conn.fetchval("SELECT last_value FROM uidvalidities")
    await conn.execute("SELECT setval('uidvalidities', $1)", max(last, raised))
    assert raised > 1_700_000_000


async def test_mailboxes_have_a_limit(conn: Connection, account: Account) -> None:
    await conn.execute("UPDATE accounts SET quota_mailboxes = 7")
    await create(conn, account, "seven")
    async with fails_with(conn, "SR001"):
        await create(conn, account, "eight")
    assert "eight" not in account.boxes


async def test_rename_takes_the_children_along(conn: Connection, account: Account) -> None:
    for name in ("a/b/c", "a0", "ab", "a.b"):
        await create(conn, account, name)
    before = dict(account.boxes)
    await conn.fetch("SELECT * FROM rename_mailbox($1, 'a', 'x/y')", account.id)
    await account.refresh()
    assert {name: account.boxes[name] for name in ("x/y", "x/y/b", "x/y/b/c", "a0", "ab", "a.b")} == {
        "x/y": before["a"], "x/y/b": before["a/b"], "x/y/b/c": before["a/b/c"],
        "a0": before["a0"], "ab": before["ab"], "a.b": before["a.b"],
    }  # fmt: skip
    assert "x" in account.boxes
    renamed = [name for kind, name in await account.changes() if kind == "rename"]
    assert renamed == ["x/y", "x/y/b", "x/y/b/c"]


@pytest.mark.parametrize(
    ("old", "new", "sqlstate"),
    [
        ("missing", "new", "P0002"), ("Trash", "Sent", "23505"),
        ("Trash", "inbox", "23505"), ("Trash", "Trash/child", "SR005"),
        ("Trash", "bad//name", "SR003"), ("Trash", "Trash", "23505"),
    ],
)  # fmt: skip
async def test_renames_that_cannot_be(conn: Connection, account: Account, old: str, new: str, sqlstate: str) -> None:
    async with fails_with(conn, sqlstate):
        await conn.fetch("SELECT * FROM rename_mailbox($1, $2, $3)", account.id, old, new)


async def test_rename_of_inbox_moves_the_messages_only(conn: Connection, account: Account) -> None:
    """RFC 3501 §6.3.5: INBOX stays, empty, with its children; a session that has it selected sees expunges."""
    await create(conn, account, "INBOX/child")
    inbox = account.boxes["INBOX"]
    await account.deliver(30, flags=[0, 3])
    await account.store([16], [5])
    await conn.fetch("SELECT move_all($1, $2, $3, 1)", account.id, inbox, account.boxes["Archive"])
    await account.deliver(3)
    row = await conn.fetchrow("SELECT * FROM rename_mailbox($1, 'inbox', 'old/mail')", account.id)
    await account.refresh()
    assert (account.boxes["INBOX"], account.boxes["old/mail"]) == (inbox, row["mailbox_id"])
    assert "INBOX/child" in account.boxes
    assert (await account.uids("INBOX"), await account.uids("old/mail")) == ([], [1, 2, 3])
    assert (await account.stats("Archive"))["message_count"] == 30
    assert await account.deliver(1) == [34]
    await account.check()


async def test_inbox_moves_slice_by_slice(conn: Connection, account: Account) -> None:
    await account.deliver(2500)
    await conn.execute("SELECT move_all($1, $2, $3, 1)", account.id, account.boxes["INBOX"], account.boxes["Archive"])
    assert await account.uids("Archive") == list(range(1, 2501))
    assert await conn.fetchval("SELECT count(*) FROM message_expunges") == 3
    await account.check()


async def test_delete_leaves_children_under_a_name_without_messages(conn: Connection, account: Account) -> None:
    await create(conn, account, "a/b")
    await account.deliver(2, "a")
    deleted = account.boxes["a"]
    assert await conn.fetchval("SELECT delete_mailbox($1, 'a')", account.id) == deleted
    rows = {row["name"]: row for row in await account.list()}
    assert (rows["a"]["noselect"], rows["a"]["message_count"], rows["a"]["has_children"]) == (True, 0, True)
    assert rows["a"]["mailbox_id"] != deleted
    async with fails_with(conn, "SR005"):
        await conn.execute("SELECT delete_mailbox($1, 'a')", account.id)
    await conn.execute("SELECT delete_mailbox($1, 'a/b')", account.id)
    await conn.execute("SELECT delete_mailbox($1, 'a')", account.id)
    assert "a" not in {row["name"] for row in await account.list()}


async def test_create_makes_a_name_selectable_again(conn: Connection, account: Account) -> None:
    await create(conn, account, "a/b")
    await conn.execute("SELECT delete_mailbox($1, 'a')", account.id)
    mailbox_id = await create(conn, account, "a")
    assert not {row["name"]: row["noselect"] for row in await account.list()}["a"]
    assert await account.deliver(1, "a") == [1]
    assert account.boxes["a"] == mailbox_id


@pytest.mark.parametrize(("name", "sqlstate"), [("INBOX", "SR005"), ("missing", "P0002"), ("a//b", "SR003")])
async def test_deletions_that_cannot_be(conn: Connection, account: Account, name: str, sqlstate: str) -> None:
    async with fails_with(conn, sqlstate):
        await conn.execute("SELECT delete_mailbox($1, $2)", account.id, name)


async def test_subscriptions_outlive_mailboxes(conn: Connection, account: Account) -> None:
    await conn.execute("SELECT delete_mailbox($1, 'Trash')", account.id)
    await conn.execute("SELECT subscribe($1, 'never/was')", account.id)
    await conn.execute("SELECT subscribe($1, 'never/was')", account.id)
    rows = {row["name"]: row for row in await account.list() if row["mailbox_id"] is None}
    assert {name: (row["subscribed"], row["noselect"]) for name, row in rows.items()} == {
        "Trash": (True, True), "never/was": (True, True),
    }  # fmt: skip
    assert await conn.fetchval("SELECT unsubscribe($1, 'never/was')", account.id)
    assert not await conn.fetchval("SELECT unsubscribe($1, 'never/was')", account.id)
    assert await account.changes() == [("delete", "Trash"), ("subscribe", "never/was"), ("unsubscribe", "never/was")]
    assert await account.changes(since=2) == [("unsubscribe", "never/was")]


async def test_a_deleted_account_gets_no_mailbox(conn: Connection, account: Account) -> None:
    await conn.execute("UPDATE accounts SET deleted_at = clock() WHERE account_id = $1", account.id)
    async with fails_with(conn, "P0002"):
        await create(conn, account, "new")


async def test_a_viewer_has_its_own_unseen(conn: Connection, account: Account) -> None:
    await account.deliver(4)
    inbox = account.boxes["INBOX"]
    await conn.fetch("SELECT * FROM store_flags($1, $2, '{2}', '{3}', '{0}', '{}', false, NULL, 77)", account.id, inbox)
    await account.store([0])
    assert await conn.fetchval("SELECT viewer_unseen($1, $2, 77)", account.id, inbox) == 2
    assert await conn.fetchval("SELECT viewer_unseen($1, $2, 78)", account.id, inbox) == 4
    assert (await account.stats())["unseen_count"] == 0
    await conn.fetch("SELECT * FROM expunge($1, $2, $3, $4, false)", account.id, inbox, *ALL)
    await conn.execute("SELECT trim_expunges($1, $2, clock() + interval '1 s')", account.id, inbox)
    assert await conn.fetchval("SELECT count(*) FROM message_viewer_seen") == 0
