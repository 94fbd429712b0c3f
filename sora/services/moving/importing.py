"""Bringing mail in from another store: folder by folder, in batches that are staged and committed like deliveries.

**Nothing twice, nothing left out.** What is here is noted in the transaction that brings it (`store/imports.py`). An
answer that was lost, a database that restarts, a staging directory that is full: the batch is given again, and what of
it is here already is left out.

**Memory.** A source gives octets in pieces; a batch holds a few megabytes, and a message that is larger goes to a spool
file, as in LMTP, and is a batch of its own.

**Others first.** After each batch comes a pause as long as the batch took: on a machine that is busy batches take
longer, and the import falls back by itself.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import field
from msgspec.structs import replace

from sora import log
from sora.crashpoints import crash_point
from sora.errors import InvalidName, LimitExceeded, NotFound, OverQuota, Refused, TooBig, Unavailable
from sora.formats import names
from sora.formats.flags import keyword
from sora.moving.source import GONE, FolderBroken
from sora.services.filters.scripts import quota_of
from sora.services.intake import IN_MEMORY, Intake
from sora.services.letters import AppendItem, Letters
from sora.services.moving.reports import MAX_LINES, Line, Moved
from sora.sieve.script import compile
from sora.store.imports import Imports, Incoming, NewFolder
from sora.types import FIRST_KEYWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sora.moving.source import Piece, Source, SourceFolder, SourceMessage
    from sora.services.letters import Letter
    from sora.services.moving.offline import Offline
    from sora.store.imports import Folder, Stored
    from sora.store.staging import Spool
    from sora.store.store import Store
    from sora.types import AccountId

_log = log.get(__name__)
_T = TypeVar("_T")

BATCH_MESSAGES: Final = 64
BATCH_BYTES: Final = 2 * 1024 * 1024
HELD_PIECES: Final = 1024 * 1024
"""Octets that the thread of the source hands over at a time."""
PATIENCE_S: Final = 600.0
"""How long a batch is tried again while the database or the staging directory has no room for it."""
SHARED: Final = "Shared"
"""What lies below it is other accounts', see `protocols/imap/places.py`."""
NAMES: Final = 20
"""That are tried for the mailbox of a folder."""
INLINE_BYTES: Final = 64 * 1024
ASIDE: Final = 1.0
"""Pause after a batch, as a share of what it took."""


class FolderReport(Line, kw_only=True):
    """What became of a folder; `uids_kept`: messages have the UIDs that they had, and the mailbox the UIDVALIDITY."""

    folder: str
    uids_kept: bool = False


class Report(Moved, kw_only=True):
    """What an import has done, or would do."""

    source: str
    folders: list[FolderReport] = field(default_factory=list)


