"""Uploads, search, the cleaner, leases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.store.sql.oracle import TOP, deliver
from tests.store.sql.tools import ALL, Account, fails_with

if TYPE_CHECKING:
    from sora.store.db import Connection, Database

BODY = b"\x01" * 32
GRACE = timedelta(days=14)


async def forward(conn: Connection, offset: str) -> None:
    """Let time pass, for this connection."""
    await conn.execute(f"SET sora.clock_offset = '{offset}'")


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def claim(conn: Connection, limit: int = 10, instance: str = "node") -> list[Any]:
    rows: list[Any] = await conn.fetch("SELECT * FROM claim_uploads($1, $2)", instance, limit)
    return rows


async def test_uploads_are_claimed_once_until_the_claim_ends(conn: Connection, account: Account) -> None:
    await account.deliver(5)
    assert len(await claim(conn, 3)) == 3
    rest = await claim(conn)
    assert [(row["attempts"], row["uploaded"], row["size"]) for row in rest] == [(0, False, 100)] * 2
    assert await claim(conn) == []
    assert await claim(conn, instance="other") == []
    await forward(conn, "6 min")
    assert {row["attempts"] for row in await claim(conn)} == {0}, "a claim is no attempt"


async def test_two_uploaders_get_different_rows(db: Database) -> None:
    async with db.acquire() as one, db.acquire() as two:
        account = await Account.create(one, "user@example.com")
        await account.deliver(4)
        await one.execute("BEGIN")
        first = await claim(one, 2)
        second = await claim(two, 10)
        await one.execute("COMMIT")
    assert len(first) == len(second) == 2
    assert not {row["content_id"] for row in first} & {row["content_id"] for row in second}


async def test_a_finished_upload_is_noted(conn: Connection, account: Account) -> None:
    await account.deliver(1, hash=BODY)
    row = (await claim(conn))[0]
    assert await conn.fetchval("SELECT upload_done($1, $2, $3, 'node')", account.id, row["content_id"], BODY)
    assert await conn.fetchval("SELECT uploaded_at IS NOT NULL FROM message_contents")
    assert await conn.fetchval("SELECT count(*) FROM pending_uploads") == 0
    await account.deliver(1, hash=BODY)
    assert (await claim(conn))[0]["uploaded"], "the same bytes again: only the staged file has to go"


async def test_a_second_copy_is_waited_for_by_its_own_node(conn: Connection, account: Account) -> None:
    await account.deliver(1, hash=BODY)
    await conn.execute("UPDATE pending_uploads SET instance_id = 'other'")
    await account.deliver(1, hash=BODY)
    row = (await claim(conn))[0]
    assert await conn.fetchval("SELECT upload_done($1, $2, $3, 'node')", account.id, row["content_id"], BODY)
    assert [r["uploaded"] for r in await claim(conn, instance="other")] == [True]


async def test_an_upload_under_an_old_key_does_not_end_the_wait_for_the_new_one(
    conn: Connection, account: Account
) -> None:
    await account.deliver(1, hash=BODY)
    old = (await claim(conn))[0]
    await conn.execute("UPDATE message_contents SET purging_at = clock()")
    await account.deliver(1, hash=BODY)
    assert not await conn.fetchval("SELECT upload_done($1, $2, $3, 'node')", account.id, old["content_id"], BODY)
    assert await conn.fetchval("SELECT bool_or(uploaded_at IS NOT NULL) FROM message_contents") is False
    assert (await claim(conn))[0]["content_id"] != old["content_id"]


async def test_failures_back_off_and_a_delivery_re_arms(conn: Connection, account: Account) -> None:
    await account.deliver(1, hash=BODY)
    pauses = []
    for _ in range(14):
        next_try = await conn.fetchval("SELECT upload_failed($1, $2, 'node', 'down')", account.id, BODY)
        pauses.append((next_try - await conn.fetchval("SELECT clock()")).total_seconds())
    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses[-1] == 600
    status = await conn.fetchrow("SELECT * FROM upload_status()")
    assert (status["instance_id"], status["pending"], status["failing"], status["bytes"]) == ("node", 1, 1, 100)
    assert await claim(conn) == []
    await account.deliver(1, hash=BODY)
    assert [row["attempts"] for row in await claim(conn)] == [0]
    assert await conn.fetchval("SELECT failing FROM upload_status()") == 0


# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = [
    ("subject: straße 100% off\nfrom: a_b@x\n", "hello world", False),
    ("subject: 100x off\nfrom: axb@x\n", "hello \\ there", False),
    ("subject: été\n", "begin of a long bo", True),
    ("subject: none\n", None, True),
]


async def search(
    conn: Connection, account: Account, pattern: str, *, headers: bool = True, body: bool = False
) -> set[tuple[int, bool]]:
    """UIDs and certainty, the same from both functions."""
    inbox = account.boxes["INBOX"]
    rows = await conn.fetch(
        "SELECT * FROM search_messages($1, $2, $3, $4, $5, $6, $7)", account.id, inbox, *ALL, headers, body, pattern
    )
    found = {(row["uid"], row["certain"]) for row in rows}
    assert len(found) == len(rows)
    contents = await conn.fetch(
        """
        SELECT m.uid, t.certain FROM search_text($1, $3, $4, $5) t JOIN messages m USING (content_id)
        WHERE m.account_id = $1 AND m.mailbox_id = $2
        """,
        account.id, inbox, headers, body, pattern,
    )  # fmt: skip
    assert {tuple(row) for row in contents} == found
    return found


@pytest.mark.parametrize("indexed", [0, 2, 100], ids=["queue", "half", "index"])
async def test_search_is_exact_wherever_the_text_is(conn: Connection, account: Account, indexed: int) -> None:
    await deliver(conn, [{"account_id": account.id, "mailbox_id": None}] * 4, texts=TEXTS)
    await conn.fetchval("SELECT index_batch($1)", indexed)
    assert await search(conn, account, "100%") == {(1, True)}
    assert await search(conn, account, "a_b@") == {(1, True)}
    assert await search(conn, account, "ß") == {(1, True)}
    assert await search(conn, account, "off") == {(1, True), (2, True)}
    assert await search(conn, account, "é") == {(3, True)}
    assert await search(conn, account, "zz") == set()
    unsure = {(3, False), (4, False)}
    assert await search(conn, account, "hello", headers=False, body=True) == {(1, True), (2, True)} | unsure
    assert await search(conn, account, "\\ t", headers=False, body=True) == {(2, True)} | unsure
    assert await search(conn, account, "long", headers=False, body=True) == {(3, True), (4, False)}
    assert await search(conn, account, "none", body=True) == {(3, False), (4, True)}


async def test_search_stays_in_its_set(conn: Connection, account: Account) -> None:
    await account.deliver(4)
    await account.expunge([2])
    rows = await conn.fetch(
        "SELECT uid FROM search_messages($1, $2, '{2,4}', $3, true, false, 'hello')",
        account.id,
        account.boxes["INBOX"],
        [3, TOP],
    )
    assert sorted(row["uid"] for row in rows) == [3, 4]


async def test_a_message_is_in_the_queue_or_in_the_index(conn: Connection, account: Account) -> None:
    await account.deliver(5)
    assert [await conn.fetchval("SELECT index_batch(3)") for _ in range(3)] == [3, 2, 0]
    assert await conn.fetchval("SELECT count(*) FROM search_queue") == 0
    assert await conn.fetchval("SELECT count(*) FROM search_index") == 5


async def test_archived_texts_are_found_as_before(conn: Connection, account: Account) -> None:
    await deliver(conn, [{"account_id": account.id, "mailbox_id": None}] * 4, texts=TEXTS)
    await conn.fetchval("SELECT index_batch(10)")
    assert await conn.fetchval("SELECT archive_search_texts($1)", GRACE) == 0
    await forward(conn, "15 d")
    assert await conn.fetchval("SELECT archive_search_texts($1, 3)", GRACE) == 3
    assert await conn.fetchval("SELECT archive_search_texts($1, 3)", GRACE) == 1
    assert await conn.fetchval("SELECT count(*) FROM search_index") == 0
    unsure = {(1, False), (2, False), (3, False), (4, False)}
    assert await search(conn, account, "world", headers=False, body=True) == unsure
    assert await search(conn, account, "straße") == {(1, True)}
    assert await search(conn, account, "ß") == {(1, True)}
    assert await search(conn, account, "none", body=True) == unsure - {(4, False)} | {(4, True)}


async def test_a_message_without_text_needs_no_second_look_in_the_archive(conn: Connection, account: Account) -> None:
    texts = [("subject: a\n", "", False), ("subject: b\n", None, False)]
    await deliver(conn, [{"account_id": account.id, "mailbox_id": None}] * 2, texts=texts)
    await conn.fetchval("SELECT index_batch(10)")
    await forward(conn, "15 d")
    assert await conn.fetchval("SELECT archive_search_texts($1)", GRACE) == 2
    assert await search(conn, account, "word", headers=False, body=True) == set()


# ── cleaner ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def purge(conn: Connection) -> list[tuple[int, bytes]]:
    """One pass of the cleaner over contents; the objects it would delete."""
    keys = []
    for row in await conn.fetch("SELECT * FROM select_purgeable()"):
        which = [row["account_id"]], [row["content_id"]]
        for key in await conn.fetch("SELECT * FROM begin_purges($1, $2)", *which):
            keys.append((key["account_id"], key["content_hash"]))
            assert await conn.fetchval("SELECT finish_purges($1, $2)", *which) == 1
    return keys


async def upload_all(conn: Connection) -> None:
    for row in await claim(conn, 1000):
        await conn.execute(
            "SELECT upload_done($1, $2, $3, 'node')", row["account_id"], row["content_id"], row["content_hash"]
        )


async def test_a_body_goes_after_its_last_message(conn: Connection, account: Account) -> None:
    await account.deliver(1, hash=BODY)
    await account.deliver(1, "Archive", hash=BODY)
    await upload_all(conn)
    await account.expunge([1])
    trim = ("SELECT trim_expunges($1, $2, clock() - $3::interval)", account.id)
    assert await conn.fetchval(*trim, account.boxes["INBOX"], GRACE) == 0
    assert await conn.fetch("SELECT * FROM select_expunged($1)", GRACE) == []
    await forward(conn, "15 d")
    assert [row["mailbox_id"] for row in await conn.fetch("SELECT * FROM select_expunged($1)", GRACE)] == [
        account.boxes["INBOX"]
    ]
    assert await conn.fetchval(*trim, account.boxes["INBOX"], GRACE) == 1
    assert await purge(conn) == [], "the copy in Archive still needs it"
    assert await conn.fetch("SELECT * FROM select_purgeable()") == []
    await account.expunge([1], "Archive")
    await forward(conn, "30 d")
    assert await conn.fetchval(*trim, account.boxes["Archive"], GRACE) == 1
    assert await purge(conn) == [(account.id, BODY)]
    for table in ("messages", "message_contents", "search_queue", "search_index", "purge_candidates"):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0, table


async def remove(conn: Connection, account: Account) -> None:
    """Expunge and trim everything in INBOX."""
    await conn.fetch("SELECT * FROM expunge($1, $2, $3, $4, false)", account.id, account.boxes["INBOX"], *ALL)
    await conn.execute("SELECT trim_expunges($1, $2, clock() + interval '1 s')", account.id, account.boxes["INBOX"])


async def test_a_body_is_not_purged_while_its_upload_may_be_under_way(conn: Connection, account: Account) -> None:
    await account.deliver(1, hash=BODY)
    await remove(conn, account)
    assert await purge(conn) == []
    await upload_all(conn)
    assert await purge(conn) == [(account.id, BODY)]


async def test_a_purge_that_was_cut_short_is_given_out_again(conn: Connection, account: Account) -> None:
    await account.deliver(1, hash=BODY)
    await upload_all(conn)
    await remove(conn, account)
    content_id = await conn.fetchval("SELECT content_id FROM message_contents")
    assert await conn.fetchrow("SELECT * FROM begin_purges($1, $2)", [account.id], [content_id])
    rows = await conn.fetch("SELECT * FROM select_purgeable()")
    assert (content_id, True) in {(row["content_id"], row["begun"]) for row in rows}
    assert await purge(conn) == [(account.id, BODY)]
    assert await purge(conn) == []


async def test_delivery_and_cleaner_meet_at_the_content_row(db: Database) -> None:
    """Whoever comes second sees what the first one did, in both orders."""
    async with db.acquire() as cleaner, db.acquire() as worker:
        account = await Account.create(worker, "user@example.com")
        message = {"account_id": account.id, "mailbox_id": None, "hash": BODY}
        old = (await deliver(worker, [message]))[0]["content_id"]
        await upload_all(worker)
        await remove(worker, account)
        begin = "SELECT * FROM begin_purges($1, $2)"
        await cleaner.execute("BEGIN")
        assert await cleaner.fetchrow(begin, [account.id], [old])
        late = asyncio.create_task(deliver(worker, [message]))
        await until_blocked(db)
        await cleaner.execute("COMMIT")
        new = (await late)[0]["content_id"]
        assert new != old
        await upload_all(worker)
        await remove(worker, account)
        await worker.execute("BEGIN")
        assert (await deliver(worker, [message]))[0]["content_id"] == new
        # a row that a delivery holds is left alone, and not waited for
        assert await cleaner.fetchrow(begin, [account.id], [new]) is None
        await worker.execute("COMMIT")
        assert await cleaner.fetchrow(begin, [account.id], [new]) is None


async def test_a_body_that_loses_its_last_message_during_a_look_at_it_stays_a_candidate(db: Database) -> None:
    """Of two janitors one trims the last message, the other looks whether there still is one; in both orders."""
    async with db.acquire() as trimmer, db.acquire() as looker:
        account = await Account.create(looker, "user@example.com")
        trim = ("SELECT trim_expunges($1, $2, clock() + interval '1 s')", account.id)
        look = "SELECT * FROM begin_purges($1, $2)"

        async def two_messages() -> int:
            """Of the same body; one is gone already, and the other one is expunged."""
            await account.deliver(1, hash=BODY)
            await account.deliver(1, "Archive", hash=BODY)
            await upload_all(looker)
            await remove(looker, account)
            await looker.fetch(
                "SELECT * FROM expunge($1, $2, $3, $4, false)", account.id, account.boxes["Archive"], *ALL
            )
            content_id: int = await looker.fetchval("SELECT content_id FROM purge_candidates")
            return content_id

        content_id = await two_messages()
        await trimmer.execute("BEGIN")
        assert await trimmer.fetchval(*trim, account.boxes["Archive"]) == 1
        assert await looker.fetch(look, [account.id], [content_id]) == [], "the message is not gone yet"
        await trimmer.execute("COMMIT")
        assert await purge(looker) == [(account.id, BODY)]

        content_id = await two_messages()
        await looker.execute("BEGIN")
        assert await looker.fetch(look, [account.id], [content_id]) == []
        trimming = asyncio.create_task(trimmer.fetchval(*trim, account.boxes["Archive"]))
        await until_blocked(db)
        await looker.execute("COMMIT")
        assert await trimming == 1
        assert await purge(looker) == [(account.id, BODY)]


async def until_blocked(db: Database) -> None:
    """Wait until somebody waits for a lock."""
    while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
        await asyncio.sleep(0)


async def test_a_legal_hold_keeps_everything(conn: Connection, account: Account) -> None:
    await account.deliver(2)
    await upload_all(conn)
    await account.expunge([1])
    await conn.execute("INSERT INTO purge_candidates SELECT account_id, content_id FROM message_contents")
    await conn.execute("SELECT delete_mailbox($1, 'Trash')", account.id)
    await conn.execute("UPDATE accounts SET legal_hold = true, deleted_at = clock() WHERE account_id = $1", account.id)
    trash = account.boxes["Trash"]
    await forward(conn, "1000 d")
    assert await conn.fetch("SELECT * FROM select_expunged($1)", GRACE) == []
    assert await conn.fetchval("SELECT trim_expunges($1, $2, clock())", account.id, account.boxes["INBOX"]) == 0
    assert await purge(conn) == []
    assert await conn.fetch("SELECT * FROM select_deleted_mailboxes($1)", GRACE) == []
    assert await conn.fetchval("SELECT purge_mailbox($1, $2, $3)", account.id, trash, GRACE) == 0
    assert await conn.fetch("SELECT * FROM select_deleted_accounts($1)", GRACE) == []
    assert await conn.fetchval("SELECT purge_account($1, $2)", account.id, GRACE) == 0
    assert await conn.fetch("SELECT * FROM expunge_old($1, $2, '{2}')", account.id, account.boxes["INBOX"]) == []
    await conn.execute("UPDATE message_contents SET purging_at = clock()")
    assert await purge(conn) == [], "not even what was begun before the hold"


async def test_a_hold_keeps_bodies_that_nobody_refers_to(conn: Connection, account: Account) -> None:
    """Candidates of before the hold, and of accounts beside it."""
    other = await Account.create(conn, "other@example.com")
    for owner in (account, other):
        await owner.deliver(1, hash=BODY)
        await upload_all(conn)
        await remove(conn, owner)
    hold = "SELECT set_legal_hold($1, $2, '', 'test')"
    await conn.execute(hold, account.id, True)
    assert await purge(conn) == [(other.id, BODY)]
    await conn.execute(hold, account.id, False)
    assert await purge(conn) == [(account.id, BODY)]


async def test_deleted_mailboxes_are_emptied_in_batches(conn: Connection, account: Account) -> None:
    await account.deliver(25, "Trash", flags=[0, 2])
    await account.expunge([3], "Trash")
    await conn.execute("SELECT delete_mailbox($1, 'Trash')", account.id)
    trash = account.boxes["Trash"]
    call = ("SELECT purge_mailbox($1, $2, $3, 10)", account.id, trash, GRACE)
    assert await conn.fetchval(*call) == 0
    assert await conn.fetch("SELECT * FROM select_deleted_mailboxes($1)", GRACE) == []
    await forward(conn, "15 d")
    assert [row["mailbox_id"] for row in await conn.fetch("SELECT * FROM select_deleted_mailboxes($1)", GRACE)] == [
        trash
    ]
    removed = [await conn.fetchval(*call) for _ in range(8)]
    # messages, expunge log, two planes, one block, the mailbox
    assert removed == [10, 10, 5, 1, 2, 1, 1, 0]
    assert await conn.fetchval("SELECT count(*) FROM mailboxes WHERE mailbox_id = $1", trash) == 0
    for table in ("messages", "message_sequences", "message_flags", "message_expunges"):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    assert await conn.fetchval("SELECT count(*) FROM purge_candidates") == 25


async def test_a_deleted_account_goes_when_nothing_is_left(conn: Connection, account: Account) -> None:
    await account.deliver(2)
    await conn.execute("SELECT create_account_key($1, 'k', 'master', 'wrapped', 'key')", account.id)
    await conn.execute("UPDATE accounts SET deleted_at = clock() WHERE account_id = $1", account.id)
    await forward(conn, "15 d")
    account_call = ("SELECT purge_account($1, $2)", account.id, GRACE)
    assert await conn.fetchval(*account_call) == 6, "its mailboxes are deleted now"
    assert await conn.fetchval(*account_call) == 0, "and must be emptied first"
    for mailbox in await conn.fetch("SELECT * FROM select_deleted_mailboxes($1)", GRACE):
        while await conn.fetchval("SELECT purge_mailbox($1, $2, $3)", account.id, mailbox["mailbox_id"], GRACE):
            pass
    assert await conn.fetchval("SELECT count(*) FROM mailboxes") == 0
    assert await conn.fetchval(*account_call) == 0
    assert await purge(conn) == []
    await upload_all(conn)
    assert len(await purge(conn)) == 2
    assert await conn.fetchval(*account_call) == 1
    for table in ("accounts", "account_keys", "mailboxes", "mailbox_stats", "subscriptions", "message_contents"):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    assert await conn.fetchval("SELECT array_agg(account_id) FROM dropped_keys") == [account.id]


async def test_an_expunge_is_trimmed_in_parts(conn: Connection, account: Account) -> None:
    await account.deliver(7, flags=[0])
    inbox = account.boxes["INBOX"]
    await account.expunge([7])
    await conn.fetch("SELECT * FROM expunge($1, $2, $3, $4, false)", account.id, inbox, *ALL)
    await account.deliver(1)
    await forward(conn, "15 d")
    trim = ("SELECT trim_expunges($1, $2, clock() - $3::interval, 3)", account.id, inbox, GRACE)
    assert await conn.fetchval(*trim) == 3
    left = await conn.fetchrow("SELECT modseq, uids, trimmed FROM message_expunges")
    assert (left["uids"], left["trimmed"]) == ([1, 2, 3, 4, 5, 6], 2)
    assert (await account.stats())["expunge_floor"] == left["modseq"], "its log is not whole any more"
    await account.check()
    assert [await conn.fetchval(*trim) for _ in range(3)] == [3, 1, 0]
    assert await account.uids() == [8]
    await account.check()


async def test_what_was_kept_about_an_empty_block_goes_with_its_last_row(conn: Connection, account: Account) -> None:
    inbox = account.boxes["INBOX"]
    await account.deliver(1030)
    before = await conn.fetchval("SELECT highest_modseq FROM mailbox_stats WHERE mailbox_id = $1", inbox)
    await account.store([0, 2], [1], [1030])
    await account.expunge(list(range(1, 1030)))
    await forward(conn, "15 d")
    await conn.fetchval("SELECT trim_expunges($1, $2, clock())", account.id, inbox)
    for table in ("message_flags", "message_flag_changes"):
        blocks = await conn.fetch(f"SELECT DISTINCT block_no FROM {table} WHERE mailbox_id = $1", inbox)
        assert [row["block_no"] for row in blocks] == [1], table
    delta = await conn.fetchrow("SELECT * FROM mailbox_delta($1, $2, $3)", account.id, inbox, before)
    assert delta["state"][:4] == bytes(4), "who knows an older state is told that the block is empty"
    assert delta["message_count"] == 1
    await account.check()


async def test_a_journal_is_compacted_in_parts_and_forgets_nothing(conn: Connection, account: Account) -> None:
    inbox = account.boxes["INBOX"]
    await account.deliver(1100)
    for number in range(40):
        await account.store([0, 2, 4][: 1 + number % 3], [1 + number], [1 + number])
        await account.store([2], [1090])
        await conn.execute("SELECT store_flags($1, $2, '{1090}', '{1090}', '{}', '{2}')", account.id, inbox)
    count = "SELECT count(*) FROM message_flag_changes WHERE mailbox_id = $1"
    total = await conn.fetchval(count, inbox)
    changed = {
        row["uid"]: row["modseq"]
        for row in await conn.fetch("SELECT * FROM changed_since($1, $2, 0)", account.id, inbox)
    }
    (row,) = [
        row for row in await conn.fetch("SELECT * FROM scan_journals(0, 0, 4, 100)") if row["mailbox_id"] == inbox
    ]
    assert row["excess"] == total - 8
    gone = await conn.fetchval("SELECT compact_journal($1, $2, 30)", account.id, inbox)
    assert 0 < gone <= 28
    assert await conn.fetchval(count, inbox) == total - gone
    later = {
        row["uid"]: row["modseq"]
        for row in await conn.fetch("SELECT * FROM changed_since($1, $2, 0)", account.id, inbox)
    }
    assert later.keys() == changed.keys()
    assert all(later[uid] >= changed[uid] for uid in changed)
    await account.check()


async def test_logs_are_kept_for_their_time(conn: Connection, account: Account) -> None:
    await conn.execute("SELECT create_mailbox($1, 'new')", account.id)
    assert await conn.fetchval("SELECT trim_logs('1 d')") == 0
    await forward(conn, "25 h")
    await conn.execute("SELECT set_legal_hold($1, true, '', 'test')", account.id)
    assert await conn.fetchval("SELECT trim_logs('1 d')") == 0
    await conn.execute("SELECT set_legal_hold($1, false, '', 'test')", account.id)
    assert await conn.fetchval("SELECT trim_logs('1 d')") == 1


async def test_witnesses_are_kept_for_a_day(conn: Connection, account: Account) -> None:
    await deliver(conn, [{"account_id": account.id, "mailbox_id": None, "key": b"k"}])
    await conn.execute("INSERT INTO append_witnesses VALUES ($1, gen_random_uuid(), 1, 1)", account.id)
    await forward(conn, "23 h")
    assert await conn.fetchval("SELECT trim_witnesses()") == 0
    await forward(conn, "25 h")
    assert await conn.fetchval("SELECT trim_witnesses()") == 2


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def acquire(conn: Connection, instance: str = "node", name: str = "pop3/1") -> int | None:
    token: int | None = await conn.fetchval("SELECT acquire_lease($1, $2, interval '30 s')", name, instance)
    return token


async def test_a_lease_is_exclusive_until_it_ends(conn: Connection) -> None:
    for instance in ("node", "other"):
        await conn.execute("SELECT register_instance($1)", instance)
    first = await acquire(conn)
    assert first is not None
    assert await acquire(conn) is None
    assert await acquire(conn, "other") is None
    assert await acquire(conn, "other", "pop3/2") is not None
    await forward(conn, "20 s")
    assert await conn.fetchval("SELECT renew_lease('pop3/1', $1, interval '30 s')", first)
    await forward(conn, "40 s")
    assert await acquire(conn, "other") is None
    await forward(conn, "51 s")
    second = await acquire(conn, "other")
    assert second is not None
    assert second > first
    assert not await conn.fetchval("SELECT renew_lease('pop3/1', $1, interval '30 s')", first)
    assert not await conn.fetchval("SELECT release_lease('pop3/1', $1)", first)
    assert await conn.fetchval("SELECT release_lease('pop3/1', $1)", second)
    assert await acquire(conn) is not None


async def test_a_lease_dies_with_its_node(conn: Connection) -> None:
    await conn.execute("SELECT register_instance('node'), register_instance('other')")
    await conn.execute("SELECT acquire_lease('long', 'node', interval '1 d')")
    assert await acquire(conn, "other", "long") is None
    await conn.execute("SELECT register_instance('node')")  # started anew
    assert await acquire(conn, "other", "long") is not None
    await conn.execute("SELECT acquire_lease('silent', 'node', interval '1 d')")
    await forward(conn, "2 min")
    await conn.execute("SELECT heartbeat('other', 1)")
    assert await acquire(conn, "other", "silent") is not None


async def test_a_second_process_under_the_same_name_is_noticed(conn: Connection) -> None:
    first = await conn.fetchval("SELECT register_instance('node')")
    assert await conn.fetchval("SELECT heartbeat('node', $1)", first)
    await conn.execute("SELECT register_instance('node')")
    assert not await conn.fetchval("SELECT heartbeat('node', $1)", first)


async def test_expunge_under_a_lease_that_was_lost_is_refused(conn: Connection, account: Account) -> None:
    await conn.execute("SELECT register_instance('node')")
    token = await acquire(conn)
    await account.deliver(2)
    call = "SELECT * FROM expunge($1, $2, $3, $3, false, 'pop3/1', $4)"
    row = await conn.fetchrow(call, account.id, account.boxes["INBOX"], [1], token)
    assert row["uids"] == [1]
    await forward(conn, "31 s")
    for wrong in (token, token + 1):
        async with fails_with(conn, "SR002"):
            await conn.fetch(call, account.id, account.boxes["INBOX"], [2], wrong)
    assert await account.uids() == [2]
