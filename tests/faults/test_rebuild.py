"""A slice of `python -m tests.faults.rebuild`: a real node, a real mbsync, an import that is killed once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults import rebuild

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("mbsync") is None, reason="mbsync (Debian's isync) is not installed")
def test_clients_go_on_after_the_database_was_lost(tmp_path: Path) -> None:
    findings = rebuild.run(tmp_path, 120, ["rebuild.bodies"])
    assert findings.problems == []
    assert findings.messages == 120 - 2 * rebuild.FOLDERS + rebuild.LOST_FROM + rebuild.NEW
    assert findings.told == findings.messages - rebuild.NEW, "every flag is told once more"
