"""Admin operations that bring mail in from other stores, and take it out.

They run on a node, as the user that Sora runs as: bodies are staged in the node's own directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from sora.admin.context import SECRET, SIZE, Address, AdminContext
from sora.moving.imap_source import ImapSource
from sora.moving.maildir_sink import MaildirSink
from sora.moving.maildir_source import MaildirSource
from sora.services.exporting import Exporter, ExportReport
from sora.services.importing import Importer, Report
from sora.services.offline import opened

if TYPE_CHECKING:
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
    source = MaildirSource(path, req.layout, req.escape, sieve)
    return await _import(ctx, req.address, source, f"maildir {path}", req.max_message_size, dry_run=req.dry_run)


def _absolute(path: str) -> Path:
    """As it is named in the import, whatever the directory of the next run is."""
    return Path(path).absolute()


class ImportImap(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `import imap`."""

    address: Address
    host: Annotated[str, Meta(description="the other server", min_length=1, max_length=255)]
    user: Annotated[str, Meta(description="login name there", min_length=1, max_length=320)]
    password: Annotated[str, Meta(description="the password there", max_length=1024, extra=SECRET)]
    port: Annotated[int, Meta(description="0: 993 with TLS from the start, else 143", ge=0, le=65535)] = 0
    security: Annotated[Literal["tls", "starttls", "none"], Meta(description="how the connection is protected")] = "tls"
    verify: Annotated[bool, Meta(description="check the certificate of the server")] = True
    max_message_size: MessageSize = 0
    dry_run: DryRun = False


async def import_imap(ctx: AdminContext, req: ImportImap) -> Report:
    """Bring an account of another IMAP server, with UIDs, flags, keywords and subscriptions."""
    port = req.port or (993 if req.security == "tls" else 143)
    source = ImapSource(req.host, port, req.user, req.password, req.security, verify=req.verify)
    name = f"imap {req.user}@{req.host}:{port}"
    return await _import(ctx, req.address, source, name, req.max_message_size, dry_run=req.dry_run)


class ExportMaildir(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `export maildir`."""

    address: Address
    path: Annotated[str, Meta(description="a new or empty directory, on this machine", min_length=1, max_length=4096)]
    layout: Annotated[Literal["auto", "maildir++", "fs"], Meta(description="how folders lie below it")] = "auto"
    dry_run: DryRun = False


async def export_maildir(ctx: AdminContext, req: ExportMaildir) -> ExportReport:
    """Write the mail of an account as a maildir that Dovecot reads with the same UIDs; run again, it goes on."""
    account = await ctx.store.accounts.get(req.address)
    path = _absolute(req.path)
    report = ExportReport(account.address, str(path), req.dry_run)
    listed = await ctx.store.mailboxes.list(account.account_id)
    mailboxes = [mailbox.name for mailbox in listed if mailbox.exists]
    about = f"account {account.account_id}"
    sink = None if req.dry_run else MaildirSink(path, mailboxes, about, req.layout)
    await _export(ctx, account, sink, report)
    return report


async def _export(ctx: AdminContext, account: Account, sink: Sink | None, report: ExportReport) -> None:
    async with opened(ctx.config, ctx.dsn, ctx.store.db, ctx.blobs) as offline:
        exporter = Exporter(offline, ctx.store, sink, ctx.progress)
        try:
            await exporter.run(account.account_id, report)
        finally:
            await exporter.close()


async def _import(
    ctx: AdminContext, address: str, source: Source, name: str, max_message_size: int, *, dry_run: bool
) -> Report:
    account = await ctx.store.accounts.get(address)
    async with opened(ctx.config, ctx.dsn, ctx.store.db, ctx.blobs) as offline:
        importer = Importer(offline, ctx.store, source, ctx.progress, max_message_size)
        try:
            return await importer.run(account.account_id, account.address, name, dry_run=dry_run)
        finally:
            await importer.close()


def failed(answer: Report | ExportReport) -> int:
    """The exit code: 1 if something did not come."""
    return int(bool(answer.problems))
