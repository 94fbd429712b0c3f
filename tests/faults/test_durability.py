"""A sample of `durability`, which loses the node's disks while mail waits for the object store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.durability import drill

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 50


@pytest.mark.timeout(240)
@pytest.mark.parametrize("encrypted", [False, True])
def test_nothing_is_lost_with_staging_and_cache(tmp_path: Path, encrypted: bool) -> None:
    figures = drill(tmp_path, COUNT, encrypted=encrypted)
    assert figures["waiting"] == figures["copies"] == figures["files_removed"] == COUNT
    assert figures["verified_in_the_database"] == COUNT
    assert figures["lost_while_the_store_is_away"] == figures["lost_after_upload"] == 0
    assert figures["pending_after"] == figures["copies_after"] == 0
    assert figures["objects"] == COUNT
    assert figures["sealed"] == (COUNT if encrypted else 0)
