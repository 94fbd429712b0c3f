"""Every capability has transcripts, and they bite: each fails when what stands behind the capability is broken.

A transcript belongs to the capabilities that its first line names: `# capability: NAME [NAME…] · RFC nnnn §…`. The walk
asks sessions in all their states what they offer, so a new name is found without being written down here.
"""

from __future__ import annotations

import functools
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from sora.errors import SoraError
from tests.support import transcripts
from tests.support.imap import ImapWorld
from tests.support.mutations import MUTATIONS
from tests.unit.protocols.test_imap_transcripts import FOLDER, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node

__all__ = ["world"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 1.0
"""For an answer that a broken server does not give."""
STATES = {
    "no TLS here": ("given nobody", ""),
    "before TLS": ("given nobody\ngiven tls: offered", ""),
    "no passwords before TLS": ("given nobody\ngiven tls: offered\ngiven cleartext: no", ""),
    "under TLS": ("given nobody\ngiven tls: active\ngiven cleartext: no", ""),
    "logged in": ("", ""),
    "logged in under TLS": ("given tls: active", ""),
    "selected": ("", "a SELECT INBOX"),
    "compressed": ("", "a COMPRESS DEFLATE"),
    "with ManageSieve": ("given managesieve: sieve://sieve.example.com", ""),
}

EVERY_NAME = """
    IMAP4rev1 IMAP4rev2 STARTTLS LOGINDISABLED SASL-IR LITERAL+ ID ENABLE IDLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE
    CONDSTORE QRESYNC ESEARCH SEARCHRES WITHIN SORT SORT=DISPLAY ESORT CONTEXT=SEARCH CONTEXT=SORT
    THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS LIST-EXTENDED LIST-STATUS LIST-MYRIGHTS LIST-METADATA
    SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE METADATA QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE QUOTA=RES-MAILBOX
    QUOTASET ACL RIGHTS=texk BINARY MULTIAPPEND CATENATE URL-PARTIAL REPLACE APPENDLIMIT OBJECTID SAVEDATE PREVIEW
    INPROGRESS NOTIFY COMPRESS=DEFLATE UTF8=ACCEPT UNAUTHENTICATE PARTIAL UIDONLY UIDBATCHES MESSAGELIMIT SAVELIMIT
    MULTISEARCH SEARCH=FUZZY FILTERS I18NLEVEL=1 IMAPSIEVE AUTH=PLAIN AUTH=LOGIN
"""
"""What clients may rely on, by exactly these names; those with a number stand without it."""


def bare_name(name: str) -> str:
    """`APPENDLIMIT=1000` is APPENDLIMIT with a number, `IMAPSIEVE=sieve://…` is IMAPSIEVE with a URL."""
    return re.sub(r"=(\d{2,}|sieve://.*)$", "", name)


@functools.cache
def named() -> dict[str, list[Path]]:
    """Transcripts by the capabilities that their first lines name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(FOLDER.glob("*.txt")):
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        if match := re.match(r"# capability: ([^·]+)", head):
            for name in match[1].split():
                found.setdefault(name, []).append(path)
    return found


async def offered(world: ImapWorld, given: str, command: str) -> list[str]:
    """What a session offers in a state."""
    await world.given("alice")
    for line in given.splitlines():
        await world.given(line.removeprefix("given "))
    link = await world.connect(1)
    try:
        if command:
            await link.send(command.encode() + b"\r\n")
            while not (line := await link.read_line()).startswith(b"a "):
                pass
            assert line.startswith(b"a OK"), line
            if "COMPRESS" in command:
                await link.switch("deflate")
        await link.send(b"b CAPABILITY\r\n")
        line = await link.read_line()
    finally:
        await link.hang_up()
    assert line.startswith(b"* CAPABILITY ")
    return line.decode().split()[2:]


@pytest.mark.parametrize("state", STATES)
async def test_what_is_offered_is_written_down_and_can_be_broken(state: str, world: ImapWorld) -> None:
    names = await offered(world, *STATES[state])
    assert len(names) == len(set(names)), "a name twice"
    assert {name for name in names if bare_name(name) not in named()} == set(), "without a transcript"
    assert {name for name in names if bare_name(name) not in MUTATIONS} == set(), "without a mutation"


async def test_all_of_it_is_offered_and_nothing_else(shared_node: Node) -> None:
    names = set()
    for how in STATES.values():
        async with a_world(shared_node) as world:
            names |= {bare_name(name) for name in await offered(world, *how)}
    assert names == set(EVERY_NAME.split())


async def test_each_name_only_where_it_works(shared_node: Node) -> None:
    seen = {}
    for state, how in list(STATES.items())[:4]:
        async with a_world(shared_node) as world:
            seen[state] = set(await offered(world, *how))
    assert "STARTTLS" not in seen["no TLS here"] | seen["under TLS"]
    assert {"LOGINDISABLED", "STARTTLS"} <= seen["no passwords before TLS"]
    assert not [name for name in seen["no passwords before TLS"] if name.startswith("AUTH=")]
    assert "LOGINDISABLED" not in seen["under TLS"] | seen["before TLS"]


CASES = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, mutations in MUTATIONS.items()
    for number in range(len(mutations))
    if name in named()
]


@pytest.mark.parametrize(("name", "number"), CASES)
async def test_its_transcripts_notice(
    name: str, number: int, shared_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them at least; all of them pass where nothing is broken (`test_imap_transcripts`)."""
    MUTATIONS[name][number](monkeypatch)
    monkeypatch.setattr(transcripts, "ANSWER_S", PATIENCE_S)
    for path in named()[name]:
        if await fails(path, shared_node):
            return
    pytest.fail(f"no transcript of {name} notices: {[path.name for path in named()[name]]}")


async def fails(path: Path, node: Node) -> bool:
    """A transcript is not what the server says."""
    async with a_world(node) as world:
        try:
            await transcripts.play(path, world, "whole")
        except (AssertionError, SoraError):  # what it asks of the world may not be there
            return True
    return False


@asynccontextmanager
async def a_world(node: Node) -> AsyncIterator[ImapWorld]:
    """A world whose accounts and settings are gone afterwards."""
    config, world = node.config, ImapWorld(node)
    try:
        yield world
    finally:
        world.close()
        node.config = config
        for account_id in world.accounts.values():
            await node.store.accounts.delete(account_id)
