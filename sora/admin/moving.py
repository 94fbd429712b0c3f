"""Admin operations that bring mail in from other stores, and take it out.

They run on a node, as the user that Sora runs as: bodies are staged in the node's own directory.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sora.admin.context import SECRET, SIZE, Address, AdminContext
from sora.admin.keys import node_files
from sora.errors import NotFound, Refused
from sora.formats.mbox import Variant  # noqa: TC001 — msgspec reads the annotations at run time
from sora.moving.imap_source import ImapSource
from sora.moving.maildir_sink import MaildirSink
from sora.moving.maildir_source import MaildirSource
from sora.moving.mbox_sink import MboxSink
from sora.moving.mbox_source import MboxSource
from sora.services.moving.erasing import Erased, Erasing
from sora.services.moving.exporting import Exporter, ExportReport
from sora.services.moving.importing import Importer, Report
from sora.services.moving.offline import opened
from sora.services.moving.settings import count_deleted, settings_of, write_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.moving.sink import Sink
    from sora.moving.source import Source
    from sora.store.accounts import Account

DryRun = Annotated[bool, Meta(description="only say what would be done")]
MessageSize = Annotated[
    int, Meta(description="largest message to bring, in octets; 0: as limits.message_size", ge=0, extra=SIZE)
]


class ImportMaildir(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `import maildir`."""

    address: Address
    path: Annotated[str, Meta(description="the maildir, on this machine", min_length=1, max_length=4096)]
    layout: Annotated[Literal["auto", "maildir++", "fs"], Meta(description="how folders lie below it")] = "auto"
    escape: Annotated[str, Meta(description="Dovecot's storage_escape character", max_length=1)] = ""
    sieve: Annotated[str, Meta(description="directory with .dovecot.sieve and sieve/", max_length=4096)] = ""
    max_message_size: MessageSize = 0
    dry_run: DryRun = False


async def import_maildir(ctx: AdminContext, req: ImportMaildir) -> Report:
    """Bring a maildir into an account, with UIDs, flags, keywords, subscriptions and Sieve scripts."""
    path, sieve = _absolute(req.path), _absolute(req.sieve) if req.sieve else None

    def source() -> MaildirSource:
        return MaildirSource(path, req.layout, req.escape, sieve)

    return await _import(ctx, req.address, source, f"maildir {path}", req.max_message_size, dry_run=req.dry_run)


def _absolute(path: str) -> Path:
    """As it is named in the import, whatever the directory of the next run is."""
    return Path(path).absolute()