class Importer:
    """Brings a source into an account.

    Args:
        source: Used in a thread of its own.
        progress: Called with a text, messages done and messages known of.
        max_message_size: Octets; larger ones stay behind.
    """

    def __init__(
        self,
        offline: Offline,
        store: Store,
        source: Source,
        progress: Callable[[str, int, int], None],
        max_message_size: int = 0,
    ) -> None:
        self._offline = offline
        self._store = store
        self._source = source
        self._imports = Imports(offline.database, store.messages)
        self._progress = progress
        config = offline.config
        self._limit = max_message_size or config.limits.message_size
        self._copies = config.uploader.durability == "database"
        body_limit = config.search.body_limit if config.search.index_bodies else 0
        self._letters = Letters(body_limit, self._copies, lambda: datetime.now(UTC))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="source")
        self._keywords: dict[str, int] = {}
        deleted = config.cleanup.deleted_namespace.removesuffix(names.DELIMITER)
        self._reserved = (SHARED, deleted) if deleted else (SHARED,)
        self._told: set[str] = set()
        self._done = 0
        self._total = 0

    async def run(self, account_id: AccountId, address: str, name: str, *, dry_run: bool) -> Report:
        """Bring everything that is not here yet.

        Args:
            name: Of the source; the same name goes on with the same import.

        Raises:
            OverQuota: The account is full; what came before that is here.
            Unavailable: Something was away for too long.
        """
        began = time.monotonic()
        report = Report(source=name, account=address, dry_run=dry_run)
        folders = await self._call(self._source.folders)
        self._total = sum(folder.messages for folder in folders)
        named = _named(folders, self._reserved, report)
        if dry_run:
            import_id = await self._imports.find(account_id, name)
            for folder, mailbox in named:
                await self._look(account_id, import_id, folder, mailbox, report)
        else:
            import_id = await self._imports.open(account_id, name)
            crash_point("import.begun")
            for folder, mailbox in named:
                await self._bring(account_id, import_id, folder, mailbox, report)
        await self._subscribe(account_id, named, report)
        await self._bring_scripts(account_id, report)
        for text in await self._call(self._source.problems):
            report.problem(text)
        for text in await self._call(self._source.notes):
            report.note(text)
        if not dry_run:
            assert import_id is not None
            await self._imports.finish(account_id, import_id)
        report.seconds = round(time.monotonic() - began, 3)
        return report

    async def close(self) -> None:
        """Let go of the source."""
        await self._call(self._source.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def _each(self, iterator: Iterator[_T], size: Callable[[_T], int]) -> AsyncIterator[list[_T]]:
        """What an iterator gives, several at a time, asked for in the thread."""

        def some() -> list[_T]:
            taken: list[_T] = []
            held = 0
            for item in iterator:
                taken.append(item)
                held += size(item)
                if held >= HELD_PIECES:
                    break
            return taken

        while items := await self._call(some):
            yield items

    # ------------------------------------------------------------------------------------------------ folders

    async def _look(
        self, account_id: AccountId, import_id: int | None, folder: SourceFolder, mailbox: str, report: Report
    ) -> None:
        """Count what would come."""
        known = None if import_id is None else await self._imports.find_folder(account_id, import_id, folder.key)
        line = FolderReport(folder=_shown(folder.key), mailbox=known.name if known else mailbox)
        if known is not None and _known_no_more(known, folder, report):
            return
        try:
            async for windows in self._each(self._source.messages(folder), lambda window: HELD_PIECES):
                for window in windows:
                    here = await self._imports.known(known, [message.key for message in window]) if known else set()
                    line.present += len(here)
                    for message in window:
                        if message.key not in here:
                            self._look_at(message, line, report)
                    self._tick(folder.name, len(window))
        except FolderBroken as error:
            report.problem(f"{folder.name}: {error.text}")
        target = await self._store.mailboxes.status(account_id, [line.mailbox])
        empty = (status := target[line.mailbox]) is None or status.uid_next == 1
        line.uids_kept = bool(folder.uidvalidity) and (known.keeps_uids if known else empty)
        self._add(report, line)

    def _look_at(self, message: SourceMessage, line: FolderReport, report: Report) -> None:
        if message.size > self._limit:
            report.problem(f"{line.mailbox}: {_place(message)}: larger than {self._limit} octets")
            return
        line.messages += 1
        line.bytes += message.size
        self._tell_keywords(message, report)

    def _tell_keywords(self, message: SourceMessage, report: Report) -> None:
        """Once of each that is not as it was."""
        for name in message.flags.changed:
            if name not in self._told and len(self._told) < MAX_LINES:
                self._told.add(name)
                kept = keyword(name)
                report.note(f"keyword {name} is {kept} here" if kept else f"keyword {name} cannot be here")

    async def _bring(
        self, account_id: AccountId, import_id: int, source: SourceFolder, mailbox: str, report: Report
    ) -> None:
        """One folder; its mailbox is made if it is new."""
        others = (f"{mailbox} ({number})" for number in range(2, NAMES))
        new = NewFolder(source.key, (mailbox, *others), source.uidvalidity, source.special_use)
        try:
            folder = await self._patiently(lambda: self._imports.folder(account_id, import_id, new))
        except (InvalidName, OverQuota) as error:
            report.problem(f"{source.name}: {error.text}")
            return
        crash_point("import.folder_begun")
        line = FolderReport(folder=_shown(source.key), mailbox=folder.name)
        if _known_no_more(folder, source, report):
            return
        if folder.source_uidvalidity != source.uidvalidity and folder.keeps_uids:
            report.note(f"{folder.name}: the source has another UIDVALIDITY now")
        batch = _Batch(folder)
        try:
            if folder.keeps_uids:
                # asked for once for all of the folder: the journal may take its interval to reserve them
                highest = await self._call(self._source.uid_next, source)
                await self._patiently(lambda: self._imports.reserve(folder, highest))
            async for windows in self._each(self._source.messages(source), lambda window: HELD_PIECES):
                for window in windows:
                    await self._bring_window(source, window, batch, line, report)
            await self._flush(batch, line, report)
            uid_next = await self._call(self._source.uid_next, source)
            if not folder.finished or line.messages:
                folder = await self._patiently(lambda: self._imports.finish_folder(batch.folder, uid_next))
        except NotFound:
            report.problem(f"{folder.name}: the mailbox was deleted while mail came to it")
        except FolderBroken as error:
            report.problem(f"{source.name}: {error.text}")
            await self._flush(batch, line, report)
        finally:
            batch.drop()
        crash_point("import.folder_done")
        line.uids_kept = folder.keeps_uids
        if source.uidvalidity and not folder.keeps_uids:
            report.note(f"{folder.name}: UIDs are new, because the mailbox had mail from elsewhere")
        self._add(report, line)

    def _add(self, report: Report, line: FolderReport) -> None:
        report.folders.append(line)
        report.count(line)

    # ------------------------------------------------------------------------------------------------ messages

    async def _bring_window(
        self, source: SourceFolder, window: list[SourceMessage], batch: _Batch, line: FolderReport, report: Report
    ) -> None:
        known = await self._unknown(window, batch)
        line.present += len(window) - len(known)
        self._tick(line.mailbox, len(window) - len(known))
        await self._patiently(lambda: self._bring_pieces(source, window, batch, line, report))

    async def _unknown(self, window: list[SourceMessage], batch: _Batch) -> list[SourceMessage]:
        """Those that are not here, and not on their way."""
        keys = [message.key for message in window]
        known = await self._patiently(lambda: self._imports.known(batch.folder, keys))
        known |= {message.key for message, _ in batch.letters}
        return [message for message in window if message.key not in known]

    async def _bring_pieces(
        self, source: SourceFolder, window: list[SourceMessage], batch: _Batch, line: FolderReport, report: Report
    ) -> None:
        wanted = await self._unknown(window, batch)
        intake: Intake | None = None
        try:
            async for pieces in self._each(self._source.pieces(source, wanted), lambda piece: len(piece.octets)):
                for piece in pieces:
                    intake = intake or Intake(self._offline.staging, self._limit)
                    intake.add(piece.octets)
                    await intake.settle()
                    if piece.last:
                        await self._whole(wanted[piece.number], piece, intake, batch, line, report)
                        intake = None
        finally:
            if intake is not None:
                intake.close()

    async def _whole(
        self, message: SourceMessage, piece: Piece, intake: Intake, batch: _Batch, line: FolderReport, report: Report
    ) -> None:
        """All octets of a message are here, or will not come."""
        self._tick(line.mailbox, 1)
        where = f"{line.mailbox}: {_place(message)}"
        if piece.problem or not intake.size:
            intake.close()
            if piece.problem != GONE:
                report.problem(f"{where}: {piece.problem or 'empty'}")
            return
        large = intake.size > IN_MEMORY
        if large or batch.is_full(intake.size):
            await self._flush(batch, line, report)
        try:
            data = await intake.finish()
        except TooBig:
            report.problem(f"{where}: larger than {self._limit} octets")
            return
        try:
            flags = await self._numbers(batch.folder.account_id, message, report)
            letter = await self._letter(batch.folder, message, AppendItem(data, flags, message.internal_date))
            held: Intake | Spool = intake
            if intake.needs_turn:
                del data
                held = await self._sealed(letter)
                intake.close()
        except BaseException:
            intake.close()
            raise
        batch.add(message, letter, held)
        if large:
            await self._flush(batch, line, report)

    async def _sealed(self, letter: Letter) -> Spool:
        """A large body that is held in memory goes sealed into a file: the plain one and the sealed one are much."""
        spool = self._offline.staging.spool(sealed=True)
        try:
            await asyncio.to_thread(letter.body.seal_into, spool)
        except BaseException:
            spool.close()
            raise
        return spool

    async def _letter(self, folder: Folder, message: SourceMessage, item: AppendItem) -> Letter:
        sealer = await self._patiently(lambda: self._offline.sealers.get(folder.account_id))
        arguments = (folder.account_id, folder.mailbox_id, [item], sealer)
        if len(item.data) <= INLINE_BYTES:
            (letter,) = self._letters.of_append(*arguments)
        else:
            (letter,) = await asyncio.to_thread(self._letters.of_append, *arguments)
        # The row of the import is the witness; and a message without a date is as old as the import.
        letter.row = replace(letter.row, append_id=None)
        return letter

    async def _numbers(self, account_id: AccountId, message: SourceMessage, report: Report) -> tuple[int, ...]:
        """Flag numbers; keywords that are one too many for the account stay behind."""
        self._tell_keywords(message, report)
        wanted = message.flags.keywords
        unknown = [name for name in wanted if name.lower() not in self._keywords]
        if unknown:
            try:
                found = await self._patiently(lambda: self._store.mailboxes.register_keywords(account_id, unknown))
            except LimitExceeded:
                report.note(f"keywords that are one too many for the account: {' '.join(unknown)}")
                listed = await self._patiently(lambda: self._store.mailboxes.list_keywords(account_id))
                found = {name: number for number, name in listed.items()}
            self._keywords |= {name.lower(): number for name, number in found.items()}
            for name in unknown:
                self._keywords.setdefault(name.lower(), 0)
        numbers = {self._keywords[name.lower()] for name in wanted}
        return (*message.flags.system, *sorted(number for number in numbers if number >= FIRST_KEYWORD))

    async def _flush(self, batch: _Batch, line: FolderReport, report: Report) -> None:
        """Stage and commit what has gathered; then let others go first."""
        if not batch.letters:
            return
        began = time.monotonic()
        incoming = [
            Incoming(message.key, message.uid if batch.folder.source_uidvalidity else 0, letter.row)
            for message, letter in batch.letters
        ]
        stored = await self._patiently(lambda: self._store_batch(batch, incoming))
        crash_point("import.committed")
        if stored.lost_uids:
            report.note(f"{line.mailbox}: something else was stored there while mail came: UIDs are new from there on")
        batch.folder = stored.folder
        line.messages += len(stored.delivered)
        line.present += len(incoming) - len(stored.delivered)
        line.bytes += batch.size
        if stored.delivered:
            last = stored.delivered[-1]
            self._offline.changes.publish(last.account_id, last.mailbox_id, last.modseq)
        batch.drop()
        await asyncio.sleep((time.monotonic() - began) * ASIDE)

    async def _store_batch(self, batch: _Batch, incoming: list[Incoming]) -> Stored:
        letters = {(letter.row.account_id, letter.row.content_hash): letter for _, letter in batch.letters}
        await self._offline.staging.stage_many([(*key, letter.body) for key, letter in letters.items()])
        crash_point("import.staged")
        bodies = {message.key: letter.pieces for message, letter in batch.letters} if self._copies else None
        return await self._imports.store(batch.folder, incoming, self._offline.instance_id, bodies)

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try until what is away is back, or there is room again.

        Raises:
            Unavailable: It took too long.
        """
        deadline, pause = time.monotonic() + PATIENCE_S, 0.2
        while True:
            try:
                return await attempt()
            except (Unavailable, OSError) as error:
                if time.monotonic() + pause > deadline:
                    raise
                _log.warning("import waits", extra={"error": getattr(error, "detail", "") or str(error)})
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _tick(self, text: str, count: int) -> None:
        self._done += count
        self._progress(text, self._done, max(self._total, self._done))

    # ------------------------------------------------------------------------------------------------ the rest

    async def _subscribe(self, account_id: AccountId, named: list[tuple[SourceFolder, str]], report: Report) -> None:
        mailboxes = {folder.name: mailbox for folder, mailbox in reversed(named)}
        for name in await self._call(self._source.subscriptions):
            report.subscriptions += 1
            if not report.dry_run:
                mailbox = mailboxes.get(name) or _free(name, self._reserved)
                try:
                    await self._store.mailboxes.subscribe(account_id, mailbox)
                except InvalidName:
                    report.problem(f"subscription of {name}: not a name")

    async def _bring_scripts(self, account_id: AccountId, report: Report) -> None:
        """Scripts that are not here; one of the same name and another text stays as it is."""
        scripts = await self._call(self._source.scripts)
        if scripts:
            active = await self._store.scripts.find_active(account_id)
        for script in scripts:
            try:
                compile(script.content, max_bytes=self._offline.config.sieve.max_script_size)
                found = await self._store.scripts.find(account_id, script.name)
                if found is not None and found.content != script.content:
                    report.note(f"script {script.name}: there is another one of that name, which stays")
                    continue
                report.scripts += 1
                if report.dry_run:
                    continue
                await self._store.scripts.put(
                    account_id, script.name, script.content, quota_of(self._offline.config.sieve)
                )
                if script.active and active is None:
                    await self._store.scripts.set_active(account_id, script.name)
                elif script.active and active is not None and active.name != script.name:
                    report.note(f"script {script.name} is active in the source; here {active.name} stays so")
            except Refused as error:
                report.problem(f"script {script.name}: {error.text}")
        crash_point("import.scripts_done")


class _Batch:
    """Messages of one folder that are committed together."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.letters: list[tuple[SourceMessage, Letter]] = []
        self.size = 0
        self._held: list[Intake | Spool] = []

    def is_full(self, more: int) -> bool:
        return len(self.letters) >= BATCH_MESSAGES or self.size + more > BATCH_BYTES

    def add(self, message: SourceMessage, letter: Letter, held: Intake | Spool) -> None:
        self.letters.append((message, letter))
        self.size += letter.size
        self._held.append(held)

    def drop(self) -> None:
        """Let go of what was committed, or never will be."""
        for _, letter in self.letters:
            letter.body.release()
        for held in self._held:
            held.close()
        self.letters, self._held, self.size = [], [], 0


def _named(folders: list[SourceFolder], reserved: tuple[str, ...], report: Report) -> list[tuple[SourceFolder, str]]:
    """Folders and names for their mailboxes, all different, and none that nobody would see."""
    taken: set[str] = set()
    found = []
    for folder in folders:
        free = _free(folder.name, reserved)
        name = names.unlike(free, taken)
        if name != free:
            report.note(f"{_shown(folder.key)}: two folders would be {free}, this one is {name}")
        elif name != folder.name:
            report.note(f"{folder.name} is called {name} here: the name stands for something else")
        taken.add(name)
        found.append((folder, name))
    return found


def _free(name: str, reserved: tuple[str, ...]) -> str:
    """A name that does not lie where a namespace hides it."""
    for root in reserved:
        if name == root or name.startswith(root + names.DELIMITER):
            return f"{root} (2){name[len(root) :]}"
    return name


def _known_no_more(folder: Folder, source: SourceFolder, report: Report) -> bool:
    """True if nothing tells which messages of a folder are here: all of them would come once more."""
    if not source.by_uid or not folder.source_uidvalidity or folder.source_uidvalidity == source.uidvalidity:
        return False
    report.problem(
        f"{source.name}: the source has another UIDVALIDITY now, and nothing tells which messages are here already: "
        f"delete {folder.name} to bring all of them anew"
    )
    return True


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "replace") or names.INBOX


def _place(message: SourceMessage) -> str:
    place = message.place
    return place.decode("utf-8", "replace") if isinstance(place, bytes) else str(message.uid or place)
