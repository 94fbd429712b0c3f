"""The tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.sieve.language import COMMANDS, EXTENSIONS, TESTS
from tests.support.sieve import compiled

if TYPE_CHECKING:
    from sora.sieve.checks import Row

ROWS = [*COMMANDS.values(), *TESTS.values()]


def test_all_extensions_are_offered() -> None:
    assert EXTENSIONS >= set(
        "body copy date duplicate editheader enclose encoded-character enotify envelope "
        "envelope-dsn environment ereject "
        "extlists extracttext fcc fileinto foreverypart ihave imap4flags imapsieve include index mailbox mailboxid "
        "mboxmetadata mime redirect-dsn regex reject relational replace servermetadata spamtest "
        "spamtestplus special-use "
        "subaddress vacation vacation-seconds variables virustest comparator-i;octet comparator-i;ascii-casemap "
        "comparator-i;ascii-numeric comparator-i;unicode-casemap".split()
    )


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_each_can_be_required(name: str) -> None:
    assert name in compiled(f'require "{name}";').required


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_speak_of_extensions_that_there_are(row: Row) -> None:
    named = {*row.extension.split(), *(name for tag in row.tags for name in tag.extension.split())}
    assert named <= EXTENSIONS
    assert len({tag.name for tag in row.tags}) == len(row.tags)
    assert row.name == row.name.lower()
