"""Texts that are like what is searched for, though not the same (SEARCH=FUZZY)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.seqset import UidSet
    from sora.store.db import Database
    from sora.types import AccountId, MailboxId

BODY_CHARACTERS: Final = 4096
"""Of each body so many are compared: comparing costs time with the length of the text."""


class Similar:
    """Compares by trigrams, inside one mailbox."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def like(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet,
        words: Sequence[str],
        least: float,
        *,
        headers: bool = True,
        field: str = "",
        body: bool = False,
    ) -> dict[int, float]:
        """Messages whose text has words like these, and how like they are, up to 1.

        Each word is compared with every word of the text, and the best of those counts; of several words the mean.

        Args:
            words: folded.
            least: those that are less like it are left out.
            headers: the header is compared.
            field: of it only this field, folded; empty: all.
            body: the body is compared.
        """
        if not uids or not words:
            return {}
        prefix = f"{field}: " if field else ""
        rows = await self._db.fetch(
            _LIKE, account_id, mailbox_id, *uids.bounds(), list(words), least, headers, prefix, body, BODY_CHARACTERS
        )
        return {row["uid"]: row["likeness"] for row in rows}


# The text of the headers has one line for each field, `NAME: VALUE`; names are not compared.
_LIKE: Final = """
    SELECT m.uid, l.likeness FROM unnest($3::bigint[], $4::bigint[]) r(lo, hi)
    CROSS JOIN LATERAL (
      SELECT i.uid, i.content_id FROM messages i
      WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid BETWEEN r.lo AND r.hi AND i.expunged_at IS NULL
      OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT i.headers, i.body FROM search_texts i WHERE i.account_id = $1 AND i.content_id = m.content_id OFFSET 0) t
    CROSS JOIN LATERAL (
      SELECT concat_ws(' ', string_agg(substr(line, strpos(line, ': ') + 2), ' '),
                       CASE WHEN $9 THEN left(t.body, $10) END) AS text
      FROM string_to_table(t.headers, E'\n') line WHERE $7 AND starts_with(line, $8)) x
    CROSS JOIN LATERAL (
      SELECT avg(strict_word_similarity(word, x.text))::float8 AS likeness FROM unnest($5::text[]) word OFFSET 0) l
    WHERE l.likeness >= $6
    """
