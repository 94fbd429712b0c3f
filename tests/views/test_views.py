"""Pictures of clients stay true: a slice of the seeds. More of them: `python -m tests.views --seconds N --seed S`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.node import open_node
from tests.views.picture import Wrong
from tests.views.run import Run, play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.views.client import Client

SEEDS = range(12)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_pictures_stay_true(dsn: str, tmp_path: Path, seed: int) -> None:
    outcome = await play(dsn, tmp_path, seed, chapters=4)
    assert outcome.commands >= 100
    assert outcome.compared >= 10


@pytest.fixture
async def run(dsn: str, tmp_path: Path) -> AsyncIterator[Run]:
    """Two clients of one node, and nobody else."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(dsn, tmp_path))
        account_id = await node.store.accounts.create("alice@example.com")
        run = Run([node], account_id, "alice@example.com", 1, exact=False)
        await run.go(chapters=0)
        for client in run.clients:
            await run._reconnect(client)
        yield run
        for client in run.clients:
            await client.close()


async def test_a_name_that_means_another_mailbox_now(run: Run) -> None:
    """Who has a mailbox selected keeps it when it is renamed; what is made under its old name is none of his."""
    one, other = run.clients[:2]
    assert await one.select("Two")
    await one.noop()
    for command in (b"RENAME Two Three", b"CREATE Two"):
        assert (await other.ask(command)).status == b"OK"
    before = one.picture.state()
    await run.append("Two")
    await run._settle(one)
    assert one.picture.state() == before
    await run.append("Three")
    await run._settle(one)
    assert len(one.picture.state()) == len(before) + 1


async def test_a_lie_is_found(run: Run) -> None:
    """The comparison itself: a picture that is not what the tables hold, and a mailbox that went in silence."""
    one = run.clients[0]
    assert await one.select("Two")
    await run.append("Two")
    await one.noop()
    one.picture.messages[0].flags = frozenset({b"Lie"})
    with pytest.raises(Wrong, match="should be"):
        await run._settle(one)
    await run.nodes[0].store.db.execute("UPDATE mailboxes SET deleted_at = now() WHERE name = 'Two'")
    with pytest.raises(Wrong, match="nothing is said"):
        await _silent(run, one)


async def _silent(run: Run, client: Client) -> None:
    async def nothing() -> None:
        """A server that says nothing."""

    client.noop = nothing  # type: ignore[method-assign]
    await run._settle(client)