class ImportMbox(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `import mbox`."""

    address: Address
    path: Annotated[str, Meta(description="a file, or a directory of them", min_length=1, max_length=4096)]
    mailbox: Annotated[str, Meta(description="where a single file goes; else as it is called", max_length=1000)] = ""
    format: Annotated[Variant, Meta(description="how lines that begin with From are quoted")] = "mboxrd"
    max_message_size: MessageSize = 0
    dry_run: DryRun = False


async def import_mbox(ctx: AdminContext, req: ImportMbox) -> Report:
    """Bring mbox files into an account, with the flags and keywords of their headers."""
    path = _absolute(req.path)
    name = f"mbox {path}" + (f" to {req.mailbox}" if req.mailbox else "")

    def source() -> MboxSource:
        return MboxSource(path, req.format, req.mailbox)

    return await _import(ctx, req.address, source, name, req.max_message_size, dry_run=req.dry_run)


class ImportImap(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `import imap`."""

    address: Address
    host: Annotated[str, Meta(description="the other server", min_length=1, max_length=255)]
    user: Annotated[str, Meta(description="login name there", min_length=1, max_length=320)]
    password: Annotated[str, Meta(description="the password there", max_length=1024, extra=SECRET)]
    port: Annotated[int, Meta(description="0: 993 with TLS from the start, else 143", ge=0, le=65535)] = 0
    security: Annotated[Literal["tls", "starttls", "none"], Meta(description="how the connection is protected")] = "tls"
    verify: Annotated[bool, Meta(description="check the certificate of the server")] = True
    sieve_port: Annotated[int, Meta(description="ManageSieve there, usually 4190; 0: no filters", ge=0, le=65535)] = 0
    max_message_size: MessageSize = 0
    dry_run: DryRun = False


async def import_imap(ctx: AdminContext, req: ImportImap) -> Report:
    """Bring an account of another IMAP server, with UIDs, flags, keywords, subscriptions and filters."""
    port = req.port or (993 if req.security == "tls" else 143)
    name = f"imap {req.user}@{req.host}:{port}"

    def source() -> ImapSource:
        return ImapSource(
            req.host, port, req.user, req.password, req.security, verify=req.verify, sieve_port=req.sieve_port
        )

    return await _import(ctx, req.address, source, name, req.max_message_size, dry_run=req.dry_run)


class ExportMaildir(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `export maildir`."""

    address: Address
    path: Annotated[str, Meta(description="a new or empty directory, on this machine", min_length=1, max_length=4096)]
    layout: Annotated[Literal["auto", "maildir++", "fs"], Meta(description="how folders lie below it")] = "auto"
    dry_run: DryRun = False


async def export_maildir(ctx: AdminContext, req: ExportMaildir) -> ExportReport:
    """Write the mail of an account as a maildir, which Dovecot reads with the same UIDs."""

    def sink(path: Path, mailboxes: list[str], about: str) -> Sink:
        return MaildirSink(path, mailboxes, about, req.layout)

    return await _export(ctx, req, sink)


class ExportMbox(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `export mbox`."""

    address: Address
    path: Annotated[str, Meta(description="a new or empty directory, on this machine", min_length=1, max_length=4096)]
    format: Annotated[Variant, Meta(description="how lines that begin with From are quoted")] = "mboxrd"
    dry_run: DryRun = False


async def export_mbox(ctx: AdminContext, req: ExportMbox) -> ExportReport:
    """Write the mail of an account as mbox files, one for each mailbox."""

    def sink(path: Path, mailboxes: list[str], about: str) -> Sink:
        return MboxSink(path, about, req.format)

    return await _export(ctx, req, sink)


class ExportAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts export`."""

    address: Address
    path: Annotated[str, Meta(description="a new or empty directory, on this machine", min_length=1, max_length=4096)]
    dry_run: DryRun = False


async def export_account(ctx: AdminContext, req: ExportAccount) -> ExportReport:
    """Write all that is kept of one account: its mail as a maildir, and account.json with everything else."""

    def sink(path: Path, mailboxes: list[str], about: str) -> Sink:
        return MaildirSink(path / "Maildir", mailboxes, about)

    report = await _export(ctx, req, sink)
    if not req.dry_run:
        account = await ctx.store.accounts.get(req.address)
        settings = await settings_of(ctx.store, account)
        deleted = await count_deleted(ctx.store, account.account_id)
        if deleted:
            report.note(f"{deleted} deleted messages are still kept, and not in the export: `messages restore`")
        text = msgspec.json.format(msgspec.json.encode(settings), indent=2)
        await asyncio.to_thread(write_settings, Path(report.target), text)
    return report


class EraseAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `accounts erase`."""

    address: Address
    confirm: Annotated[str, Meta(description="the address once more: nothing brings it back", max_length=320)]


async def erase_account(ctx: AdminContext, req: EraseAccount) -> Erased:
    """Erase an account at once and for good, with its key, mail and settings; nothing brings it back."""
    if req.confirm != req.address:
        raise Refused("--confirm is not the address: nothing was erased")
    account = await find_account(ctx, req.address)
    with node_files(ctx.config) as (instance_id, files):
        return await Erasing(ctx.store, ctx.blobs, files, instance_id, ctx.progress).erase(account)


async def find_account(ctx: AdminContext, address: str) -> Account:
    """The account, or the deleted one, that has the address."""
    with contextlib.suppress(NotFound):
        return await ctx.store.accounts.get(address)
    return await ctx.store.accounts.get(address, deleted=True)


async def _export(
    ctx: AdminContext,
    req: ExportMaildir | ExportMbox | ExportAccount,
    sink: Callable[[Path, list[str], str], Sink],
) -> ExportReport:
    account = await ctx.store.accounts.get(req.address)
    path = _absolute(req.path)
    report = ExportReport(account=account.address, target=str(path), dry_run=req.dry_run)
    mailboxes = [one.name for one in await ctx.store.mailboxes.list(account.account_id) if one.exists]
    target = None if req.dry_run else sink(path, mailboxes, f"account {account.account_id}")
    async with opened(ctx.config, ctx.dsn, ctx.store.db, ctx.blobs) as offline:
        exporter = Exporter(offline, ctx.store, target, ctx.progress)
        try:
            await exporter.run(account.account_id, report)
        finally:
            await exporter.close()
    return report


async def _import(
    ctx: AdminContext, address: str, source: Callable[[], Source], name: str, max_message_size: int, *, dry_run: bool
) -> Report:
    account = await ctx.store.accounts.get(address)
    async with opened(ctx.config, ctx.dsn, ctx.store.db, ctx.blobs) as offline:
        importer = Importer(offline, ctx.store, await asyncio.to_thread(source), ctx.progress, max_message_size)
        try:
            return await importer.run(account.account_id, account.address, name, dry_run=dry_run)
        finally:
            await importer.close()


def failed(answer: Report | ExportReport) -> int:
    """The exit code: 1 if something did not come."""
    return int(bool(answer.problems))
