"""Every IMAP transcript, played whole, by line and by octet, against a real store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from sora.protocols.imap.commands import COMMANDS, ROWS, Command
from sora.protocols.imap.state import AUTHENTICATED, NOT_AUTHENTICATED, SELECTED, State
from tests.support import transcripts
from tests.support.imap import ImapWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.services.node import Node

FOLDER = Path(__file__).parents[2] / "transcripts" / "imap"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared_node: Node) -> AsyncIterator[ImapWorld]:
    config = shared_node.config
    world = ImapWorld(shared_node)
    yield world
    world.close()
    shared_node.config = config
    for account_id in world.accounts.values():
        await shared_node.store.accounts.delete(account_id)


@pytest.mark.parametrize(("path", "mode"), transcripts.parameters(FOLDER))
async def test_transcript(path: Path, mode: str, world: ImapWorld) -> None:
    await transcripts.play(path, world, mode)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_every_command_has_a_transcript(row: Command) -> None:
    text = (FOLDER / f"{row.name.lower()}.txt").read_text()
    assert f" {row.name}" in text


SETUP = {NOT_AUTHENTICATED: "given nobody\n", AUTHENTICATED: "", SELECTED: "C: s SELECT INBOX\nS* s OK\n"}
WRONG = [
    pytest.param(name, state, id=f"{name.decode()}-{state.name}")
    for name, row in COMMANDS.items()
    for state in SETUP
    if state not in row.states
]


@pytest.mark.parametrize(("name", "state"), WRONG)
async def test_a_command_in_the_wrong_state_is_refused_unread(name: bytes, state: State, world: ImapWorld) -> None:
    refusal = f"{COMMANDS[name].name} is not allowed now"
    text = f"given alice\n{SETUP[state]}C: x {name.decode()} %%% rubbish\nS: x BAD {refusal}\n"
    await transcripts.Player(world, "whole", name.decode()).play(transcripts.parse(text))
