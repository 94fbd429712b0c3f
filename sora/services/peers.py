"""Bodies that another node has staged: asked for by its holders' addresses, answered from this node's staging.

A body is on one node's disk from its delivery until its upload. Who reads it elsewhere, while the object store does
not have it, asks that node: `GET /v1/staged/<file name>`, over HTTP, on a listener of its own (`servers.peers`).

Nodes belong together if they use one database: a secret in it, which nobody else can read, is what both sides prove to
each other. From it come two keys. One signs requests: path, node asked, time and a nonce, so that a request that was
overheard is worth nothing elsewhere, and nothing at all after `SKEW_S`. The other encrypts answers, bound to the token
of the request: what comes back can be read and made by nodes alone, TLS or not. Names of files and lengths are seen.

What was read is compared with its hash by `Bodies`, as from any other source. A peer that is gone costs `CONNECT_S`,
three times; then its breaker answers for it, and asks again after half a second, growing to half a minute.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import nacl.bindings as sodium
import urllib3
from msgspec import Struct
from nacl.exceptions import CryptoError

from sora import log, metrics
from sora.errors import NoPermission, NotFound, Unavailable
from sora.services.uploads import Breaker
from sora.store import diskfile
from sora.store.blobs import local_name, parse_local_name
from sora.store.sealing import most_stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sora.store.blobs import BlobRef
    from sora.store.db import Database

PREFIX: Final = "/v1/staged/"
TOKEN: Final = "x-sora-token"
SKEW_S: Final = 120.0
"""The clocks of nodes may differ by so much; a token is good for no longer."""
REREAD_S: Final = 5.0
"""The secret is read at most so often, whatever strangers send."""
CONNECT_S: Final = 1.0
READ_S: Final = 5.0
TOTAL_S: Final = 20.0
PARALLEL: Final = 4
"""Bodies that a process asks for at a time."""
ANSWERS: Final = 16
ANSWER_BYTES: Final = 128 * 1024**2
"""Octets of bodies that are answered at a time; one of any size always is. Each is in memory twice."""
CHUNK: Final = 1 << 18

_NONCE: Final = 24
SEAL_BYTES: Final = _NONCE + 16
"""Of XChaCha20-Poly1305: the nonce before an answer, the tag behind it. In figures, because the manual pages are built
without the library."""
_log = log.get(__name__)


class PeerKeys:
    """The two keys of a secret."""

    def __init__(self, secret: bytes) -> None:
        self._query = hashlib.blake2b(key=secret, digest_size=32, person=b"sora-peer-query").digest()
        self._answer = hashlib.blake2b(key=secret, digest_size=32, person=b"sora-peer-answer").digest()

    def sign(self, path: str, instance_id: str, now_s: float) -> str:
        """A token for one request to one node."""
        said = f"{int(now_s)}.{secrets.token_hex(16)}"
        return f"{said}.{self._mac(path, instance_id, said)}"

    def check(self, token: str, path: str, instance_id: str, now_s: float) -> bool:
        """True if a node made the token for this request, and not long ago."""
        said, _, mac = token.rpartition(".")
        at = said.partition(".")[0]
        if not hmac.compare_digest(mac.encode(), self._mac(path, instance_id, said).encode()):
            return False
        return at.isdecimal() and abs(now_s - int(at)) <= SKEW_S

    def seal(self, data: bytes, token: str) -> bytes:
        """An answer to the request with this token."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(data, token.encode(), nonce, self._answer)

    def open(self, sealed: bytes, token: str) -> bytes | None:
        """What was answered; None if no node answered that."""
        try:
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed[_NONCE:], token.encode(), sealed[:_NONCE], self._answer
            )
        except (CryptoError, ValueError):
            return None

    def _mac(self, path: str, instance_id: str, said: str) -> str:
        text = f"{path}\n{instance_id}\n{said}".encode()
        return hashlib.blake2b(text, key=self._query, digest_size=32).hexdigest()


class Secret:
    """The secret of the database, read when it is first needed."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._keys: PeerKeys | None = None
        self._read_mono = 0.0

    async def keys(self) -> PeerKeys:
        """The keys.

        Raises:
            Unavailable: The database cannot be asked.
        """
        if self._keys is None:
            self._keys = PeerKeys(await self._db.fetchval("SELECT peer_secret()"))
            self._read_mono = time.monotonic()
        return self._keys

    def forget(self) -> None:
        """Read it again, unless that was just done: somebody has another one, or talks nonsense."""
        if time.monotonic() - self._read_mono >= REREAD_S:
            self._keys = None


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Holder(Struct, frozen=True):
    """A node that has the body, and where it answers."""

    instance_id: str
    peer_address: str


class _Peer:
    """What we know of one node."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.under_way = 0

    def may_ask(self) -> bool:
        return self.under_way < self.breaker.allowed(PARALLEL)


