"""CATENATE costs what it is worth: a short URL may stand for a long message."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sora.protocols.imap import catenate
from tests.support.imap import ImapWorld, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.services.node import Node
    from tests.support.transcripts import Link


@asynccontextmanager
async def selected(node: Node) -> AsyncIterator[Link]:
    world = ImapWorld(node)
    await world.given("alice: INBOX=3")
    link = await world.connect(1)
    try:
        assert (await ask(link, b"SELECT INBOX")).startswith(b"t OK")
        yield link
    finally:
        await link.hang_up()


async def ask(link: Link, command: bytes) -> bytes:
    """The tagged response."""
    await link.send(b"t " + command + b"\r\n")
    while not (line := await link.read_line()).startswith(b"t "):
        pass
    return line


@pytest.fixture
def read(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Content ids of the bodies that were read."""
    read: list[int] = []
    get = node.bodies.get

    async def noting(ref: Any) -> bytes:
        read.append(ref.content_id)
        return await get(ref)

    monkeypatch.setattr(node.bodies, "get", noting)
    return read


def urls(*uids: int) -> bytes:
    return b" ".join(b"URL /;UID=%d/;SECTION=HEADER" % uid for uid in uids)


async def test_parts_of_one_message_cost_one_body(node: Node, read: list[int]) -> None:
    async with selected(node) as link:
        assert (await ask(link, b"APPEND INBOX CATENATE (" + urls(*[1] * 50) + b")")).startswith(b"t OK")
        assert len(read) == 1
        assert (await ask(link, b"APPEND INBOX CATENATE (" + urls(2, 3, 3, 2) + b")")).startswith(b"t OK")
        assert len(read) == 4


async def test_no_message_is_held_while_the_client_sends(node: Node, read: list[int]) -> None:
    async with selected(node) as link:
        command = b"APPEND INBOX CATENATE (" + urls(1) + b" TEXT {2+}\r\nab " + urls(1) + b")"
        assert (await ask(link, command)).startswith(b"t OK")
    assert len(read) == 2


async def test_what_urls_may_read_is_bounded(node: Node, read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catenate, "MAX_READ_BYTES", 3 * len(plain(1)))
    async with selected(node) as link:
        assert (await ask(link, b"APPEND INBOX CATENATE (" + urls(1, 2, 1) + b")")).startswith(b"t OK")
        assert (await ask(link, b"APPEND INBOX CATENATE (" + urls(1, 2, 1, 2) + b")")).startswith(b"t NO [LIMIT]")
    assert len(read) == 6


async def test_there_are_only_so_many_urls(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catenate, "MAX_URLS", 3)
    async with selected(node) as link:
        assert (await ask(link, b"APPEND INBOX CATENATE (" + urls(1, 1, 1) + b")")).startswith(b"t OK")
        assert (await ask(link, b"APPEND INBOX CATENATE (" + urls(1, 1, 1, 1) + b")")).startswith(b"t NO [LIMIT]")
        assert (await ask(link, b"NOOP")).startswith(b"t OK")
