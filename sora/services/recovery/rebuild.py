"""Builds the database anew from the bucket: `sora-admin import s3`.

What there is to build from: the wrapped keys, the journal (`store/journal.py`), the bodies, what each body says of
itself, and what is staged on this node. It comes into an empty, migrated database while no server runs.

| phase     | what it does                                                                                          |
|-----------|-------------------------------------------------------------------------------------------------------|
| keys      | gathers the wrapped keys, and sees that the keyring has all their master keys                         |
| journal   | gathers the journal as it is                                                                          |
| accounts  | replays it, account by account: everything of them but messages, which are gathered                   |
| objects   | lists the bucket: which bodies it has                                                                 |
| staged    | passes over all numbers in use, and looks for bodies that never came into the bucket                  |
| bodies    | reads and parses the bodies that the journal names, eight at a time                                   |
| found     | the bodies that it does not name, which came after its last segment                                   |
| mailboxes | puts messages in place: the old UIDs, modseqs above all that were promised, UIDNEXT above all UIDs    |

Each step is one transaction that also says where to go on, so whoever was killed goes on there. Until the last one no
server may start (`server/prepare.py`): it would begin a new journal from half of the accounts.

**What clients see.** A message that is there has the UID, the date and the flags that the journal has, under the same
UIDVALIDITY; all flags are sent once more, because all modseqs are new. UIDs are given out again above all that the
journal had promised, so none means another message than before. What came after the last segment comes back under the
UID that its object names; what has no such name gets a new one. A mailbox that no segment knows is another mailbox.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora import log
from sora.crashpoints import crash_point
from sora.errors import KeyUnavailable, NotFound, Refused
from sora.mime.digest import digest
from sora.services import key_objects
from sora.store import journal, labels
from sora.store.account_keys import WrappedKeys
from sora.store.blobs import BlobRef
from sora.store.journal import Account, BadJournal, Domains, Gone, Outbound, Page, Scripts
from sora.store.labels import Place
from sora.store.rebuilding import RECOVERED, Lost, Missing
from sora.store.sealing import AccountKey, fingerprint, parse_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sora.mime.digest import Digest
    from sora.store.account_keys import Sealers
    from sora.store.applying import Applying
    from sora.store.blobs import BlobEntry, BlobStore
    from sora.store.cache import Cache
    from sora.store.db import Database
    from sora.store.journal import Record
    from sora.store.keyring import Keyring
    from sora.store.rebuilding import Content, Rebuilding, State
    from sora.store.staging import Staging
    from sora.types import AccountId

AT_ONCE: Final = 8
"""Bodies in memory."""
BATCH: Final = 64
"""Bodies that are stored together."""
PAGE: Final = 1000
INLINE_BYTES: Final = 64 * 1024
SHOWN: Final = 1000
"""Missing messages that the report names."""

_log = log.get(__name__)


class Rebuilt(Struct, frozen=True):
    """What came back.

    Attributes:
        missing: Messages that the journal names and whose body is nowhere; `missing_messages` are the first of them.
        lost: Accounts that are not built anew, those among them that were gone before.
    """

    accounts: int
    mailboxes: int
    messages: int
    missing: int
    missing_messages: list[Missing]
    lost: list[Lost]

    @property
    def whole(self) -> bool:
        """Nothing is missing."""
        return not self.missing and all(lost.deliberate for lost in self.lost)


class Rebuild:
    """A rebuild, from where it stands to its end.

    Args:
        keyring: None: encryption is off.
        sealers: Of the database that is being built.
        staging: Of this node; None: it has none.
        cache: Of this node; None: it has none.
        body_limit: Characters of body text kept for search.
        damaged: Go on without objects of the journal that are damaged.
        progress: Told what is in hand, how much of it is done, and how much there is.
    """

    def __init__(
        self,
        db: Database,
        rebuilding: Rebuilding,
        blobs: BlobStore,
        keyring: Keyring | None,
        sealers: Sealers,
        staging: Staging | None = None,
        cache: Cache | None = None,
        *,
        body_limit: int = 65536,
        damaged: bool = False,
        progress: Callable[[str, int, int], None] = lambda text, done, total: None,
    ) -> None:
        self.db = db
        self._rebuilding = rebuilding
        self._blobs = blobs
        self._keyring = keyring
        self._sealers = sealers
        self._staging = staging
        self._cache = cache
        self._body_limit = body_limit
        self.damaged = damaged
        self._progress = progress
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> Rebuilt:
        """Build what is not built yet.

        Raises:
            InUse: Somebody else does.
            Refused: The database is not empty, or a server runs on it; the bucket has nothing to build from; a master
                key is missing; an object of the journal is damaged.
            Unavailable: A dependency is away; the next run goes on from here.
        """
        async with self._rebuilding.alone():
            state = await self._begin()
            names = list(_PHASES)
            for name in names[names.index(state.phase) :]:
                state = await self._state()
                _log.info("rebuild", extra={"phase": name, "place": state.place})
                await _PHASES[name](self, state)
                following = names.index(name) + 1
                if following < len(names):
                    await self._rebuilding.advance(names[following])
            await self._rebuilding.finish()
            crash_point("rebuild.finished")
        return await self._report()

    async def _begin(self) -> State:
        if hosts := await self._rebuilding.living_nodes():
            raise Refused(f"Stop the servers first: {', '.join(hosts)}")
        state = await self._rebuilding.state()
        if state is None:
            if not await self._rebuilding.is_empty():
                raise Refused("The database is not empty: make a new one, and run `sora-admin migrate up`")
            await self._rebuilding.begin(next(iter(_PHASES)))
            state = await self._state()
        if state.finished_at is not None:
            raise Refused("The database was built anew already")
        return state

    async def _state(self) -> State:
        state = await self._rebuilding.state()
        assert state is not None, "begun"
        return state

    async def _report(self) -> Rebuilt:
        figures = await self._rebuilding.figures()
        return Rebuilt(
            **figures,
            missing_messages=await self._rebuilding.missing(SHOWN),
            lost=await self._rebuilding.lost(),
        )

    # ── keys and journal ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _gather_keys(self, state: State) -> None:
        await self._rebuilding.bump_numbers()  # UIDVALIDITYs above those of the old database
        done = 0
        async for entry in self._blobs.list("keys/"):
            try:
                found, wrapped = key_objects.parse(await self._blobs.get(entry.key))
            except ValueError as error:
                raise Refused(f"{entry.key} is damaged", detail=str(error)) from error
            await self._rebuilding.add_key(found.account_id, found.key_id, wrapped, bytes.fromhex(found.fingerprint))
            crash_point("rebuild.key")
            done += 1
            self._progress("keys", done, 0)
        await self._compare_keyring()

    async def _compare_keyring(self) -> None:
        """All master keys are needed: the new journal would take the place of what cannot be read now."""
        needed = await self._rebuilding.master_keys()
        had = {key.id for key in self._keyring.keys} if self._keyring else set()
        if absent := sorted(needed - had):
            raise Refused(f"The keyring (encryption.keyring_file) lacks master keys: {', '.join(absent)}")
        if self._keyring and (wrong := await WrappedKeys(self.db).register(self._keyring.keys)):
            raise Refused(f"Master keys are known with other octets: {', '.join(wrong)}")

    async def _gather_journal(self, state: State) -> None:
        done = 0
        async for entry in self._blobs.list(journal.PREFIX, state.place):
            if entry.key == journal.STOPPED:
                await self._rebuilding.set_stopped()
            elif (seq := journal.parse_segment_key(entry.key)) is not None:
                await self._gather(entry.key, seq, snapshot=False)
            elif (parsed := journal.parse_snapshot_key(entry.key)) is not None:
                await self._gather(entry.key, parsed[1], snapshot=True)
            crash_point("rebuild.journal")
            done += 1
            self._progress("journal", done, 0)
        if not await self._rebuilding.accounts(-1):
            raise Refused("The bucket has no journal to build from")

    async def _gather(self, key: str, seq: int, *, snapshot: bool) -> None:
        data = await self._blobs.get(key)
        try:
            _, frames = await asyncio.to_thread(journal.parse, data)
        except BadJournal as error:
            _log.error("an object of the journal is damaged", extra={"key": key, "error": str(error)})
            if not self.damaged:
                raise Refused(f"{key} is damaged: {error} (--damaged goes on without it)") from error
            frames = []
        await self._rebuilding.add_frames(seq, frames, key, snapshot=snapshot)

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _replay(self, state: State) -> None:
        accounts = await self._rebuilding.accounts(-1)
        last = int(state.place or -1)
        for done, account_id in enumerate(accounts):
            if account_id > last:
                await self._replay_account(account_id, fresh=state.stopped)
                crash_point("rebuild.account")
            self._progress("accounts", done + 1, len(accounts))
        if accounts[0]:
            return  # that part of the journal is damaged
        domains = [record async for record in self._records(accounts[0], None) if isinstance(record, Domains)]
        if domains:
            await self._rebuilding.set_catch_alls(domains[-1])

    async def _replay_account(self, account_id: AccountId, *, fresh: bool) -> None:
        keys = await self._rebuilding.keys_of(account_id)
        key_id, wrapped, sealer = self._open_key(account_id, keys)
        async with self._rebuilding.applying(account_id) as applying:
            try:
                account, scripts, reason, gone = await self._apply(applying, account_id, sealer)
            except KeyUnavailable:
                await applying.forget()
                await applying.lose("its key was destroyed")
                return
            if account is None:
                if account_id:
                    await applying.forget()
                    await applying.lose(reason, deliberate=gone)
                if gone and keys:
                    # Whoever shredded it did not come so far.
                    await self._blobs.erase(key_objects.prefix_of(account_id))
                return
            await applying.account(account, fresh=fresh)
            await applying.contents()
            if scripts is not None:
                await applying.scripts(scripts)
            if sealer is not None:
                await applying.key(key_id, wrapped, sealer.fingerprint, alone=len(keys) == 1)

    async def _apply(
        self, applying: Applying, account_id: AccountId, sealer: AccountKey | None
    ) -> tuple[Account | None, Scripts | None, str, bool]:
        """Pages and mail at once; the last of the others, why there is none, and whether it was removed."""
        account: Account | None = None
        scripts: Scripts | None = None
        domains: Domains | None = None
        reason, removed = "the journal has not all of it", False
        async for record in self._records(account_id, sealer):
            match record:
                case Page():
                    await applying.page(record)
                case Outbound():
                    await applying.outbound(record)
                case Account():
                    account = record
                case Scripts():
                    scripts = record
                case Domains():
                    domains = record
                case Gone():
                    await applying.forget()
                    account, scripts, reason, removed = None, None, f"it was {record.reason}", True
        if domains is not None:
            await applying.domains(domains)
        return account, scripts, reason, removed

    async def _records(self, account_id: AccountId, sealer: AccountKey | None) -> AsyncIterator[Record]:
        """All that counts, in its order.

        Raises:
            KeyUnavailable: It is sealed, and the key is gone.
            Refused: It does not open.
        """
        for group in await self._rebuilding.groups(account_id):
            async for part, last, sealed, payload in self._rebuilding.frames(account_id, group):
                opened: bytes | None = payload
                if sealed:
                    if sealer is None:
                        raise KeyUnavailable(detail=f"account {account_id}")
                    context = journal.frame_context(account_id, group, part, last=last)
                    opened = sealer.open_record(context, payload)
                try:
                    if opened is None:
                        raise BadJournal("it was not sealed with the key of its account")
                    records = journal.unpack(opened)
                except BadJournal as error:
                    _log.error("a record is damaged", extra={"account_id": account_id, "error": str(error)})
                    if not self.damaged:
                        raise Refused(f"The journal of account {account_id} is damaged: {error}") from error
                    continue
                for record in records:
                    yield record

    def _open_key(
        self, account_id: AccountId, keys: Sequence[tuple[str, bytes, bytes]]
    ) -> tuple[str, bytes, AccountKey | None]:
        """The wrapping that opens; the key is None if there is no wrapping.

        Raises:
            Refused: There are some, and none opens.
        """
        for key_id, wrapped, mark in keys:
            assert self._keyring is not None, "compared"
            try:
                secret = self._keyring.get(key_id).unwrap(account_id, wrapped)
            except KeyUnavailable as error:
                _log.error("a wrapped key does not open", extra={"account_id": account_id, "error": str(error)})
                continue
            if fingerprint(secret) == mark:
                return key_id, wrapped, AccountKey(account_id, secret)
        if keys:
            raise Refused(f"The key of account {account_id} does not open with the keyring")
        return "", b"", None

    # ── which bodies there are ───────────────────────────────────────────────────────────────────────────────────────

    async def _list_objects(self, state: State) -> None:
        page: list[BlobEntry] = []
        done = 0
        async for entry in self._blobs.list(after=state.place):
            page.append(entry)
            done += 1
            if len(page) == PAGE:
                await self._note_objects(page)
                self._progress("objects", done, 0)
                page = []
        if page:
            await self._note_objects(page)

    async def _note_objects(self, page: Sequence[BlobEntry]) -> None:
        bodies = [(ref, entry) for entry in page if (ref := BlobRef.of_entry(entry)) is not None]
        await self._rebuilding.note_objects(bodies, page[-1].key)
        crash_point("rebuild.objects")

    async def _look_into_staging(self, state: State) -> None:
        await self._rebuilding.raise_numbers(0)
        if self._staging is None:
            return
        for file in await self._staging.list_files():
            modified_at = datetime.fromtimestamp(file.modified_at_s, UTC)
            await self._rebuilding.note_staged(file.account_id, file.content_hash, file.size, modified_at)
        crash_point("rebuild.staged")

    # ── reading them ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_known(self, state: State) -> None:
        async for due in self._due(known=True):
            await self._read_all(due)
            crash_point("rebuild.bodies")

    async def _read_found(self, state: State) -> None:
        async for due in self._due(known=False):
            needed = [content for content in due if await self._place(content)]
            crash_point("rebuild.placed")
            await self._rebuilding.set_state([content for content in due if content not in needed], "skipped")
            await self._read_all(needed)
            crash_point("rebuild.found")

    async def _due(self, *, known: bool) -> AsyncIterator[list[Content]]:
        """Bodies to read, some at a time."""
        done, total = await self._rebuilding.count_contents()
        last: Content | None = None
        while due := await self._rebuilding.due(BATCH, last, known=known):
            yield due
            last = due[-1]
            done += len(due)
            self._progress("bodies", done, total)

    async def _read_all(self, contents: Sequence[Content]) -> None:
        """Read and parse some, several at a time, and store what they say."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._read(content)) for content in contents]
        found = [task.result() for task in tasks]
        right = [(content, *parsed) for content, parsed in zip(contents, found, strict=True) if parsed is not None]
        if right:
            await self._rebuilding.store_contents(right)
        await self._rebuilding.set_state(
            [content for content, parsed in zip(contents, found, strict=True) if parsed is None], "missing"
        )
        if self._staging is not None:
            await self._staging.retire_many([(content.account_id, content.content_hash) for content, *_ in right])

    async def _read(self, content: Content) -> tuple[int, Digest] | None:
        """Size and meaning of a body; None: no copy of it is right."""
        async with self._slots:
            for source in (self._from_bucket, self._from_staging, self._from_cache):
                stored = await source(content)
                if stored is None:
                    continue
                data = await self._open(content, stored)
                if data is None:
                    _log.error("a body does not match its hash", extra={"object": _ref(content, 0).key})
                    continue
                if source != self._from_bucket:
                    await self._blobs.put(_ref(content, 0).key, stored)
                    crash_point("rebuild.put")
                return len(data), await _aside(data, self._body_limit)
        return None

    async def _open(self, content: Content, stored: bytes) -> bytes | None:
        header = parse_header(stored)
        for size in {header.size if header else len(stored), len(stored)}:
            ref = _ref(content, size)
            data = (await self._sealers.reader(ref, stored)).open(ref, stored)
            if data is not None:
                return data
        return None

    async def _from_bucket(self, content: Content) -> bytes | None:
        if not content.stored:
            return None
        try:
            return await self._blobs.get(_ref(content, 0).key)
        except NotFound:
            return None

    async def _from_staging(self, content: Content) -> bytes | None:
        if self._staging is None:
            return None
        return await self._staging.read(content.account_id, content.content_hash)

    async def _from_cache(self, content: Content) -> bytes | None:
        return None if self._cache is None else await self._cache.read(_ref(content, content.size))

    # ── where found ones belong ──────────────────────────────────────────────────────────────────────────────────────

    async def _place(self, content: Content) -> bool:
        """Say where a message belongs; False: nowhere, it was expunged or is a leftover."""
        if await self._rebuilding.is_placed(content):
            return True
        when = content.modified_at or datetime.now(UTC)
        places = await self._places(content)
        if places is None:
            # An object that says nothing, of octets that are known: left from a body that was removed.
            if await self._rebuilding.is_known_body(content):
                return False
            # What is only staged came last, as new mail does as a rule.
            places = (Place(0, RECOVERED if content.stored else "INBOX", 0, 0, when),)
        return await self._rebuilding.place(content, places, when)

    async def _places(self, content: Content) -> Sequence[Place] | None:
        """Where the object says that its message was; None: it says nothing that can be believed.

        No places at all: the message was expunged before its body was uploaded.
        """
        if not content.stored:
            return None
        ref = _ref(content, content.size)
        try:
            stored = await self._blobs.label(ref.key)
        except NotFound:
            return None
        sealer = None
        if stored and await self._rebuilding.has_key(content.account_id):
            sealer = await self._sealers.get(content.account_id)
        label = labels.read(stored, ref.key, sealer if isinstance(sealer, AccountKey) else None)
        if label is None or (label.account_id, label.content_id) != (content.account_id, content.content_id):
            return None
        return label.places

    # ── mailboxes ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _fill(self, state: State) -> None:
        due = await self._rebuilding.mailboxes()
        for done, (account_id, mailbox_id, name) in enumerate(due):
            self._progress(f"mailboxes: {name}", done, len(due))
            while await self._rebuilding.fill(account_id, mailbox_id):
                crash_point("rebuild.filled")
            crash_point("rebuild.closed")


_PHASES: Final = {
    "keys": Rebuild._gather_keys,
    "journal": Rebuild._gather_journal,
    "accounts": Rebuild._replay,
    "objects": Rebuild._list_objects,
    "staged": Rebuild._look_into_staging,
    "bodies": Rebuild._read_known,
    "found": Rebuild._read_found,
    "mailboxes": Rebuild._fill,
}


def _ref(content: Content, size: int) -> BlobRef:
    return BlobRef(content.account_id, content.content_id, content.content_hash, size)


async def _aside(data: bytes, limit: int) -> Digest:
    """Parse a body; a large one in a thread."""
    if len(data) <= INLINE_BYTES:
        return digest(data, limit)
    return await asyncio.to_thread(digest, data, limit)
