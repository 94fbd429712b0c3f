"""The table of admin operations.

The command line (`cli/admin.py`), the HTTP API and its OpenAPI text, and the manual page are all rendered from these
rows: an operation is defined once, as a request struct, an async function and one line here.
"""

from __future__ import annotations

from typing import Final

from sora.admin import (
    accounts,
    acl,
    auth,
    keys,
    mailboxes,
    metadata,
    queue,
    moving,
    sieve,
    storage,
    system,
    trials,
    undelete,
    upkeep,
    uploads,
)
from sora.admin.context import Operation
from sora.errors import (
    AlreadyExists,
    BadScript,
    ConfigError,
    InUse,
    InvalidName,
    LimitExceeded,
    NoPermission,
    NotFound,
    OverQuota,
    Refused,
    TooBig,
)

NEW: Final = (AlreadyExists, InvalidName)
GONE: Final = (NotFound,)
MOVED: Final = (NotFound, Refused, OverQuota, ConfigError)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("accounts.create", "POST /v1/accounts", accounts.create, errors=NEW),
    Operation("accounts.list", "GET /v1/accounts", accounts.list_accounts),
    Operation("accounts.show", "GET /v1/accounts/{address}", accounts.show, errors=GONE),
    Operation("accounts.disable", "POST /v1/accounts/{address}/disable", accounts.disable, errors=GONE),
    Operation("accounts.enable", "POST /v1/accounts/{address}/enable", accounts.enable, errors=GONE),
    Operation("accounts.delete", "DELETE /v1/accounts/{address}", accounts.delete, errors=GONE),
    Operation(
        "accounts.restore", "POST /v1/accounts/{address}/restore", accounts.restore, errors=(NotFound, AlreadyExists)
    ),
    Operation("accounts.hold", "POST /v1/accounts/{address}/hold", accounts.hold, errors=(NotFound, NoPermission)),
    Operation("accounts.release", "POST /v1/accounts/{address}/release", accounts.release, errors=GONE),
    Operation(
        "accounts.set-password",
        "PUT /v1/accounts/{address}/password",
        accounts.set_password,
        errors=(NotFound, InvalidName),
    ),
    Operation(
        "credentials.add",
        "POST /v1/accounts/{address}/credentials",
        accounts.add_credential,
        errors=(NotFound, AlreadyExists, LimitExceeded),
    ),
    Operation("credentials.list", "GET /v1/accounts/{address}/credentials", accounts.list_credentials, errors=GONE),
    Operation(
        "credentials.remove",
        "DELETE /v1/accounts/{address}/credentials/{credential_id}",
        accounts.remove_credential,
        errors=GONE,
    ),
    Operation("aliases.add", "POST /v1/aliases", accounts.add_alias, errors=(NotFound, *NEW)),
    Operation("aliases.list", "GET /v1/aliases", accounts.list_aliases, positional=("address",), errors=GONE),
    Operation("aliases.remove", "DELETE /v1/aliases/{alias}", accounts.remove_alias, errors=GONE),
    Operation("domains.add", "POST /v1/domains", accounts.add_domain, errors=NEW),
    Operation("domains.list", "GET /v1/domains", accounts.list_domains),
    Operation("domains.remove", "DELETE /v1/domains/{domain}", accounts.remove_domain, errors=(NotFound, Refused)),
    Operation(
        "domains.set-catch-all",
        "PUT /v1/domains/{domain}/catch-all",
        accounts.set_catch_all,
        positional=("domain", "address"),
        errors=GONE,
    ),
    Operation("mailboxes.list", "GET /v1/accounts/{address}/mailboxes", mailboxes.list_mailboxes, errors=GONE),
    Operation(
        "mailboxes.create",
        "POST /v1/accounts/{address}/mailboxes",
        mailboxes.create,
        errors=(NotFound, *NEW, OverQuota),
    ),
    Operation(
        "mailboxes.rename",
        "POST /v1/accounts/{address}/mailboxes/rename",
        mailboxes.rename,
        errors=(NotFound, *NEW, NoPermission),
    ),
    Operation(
        "mailboxes.delete", "DELETE /v1/accounts/{address}/mailboxes", mailboxes.delete, errors=(NotFound, NoPermission)
    ),
    Operation(
        "mailboxes.list-deleted",
        "GET /v1/accounts/{address}/mailboxes/deleted",
        undelete.list_mailboxes,
        errors=GONE,
    ),
    Operation(
        "mailboxes.restore",
        "POST /v1/accounts/{address}/mailboxes/restore",
        undelete.restore_mailbox,
        errors=(NotFound, AlreadyExists, InvalidName, OverQuota),
    ),
    Operation(
        "messages.list",
        "GET /v1/accounts/{address}/messages",
        mailboxes.list_messages,
        positional=("address", "mailbox"),
        errors=GONE,
    ),
    Operation(
        "messages.list-deleted",
        "GET /v1/accounts/{address}/messages/deleted",
        undelete.list_messages,
        errors=(NotFound, InvalidName),
    ),
    Operation(
        "messages.restore",
        "POST /v1/accounts/{address}/messages/restore",
        undelete.restore_messages,
        errors=(NotFound, InvalidName, OverQuota),
    ),
    Operation("acl.list", "GET /v1/accounts/{address}/acl", acl.list_acl, errors=GONE),
    Operation("acl.set", "PUT /v1/accounts/{address}/acl", acl.set_acl, errors=(NotFound, InvalidName)),
    Operation("acl.delete", "DELETE /v1/accounts/{address}/acl", acl.delete_acl, errors=GONE),
    Operation("metadata.get", "GET /v1/metadata", metadata.get, positional=("entry",), errors=(NotFound, InvalidName)),
    Operation(
        "metadata.set",
        "PUT /v1/metadata",
        metadata.set_entry,
        errors=(NotFound, InvalidName, LimitExceeded, TooBig),
    ),
    Operation("metadata.delete", "DELETE /v1/metadata", metadata.delete, errors=(NotFound, InvalidName)),
    Operation("quota.show", "GET /v1/accounts/{address}/quota", accounts.show_quota, errors=GONE),
    Operation("quota.set", "PUT /v1/accounts/{address}/quota", accounts.set_quota, errors=GONE),
    Operation("sieve.list", "GET /v1/accounts/{address}/scripts", sieve.list_scripts, errors=GONE),
    Operation("sieve.show", "GET /v1/accounts/{address}/scripts/{name}", sieve.show, errors=(NotFound, InvalidName)),
    Operation(
        "sieve.put",
        "PUT /v1/accounts/{address}/scripts/{name}",
        sieve.put,
        errors=(NotFound, InvalidName, OverQuota, BadScript),
    ),
    Operation(
        "sieve.activate",
        "POST /v1/accounts/{address}/scripts/{name}/activate",
        sieve.activate,
        errors=(NotFound, InvalidName),
    ),
    Operation("sieve.deactivate", "POST /v1/accounts/{address}/scripts/deactivate", sieve.deactivate, errors=GONE),
    Operation(
        "sieve.delete",
        "DELETE /v1/accounts/{address}/scripts/{name}",
        sieve.delete,
        errors=(NotFound, InvalidName, InUse),
    ),
    Operation(
        "sieve.check",
        "POST /v1/sieve/check",
        sieve.check,
        failed=lambda found: int(not found.valid),
        standalone=True,
    ),
    Operation(
        "sieve.test",
        "POST /v1/sieve/test",
        trials.test,
        errors=(BadScript,),
        failed=lambda found: int(bool(found.error)),
        standalone=True,
    ),
    Operation(
        "import.maildir",
        "POST /v1/accounts/{address}/import/maildir",
        moving.import_maildir,
        errors=MOVED,
        failed=moving.failed,
    ),
    Operation(
        "import.imap",
        "POST /v1/accounts/{address}/import/imap",
        moving.import_imap,
        errors=MOVED,
        failed=moving.failed,
    ),
    Operation(
        "export.maildir",
        "POST /v1/accounts/{address}/export/maildir",
        moving.export_maildir,
        errors=MOVED,
        failed=moving.failed,
    ),
    Operation("keys.list", "GET /v1/keys", keys.list_keys, errors=(Refused, ConfigError)),
    Operation("keys.rotate", "POST /v1/keys/rotate", keys.rotate, failed=keys.failed, errors=(Refused, ConfigError)),
    Operation("keys.shred", "POST /v1/accounts/{address}/shred", keys.shred, errors=(NotFound, NoPermission)),
    Operation("auth.blocked", "GET /v1/auth/blocks", auth.blocked),
    Operation("auth.unblock", "DELETE /v1/auth/blocks/{who}", auth.unblock, errors=(NotFound, InvalidName)),
    Operation("queue.list", "GET /v1/queue", queue.list_queue),
    Operation("queue.show", "GET /v1/queue/{queue_id}", queue.show, errors=GONE),
    Operation("queue.retry", "POST /v1/queue/retry", queue.retry, positional=("queue_id",), errors=GONE),
    Operation("queue.delete", "DELETE /v1/queue/{queue_id}", queue.delete, errors=GONE),
    Operation("uploads.status", "GET /v1/uploads", uploads.status),
    Operation("uploads.retry", "POST /v1/uploads/retry", uploads.retry),
    Operation(
        "uploads.verify", "POST /v1/uploads/verify", uploads.verify, failed=lambda found: int(bool(found.missing))
    ),
    Operation("uploads.adopt", "POST /v1/uploads/adopt", uploads.adopt, positional=("node",), errors=(InUse, Refused)),
    Operation("uploads.quarantine", "GET /v1/uploads/quarantine", uploads.quarantine),
    Operation("cache.stats", "GET /v1/cache", storage.cache_stats, errors=(Refused,)),
    Operation("cache.purge", "DELETE /v1/cache", storage.cache_purge, errors=(Refused,)),
    Operation(
        "cache.verify",
        "POST /v1/cache/verify",
        storage.cache_verify,
        errors=(Refused,),
        failed=lambda found: int(found.bad > 0),
    ),
    Operation("cleanup.status", "GET /v1/cleanup", upkeep.status),
    Operation("cleanup.orphans", "GET /v1/cleanup/orphans", upkeep.orphans),
    Operation("health", "GET /v1/health", system.health, failed=lambda health: 0 if health.well else 3),
    Operation("stats", "GET /v1/stats", system.stats),
    Operation("migrate.up", "POST /v1/migrate", system.migrate_up),
    Operation("migrate.status", "GET /v1/migrate", system.migrate_status),
    Operation("config.dump", "GET /v1/config", system.config_dump),
    Operation("config.check", "GET /v1/config/check", system.config_check),
)
