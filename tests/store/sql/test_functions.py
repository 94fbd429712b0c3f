"""Messages: what single functions promise, and how they fail. The general behaviour is in test_model.py."""

from __future__ import annotations

import asyncio
import struct
import uuid
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.store.sql.oracle import NOW, TOP, Planes, deliver, uids_of
from tests.store.sql.tools import ALL, Account, fails_with

if TYPE_CHECKING:
    from sora.store.db import Connection, Database

# ── deliver ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_missing_mailbox_fails_the_whole_delivery_and_is_named(conn: Connection, account: Account) -> None:
    messages = [
        {"account_id": account.id, "mailbox_id": account.boxes["INBOX"]},
        {"account_id": account.id, "mailbox_id": 999},
    ]
    with pytest.raises(asyncpg.PostgresError) as caught:
        async with conn.transaction():
            await deliver(conn, messages)
    assert (caught.value.sqlstate, caught.value.detail) == ("P0002", f"{account.id}/999")
    assert await conn.fetchval("SELECT count(*) FROM message_contents") == 0
    assert await conn.fetchval("SELECT count(*) FROM pending_uploads") == 0


@pytest.mark.parametrize(
    "spoil",
    [
        "SELECT delete_mailbox({id}, 'Trash')",
        "UPDATE accounts SET deleted_at = clock() WHERE account_id = {id}",
        "UPDATE mailboxes SET noselect = true WHERE account_id = {id} AND name = 'Trash'",
    ],
)
async def test_what_is_deleted_takes_no_mail(conn: Connection, account: Account, spoil: str) -> None:
    target = {"account_id": account.id, "mailbox_id": account.boxes["Trash"]}
    await conn.execute(spoil.format(id=account.id))
    async with fails_with(conn, "P0002"):
        await deliver(conn, [target])


