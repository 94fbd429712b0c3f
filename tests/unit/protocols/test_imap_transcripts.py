"""Every IMAP transcript, played whole, by line and by octet, against a real store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import transcripts
from tests.support.imap import ImapWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.services.node import Node

FOLDER = Path(__file__).parents[2] / "transcripts" / "imap"


@pytest.fixture
async def node(dsn: str, tmp_path: Path) -> AsyncIterator[Node]:
    async with open_node(dsn, tmp_path) as node:
        yield node


@pytest.mark.parametrize(("path", "mode"), transcripts.parameters(FOLDER))
async def test_transcript(path: Path, mode: str, node: Node) -> None:
    await transcripts.play(path, ImapWorld(node), mode)
