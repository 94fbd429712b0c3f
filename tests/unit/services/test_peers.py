"""Staged bodies from another node: proof of membership, bounds, and what a node that is gone costs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import urllib3

from sora import metrics
from sora.errors import BlobDown, NoPermission, NotFound, Unavailable
from sora.mime.digest import digest
from sora.server.httpd import _server
from sora.services import peers as module
from sora.services.peers import PREFIX, TOKEN, Desk, PeerKeys, Peers
from sora.store.blobs import BlobRef, DirectoryStore, content_hash, local_name
from sora.store.bodies import Bodies
from sora.store.deliveries import NewMessage
from sora.store.staging import Staging
from sora.web.peers import build_peer_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.store import Store

BODY = b"Subject: elsewhere\r\n\r\nstaged on another node\r\n"
KEYS = PeerKeys(b"s" * 32)


def asked(result: str) -> float:
    return metrics.peer_requests.labels(result)._value.get()


class House:
    """Node `a` has a body staged; node `b` reads it. One database."""

    def __init__(self, store: Store, root: Path) -> None:
        self.store = store
        self.root = root
        self.staging = Staging(root / "a", 10**9)
        self.desk = Desk(store.db, root / "a", "a")
        self.peers = Peers(store.db, "b")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    async def deliver(self, body: bytes = BODY) -> BlobRef:
        account_id = await self.store.accounts.create("ann@example.com")
        ref = BlobRef(account_id, 0, content_hash(body), len(body))  # type: ignore[arg-type]
        await self.staging.stage_many([(account_id, ref.content_hash, body)])
        message = NewMessage(
            account_id=account_id,
            mailbox_id=None,
            content_hash=ref.content_hash,
            size=ref.size,
            internal_date=datetime.now(UTC),
            digest=digest(body[:500]),
        )
        (row,) = await self.store.messages.deliver([message], "a")
        return BlobRef(account_id, row.content_id, ref.content_hash, ref.size)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        started = asyncio.Event()
        server = _server(build_peer_app(self.desk), started.set)
        task = asyncio.create_task(server.serve([self.socket.dup()]))
        await started.wait()
        try:
            yield
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def house(store: Store, tmp_path: Path) -> AsyncIterator[House]:
    made = House(store, tmp_path)
    await store.leases.register("a", peer_address=made.address)
    yield made
    made.peers.close()
    made.staging.close()
    made.socket.close()


# ── tokens and seals ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_good_for_one_request_to_one_node_for_a_while() -> None:
    token = KEYS.sign("/x", "a", 1000)
    assert KEYS.check(token, "/x", "a", 1000 + module.SKEW_S)
    assert not KEYS.check(token, "/x", "a", 1001 + module.SKEW_S)
    assert not KEYS.check(token, "/x", "a", 999 - module.SKEW_S)
    assert not KEYS.check(token, "/y", "a", 1000)
    assert not KEYS.check(token, "/x", "b", 1000)
    assert not PeerKeys(b"t" * 32).check(token, "/x", "a", 1000)
    later = token.replace("1000.", "2000.", 1)
    assert not KEYS.check(later, "/x", "a", 2000)


@pytest.mark.parametrize("token", ["", ".", "..", "1000.x", "x.y.z", "é.é.é"])
def test_nonsense_is_no_token(token: str) -> None:
    assert not KEYS.check(token, "/x", "a", 1000)


def test_an_answer_is_for_its_request_alone() -> None:
    sealed = KEYS.seal(BODY, "token")
    assert KEYS.open(sealed, "token") == BODY
    assert BODY[:20] not in sealed
    assert KEYS.open(sealed, "another") is None
    assert PeerKeys(b"t" * 32).open(sealed, "token") is None
    assert KEYS.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "token") is None
    assert KEYS.open(b"", "token") is None


async def test_there_is_one_secret(store: Store) -> None:
    first, second = await asyncio.gather(*(store.db.fetchval("SELECT peer_secret()") for _ in range(2)))
    assert first == second
    assert len(first) == 32
    assert await store.db.fetchval("SELECT count(*) FROM peer_secrets") == 1


# ── answering ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def sign(house: House, name: str, node: str = "a", at: float | None = None) -> str:
    keys = await house.desk._secret.keys()
    return keys.sign(PREFIX + name, node, time.time() if at is None else at)


async def test_the_desk_answers_nodes_alone(house: House) -> None:
    ref = await house.deliver()
    token = await sign(house, ref.name)
    keys = await house.desk._secret.keys()
    assert keys.open(await house.desk.answer(ref.name, token), token) == BODY
    for wrong in ("", token[:-1], await sign(house, ref.name, "b"), await sign(house, ref.name, at=1.0)):
        with pytest.raises(NoPermission):
            await house.desk.answer(ref.name, wrong)


async def test_an_answer_that_is_longer_than_the_body_is_not_read_to_its_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers in a node's place must not fill the memory."""
    ref = await house.deliver()

    async def flood(_name: str, _token: str) -> bytes:
        return bytes(8 * module.CHUNK)

    monkeypatch.setattr(house.desk, "answer", flood)
    before = asked("down"), asked("refused")
    async with house.serving():
        assert await house.peers.read(ref) is None
    assert (asked("down"), asked("refused")) == (before[0] + 1, before[1])


