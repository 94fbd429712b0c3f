"""The journal as a rebuild reads it, and the same facts as the database has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sora.store import journal
from sora.store.journal import AccountState, Frame
from sora.store.sealing import AccountKey

if TYPE_CHECKING:
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.db import Database
    from sora.types import AccountId


async def segments(blobs: BlobStore) -> dict[int, list[Frame]]:
    """Frames of each segment, by number."""
    found = {}
    for key in [entry.key async for entry in blobs.list(journal.PREFIX)]:
        seq = journal.parse_segment_key(key)
        if seq is not None:
            number, frames = journal.parse(await blobs.get(key))
            assert number == seq
            found[seq] = frames
    return found


async def snapshots(blobs: BlobStore) -> dict[AccountId, tuple[int, list[Frame]]]:
    """The newest complete one of each account."""
    found: dict[tuple[AccountId, int], list[Frame]] = {}
    for key in [entry.key async for entry in blobs.list(journal.PREFIX)]:
        parsed = journal.parse_snapshot_key(key)
        if parsed is not None:
            number, frames = journal.parse(await blobs.get(key))
            assert number == parsed[1]
            found.setdefault(parsed[:2], []).extend(frames)
    whole = {key: frames for key, frames in found.items() if key in journal.finished_groups(frames)}
    return {account_id: (seq, whole[account_id, seq]) for account_id, seq in sorted(whole)}


async def replay(blobs: BlobStore, sealers: Sealers | None = None) -> dict[AccountId, AccountState]:
    """Every account of the bucket."""
    bases = await snapshots(blobs)
    frames = [frame for _, found in sorted((await segments(blobs)).items()) for frame in found]
    # as a rebuild does: what was carried over counts once, in its old place
    frames = list({(frame.account_id, frame.group, frame.part): frame for frame in frames}.values())
    frames.sort(key=lambda frame: (frame.account_id, frame.group, frame.part))
    whole = journal.finished_groups(frames)
    states: dict[AccountId, AccountState] = {}
    for account_id, (_, found) in bases.items():
        states[account_id] = AccountState()
        for frame in found:
            states[account_id].apply_all(journal.unpack(await opened(frame, sealers)))
    for frame in frames:
        base, _ = bases.get(frame.account_id, (0, []))
        if (frame.account_id, frame.group) in whole and frame.group > base:
            state = states.setdefault(frame.account_id, AccountState())
            state.apply_all(journal.unpack(await opened(frame, sealers)))
    return states


async def opened(frame: Frame, sealers: Sealers | None) -> bytes:
    """The payload of a frame."""
    if not frame.sealed:
        return frame.payload
    assert sealers is not None
    key = await sealers.get(frame.account_id)
    assert isinstance(key, AccountKey)
    payload = key.open_record(frame.context, frame.payload)
    assert payload is not None
    return payload


async def journaled(blobs: BlobStore, account_id: AccountId, sealers: Sealers | None = None) -> dict[int, Any]:
    """Mailboxes of an account by what is live in them, as `stored` gives it."""
    states = await replay(blobs, sealers)
    if account_id not in states or states[account_id].account is None:
        return {}
    state = states[account_id]
    assert state.account is not None
    found = {}
    for facts in state.account.mailboxes:
        box = state.mailboxes[facts.mailbox_id]  # type: ignore[index]
        live = {}
        for uid, row in box.messages.items():
            if box.is_live(uid):
                flags = {
                    (flag, viewer) for _, flag, viewer in box.planes
                    if flag != journal.LIVE and box.has_flag(uid, flag, viewer)
                }  # fmt: skip
                live[uid] = (
                    row.content_id,
                    row.content_hash,
                    row.size,
                    row.modseq,
                    row.internal_date,
                    frozenset(flags),
                )
        assert box.uid_next <= box.uid_reserved
        assert box.highest_modseq < box.modseq_reserved
        found[facts.mailbox_id] = (facts.name, facts.uidvalidity, box.uid_next, box.highest_modseq, live)
    return found


async def stored(db: Database, account_id: AccountId) -> dict[int, Any]:
    """The same out of the database."""
    found = {}
    for box in await db.fetch(
        "SELECT * FROM mailboxes JOIN mailbox_stats USING (account_id, mailbox_id) WHERE account_id = $1", account_id
    ):
        rows = await db.fetch(
            """
            SELECT m.uid, m.content_id, c.content_hash, m.size, m.created_modseq,
              (extract(epoch FROM m.internal_date) * 1000000)::bigint AS internal_date, ARRAY(
                SELECT (f.flag_no, 0::bigint) FROM message_flags f WHERE f.account_id = $1 AND f.mailbox_id = $2
                AND f.block_no = (m.uid >> 10)::int AND get_bit(f.bits, (m.uid & 1023)::int) = 1
                UNION ALL
                SELECT (0::int2, f.viewer_id) FROM message_viewer_seen f WHERE f.account_id = $1 AND f.mailbox_id = $2
                AND f.block_no = (m.uid >> 10)::int AND get_bit(f.bits, (m.uid & 1023)::int) = 1) AS flags
            FROM messages m JOIN message_contents c USING (account_id, content_id)
            WHERE m.account_id = $1 AND m.mailbox_id = $2 AND m.expunged_at IS NULL
            """,
            account_id, box["mailbox_id"],
        )  # fmt: skip
        live = {row["uid"]: (*list(row)[1:6], frozenset(map(tuple, row["flags"]))) for row in rows}
        key = box["mailbox_id"]
        found[key] = (box["name"], box["uidvalidity"], box["uid_next"], box["highest_modseq"], live)
    return found
