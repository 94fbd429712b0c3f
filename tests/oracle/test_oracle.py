"""Dovecot as an oracle: whatever is answered otherwise has a reason in an RFC (see `explained`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.oracle import dovecot
from tests.oracle.collect import collect
from tests.oracle.criteria import CRITERIA
from tests.oracle.explained import EXPLAINED
from tests.oracle.report import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)
REASON = dovecot.missing()


@pytest.mark.slow
@pytest.mark.skipif(bool(REASON), reason=REASON or "Dovecot is here")
def test_every_difference_is_explained(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)  # Dovecot's mail belongs to another user
    samples = collect()
    assert len(samples) >= 300
    assert len(CRITERIA) >= 60
    result = run(tmp_path, samples)
    assert result.compared["SEARCH"] == len(CRITERIA)
    assert [(d.kind, d.field, d.sample.name, d.ours, d.theirs) for d in result.unexplained] == []


def test_the_collection_is_the_same_each_time() -> None:
    assert [sample.data for sample in collect()] == [sample.data for sample in collect()]


def test_classes_have_names_of_their_own_and_a_section() -> None:
    assert len({row.name for row in EXPLAINED}) == len(EXPLAINED)
    assert all("§" in row.rfc for row in EXPLAINED)
