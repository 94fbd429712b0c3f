"""Admin operations that bring mail in from other stores, and take it out.

They run on a node, as the user that Sora runs as: bodies are staged in the node's own directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from sora.admin.context import SIZE, Address, AdminContext
from sora.moving.maildir_source import MaildirSource
from sora.services.importing import Importer, Report
from sora.services.offline import opened

if TYPE_CHECKING:
    from sora.moving.source import Source

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


def failed(answer: Report) -> int:
    """The exit code: 1 if something did not come."""
    return int(bool(answer.problems))
