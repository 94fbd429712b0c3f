"""Every table and column of the database is in the journal, or follows from what is, or is left out for a reason.

A table or a column that is new must decide: the walks over the catalogue fail until it stands here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from sora.store import journal

if TYPE_CHECKING:
    from msgspec import Struct

    from sora.store.store import Store


class Kept(NamedTuple):
    """A table whose rows are in the journal.

    Attributes:
        fields: Of the record; each is a column.
        besides: The other columns, and why they are not there.
        marked: What has changed is told by modseq, not by a trigger.
    """

    fields: tuple[str, ...]
    besides: dict[str, str]
    marked: bool = False


def kept(kind: type[Struct], **besides: str) -> Kept:
    return Kept(kind.__struct_fields__, besides)


ACCOUNT: Final = "the account of the record"
PARTS: Final = (
    "credentials", "aliases", "keywords", "mailboxes", "subscriptions", "grants", "metadata", "holds",
)  # fmt: skip
TABLES: Final[dict[str, Kept | str]] = {
    "domains": kept(journal.DomainFacts),
    "accounts": Kept(
        tuple(name for name in journal.Account.__struct_fields__ if name not in PARTS),
        {
            "account_id": ACCOUNT,
            "credential_version": "for what processes remember, and none runs while a database is built anew",
            "change_seq": "of account_changes",
            "script_active": "follows from sieve_scripts",
            "script_version": "follows from sieve_scripts",
        },
    ),
    "credentials": kept(journal.CredentialFacts, account_id=ACCOUNT, credential_id="nobody outside knows it"),
    "aliases": kept(journal.AliasFacts, account_id=ACCOUNT),
    "account_keywords": kept(journal.KeywordFacts, account_id=ACCOUNT),
    "mailboxes": kept(journal.MailboxFacts, account_id=ACCOUNT, shadow="those are made when somebody looks"),
    "subscriptions": kept(journal.SubscriptionFacts, account_id=ACCOUNT),
    "mailbox_acl": kept(journal.GrantFacts, account_id=ACCOUNT),
    "metadata": kept(journal.MetadataFacts, account_id=ACCOUNT),
    "legal_hold_log": kept(journal.HoldFacts, account_id=ACCOUNT, entry_id="their order is kept"),
    "sieve_scripts": kept(journal.ScriptFacts, account_id=ACCOUNT, size="generated"),
    "outbound_queue": kept(
        journal.MailFacts,
        account_id=ACCOUNT,
        counted="outbound_usage begins anew",
        next_try="tried at once",
        claimed_by="nobody runs",
        last_error="tried at once",
    ),
    "messages": Kept(
        ("uid", "content_id", "size", "created_modseq", "internal_date", "saved_at", "expunged_at"),
        {
            "account_id": ACCOUNT,
            "mailbox_id": "the mailbox of the page",
            "expunged_modseq": "every modseq is raised",
            "initial_flags": "the planes have them",
        },
        marked=True,
    ),
    "mailbox_stats": Kept(
        ("uid_next", "highest_modseq", "uid_reserved", "modseq_reserved"),
        {
            "account_id": ACCOUNT,
            "mailbox_id": "the mailbox of the page",
            "expunge_floor": "raised above all modseqs",
            "message_count": "counted",
            "unseen_count": "counted",
            "deleted_count": "counted",
            "total_size": "counted",
        },
        marked=True,
    ),
    "message_sequences": "the plane of live UIDs, and the rest is counted",
    "message_flags": "planes",
    "message_viewer_seen": "planes of a viewer",
    "account_keys": "wrapped keys are objects of their own, below keys/",
    "master_keys": "registered again from the keyring",
    "message_contents": "read again from the bodies",
    "search_queue": "read again from the bodies",
    "search_index": "read again from the bodies",
    "search_archive": "read again from the bodies",
    "message_flag_changes": "every modseq is raised",
    "message_expunges": "made anew from the expunged messages",
    "mailbox_recent": "all that is known is no longer recent",
    "purge_candidates": "noted again when the expunged messages are trimmed; what nothing refers to is an orphan",
    "deleted_messages": "shadows are made when somebody looks",
    "shadow_marks": "shadows are made when somebody looks",
    "account_changes": "for sessions, and there is none",
    "append_witnesses": "an answer that was lost with the database: the client appends once more",
    "recent_deliveries": "an answer that was lost with the database: the sender delivers once more",
    "vacation_replies": "a correspondent may be told once more",
    "sieve_duplicates": "a duplicate may come once more",
    "imap_events": "a script may not run for the last commands before the loss",
    "outbound_usage": "of one hour",
    "auth_blocks": "of a few minutes",
    "peer_secrets": "made anew",
    "instances": "nodes register anew",
    "leases": "nobody runs",
    "connections": "nobody is connected",
    "pending_uploads": "what is staged is uploaded by the rebuild",
    "body_copies": "copies are in the database alone, and are lost with it",
    "orphan_objects": "found again",
    "cleanup_progress": "begun anew",
    "dropped_keys": "the wrapping that opens is stored anew, and takes the place of all others",
    "shreddings": "the journal says that the account is gone, or its key is",
    "shredded_nodes": "the files are sealed with a key that is destroyed",
    "verify_runs": "begun anew",
    "verify_findings": "found again",
    "imports": "of the database that was; see README: an import is not run again into what it has brought",
    "import_folders": "as imports",
    "import_messages": "as imports",
    "journal_state": "begun anew, above all numbers of the old one",
    "journal_segments": "begun anew",
    "journal_accounts": "begun anew",
    "journal_marks": "begun anew",
    "journal_dirty": "begun anew",
    "rebuild_state": "of the rebuild",
    "rebuild_keys": "of the rebuild",
    "rebuild_frames": "of the rebuild",
    "rebuild_lost": "of the rebuild",
    "rebuild_mailboxes": "of the rebuild",
    "rebuild_messages": "of the rebuild",
    "rebuild_planes": "of the rebuild",
    "rebuild_contents": "of the rebuild",
    "rebuild_missing": "of the rebuild",
    "schema_migrations": "by `sora-admin migrate up`",
}
KEPT: Final = [(name, table) for name, table in TABLES.items() if isinstance(table, Kept)]


async def test_every_table_has_decided(store: Store) -> None:
    rows = await store.db.fetch(
        """
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'sora'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        """
    )
    assert {row[0] for row in rows} == set(TABLES)


@pytest.mark.parametrize(("name", "table"), KEPT, ids=[name for name, _ in KEPT])
async def test_every_column_has_decided(store: Store, name: str, table: Kept) -> None:
    rows = await store.db.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'sora' AND table_name = $1", name
    )
    assert not set(table.fields) & set(table.besides)
    assert {row[0] for row in rows} == {*table.fields, *table.besides}


@pytest.mark.parametrize(("name", "table"), KEPT, ids=[name for name, _ in KEPT])
async def test_every_change_of_what_is_kept_is_noted(store: Store, name: str, table: Kept) -> None:
    """By a trigger for each of the three, that looks at all columns in the record, or at all there are."""
    if table.marked:
        return
    rows = await store.db.fetch(
        """
        SELECT t.tgtype::int AS kind, ARRAY(
          SELECT a.attname::text FROM pg_attribute a
          WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)) AS columns
        FROM pg_trigger t WHERE t.tgrelid = ('sora.' || $1)::regclass
          AND t.tgfoid IN ('sora.note_dirty'::regproc, 'sora.note_outbound'::regproc)
        """,
        name,
    )
    noted = {bit for row in rows for bit in (4, 8, 16) if row["kind"] & bit}
    # a row of the queue is not changed but for its tries, which begin anew
    assert noted == ({4, 8} if name == "outbound_queue" else {4, 8, 16}), "INSERT, DELETE, UPDATE"
    for row in rows:
        if row["kind"] & 16 and row["columns"]:
            assert set(row["columns"]) >= {*table.fields} - {"created_at"}, "made once, and never changed"
