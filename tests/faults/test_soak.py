"""Ten seconds of the soak: sessions of two workers on one mailbox, and no picture that is not true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.soak import Soak, options
from tests.support.demo import Demo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(120)
async def test_ten_seconds(tmp_path: Path) -> None:
    with Demo(tmp_path / "demo", *options()) as demo:
        result = await Soak(demo.ports["imap"], 1).run(10, 20)
        log = (demo.directory / "run" / "sora.log").read_text(errors="replace")
    assert result.broken == []
    assert result.differences == 0
    assert result.commands > 200
    assert result.compared >= 40
    assert "traceback" not in log.lower()