async def test_the_mailbox_of_another_account_is_no_target(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    async with fails_with(conn, "P0002"):
        await deliver(conn, [{"account_id": account.id, "mailbox_id": other.boxes["INBOX"]}])
    async with fails_with(conn, "P0002"):
        await conn.fetch(
            "SELECT * FROM move_messages($1, $2, $1, $3, $4, $5)",
            account.id,
            account.boxes["INBOX"],
            other.boxes["INBOX"],
            *ALL,
        )


async def test_equal_bytes_are_stored_once_an_account(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    body = b"\x01" * 32
    rows = await deliver(conn, [
        {"account_id": a.id, "mailbox_id": a.boxes[name], "hash": body}
        for a in (account, other) for name in ("INBOX", "Trash")
    ])  # fmt: skip
    assert rows[0]["content_id"] == rows[1]["content_id"] != rows[2]["content_id"] == rows[3]["content_id"]
    assert await conn.fetchval("SELECT count(*) FROM search_queue") == 2
    again = await deliver(conn, [{"account_id": account.id, "mailbox_id": account.boxes["INBOX"], "hash": body}])
    assert again[0]["content_id"] == rows[0]["content_id"]
    assert await conn.fetchval("SELECT count(*) FROM search_queue") == 2


async def test_a_retry_within_a_day_is_the_same_message(conn: Connection, account: Account) -> None:
    message = {"account_id": account.id, "mailbox_id": None, "key": b"k"}
    first, twin = await deliver(conn, [message, message])
    assert (first["duplicate"], twin["duplicate"], twin["uid"]) == (False, True, first["uid"])
    await conn.execute("SET sora.clock_offset = '23 h'")
    again = (await deliver(conn, [message]))[0]
    assert (again["duplicate"], again["uid"], again["content_id"]) == (True, first["uid"], first["content_id"])
    await conn.execute("SET sora.clock_offset = '25 h'")
    late = (await deliver(conn, [message]))[0]
    assert (late["duplicate"], late["uid"]) == (False, first["uid"] + 1)
    assert (await deliver(conn, [message]))[0]["uid"] == late["uid"]


async def test_one_delivery_may_be_filed_into_two_mailboxes(conn: Connection, account: Account) -> None:
    rows = await deliver(conn, [
        {"account_id": account.id, "mailbox_id": account.boxes[name], "key": b"k"} for name in ("INBOX", "Archive")
    ])  # fmt: skip
    assert [row["duplicate"] for row in rows] == [False, False]


async def test_a_call_that_does_not_wait_stores_what_is_free(db: Database) -> None:
    """INBOX by number and as INBOX is one mailbox; a locked one is tried once, whatever happens meanwhile."""
    one, two = [await db.fetchval("SELECT create_account($1)", f"{name}@example.com") for name in ("one", "two")]
    inbox = await db.fetchval("SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND name = 'INBOX'", one)
    messages = [
        {"account_id": one, "mailbox_id": None}, {"account_id": two, "mailbox_id": None, "key": b"k"},
        {"account_id": one, "mailbox_id": inbox}, {"account_id": two, "mailbox_id": None, "key": b"k"},
    ]  # fmt: skip
    async with db.acquire() as holder, db.acquire() as conn:
        await holder.execute("BEGIN")
        await holder.execute("SELECT lock_mailbox($1)", inbox)
        rows = await deliver(conn, messages, patient=False)
        (alone,) = await deliver(conn, messages[:1], patient=False)
        await holder.execute("ROLLBACK")
        (free,) = await deliver(conn, messages[:1], patient=False)
    found = [
        (row["uid"], row["locked"], row["duplicate"], row["over_quota"], row["content_id"] is None) for row in rows
    ]
    assert found == [
        (None, True, False, False, True), (1, False, False, False, False),
        (None, True, False, False, True), (1, False, True, False, False),
    ]  # fmt: skip
    assert [row["mailbox_id"] for row in rows[::2]] == [inbox, inbox]
    assert (alone["locked"], alone["uid"]) == (True, None)
    assert (free["locked"], free["uid"]) == (False, 1)
    assert await db.fetchval("SELECT count(*) FROM message_contents") == 2, "nothing is left of what was locked"


async def test_a_delivery_is_found_by_its_key(conn: Connection, account: Account) -> None:
    rows = await deliver(conn, [{"account_id": account.id, "mailbox_id": None, "key": key} for key in (b"a", b"b")])
    found = await conn.fetch(
        "SELECT * FROM find_deliveries($1, $2, $3)", [account.id] * 3, [0, None, 0], [b"b", b"x", b"a"]
    )
    assert [(f["ord"], f["uid"], f["content_id"]) for f in found] == [
        (1, rows[1]["uid"], rows[1]["content_id"]), (3, rows[0]["uid"], rows[0]["content_id"]),
    ]  # fmt: skip
    assert found[0]["uidvalidity"] == rows[0]["uidvalidity"]


async def test_looking_for_a_delivery_waits_for_the_one_that_is_committing(db: Database) -> None:
    """A lost connection does not end its backend: the witness must not be read past it."""
    account_id = await db.fetchval("SELECT create_account('user@example.com')")
    async with db.acquire() as slow:
        await slow.execute("BEGIN")
        await deliver(slow, [{"account_id": account_id, "mailbox_id": None, "key": b"k"}])
        search = asyncio.create_task(
            db.fetch("SELECT * FROM find_deliveries($1, $2, $3)", [account_id], [None], [b"k"])
        )
        while not await slow.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
        assert not search.done()
        await slow.execute("COMMIT")
        assert len(await search) == 1


async def test_an_append_leaves_a_witness_and_is_never_a_duplicate(conn: Connection, account: Account) -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    body = b"\x01" * 32
    rows = await deliver(conn, [
        {"account_id": account.id, "mailbox_id": account.boxes["INBOX"], "hash": body, "append_id": i}
        for i in (one, two)
    ])  # fmt: skip
    assert [row["duplicate"] for row in rows] == [False, False]
    found = await conn.fetch("SELECT * FROM find_appends($1, NULL, $2)", account.id, [two, uuid.uuid4(), one])
    assert [(f["append_id"], f["uid"]) for f in found] == [(two, rows[1]["uid"]), (one, rows[0]["uid"])]


async def test_a_full_account_refuses_its_own_rows_only(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    await conn.execute("UPDATE accounts SET quota_bytes = 250 WHERE account_id = $1", account.id)
    rows = await deliver(conn, [
        {"account_id": a.id, "mailbox_id": None, "size": size}
        for a, size in ((account, 100), (account, 200), (other, 10**12), (account, 150), (account, 1))
    ])  # fmt: skip
    assert [row["over_quota"] for row in rows] == [False, True, False, False, True]
    assert [row["uid"] for row in rows] == [1, None, 1, 2, None]
    assert (await account.stats())["total_size"] == 250
    assert await conn.fetchval("SELECT count(*) FROM message_contents WHERE account_id = $1", account.id) == 2
    assert await conn.fetchval("SELECT is_over_quota($1)", account.id)


@pytest.mark.parametrize(
    ("limit", "fits"),
    [
        ("UPDATE accounts SET quota_messages = 2", 2),
        ("UPDATE domains SET account_quota_messages = 3", 3),
        ("UPDATE domains SET account_quota_bytes = 100", 1),
        ("UPDATE domains SET account_quota_bytes = 100; UPDATE accounts SET quota_bytes = 0", 5),
        ("UPDATE domains SET quota_messages = 4", 4),
        ("UPDATE domains SET quota_bytes = 399", 3),
    ],
)
async def test_limits_of_account_and_domain(conn: Connection, account: Account, limit: str, fits: int) -> None:
    await conn.execute(limit)
    rows = await deliver(conn, [{"account_id": account.id, "mailbox_id": None}] * 5)
    assert sum(not row["over_quota"] for row in rows) == fits


async def test_the_domain_limit_counts_all_its_accounts(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    await conn.execute("UPDATE domains SET quota_messages = 3")
    rows = await deliver(conn, [{"account_id": a.id, "mailbox_id": None} for a in (account, other, account, other)])
    assert sum(row["over_quota"] for row in rows) == 1


async def test_expunged_mail_and_deleted_mailboxes_do_not_count(conn: Connection, account: Account) -> None:
    await conn.execute("UPDATE accounts SET quota_messages = 2 WHERE account_id = $1", account.id)
    await account.deliver(1)
    await account.deliver(1, "Archive")
    assert await account.deliver(1) == [None]
    await account.expunge([1])
    assert await account.deliver(1) == [2]
    await conn.execute("SELECT delete_mailbox($1, 'Archive')", account.id)
    assert await account.deliver(1) == [3]
    quota = await conn.fetchrow("SELECT * FROM account_quota($1)", account.id)
    assert (quota["messages_limit"], quota["messages_used"], quota["bytes_limit"], quota["bytes_used"]) == (
        2,
        2,
        None,
        200,
    )


async def test_copies_are_checked_and_moves_are_not(conn: Connection, account: Account) -> None:
    await account.deliver(2)
    await conn.execute("UPDATE accounts SET quota_messages = 3 WHERE account_id = $1", account.id)
    copy = (
        "SELECT * FROM copy_messages($1, $2, $1, $3, $4, $5)",
        account.id,
        account.boxes["INBOX"],
        account.boxes["Trash"],
    )
    async with fails_with(conn, "SR001"):
        await conn.fetch(*copy, *ALL)
    assert await account.uids("Trash") == []
    await conn.fetch(*copy, [1], [1])
    await conn.fetch(copy[0].replace("copy", "move"), *copy[1:], *ALL)
    assert len(await account.uids("Trash")) == 3


async def test_a_thread_is_found_by_references(conn: Connection, account: Account) -> None:
    async def deliver_reply(message_id: str | None, references: str | None) -> int:
        row = (await deliver(
            conn, [{"account_id": account.id, "mailbox_id": None}], message_ids=[message_id], references=[references]
        ))[0]  # fmt: skip
        thread_id: int = await conn.fetchval(
            "SELECT thread_id FROM message_contents WHERE content_id = $1", row["content_id"]
        )
        return thread_id

    root = await deliver_reply("<1@x>", None)
    assert await deliver_reply("<2@x>", "<1@x>") == root
    assert await deliver_reply("<3@x>", "<lost@x> <2@x>") == root
    assert await deliver_reply("<4@x>", "<elsewhere@x>") not in (root,)
    assert await deliver_reply(None, None) != root
    long = "<" + "x" * 5000 + "@x>"
    assert await deliver_reply(long, "<3@x>") == root, "an index row holds less than this Message-ID"
    assert await deliver_reply("<5@x>", long) == root
    many = " ".join(f"<{i}@y>" for i in range(2000)) + " <3@x>"
    assert await deliver_reply("<6@x>", many) == root


async def test_a_message_whose_content_is_being_purged_gets_a_new_one(conn: Connection, account: Account) -> None:
    """The object key ends in the content id: the DELETE under way must not hit the new mail."""
    body = b"\x01" * 32
    old = (await deliver(conn, [{"account_id": account.id, "mailbox_id": None, "hash": body}]))[0]
    await conn.execute("UPDATE message_contents SET purging_at = clock()")
    new = (await deliver(conn, [{"account_id": account.id, "mailbox_id": None, "hash": body}]))[0]
    assert new["content_id"] != old["content_id"]
    assert await conn.fetchval("SELECT content_id FROM pending_uploads") == new["content_id"]


# ── flags ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_store_says_what_it_did(conn: Connection, account: Account) -> None:
    await account.deliver(3)
    await account.expunge([2])
    rows = await account.store([0])
    assert (uids_of(rows, "applied"), uids_of(rows, "changed"), {row["modseq"] for row in rows}) == (
        {1, 3},
        {1, 3},
        {4},
    )
    rows = await account.store([0, 1], [3])
    assert (uids_of(rows, "applied"), uids_of(rows, "changed"), rows[0]["modseq"]) == ({3}, {3}, 5)
    rows = await account.store([0])
    assert (uids_of(rows, "applied"), uids_of(rows, "changed"), rows[0]["modseq"]) == ({1, 3}, set(), 5)
    assert await account.store([0], [7], [9]) == []


async def test_unchangedsince_zero_is_a_value(conn: Connection, account: Account) -> None:
    await account.deliver(1)
    rows = await conn.fetch(
        "SELECT * FROM store_flags($1, $2, $3, $4, '{0}', '{}', false, 0)", account.id, account.boxes["INBOX"], *ALL
    )
    assert uids_of(rows, "failed") == {1}
    assert uids_of(rows, "applied") == set()


async def test_blocks_are_told_apart(conn: Connection, account: Account) -> None:
    await account.deliver(2100)
    rows = await account.store([3], [1023, 1025], [1024, 2048])
    assert uids_of(rows, "changed") == set(range(1023, 2049))
    assert sorted(row["block_no"] for row in rows) == [0, 1, 2]
    gone = await conn.fetchrow("SELECT * FROM expunge($1, $2, NULL, NULL)", account.id, account.boxes["INBOX"])
    assert gone["uids"] == list(range(1023, 2049))
    assert await conn.fetchval("SELECT seq_of_uid($1, $2, 2049)", account.id, account.boxes["INBOX"]) == 1023
    await account.check()


@pytest.mark.parametrize(
    "call",
    [
        "SELECT * FROM store_flags($1, $2, '{1}', '{9}', '{0}', '{}')",
        "SELECT * FROM expunge($1, $2, NULL, NULL)",
        "SELECT * FROM copy_messages($1, $2, $1, $2, '{1}', '{9}')",
        "SELECT * FROM move_messages($1, $2, $1, $2, '{1}', '{9}')",
    ],
)
async def test_a_deleted_mailbox_is_not_written(conn: Connection, account: Account, call: str) -> None:
    await account.deliver(1, "Trash")
    await conn.execute("SELECT delete_mailbox($1, 'Trash')", account.id)
    async with fails_with(conn, "P0002"):
        await conn.fetch(call, account.id, account.boxes["Trash"])
    for function in ("mailbox_state($1, $2)", "mailbox_delta($1, $2, 0)"):
        assert await conn.fetch(f"SELECT * FROM {function}", account.id, account.boxes["Trash"]) == []


@pytest.mark.parametrize("verb", ["copy", "move"])
async def test_a_deleted_target_takes_nothing(conn: Connection, account: Account, verb: str) -> None:
    await account.deliver(1)
    await conn.execute("SELECT delete_mailbox($1, 'Trash')", account.id)
    async with fails_with(conn, "P0002"):
        await conn.fetch(
            f"SELECT * FROM {verb}_messages($1, $2, $1, $3, $4, $5)",
            account.id, account.boxes["INBOX"], account.boxes["Trash"], *ALL,
        )  # fmt: skip
    assert await account.uids() == [1]


async def test_compaction_forgets_no_change(conn: Connection, account: Account) -> None:
    """Afterwards a message may report a later modseq than its own, never an earlier one and never one of the future."""
    await account.deliver(40)
    for round_ in range(60):
        await account.store([round_ % 5, 16 + round_ % 3], [round_ % 40 + 1])
        await conn.fetch(
            "SELECT * FROM store_flags($1, $2, $3, $3, '{}', '{16,17,18}')",
            account.id,
            account.boxes["INBOX"],
            [round_ % 7 + 1],
        )
    call = ("SELECT uid, modseq FROM changed_since($1, $2, 0)", account.id, account.boxes["INBOX"])
    before = {row["uid"]: row["modseq"] for row in await conn.fetch(*call)}
    total = await conn.fetchval("SELECT count(*) FROM message_flag_changes")
    assert await conn.fetchval("SELECT compact_journal($1, $2, $3)", *call[1:], total - 3) == total - 4
    assert await conn.fetchval("SELECT count(*) FROM message_flag_changes") == 4
    after = {row["uid"]: row["modseq"] for row in await conn.fetch(*call)}
    top = (await account.stats())["highest_modseq"]
    assert after.keys() == before.keys()
    assert all(before[uid] <= after[uid] <= top for uid in before)
    assert any(before[uid] == after[uid] for uid in before)


async def test_long_journals_are_found(conn: Connection, account: Account) -> None:
    await account.deliver(1)
    for round_ in range(7):
        await account.store([round_])
    assert sum(await excesses(conn, keep=3)) == 4, "7 entries of one block are more than twice 3"
    assert sum(await excesses(conn, keep=4)) == 0, "compacted only once there are twice as many"


async def excesses(conn: Connection, keep: int) -> list[int]:
    return [row["excess"] for row in await conn.fetch("SELECT * FROM scan_journals(0, 0, $1, 100)", keep)]


async def test_the_counters_follow_flags_that_any_statement_writes(conn: Connection, account: Account) -> None:
    await account.deliver(5)
    inbox = account.boxes["INBOX"]

    async def counters() -> tuple[int, int]:
        stats = await account.stats()
        return stats["unseen_count"], stats["deleted_count"]

    # bits 1 to 3: the first three messages; bit 9: none is there
    await conn.execute(
        """INSERT INTO message_flags (account_id, mailbox_id, block_no, flag_no, bits)
           SELECT $1, $2, 0, f, set_bit(set_bit(set_bit(set_bit(0::bit(1024), 1, 1), 2, 1), 3, 1), 9, 1)
           FROM unnest('{0,3}'::int2[]) f""",
        account.id,
        inbox,
    )
    assert await counters() == (2, 3)
    await conn.execute("UPDATE message_flags SET bits = set_bit(bits, 1, 0) WHERE mailbox_id = $1", inbox)
    assert await counters() == (3, 2)
    await conn.execute("UPDATE message_flags SET bits = set_bit(bits, 5, 1) WHERE mailbox_id = $1", inbox)
    assert await counters() == (2, 3)


# ── expunge ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_expunge_is_final(conn: Connection, account: Account) -> None:
    await account.deliver(1)
    await account.expunge([1])
    async with fails_with(conn, "23514"):
        await conn.execute("UPDATE messages SET expunged_at = NULL, expunged_modseq = NULL")
    async with fails_with(conn, "23514"):
        await conn.execute("UPDATE messages SET size = 1")


async def test_uids_are_never_reused(conn: Connection, account: Account) -> None:
    await account.deliver(3)
    await account.expunge([1, 2, 3])
    await conn.execute("SELECT trim_expunges($1, $2, clock() + interval '1 s')", account.id, account.boxes["INBOX"])
    assert await conn.fetchval("SELECT count(*) FROM messages") == 0
    assert await account.deliver(1) == [4]


async def test_the_log_below_the_floor_is_not_complete(conn: Connection, account: Account) -> None:
    await account.deliver(2)
    await account.expunge([1])
    inbox = account.boxes["INBOX"]
    since = "SELECT * FROM expunged_since($1, $2, $3)"
    assert tuple(await conn.fetchrow(since, account.id, inbox, 2)) == (True, [1])
    await conn.execute("SELECT trim_expunges($1, $2, clock() + interval '1 s')", account.id, inbox)
    assert tuple(await conn.fetchrow(since, account.id, inbox, 2)) == (False, [])
    assert tuple(await conn.fetchrow(since, account.id, inbox, 3)) == (True, [])


async def test_raw_sql_keeps_the_caches_right(conn: Connection, account: Account) -> None:
    """The triggers, without the functions."""
    await account.deliver(10, flags=[0, 3])
    await conn.execute("DELETE FROM messages WHERE uid IN (2, 5)")
    await conn.execute("UPDATE messages SET expunged_at = now(), expunged_modseq = 50 WHERE uid = 7")
    await conn.execute("DELETE FROM messages WHERE uid = 7")
    await conn.execute("UPDATE message_flags SET bits = 0::bit(1024) WHERE flag_no = 0")
    stats = await account.stats()
    assert (stats["message_count"], stats["unseen_count"], stats["deleted_count"]) == (7, 7, 7)
    await account.check()
    async with fails_with(conn, "23503"):
        await conn.execute(
            """
            INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size)
            SELECT account_id, 999, uid, content_id, 60, now(), 1 FROM messages
            """
        )


async def test_check_sees_what_rebuild_repairs(conn: Connection, account: Account) -> None:
    await account.deliver(5, flags=[0])
    await conn.execute("UPDATE message_sequences SET live = live & ~range_mask(2, 3), n = 4, max_modseq = 0")
    await conn.execute(
        "UPDATE mailbox_stats SET total_size = 1, unseen_count = 3 WHERE mailbox_id = $1", account.boxes["INBOX"]
    )
    call = ("SELECT * FROM check_mailbox($1, $2)", account.id, account.boxes["INBOX"])
    found = {row["what"] for row in await conn.fetch(*call)}
    assert found == {"sequence", "count of a block", "modseq of a block", "statistics"}
    planes = Planes()
    planes.apply(await conn.fetchrow("SELECT * FROM mailbox_state($1, $2)", *call[1:]))
    await conn.execute("SELECT rebuild_mailbox($1, $2)", *call[1:])
    assert await conn.fetch(*call) == []
    planes.apply(await conn.fetchrow("SELECT * FROM mailbox_delta($1, $2, $3)", *call[1:], planes.since))
    assert planes.flags() == {uid: {0} for uid in range(1, 6)}


async def test_rebuild_mends_planes_and_the_expunge_log(conn: Connection, account: Account) -> None:
    await account.deliver(6, flags=[0])
    call = (account.id, account.boxes["INBOX"])
    await conn.execute("UPDATE messages SET expunged_at = clock(), expunged_modseq = 50 WHERE uid IN (2, 3)")
    await conn.execute("UPDATE messages SET expunged_at = clock(), expunged_modseq = 60 WHERE uid = 5")
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE message_expunges SET uids = ARRAY[1, 2], trimmed = 1 WHERE modseq = 50")
    await conn.execute("DELETE FROM message_expunges WHERE modseq = 60")
    await conn.execute("UPDATE message_flags SET bits = bits | range_mask(8, 9)")
    await conn.execute("INSERT INTO message_flags SELECT $1, $2, 7, 1, range_mask(0, 3)", *call)
    await conn.execute("INSERT INTO message_viewer_seen SELECT $1, $2, 77, 0, range_mask(4, 9)", *call)
    await conn.execute("SET session_replication_role = origin")
    found = {row["what"] for row in await conn.fetch("SELECT * FROM check_mailbox($1, $2)", *call)}
    assert found == {"flag without a message", "viewer flag without a message", "expunge not logged"}
    modseq = await conn.fetchval("SELECT rebuild_mailbox($1, $2)", *call)
    assert await conn.fetch("SELECT * FROM check_mailbox($1, $2)", *call) == []
    logged = await conn.fetch("SELECT modseq, trimmed, uids FROM message_expunges ORDER BY modseq")
    assert [tuple(row) for row in logged] == [(50, 1, [1, 2, 3]), (60, 0, [5])], "what was trimmed stays in front"
    floor = "SELECT expunge_floor FROM mailbox_stats WHERE account_id = $1 AND mailbox_id = $2"
    assert await conn.fetchval(floor, *call) == modseq
    bits = await conn.fetchval("SELECT bit_count(bits) FROM message_viewer_seen")
    assert bits == 3, "of 4, 5 and 6: an expunged message keeps its flags"
    assert await conn.fetchval("SELECT rebuild_mailbox($1, $2)", *call) == modseq + 1
    floor = "SELECT expunge_floor FROM mailbox_stats WHERE account_id = $1 AND mailbox_id = $2"
    assert await conn.fetchval(floor, *call) == modseq


async def test_rebuild_tells_sessions_of_blocks_that_are_empty(conn: Connection, account: Account) -> None:
    await account.deliver(3)
    planes = Planes()
    call = (account.id, account.boxes["INBOX"])
    planes.apply(await conn.fetchrow("SELECT * FROM mailbox_state($1, $2)", *call))
    await conn.execute("SET session_replication_role = replica")  # rows lost behind the triggers' back
    await conn.execute("DELETE FROM messages")
    await conn.execute("SET session_replication_role = origin")
    await conn.execute("SELECT rebuild_mailbox($1, $2)", *call)
    planes.apply(await conn.fetchrow("SELECT * FROM mailbox_delta($1, $2, $3)", *call, planes.since))
    assert planes.flags() == {}
    async with fails_with(conn, "P0002"):
        await conn.execute("SELECT rebuild_mailbox($1, 999)", account.id)


# ── copies between accounts ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_copy_into_another_account_is_a_message_of_its_own(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    await deliver(
        conn,
        [{"account_id": account.id, "mailbox_id": None, "hash": b"\x01" * 32}],
        texts=[("subject: s\n", None, True)],
    )
    source = await conn.fetchval("UPDATE message_contents SET header = 'S: s' RETURNING content_id")
    call = "SELECT * FROM copy_messages($1, $2, $3, $4, $5, $6, NULL, $7, $8, $9)"
    args = (account.id, account.boxes["INBOX"], other.id, other.boxes["INBOX"], *ALL)
    async with fails_with(conn, "22023"):
        await conn.fetch(call, *args, None, None, None)
    await conn.fetch(call, *args, "node", [source], [b"\x02" * 32])
    content = await conn.fetchrow("SELECT * FROM message_contents WHERE account_id = $1", other.id)
    assert content["content_hash"] == b"\x02" * 32, "the hash is keyed by account"
    assert content["header"] == b"S: s"
    upload = await conn.fetchrow("SELECT * FROM pending_uploads WHERE account_id = $1", other.id)
    assert (upload["content_id"], upload["content_hash"], upload["instance_id"]) == (
        content["content_id"],
        b"\x02" * 32,
        "node",
    )
    text = await conn.fetchrow("SELECT headers, body, body_truncated FROM search_queue WHERE account_id = $1", other.id)
    assert tuple(text) == ("subject: s\n", None, True)
    await conn.fetch(call, *args, "node", [source], [b"\x02" * 32])
    assert await conn.fetchval("SELECT count(*) FROM message_contents WHERE account_id = $1", other.id) == 1
    await other.check()


async def test_keywords_that_find_no_room_are_dropped(conn: Connection, account: Account) -> None:
    other = await Account.create(conn, "other@example.com")
    await conn.execute("SELECT register_keywords($1, '{one,two,three}')", account.id)
    await conn.execute("SELECT register_keywords($1, ARRAY(SELECT 'k' || i FROM generate_series(1, 998) i))", other.id)
    await account.deliver(1, flags=[1, 16, 17, 18])
    await conn.fetch(
        "SELECT * FROM copy_messages($1, $2, $3, $4, $5, $6, NULL, 'node')",
        account.id, account.boxes["INBOX"], other.id, other.boxes["INBOX"], *ALL,
    )  # fmt: skip
    flags = await conn.fetchval("SELECT flags FROM message_sequence_numbers WHERE account_id = $1", other.id)
    assert flags == [1, 1014, 1015]
    names = await conn.fetch("SELECT name FROM account_keywords WHERE account_id = $1 AND flag_no > 1013", other.id)
    assert [row["name"] for row in names] == ["one", "two"]


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_columns_come_packed(conn: Connection, account: Account) -> None:
    await account.deliver(3, size=5_000_000_000, internal_date=NOW)
    await account.expunge([2])
    await conn.execute(
        "UPDATE message_contents SET sent_at = NULL WHERE content_id = (SELECT content_id FROM messages WHERE uid = 3)"
    )
    packed = await conn.fetchval("SELECT message_columns($1, $2)", account.id, account.boxes["INBOX"])
    rows = list(struct.iter_unpack(">Iqqqqq", packed))
    assert [row[0] for row in rows] == [1, 3]
    assert {row[2] for row in rows} == {int(NOW.timestamp())}
    assert [row[3] for row in rows] == [int(NOW.timestamp()), -(2**63)]
    assert {row[5] for row in rows} == {5_000_000_000}
    assert await conn.fetchval("SELECT message_columns($1, $2, 5, 9)", account.id, account.boxes["INBOX"]) is None


async def test_recent_belongs_to_the_first_that_selects(conn: Connection, account: Account) -> None:
    async def claim(move: bool = True) -> tuple[int, int]:
        row = await conn.fetchrow("SELECT * FROM claim_recent($1, $2, $3)", account.id, account.boxes["INBOX"], move)
        return row["recent_after"], row["recent_upto"]

    assert await claim() == (0, 0)
    await account.deliver(3)
    modseq = (await account.stats())["highest_modseq"]
    assert await claim(move=False) == (0, 3)
    assert await claim() == (0, 3)
    assert await claim() == (3, 3)
    await account.deliver(2)
    assert await claim() == (3, 5)
    assert (await account.stats())["highest_modseq"] == modseq + 1, "\\Recent is no part of modseq"
    async with fails_with(conn, "P0002"):
        await conn.fetch("SELECT * FROM claim_recent($1, 999)", account.id)


async def test_a_poll_returns_what_moved_and_what_went(conn: Connection, account: Account) -> None:
    inbox, trash, archive = (account.boxes[name] for name in ("INBOX", "Trash", "Archive"))
    await account.deliver(1)
    await conn.execute("SELECT delete_mailbox($1, 'Trash')", account.id)
    rows = await conn.fetch(
        "SELECT * FROM poll_mailboxes($1, $2, $3)", [account.id] * 3, [inbox, trash, archive], [1, 1, 1]
    )
    assert {row["mailbox_id"]: row["highest_modseq"] for row in rows} == {inbox: 2, trash: None}


async def test_a_poll_of_trees_returns_what_moved(conn: Connection, account: Account) -> None:
    still = await Account.create(conn, "still@example.com")
    await conn.execute("SELECT subscribe($1, 'Lists')", account.id)
    await conn.execute("SELECT unsubscribe($1, 'Lists')", account.id)
    rows = await conn.fetch("SELECT * FROM poll_trees($1, $2)", [account.id, still.id, 999], [1, 0, 0])
    assert [tuple(row) for row in rows] == [(account.id, 2)]
    assert await account.changes(1) == [("unsubscribe", "Lists")]


async def test_ranges_beyond_the_last_uid_are_harmless(conn: Connection, account: Account) -> None:
    await account.deliver(1)
    row = await conn.fetchrow(
        "SELECT * FROM copy_messages($1, $2, $1, $3, $4, $5)",
        account.id, account.boxes["INBOX"], account.boxes["Trash"], [5, 9, 1], [3, TOP, TOP],
    )  # fmt: skip
    assert (row["source_uids"], row["target_uids"]) == ([1], [1])
    row = await conn.fetchrow(
        "SELECT * FROM copy_messages($1, $2, $1, $3, '{}', '{}')",
        account.id,
        account.boxes["INBOX"],
        account.boxes["Trash"],
    )
    assert (row["source_uids"], row["target_uids"], row["target_modseq"]) == ([], [], 2)


# ── digests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_recipients_share_a_digest(conn: Connection, account: Account) -> None:
    """The wide columns travel once; each account has a content of its own, with its own trace fields on top."""
    other = await Account.create(conn, "other@example.com")
    names = [
        "message_id", "in_reply_to", "reference_ids", "subject", "base_subject", "sender", "recipients", "cc", "bcc",
        "reply_to", "display_from", "display_to", "preview",
    ]  # fmt: skip
    holes = ", ".join(f"${i}" for i in range(1, 35))
    rows = await conn.fetch(
        f"SELECT * FROM deliver({holes})",
        [account.id, other.id, account.id], [None] * 3, [b"a" * 32, b"b" * 32, b"c" * 32], [1, 2, 3], [None] * 3,
        [NOW] * 3, [None] * 3, [None] * 3, [2, 2, 1],
        [b"x", None, b"z"], ["X", None, "Z"],
        [None, NOW], *([f"{name} 1", f"{name} 2"] for name in names), [b"envelope 1", b"envelope 2"],
        [b"structure 1", b"structure 2"], [None, b"header 2"], ["headers 1", "headers 2"], ["body 1", None],
        [False, True], "node", None, [b"whole 1", b"whole 2", None],
    )  # fmt: skip
    used = [
        await conn.fetchrow("SELECT * FROM message_contents WHERE content_id = $1", row["content_id"]) for row in rows
    ]
    assert [(c["account_id"], c["size"], c["sent_at"], c["envelope"], c["body_structure"]) for c in used] == [
        (account.id, 1, NOW, b"envelope 2", b"structure 2"),
        (other.id, 2, NOW, b"envelope 2", b"structure 2"),
        (account.id, 3, None, b"envelope 1", b"structure 1"),
    ]
    assert [[content[name] for name in names] for content in used] == [[f"{n} {k}" for n in names] for k in (2, 2, 1)]
    assert [content["header"] for content in used] == [b"xheader 2", b"header 2", None]
    texts = {row["content_id"]: tuple(row)[2:] for row in await conn.fetch("SELECT * FROM search_queue")}
    assert [texts[row["content_id"]] for row in rows] == [
        ("Xheaders 2", None, True), ("headers 2", None, True), ("Zheaders 1", "body 1", False),
    ]  # fmt: skip
    bodies = {row["content_id"]: row["body"] for row in await conn.fetch("SELECT * FROM body_copies")}
    assert [bodies.get(row["content_id"]) for row in rows] == [b"whole 1", b"whole 2", None]
