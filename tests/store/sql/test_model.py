"""Random operations against the model in `oracle.py`: the SQL must agree after each one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.sql.oracle import Oracle

if TYPE_CHECKING:
    from sora.store.db import Database


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_database_agrees_with_the_model(db: Database, seed: int) -> None:
    async with db.acquire() as conn:
        oracle = Oracle(conn, seed)
        await oracle.set_up()
        await oracle.run(150)
        for box in oracle.boxes:
            await oracle.compare(box)
    assert sum(len(box.live) for box in oracle.boxes) > 50
    assert any(box.log for box in oracle.boxes)
