"""Taking the mail of an account out: mailbox by mailbox, in the order of UIDs, while the account is in use.

Bodies come from wherever they are, several at a time, and are compared with their hashes on the way; what no source has
is told and left out. What is there already is not read again.
"""

from __future__ import annotations

import asyncio
import mmap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import field

from sora.crashpoints import crash_point
from sora.errors import BlobDown
from sora.moving.sink import SinkFolder, SinkMessage, SinkScript
from sora.services.moving.reports import Line, Moved
from sora.store.exports import Exports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sora.moving.sink import Sink
    from sora.services.moving.offline import Offline
    from sora.store.diskfile import Octets
    from sora.store.exports import ExportRow
    from sora.store.mailboxes import ListedMailbox
    from sora.store.store import Store
    from sora.types import AccountId

_T = TypeVar("_T")

AT_ONCE: Final = 8
"""Bodies that are read together: from an object store that is slower than the network."""
BYTES_AT_ONCE: Final = 2 * 1024 * 1024


class ExportReport(Moved, kw_only=True):
    """What an export has done, or would do."""

    target: str
    mailboxes: list[Line] = field(default_factory=list)


class Exporter:
    """Writes the mail of an account into a sink.

    Args:
        sink: Used in a thread of its own; None: only count.
        progress: Called with a text, messages done and messages known of.
    """

    def __init__(
        self, offline: Offline, store: Store, sink: Sink | None, progress: Callable[[str, int, int], None]
    ) -> None:
        self._offline = offline
        self._store = store
        self._exports = Exports(offline.database)
        self._sink = sink
        self._progress = progress
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sink")
        self._done = 0
        self._total = 0

    async def run(self, account_id: AccountId, report: ExportReport) -> None:
        """Write everything that is not there yet.

        Raises:
            Unavailable: The database went away; a further run goes on.
        """
        began = time.monotonic()
        listed = await self._store.mailboxes.list(account_id)
        mailboxes = [mailbox for mailbox in listed if mailbox.exists and not mailbox.noselect]
        self._total = sum(mailbox.status.messages for mailbox in mailboxes if mailbox.status)
        for mailbox in mailboxes:
            await self._write(account_id, mailbox, report)
        subscriptions = [mailbox.name for mailbox in listed if mailbox.subscribed]
        scripts = await self._scripts(account_id)
        report.subscriptions, report.scripts = len(subscriptions), len(scripts)
        if self._sink is not None:
            await self._call(self._sink.finish, subscriptions, scripts)
            for text in await self._call(self._sink.notes):
                report.note(text)
        report.seconds = round(time.monotonic() - began, 3)

    async def close(self) -> None:
        """Let go of the sink."""
        if self._sink is not None:
            await self._call(self._sink.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def _write(self, account_id: AccountId, mailbox: ListedMailbox, report: ExportReport) -> None:
        status = mailbox.status
        assert status is not None, "it exists"
        line = Line(mailbox=mailbox.name)
        keywords = await self._exports.keywords(account_id, status.mailbox_id)
        folder = SinkFolder(mailbox.name, mailbox.uidvalidity, status.uid_next, keywords)
        if self._sink is None:
            line.messages, line.bytes = status.messages, status.size
        elif not await self._call(self._sink.begin, folder):
            line.present = status.messages
        else:
            after = 0
            while rows := await self._exports.rows(account_id, status.mailbox_id, after):
                await self._write_rows(self._sink, rows, line, report)
                after = rows[-1].uid
                crash_point("export.page_written")
            await self._call(self._sink.end)
        crash_point("export.mailbox_done")
        report.mailboxes.append(line)
        report.count(line)

    async def _write_rows(self, sink: Sink, rows: list[ExportRow], line: Line, report: ExportReport) -> None:
        # In order: the sink lists UIDs as they come.
        for group in _groups(rows):
            if group[0].body.size > BYTES_AT_ONCE:
                await self._write_large(sink, group[0], line, report)
            else:
                await self._write_group(sink, group, line, report)
            self._done += len(group)
            self._progress(line.mailbox, self._done, max(self._total, self._done))

    async def _write_group(self, sink: Sink, group: list[ExportRow], line: Line, report: ExportReport) -> None:
        there = await self._call(self._there, sink, group)
        bodies = await asyncio.gather(
            *(_body(self._offline, row, present) for row, present in zip(group, there, strict=True)),
            return_exceptions=True,
        )
        for row, body in zip(group, bodies, strict=True):
            if isinstance(body, BlobDown):
                report.problem(f"{line.mailbox}: UID {row.uid}: {body.detail or body.text}")
                continue
            if isinstance(body, BaseException):
                raise body
            await self._put(sink, row, body, line)

    async def _write_large(self, sink: Sink, row: ExportRow, line: Line, report: ExportReport) -> None:
        """By way of a file without a name: what is stored of a body and the body itself are not held together."""
        if await self._call(sink.has, _message(row)):
            await self._put(sink, row, None, line)
            return
        with await self._call(sink.scratch) as file:
            try:
                await self._offline.bodies.copy(row.body, file)
            except BlobDown as error:
                report.problem(f"{line.mailbox}: UID {row.uid}: {error.detail or error.text}")
                return
            file.flush()
            with mmap.mmap(file.fileno(), row.body.size, prot=mmap.PROT_READ) as body:
                await self._put(sink, row, body, line)

    async def _put(self, sink: Sink, row: ExportRow, body: Octets | None, line: Line) -> None:
        await self._call(sink.put, _message(row), body)
        line.present += body is None
        line.messages += body is not None
        line.bytes += row.body.size if body is not None else 0

    def _there(self, sink: Sink, group: list[ExportRow]) -> list[bool]:
        return [sink.has(_message(row)) for row in group]

    async def _scripts(self, account_id: AccountId) -> list[SinkScript]:
        found = []
        for info in await self._store.scripts.list_scripts(account_id):
            script = await self._store.scripts.find(account_id, info.name)
            if script is not None:
                found.append(SinkScript(script.name, script.content, info.active))
        return found


async def _body(offline: Offline, row: ExportRow, present: bool) -> bytes | None:
    return None if present else await offline.bodies.get(row.body)


def _message(row: ExportRow) -> SinkMessage:
    return SinkMessage(row.uid, row.flags, row.internal_date, row.body.size)


def _groups(rows: list[ExportRow]) -> Iterator[list[ExportRow]]:
    """Few messages at a time; a large one alone."""
    group: list[ExportRow] = []
    size = 0
    for row in rows:
        if group and (len(group) >= AT_ONCE or size + row.body.size > BYTES_AT_ONCE):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.body.size
    if group:
        yield group
