"""Comparing database, object store, staging and cache with each other, and mending what is not right.

A phase is one row of `PHASES`: it walks through one kind of thing in bounded pages and yields, with each, the damage
that it found. The run writes the damage down, mends it if that is asked for, and then notes the place: a command that
was cut short goes on there when it is called again, and repeats the page that it was at. Mending twice does no harm.

- `keys`, `key objects`: wrapped keys and their objects, both ways. First: without its key no body can be judged.
- `homeless`: messages whose mailbox is gone.
- `mailboxes`: what triggers keep (sequences, counters, flag planes, expunge log) against the rows of messages.
- `bodies`: rows and objects, both ways, in one walk: rows come in the order of the object keys, and are merged with
  the listing of the bucket. What a listing lacks is asked for by its key before it counts as missing, because a
  listing may be old. What waits for its upload is looked for in staging.
- `uploads`, `staging`, `cache`: what this node has, against the rows.
- `journal`: what it has promised and written, against the counters.

Quick, a body is there if something of a possible length is there; deep, every copy is read and compared with its hash.

Everything may change while it is looked at. A row is read before its places are, so a body that was on its way may be
met nowhere: before anything counts as damage the row is read once more, and looked at again if it has changed.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from sora import log
from sora.crashpoints import crash_point
from sora.errors import BlobDown, DatabaseDown, NotFound, OutcomeUnknown, SoraError, Unavailable
from sora.services.key_objects import owner_of, prefix_of
from sora.services.recovery.mending import CONTENTLESS, look_at_key
from sora.services.recovery.places import ABSENT, BAD, GOOD, UNKNOWN, UNREADABLE
from sora.store.blobs import BlobRef
from sora.store.cache import SHARDS
from sora.store.staging import is_settled
from sora.store.verify_runs import Finding
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from asyncpg import Record

    from sora.services.recovery.mending import Mending, Outcome
    from sora.services.recovery.places import Places
    from sora.store.blobs import BlobEntry
    from sora.store.cache import CachedFile
    from sora.store.keyring import Keyring
    from sora.store.staging import StagedFile
    from sora.store.upkeep import Upkeep
    from sora.store.verification import Body, Verification
    from sora.store.verify_runs import VerifyRuns

PAGE: Final = 500
AT_ONCE: Final = 8
"""Bodies that are looked at together."""
CONTENTLESS_MOST: Final = 10_000
"""Messages of one mailbox without a content that are told of in one run."""
LOOKS: Final = 3
"""How often a row that changes all the time is looked at in a page; then the next run has to."""
RESUME: Final = timedelta(days=7)
"""A run that was cut short longer ago is begun anew."""

_log = log.get(__name__)


class Damage(NamedTuple):
    """Something wrong, and what mends it; None: nobody can, or nobody need."""

    finding: Finding
    mend: Callable[[], Awaitable[Outcome]] | None


class Page(NamedTuple):
    """A part of a phase.

    Attributes:
        place: The phase goes on here.
        looked: Things that were looked at.
        also: More to count, by name.
    """

    place: str
    looked: int
    damages: Sequence[Damage]
    also: Mapping[str, int] = MappingProxyType({})


class Verifier:
    """Looks at everything, or at one account.

    Args:
        account_id: Only this one; None: all.
        progress: Told of the phase, how much of it is done, and how much there is.
    """

    def __init__(
        self,
        runs: VerifyRuns,
        rows: Verification,
        upkeep: Upkeep,
        places: Places,
        mending: Mending,
        keyring: Keyring | None,
        *,
        account_id: AccountId | None,
        deep: bool,
        repair: bool,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.runs = runs
        self.rows = rows
        self.upkeep = upkeep
        self.places = places
        self.mending = mending
        self.keyring = keyring
        self.account_id = account_id
        self.deep = deep
        self.repair = repair
        self._progress = progress
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, *, anew: bool = False) -> tuple[int, bool, dict[str, int]]:
        """Look at everything, from where the last command stopped.

        Args:
            anew: From the beginning, whatever was done before.

        Returns:
            The number of the run, whether it went on with an earlier one, and what was looked at.

        Raises:
            Unavailable: A dependency is away; the next call goes on.
        """
        run = await self.runs.begin(self.account_id, deep=self.deep, repair=self.repair, anew=anew, within=RESUME)
        if run.resumed and self.repair:
            await self._complete(run.run_id)
        counts = Counter(run.counts)
        totals = await self.rows.count(self.account_id)
        totals["cache"] = len(SHARDS)
        names = list(PHASES)
        for name in names[names.index(run.phase) if run.phase else 0 :]:
            if name in WITHOUT_ORDER:
                counts[name] = 0
            async with aclosing(PHASES[name](self, run.place if name == run.phase else "")) as pages:
                async for page in pages:
                    counts[name] += page.looked
                    counts.update(page.also)
                    done = int(page.place, 16) + 1 if name == "cache" else counts[name]
                    await self._settle(run.run_id, name, page, counts)
                    self._progress(name, done, max(done, totals.get(name, 0)))
        await self.runs.finish(run.run_id)
        return run.run_id, run.resumed, dict(counts)

    async def _complete(self, run_id: int) -> None:
        """Bodies that were on their way into the object store when the run was killed: now they wait like any other."""
        for finding in await self.runs.unfinished(run_id):
            ref = BlobRef.of_key(finding.subject)
            body = (await self.rows.by_hash([(ref.account_id, ref.content_hash)]))[0] if ref is not None else None
            if body is not None and body.pending:
                await self.runs.note(run_id, [await self._mend(Damage(finding, partial(self.mending.body, body)))])

    async def _settle(self, run_id: int, phase: str, page: Page, counts: Counter[str]) -> None:
        """Mend what a page has found, if that is wanted; then the page is done."""
        # once each: a content that is missing may be missed in several mailboxes
        damages = list({(damage.finding.kind, damage.finding.subject): damage for damage in page.damages}.values())
        findings = [damage.finding for damage in damages]
        if self.repair and damages:
            findings = [_in_state(f, "mending" if mend else f.state, f.detail) for f, mend in damages]
            await self.runs.note(run_id, findings)
            crash_point("verify.noted")
            findings = [await self._mend(damage) for damage in damages]
            crash_point("verify.mended")
        await self.runs.move(run_id, phase, page.place, counts, findings)

    async def _mend(self, damage: Damage) -> Finding:
        finding, mend = damage
        if mend is None:
            return finding
        try:
            state, how = await mend()
        except (DatabaseDown, OutcomeUnknown):
            raise
        except Unavailable as error:  # no key, no room, a store that refuses one object
            await self.places.blobs.ping()  # if it is away altogether the page is for the next call
            state, how = "waits", error.detail or error.text
        except SoraError as error:
            _log.error("not mended", extra={"kind": finding.kind, "subject": finding.subject, "error": str(error)})
            state, how = "found", error.detail or error.text
        return _in_state(finding, state, f"{finding.detail}; {how}" if finding.detail else how)

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def homeless(self, place: str) -> AsyncGenerator[Page]:
        """Messages whose mailbox has no row."""
        after = tuple(json.loads(place)) if place else (0, 0)
        while page := await self.rows.with_messages(self.account_id, after, PAGE):
            after = page[-1]["account_id"], page[-1]["mailbox_id"]
            yield Page(json.dumps(after), len(page), [self._homeless(row) for row in page if not row["housed"]])

    def _homeless(self, row: Record) -> Damage:
        account_id, mailbox_id = row["account_id"], row["mailbox_id"]
        subject = f"{account_id}/{mailbox_id}"
        if row["owned"]:
            mend = partial(self.mending.homeless, account_id, mailbox_id)
            return Damage(Finding("mailbox missing", subject, account_id, ""), mend)
        finding = Finding("mailbox missing", subject, account_id, "its account has no row either", "waits")
        return Damage(finding, None)

    async def mailboxes(self, place: str) -> AsyncGenerator[Page]:
        """What is derived from the rows of messages."""
        account_id, mailbox_id = json.loads(place) if place else (0, 0)
        while page := await self.rows.mailboxes(self.account_id, (account_id, mailbox_id), PAGE // 10):
            damages: list[Damage] = []
            for row in page:
                account_id, mailbox_id = row["account_id"], row["mailbox_id"]
                damages += await self._mailbox(AccountId(account_id), mailbox_id, row["name"])
            yield Page(json.dumps([account_id, mailbox_id]), len(page), damages)

    async def _mailbox(self, account_id: AccountId, mailbox_id: int, name: str) -> list[Damage]:
        wrong = await self.rows.check_mailbox(account_id, mailbox_id)
        derived = [row for row in wrong if row["what"] != CONTENTLESS]
        damages: list[Damage] = []
        if derived:
            detail = ", ".join(f"{row['what']} ({row['n']}, such as {row['detail']})" for row in derived)
            finding = Finding("mailbox", f"{account_id}/{mailbox_id} {name}", account_id, detail)
            damages.append(Damage(finding, partial(self.mending.mailbox, account_id, mailbox_id)))
        if len(derived) < len(wrong):
            for content_id in await self.rows.contentless(account_id, mailbox_id, CONTENTLESS_MOST):
                finding = Finding("content missing", f"{account_id}/{content_id}", account_id, f"in {name}")
                damages.append(Damage(finding, partial(self.mending.content, account_id, content_id)))
        return damages

    async def bodies(self, place: str) -> AsyncGenerator[Page]:
        """Rows and objects, merged in the order of their keys."""
        account, digest = json.loads(place) if place else (0, "")
        row_place = account, bytes.fromhex(digest)
        prefix = f"{self.account_id:016x}/" if self.account_id is not None else ""
        listing = _Listing(self.places.blobs.list(prefix, _last_key(*row_place) if place else ""))
        more = True
        while more:
            page = await self.rows.bodies(self.account_id, row_place, PAGE)
            more = len(page) == PAGE
            if page:
                row_place = page[-1].ref.account_id, page[-1].ref.content_hash
            bound = _last_key(*row_place) if more else None
            expected = {body.ref.key: body for body in page}
            listed: dict[str, int] = {}
            stored = 0
            damages: list[Damage] = []
            while entries := await listing.take(bound, PAGE):
                stored += len(entries)
                listed.update((entry.key, entry.size) for entry in entries if entry.key in expected)
                damages += await self._unknown([entry for entry in entries if entry.key not in expected])
                if len(damages) >= PAGE:  # a bucket full of strangers: no more of them in memory than that
                    yield Page(place, 0, damages, {"objects": stored})
                    stored, damages = 0, []
            found = await asyncio.gather(*(self._body(body, listed.get(body.ref.key)) for body in page))
            damages += [damage for several in found for damage in several]
            place = json.dumps([row_place[0], row_place[1].hex()])
            yield Page(place, len(page), damages, {"objects": stored})

    async def _unknown(self, entries: Sequence[BlobEntry]) -> list[Damage]:
        """Objects of bodies that have no row; asked after they were listed, so that a row would be there."""
        known = [(entry, ref) for entry in entries if (ref := BlobRef.of_entry(entry)) is not None]
        unknown = await self.upkeep.unknown([ref for _, ref in known]) if known else {}
        damages = []
        for at in unknown:
            entry, ref = known[at]
            if await self._is_gone(entry.key):  # the cleanup removes the object first, and its row then
                continue
            detail = f"{entry.size} octets of {entry.modified_at:%Y-%m-%d %H:%M}"
            finding = Finding("object without row", entry.key, ref.account_id, detail)
            damages.append(Damage(finding, partial(self.mending.stray, entry)))
        return damages

    async def _is_gone(self, key: str) -> bool:
        try:
            await self.places.blobs.stat(key)
        except NotFound:
            return True
        except BlobDown:
            await self.places.blobs.ping()  # an outage, or this one object?
        return False

    async def _body(self, body: Body, listed: int | None) -> list[Damage]:
        """What is wrong with one body; only if its row says the same afterwards."""
        async with self._slots:
            for _ in range(LOOKS):
                damages = await self._look(body, listed)
                if not damages:
                    return []
                (now,) = await self.rows.by_hash([(body.ref.account_id, body.ref.content_hash)])
                if now is None or now.ref != body.ref:
                    return []
                if now == body:
                    return damages
                body, listed = now, None
            return []

    async def _look(self, body: Body, listed: int | None) -> list[Damage]:
        ref = body.ref
        damages: list[Damage] = []

        def wrong(kind: str, mend: Callable[[], Awaitable[Outcome]], detail: str = "") -> None:
            damages.append(Damage(Finding(kind, ref.key, ref.account_id, detail), mend))

        state = await self._object(ref, listed)
        copied = body.copied
        if copied and self.deep and (await self.places.copy(ref)).state == BAD:
            copied = False
            wrong("copy damaged", partial(self.mending.copy, ref))
        if state == UNKNOWN and not (body.keyed and self.keyring):  # else the key itself is found damaged
            damages.append(Damage(Finding("body locked", str(ref.account_id), ref.account_id, ""), self.mending.locked))
        if body.uploaded:
            if state == ABSENT:
                wrong("object missing", partial(self.mending.body, body))
            elif state == BAD:
                wrong("object damaged", partial(self.mending.body, body))
            elif state == UNREADABLE:
                wrong("object unreadable", partial(self.mending.body, body))
        elif body.pending:
            staged = await self._staged(ref)
            if staged == BAD:
                wrong("staged damaged", partial(self.mending.body, body))
            elif staged == ABSENT and not copied and not await self._sent(ref, state):
                wrong("staged missing", partial(self.mending.body, body))
        elif not body.elsewhere:
            kind = "not marked" if state == GOOD else await self._unqueued(ref, copied=copied)
            mend = self.mending.not_marked if state == GOOD else self.mending.body
            wrong(kind, partial(mend, body), "its node is silent" if body.stranded else "")
        if body.forgotten:
            wrong("content unused", partial(self.mending.unused, ref))
        return damages

    async def _object(self, ref: BlobRef, listed: int | None) -> str:
        if self.deep:
            return (await self.places.object(ref)).state
        if listed is not None and self.places.plausible(ref, listed):
            return GOOD
        return await self.places.stat(ref)

    async def _staged(self, ref: BlobRef) -> str:
        if self.deep:
            return (await self.places.staged(ref)).state
        try:
            found = await asyncio.to_thread(self.places.staging.path(ref.account_id, ref.content_hash).stat)
        except FileNotFoundError:
            return ABSENT
        return GOOD if self.places.plausible(ref, found.st_size) else BAD

    async def _sent(self, ref: BlobRef, state: str) -> bool:
        """The staged file is gone: then the object is there now, if the uploader was at it."""
        return state == GOOD or await self._object(ref, None) in (GOOD, UNKNOWN)

    async def _unqueued(self, ref: BlobRef, *, copied: bool) -> str:
        """There is no object and nobody is about to put it: is there anything?"""
        return "not queued" if copied or await self._staged(ref) == GOOD else "body missing"

    async def uploads(self, place: str) -> AsyncGenerator[Page]:
        """Uploads of this node whose message is gone; those that have one were met with it."""
        after = tuple(json.loads(place)) if place else (0, 0)
        while page := await self.rows.lone_uploads(self.account_id, after, PAGE):
            damages = []
            for row in page:
                after = row["account_id"], row["content_id"]
                finding = Finding("upload without row", f"{after[0]}/{after[1]}", after[0], "")
                if row["wanted"]:  # it is what is known of a content that is missing
                    damages.append(Damage(_in_state(finding, "waits", "messages name its content"), None))
                else:
                    damages.append(Damage(finding, partial(self.mending.lone_upload, *after)))
            yield Page(json.dumps(after), len(page), damages)

    async def staging(self, place: str) -> AsyncGenerator[Page]:
        """The files of this node's staging directory; from the beginning, because it has no order."""
        async for files in self.places.staging.pages(PAGE):
            mine = [file for file in files if self.account_id in (None, file.account_id)]
            bodies = await self.rows.by_hash([(file.account_id, file.content_hash) for file in mine])
            found = await asyncio.gather(*(self._file(*pair) for pair in zip(mine, bodies, strict=True)))
            yield Page("", len(mine), [damage for damage in found if damage is not None])

    async def _file(self, file: StagedFile, body: Body | None) -> Damage | None:
        name = self.places.staging.path(file.account_id, file.content_hash).name
        if body is None:
            if is_settled(file) and await self.places.staging.exists(file.account_id, file.content_hash):
                detail = "the uploader puts it aside after a day"
                return Damage(Finding("staged without row", name, file.account_id, detail, "waits"), None)
            return None
        if not body.uploaded or not self.deep:  # the others were met with their row
            return None
        async with self._slots:
            if (await self.places.staged(body.ref)).state != BAD:
                return None
            finding = Finding("staged damaged", name, file.account_id, "not needed any more")
            return Damage(finding, partial(self._leftover, body))

    async def _leftover(self, body: Body) -> Outcome:
        if (await self.places.object(body.ref)).state == GOOD:
            return await self.mending.staged_leftover(body.ref.account_id, body.ref.content_hash)
        return await self.mending.body(body)

    async def cache(self, place: str) -> AsyncGenerator[Page]:
        """The files of this node's cache. Files without a row are no damage: they leave when room is needed."""
        cache = self.places.cache
        if cache is None:
            return
        for shard in [shard for shard in SHARDS if shard > place]:
            files = [file for file in await cache.list_shard(shard) if self.account_id in (None, file.account_id)]
            damages: list[Damage] = []
            for start in range(0, len(files), PAGE):
                part = files[start : start + PAGE]
                names = [(file.account_id or AccountId(0), file.content_hash) for file in part]
                pairs = zip(part, await self.rows.by_hash(names), strict=True)
                found = await asyncio.gather(*(self._cached(*pair) for pair in pairs))
                damages += [damage for damage in found if damage is not None]
            yield Page(shard, len(files), damages, {"cached_bytes": sum(file.size for file in files)})
        if self.repair:
            await cache.recount()

    async def _cached(self, file: CachedFile, body: Body | None) -> Damage | None:
        async with self._slots:
            if not self.deep:
                bad = body is not None and not self.places.plausible(body.ref, file.size)
            else:
                bad = await self._cached_state(file, body) == BAD
        if not bad:
            return None
        finding = Finding("cache damaged", file.path.name, file.account_id, "")
        if body is None:
            return Damage(finding, partial(self.mending.strange_file, file.path))
        return Damage(finding, partial(self.mending.cached, body.ref, file.path))

    async def _cached_state(self, file: CachedFile, body: Body | None) -> str:
        if body is not None:
            return (await self.places.file(body.ref, file.path)).state
        if file.account_id is None:
            return BAD
        return await self.places.nameless(file.account_id, file.content_hash, file.path)

    async def keys(self, place: str) -> AsyncGenerator[Page]:
        """Wrapped keys of accounts, and their objects."""
        if self.keyring is None:
            return
        after = int(place or 0)
        while page := await self.rows.keys(self.account_id, after, PAGE // 10):
            found = await asyncio.gather(*(self._key(row, self.keyring) for row in page))
            after = page[-1]["account_id"]
            yield Page(str(after), len(page), [damage for damage in found if damage is not None])

    async def _key(self, row: Record, keyring: Keyring) -> Damage | None:
        async with self._slots:
            found = await look_at_key(row, keyring, self.places.blobs)
        if found is None:
            return None
        kind, detail = found
        finding = Finding(kind, str(row["account_id"]), row["account_id"], detail)
        mend = self.mending.key if kind == "key damaged" else self.mending.key_object
        return Damage(finding, partial(mend, row, keyring))

    async def journal(self, place: str) -> AsyncGenerator[Page]:
        """What the journal has promised and written, against the counters."""
        after = tuple(json.loads(place)) if place else (0, 0)
        while page := await self.rows.promises(self.account_id, after, PAGE):
            after = page[-1]["account_id"], page[-1]["mailbox_id"]
            damages = [
                Damage(
                    Finding("journal", f"{row['account_id']}/{row['mailbox_id']}", row["account_id"], row["wrong"]),
                    partial(self.mending.promises, row["account_id"], row["mailbox_id"]),
                )
                for row in page
                if row["wrong"]
            ]
            yield Page(json.dumps(after), len(page), damages)

    async def key_objects(self, place: str) -> AsyncGenerator[Page]:
        """Wrapped keys in the object store of accounts that have none here: the database was put back in time."""
        if self.keyring is None:
            return
        prefix = "keys/" if self.account_id is None else prefix_of(self.account_id)
        listing = _Listing(self.places.blobs.list(prefix, place))
        while entries := await listing.take(None, PAGE):
            owners = {entry.key: owner for entry in entries if (owner := owner_of(entry.key)) is not None}
            keyless = set(await self.rows.keyless(list(set(owners.values()))))
            damages = [
                Damage(Finding("key missing", key, owner, ""), partial(self.mending.keyless, key, self.keyring))
                for key, owner in owners.items()
                if owner in keyless
            ]
            yield Page(entries[-1].key, len(entries), damages)


PHASES: Final[dict[str, Callable[[Verifier, str], AsyncGenerator[Page]]]] = {
    "keys": Verifier.keys,
    "key objects": Verifier.key_objects,
    "homeless": Verifier.homeless,
    "mailboxes": Verifier.mailboxes,
    "bodies": Verifier.bodies,
    "uploads": Verifier.uploads,
    "staging": Verifier.staging,
    "cache": Verifier.cache,
    "journal": Verifier.journal,
}
WITHOUT_ORDER: Final = frozenset({"staging"})
"""Phases that begin anew when they are resumed."""


class _Listing:
    """Objects in the order of their keys, taken up to a bound."""

    def __init__(self, entries: AsyncIterator[BlobEntry]) -> None:
        self._entries = entries
        self._held: BlobEntry | None = None

    async def take(self, bound: str | None, most: int) -> list[BlobEntry]:
        """The next ones whose key is not behind `bound` (None: all), at most so many."""
        taken: list[BlobEntry] = []
        while len(taken) < most:
            entry = self._held or await anext(self._entries, None)
            self._held = entry
            if entry is None or (bound is not None and entry.key > bound):
                break
            taken.append(entry)
            self._held = None
        return taken


def _last_key(account_id: int, digest: bytes) -> str:
    """Behind every object of a body, before the first of the next: content ids are digits."""
    name = digest.hex()
    return f"{account_id:016x}/{name[:2]}/{name}-~"


def _in_state(finding: Finding, state: str, detail: str) -> Finding:
    return replace(finding, state=state, detail=detail)
