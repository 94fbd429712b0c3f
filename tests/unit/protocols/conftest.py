"""A node that the tests of a module share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from sora.services.node import Node
    from tests.support.postgres import Cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_node(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One database for all tests of a module; each makes its own accounts.

    They come and go under the same names, so no login may be remembered.
    """
    name = await cluster.create()
    async with open_node(cluster.dsn(name), tmp_path_factory.mktemp("node"), auth={"cache_ttl": "0s"}) as node:
        yield node
    await cluster.drop(name)