async def test_a_desk_learns_of_a_new_secret_and_is_not_made_to_ask_for_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restore of the database; who sends nonsense costs a query every now and then."""
    ref = await house.deliver()
    await house.desk._secret.keys()
    await house.store.db.execute("UPDATE peer_secrets SET secret = sha256('another')")
    path = PREFIX + ref.name
    token = PeerKeys(await house.store.db.fetchval("SELECT peer_secret()")).sign(path, "a", time.time())
    with pytest.raises(NoPermission):
        await house.desk.answer(ref.name, token)
    with pytest.raises(NoPermission):
        await house.desk.answer(ref.name, token)
    monkeypatch.setattr(module, "REREAD_S", 0.0)
    with pytest.raises(NoPermission):
        await house.desk.answer(ref.name, token)
    assert await house.desk.answer(ref.name, token)


@pytest.mark.parametrize("name", ["instance", "../a/instance", ".lock", "tmp", "%2e%2e"])
async def test_the_desk_has_staged_bodies_and_nothing_else(house: House, name: str) -> None:
    (house.root / "a" / "instance").write_text("a\n")
    with pytest.raises(NotFound):
        await house.desk.answer(name, await sign(house, name))


async def test_the_desk_says_what_it_has_not(house: House) -> None:
    ref = await house.deliver()
    absent = local_name(ref.account_id, bytes(32))
    with pytest.raises(NotFound):
        await house.desk.answer(absent, await sign(house, absent))


async def three_at_once(house: House, name: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes | BaseException]:
    """Answers to three requests; no file is read before one of them is refused."""
    refused = threading.Event()
    read = module.diskfile.read

    def wait_and_read(path: Path) -> bytes:
        assert refused.wait(10)
        return read(path)

    monkeypatch.setattr(module.diskfile, "read", wait_and_read)
    calls = [asyncio.create_task(house.desk.answer(name, await sign(house, name))) for _ in range(3)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    refused.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    monkeypatch.setattr(module.diskfile, "read", read)
    return results


async def test_the_desk_answers_so_many_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await house.deliver()
    monkeypatch.setattr(module, "ANSWERS", 2)
    results = await three_at_once(house, ref.name, monkeypatch)
    assert sum(isinstance(result, bytes) for result in results) == 2
    assert sum(isinstance(result, Unavailable) for result in results) == 1
    monkeypatch.setattr(module, "ANSWERS", 16)
    monkeypatch.setattr(module, "ANSWER_BYTES", 2 * len(BODY))
    results = await three_at_once(house, ref.name, monkeypatch)
    assert sum(isinstance(result, bytes) for result in results) == 2
    assert sum(isinstance(result, Unavailable) for result in results) == 1
    assert await house.desk.answer(ref.name, await sign(house, ref.name))


async def test_statuses(house: House) -> None:
    ref = await house.deliver()
    absent = local_name(ref.account_id, bytes(32))
    http = urllib3.PoolManager(retries=False)

    def status(path: str, **headers: str) -> tuple[int, bytes]:
        answer = http.request("GET", f"http://{house.address}{path}", headers=headers)
        return answer.status, answer.data

    async with house.serving():
        assert await asyncio.to_thread(status, PREFIX + ref.name) == (403, b"")
        token = {TOKEN: await sign(house, absent)}
        assert await asyncio.to_thread(lambda: status(PREFIX + absent, **token)) == (404, b"")
        house.desk._answers = 10**6
        token = {TOKEN: await sign(house, ref.name)}
        assert await asyncio.to_thread(lambda: status(PREFIX + ref.name, **token)) == (503, b"")
        assert (await asyncio.to_thread(status, "/metrics"))[0] == 404
        http.clear()


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_is_read_from_the_node_that_has_it(house: House) -> None:
    ref = await house.deliver()
    async with house.serving():
        for _ in range(3):
            assert await house.peers.read(ref) == BODY
        assert sum(pool.num_connections for pool in pools(house)) == 1, "the connection is kept"
        await house.staging.unlink_idle(ref.account_id, ref.content_hash, 0)
        assert await house.peers.read(ref) is None
        assert house.peers._peers[house.address].breaker.closed


def pools(house: House) -> list[urllib3.HTTPConnectionPool]:
    managed = house.peers._http.pools
    return [managed[key] for key in managed.keys()]  # the container has no iterator


async def test_a_large_body_arrives_whole(house: House) -> None:
    body = BODY + b"x" * 3_000_000
    ref = await house.deliver(body)
    async with house.serving():
        assert await house.peers.read(ref) == body


async def test_a_node_asks_neither_itself_nor_those_without_an_address(house: House) -> None:
    ref = await house.deliver()
    assert [holder.instance_id for holder in await house.peers.holders(ref)] == ["a"]
    assert await Peers(house.store.db, "a").holders(ref) == []
    await house.store.leases.register("a")
    assert await house.peers.holders(ref) == []
    assert await house.peers.read(ref) is None


async def test_a_dead_peer_is_asked_three_times_and_then_left_alone(house: House) -> None:
    ref = await house.deliver()
    house.socket.close()
    before, skipped = asked("down"), asked("skipped")
    for _ in range(5):
        assert await house.peers.read(ref) is None
    assert asked("down") - before == 3
    assert asked("skipped") - skipped == 2


async def test_who_answers_in_place_of_a_node_is_not_believed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await house.deliver()
    monkeypatch.setattr(house.desk, "_secret", Impostor())
    before = asked("refused")
    async with house.serving():
        assert await house.peers.read(ref) is None
        monkeypatch.setattr(house.desk, "answer", forged)
        assert await house.peers.read(ref) is None
    assert asked("refused") - before == 2


class Impostor:
    async def keys(self) -> PeerKeys:
        return PeerKeys(b"w" * 32)


async def forged(*_: object) -> bytes:
    return PeerKeys(b"w" * 32).seal(BODY, "")


async def test_what_a_peer_sends_is_compared_with_the_row(house: House, tmp_path: Path) -> None:
    ref = await house.deliver()
    house.staging.path(ref.account_id, ref.content_hash).write_bytes(BODY[:-3] + b"?\r\n")
    own, blobs = Staging(tmp_path / "b", 10**9), DirectoryStore(tmp_path / "objects")
    bodies = Bodies(None, own, blobs, recent_bytes=0, before=[house.peers])
    async with house.serving():
        with pytest.raises(BlobDown):
            await bodies.get(ref)
        house.staging.path(ref.account_id, ref.content_hash).write_bytes(BODY)
        many = await asyncio.gather(*(bodies.get(ref) for _ in range(10)))
    assert set(many) == {BODY}
    await bodies.close()
    own.close()
    blobs.close()