class Peers:
    """A source of `Bodies`: the staging of other nodes.

    Args:
        instance_id: This node, which is not asked.
        clock: Wall clock.
    """

    name = "peer"
    remote = True

    def __init__(self, db: Database, instance_id: str, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._instance_id = instance_id
        self._clock = clock
        self._secret = Secret(db)
        self._peers: dict[str, _Peer] = {}
        self._threads = ThreadPoolExecutor(PARALLEL, thread_name_prefix="peers")
        self._http = urllib3.PoolManager(
            num_pools=64,
            maxsize=PARALLEL,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=False,
        )

    async def read(self, ref: BlobRef) -> bytes | None:
        """The stored octets; None if no node that can be reached has them.

        Raises:
            Unavailable: Nobody can say who has them.
        """
        for holder in await self.holders(ref):
            peer = self._peers.setdefault(holder.peer_address, _Peer())
            if not peer.may_ask():
                metrics.peer_requests.labels("skipped").inc()
                continue
            peer.under_way += 1
            try:
                data = await self._ask(peer, holder, ref)
            finally:
                peer.under_way -= 1
            if data is not None:
                return data
        return None

    async def quarantine(self, ref: BlobRef) -> None:
        """The file is another node's affair: its uploader compares it too."""

    async def holders(self, ref: BlobRef) -> list[Holder]:
        """Nodes that have the body staged and say where they answer."""
        rows = await self._db.fetch(
            "SELECT * FROM body_holders($1, $2, $3)", ref.account_id, ref.content_id, self._instance_id
        )
        return [Holder(**row) for row in rows]

    def close(self) -> None:
        """Let go of connections and threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    async def _ask(self, peer: _Peer, holder: Holder, ref: BlobRef) -> bytes | None:
        path = PREFIX + local_name(ref.account_id, ref.content_hash)
        most = most_stored(ref.size) + SEAL_BYTES
        keys = await self._secret.keys()
        token = keys.sign(path, holder.instance_id, self._clock())
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TOTAL_S + CONNECT_S):
                status, sealed = await loop.run_in_executor(self._threads, self._get, holder, path, token, most)
        except (urllib3.exceptions.HTTPError, OSError, TimeoutError) as error:
            self._failed(peer, holder, "down", str(error))
            return None
        if status == 200:
            data = keys.open(sealed, token)
            if data is None:
                self._failed(peer, holder, "refused", "the answer is not a node's")
                return None
        elif status in (404, 503):
            data = None
        else:
            self._secret.forget()
            self._failed(peer, holder, "refused", f"status {status}")
            return None
        peer.breaker.succeeded()
        metrics.peer_requests.labels({200: "found", 404: "absent", 503: "busy"}[status]).inc()
        return data

    def _failed(self, peer: _Peer, holder: Holder, result: str, why: str) -> None:
        peer.breaker.failed()
        metrics.peer_requests.labels(result).inc()
        _log.warning(
            "peer does not answer", extra={"peer_instance": holder.instance_id, "result": result, "detail": why}
        )

    # In a thread.

    def _get(self, holder: Holder, path: str, token: str, most: int) -> tuple[int, bytes]:
        try:
            return self._get_once(holder, path, token, most)
        except urllib3.exceptions.ProtocolError:
            # a connection that was kept, and was closed by the peer at this moment
            return self._get_once(holder, path, token, most)

    def _get_once(self, holder: Holder, path: str, token: str, most: int) -> tuple[int, bytes]:
        """Status and body; a peer that sends ever slower, or more than `most` octets, is given up."""
        until_mono = time.monotonic() + TOTAL_S
        url = f"http://{holder.peer_address}{path}"
        answer = self._http.request("GET", url, headers={TOKEN: token}, preload_content=False, redirect=False)
        try:
            body = bytearray()
            while chunk := answer.read(CHUNK):
                body += chunk
                if len(body) > most:
                    raise OSError("the answer is longer than the body")
                if time.monotonic() > until_mono:
                    raise TimeoutError("too slow")
            answer.release_conn()
            return answer.status, bytes(body)
        except BaseException:
            answer.close()
            raise


# ── answering ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Desk:
    """Answers other nodes, from the staging of this one and nothing else.

    Args:
        root: The staging directory.
        instance_id: This node; a request for another one is refused.
    """

    def __init__(self, db: Database, root: Path, instance_id: str, *, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._instance_id = instance_id
        self._clock = clock
        self._secret = Secret(db)
        self._answers = 0
        self._octets = 0

    async def answer(self, name: str, token: str) -> bytes:
        """The sealed body of a staged file.

        Raises:
            NoPermission: No node of this installation asks.
            NotFound: It is not staged here.
            Unavailable: Too many ask, or the database is away.
        """
        keys = await self._secret.keys()
        if not keys.check(token, PREFIX + name, self._instance_id, self._clock()):
            metrics.peer_answers.labels("refused").inc()
            self._secret.forget()  # the database may have been restored, from before this secret
            raise NoPermission
        if parse_local_name(name) is None:
            raise NotFound
        if self._answers >= ANSWERS:
            metrics.peer_answers.labels("busy").inc()
            raise Unavailable(detail="too many ask")
        self._answers += 1
        try:
            sealed = await self._read(keys, self._root / name, token)
        except FileNotFoundError:
            metrics.peer_answers.labels("absent").inc()
            raise NotFound from None
        finally:
            self._answers -= 1
        metrics.peer_answers.labels("found").inc()
        return sealed

    async def _read(self, keys: PeerKeys, path: Path, token: str) -> bytes:
        size = (await asyncio.to_thread(path.stat)).st_size
        if self._octets and self._octets + size > ANSWER_BYTES:
            metrics.peer_answers.labels("busy").inc()
            raise Unavailable(detail="too much is asked for")
        self._octets += size
        try:
            return await asyncio.to_thread(lambda: keys.seal(diskfile.read(path), token))
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise Unavailable(detail=f"staging: {error}") from error
        finally:
            self._octets -= size
