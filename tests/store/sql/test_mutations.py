"""Deliberate bugs in the SQL: the model test must notice every one, else it proves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.store.sql.oracle import Oracle

if TYPE_CHECKING:
    from sora.store.db import Connection

# function, what it says, what it says instead
MUTATIONS = [
    ("messages_inserted", "live = s.live | EXCLUDED.live", "live = EXCLUDED.live"),
    ("messages_inserted", "n = s.n + EXCLUDED.n", "n = s.n"),
    ("messages_inserted", "max_modseq = greatest(s.max_modseq, EXCLUDED.max_modseq)", "max_modseq = s.max_modseq"),
    ("messages_inserted", "bits = f.bits | EXCLUDED.bits", "bits = EXCLUDED.bits"),
    ("messages_updated", "max_modseq = greatest(s.max_modseq, b.modseq)", "max_modseq = s.max_modseq"),
    ("messages_updated", "f.block_no = b.block_no AND f.flag_no = 3", "f.block_no = b.block_no AND f.flag_no = 2"),
    ("messages_updated", "total_size = t.total_size - g.size", "total_size = t.total_size"),
    ("messages_deleted", "bits = f.bits & ~d.mask", "bits = f.bits"),
    ("uid_masks", "SELECT q.b, q.m & s.live", "SELECT q.b, q.m"),
    ("uid_masks", "least(r.h - (t.block_no::bigint << 10), 1023)", "least(r.h - (t.block_no::bigint << 10), 1022)"),
    ("store_flags", "bit_or(q.m & ~q.bad), bit_or(q.flip)", "bit_or(q.m), bit_or(q.flip)"),
    ("store_flags", "bits = v_bits # v_flip", "bits = v_bits | v_flip"),
    ("store_flags", "THEN ~coalesce(v_bits, z) ELSE", "THEN ~z ELSE"),
    ("store_flags", "t.unseen_count - v_seen", "t.unseen_count"),
    ("store_flags", "t.deleted_count + d.deleted", "t.deleted_count"),
    ("store_flags", "SELECT s.live & range_mask", "SELECT range_mask"),
    ("store_flags", "SELECT k.b, k.m, z AS flip, k.bad", "SELECT k.b, k.m, k.m AS flip, k.bad"),
    ("store_flags", "p_mailbox_id, v_modseq, c.b", "p_mailbox_id, v_modseq - 1, c.b"),
    ("store_flags", "AND j.modseq > p_unchanged_since", "AND j.modseq >= p_unchanged_since"),
    ("store_flags", "AND (p_viewer_id IS NULL OR i.flag_no <> 0)", ""),
    ("expunge", "CASE WHEN p_only_deleted THEN k.mask & coalesce", "CASE WHEN p_only_deleted THEN k.mask | coalesce"),
    ("picked_messages", "ANY (t.flags), false) ELSE t.own_seen", "ANY (t.flags), false) ELSE false"),
    ("transfer_inside", "s.uid_next - 1 INTO", "s.uid_next INTO"),
    ("transfer_inside", "k.seen AND p_viewer_id IS NULL", "false"),
    ("transfer_across", "SELECT m.t FROM unnest(v_from, v_to)", "SELECT m.f FROM unnest(v_from, v_to)"),
    ("copy_viewer_seen", "WHERE get_bit(s.bits, (u.uid & 1023)::int) = 1", "WHERE true"),
    ("copy_viewer_seen", "WHERE p_viewer_id IS NULL AND", "WHERE"),
    ("transfer_across", "WHERE p_move AND m.ctid", "WHERE m.ctid"),
    ("deliver", "WHERE known IS NULL AND first = n", "WHERE first = n"),
    ("deliver", "WHERE known IS NULL AND first = n", "WHERE known IS NULL"),
    ("deliver", "PARTITION BY f.account, f.mailbox ORDER BY f.n", "PARTITION BY f.account ORDER BY f.n"),
    ("deliver", "nullif(array_remove(p.flags, 0::int2), '{}')", "p.flags"),
    ("mailbox_state", "(p_viewer_id IS NULL OR f.flag_no <> 0)", "true"),
    ("mailbox_delta", "j.modseq > p_since", "j.modseq > p_since + 1"),
    ("mailbox_delta", "s.max_modseq > p_since", "s.max_modseq > p_since + 1"),
    ("changed_since", "j.modseq > p_since", "j.modseq >= p_since"),
    ("modseqs", "i.created_modseq > p_since", "i.created_modseq > p_since + 1"),
    ("modseqs", "j.modseq > p_since", "j.modseq > p_since + 1"),
    ("expunged_since", "p_since >= t.expunge_floor", "p_since > t.expunge_floor"),
    ("viewer_unseen", "v.bits & s.live", "v.bits"),
    ("trim_expunges", "greatest(expunge_floor, v_upto)", "expunge_floor"),
    ("rebuild_mailbox", "live = 0::bit(1024), max_modseq = v_modseq", "live = 0::bit(1024)"),
    ("rebuild_mailbox", "d.top_modseq) + 1", "d.top_modseq)"),
    ("seq_of_uid", "s.block_no < (p_uid >> 10)::int", "s.block_no <= (p_uid >> 10)::int"),
]  # fmt: skip

SEEDS = {
    "AND (p_viewer_id IS NULL OR i.flag_no <> 0)": 1,
    "ANY (t.flags), false) ELSE t.own_seen": 1,
}
"""By what is replaced: the operations that notice it soon, where the usual ones take hundreds."""


async def mutate(conn: Connection, function: str, old: str, new: str) -> None:
    """Replace a piece of a function, which must be there."""
    definition = await conn.fetchval("SELECT pg_get_functiondef($1::regproc)", f"sora.{function}")
    assert old in definition, f"{function} no longer says: {old}"
    await conn.execute(definition.replace(old, new))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("function", "old", "new"), MUTATIONS, ids=[f"{i}-{m[0]}" for i, m in enumerate(MUTATIONS)])
async def test_a_bug_in_the_sql_is_noticed(conn: Connection, function: str, old: str, new: str) -> None:
    await mutate(conn, function, old, new)
    oracle = Oracle(conn, SEEDS.get(old, 11))
    await oracle.set_up()
    with pytest.raises((AssertionError, asyncpg.PostgresError)):
        await oracle.run(500)
