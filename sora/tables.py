"""The tables of the configuration: a frozen struct each, a field for each key.

A key is one annotated field: its type, default, bounds, description and reload class (`live`: running processes take
it; `worker`: the next generation of workers takes it, so a reload is enough; `restart`: the supervisor must be
restarted). Checks, masking of secrets and the manual page follow from the fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

Size = Annotated[int, Meta(ge=0, extra={"kind": "size"})]
"""Octets."""
Duration = Annotated[float, Meta(ge=0, extra={"kind": "duration"})]
"""Seconds."""

LIVE: Final = {"reload": "live"}
WORKER: Final = {"reload": "worker"}
RESTART: Final = {"reload": "restart"}
SECRET: Final = {"reload": "worker", "secret": True, "file_twin": True}
SECRET_LIST: Final = {"reload": "worker", "secret": True}
"""Masked as secrets are; a file holds one value, so there is no `x_file`: `${NAME}` inside the list keeps it out."""


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every TOML table."""


class DatabaseTable(Table, frozen=True, kw_only=True):
    """[database]: exactly one of `embedded` and `primary`."""

    embedded: Annotated[str, Meta(description="directory of a PostgreSQL that Sora runs itself", extra=RESTART)] = ""
    primary: Annotated[str, Meta(description="DSN of the primary, postgresql://…", extra=SECRET)] = ""
    replicas: Annotated[tuple[str, ...], Meta(description="DSNs of read replicas", extra=SECRET_LIST)] = ()
    read_only: Annotated[
        bool, Meta(description="this node changes nothing: mail is read, and waits at its sender", extra=LIVE)
    ] = False
    pool_size: Annotated[int, Meta(ge=2, le=200, description="connections of one worker for queries", extra=WORKER)] = 8
    delivery_connections: Annotated[
        int, Meta(ge=1, le=8, description="connections of one worker for deliveries", extra=WORKER)
    ] = 2


class ObjectStoreTable(Table, frozen=True, kw_only=True):
    """[object_store]: where bodies go in the end."""

    kind: Annotated[Literal["s3", "directory"], Meta(description="s3 or directory", extra=WORKER)] = "directory"
    path: Annotated[str, Meta(description="directory (kind = directory)", extra=WORKER)] = ""
    endpoint: Annotated[str, Meta(description="https://host[:port] of the S3 service", extra=WORKER)] = ""
    region: Annotated[str, Meta(description="region name, always sent", extra=WORKER)] = "us-east-1"
    bucket: Annotated[str, Meta(description="bucket name", extra=WORKER)] = ""
    access_key: Annotated[str, Meta(description="access key id", extra=WORKER)] = ""
    secret_key: Annotated[str, Meta(description="secret access key", extra=SECRET)] = ""


class EncryptionTable(Table, frozen=True, kw_only=True):
    """[encryption]: client-side encryption of bodies; absent: off."""

    keyring_file: Annotated[
        str, Meta(description="master keys with ids, readable by its owner alone; `sora-admin keys`", extra=RESTART)
    ] = ""


class LocalCacheTable(Table, frozen=True, kw_only=True):
    """[local_cache]: bodies on the local disk, shared by the workers of a node."""

    path: Annotated[str, Meta(description="directory of the cache", extra=WORKER)] = ""
    capacity: Annotated[Size, Meta(description="bound on the octets kept; 0 turns the cache off", extra=WORKER)] = (
        10**10
    )
    max_object_size: Annotated[Size, Meta(description="larger bodies are not kept", extra=WORKER)] = 25 * 10**6
    warm_up: Annotated[
        int, Meta(ge=0, le=1000, description="newest messages of INBOX fetched at a login; 0: none", extra=WORKER)
    ] = 50
    warm_up_size: Annotated[Size, Meta(description="of these, at most so many octets", extra=WORKER)] = 10 * 10**6


class UploaderTable(Table, frozen=True, kw_only=True):
    """[uploader]: staged bodies on their way to the object store."""

    staging_path: Annotated[str, Meta(description="directory of bodies not uploaded yet", extra=RESTART)] = ""
    max_staging_size: Annotated[Size, Meta(description="deliveries are deferred above it", extra=WORKER)] = 10**11
    durability: Annotated[
        Literal["staged", "database"],
        Meta(description="database: keep a copy in PostgreSQL until the upload is confirmed", extra=WORKER),
    ] = "staged"
    parallel: Annotated[int, Meta(ge=1, le=64, description="uploads at a time", extra=WORKER)] = 6
    adopt_after: Annotated[
        Duration, Meta(description="uploads of a node that is silent so long go to another; 0: never", extra=WORKER)
    ] = 600.0
    quarantine_retention: Annotated[
        Duration, Meta(description="bodies without a message, and damaged ones, are kept; 0: for ever", extra=WORKER)
    ] = 0.0


class CleanupTable(Table, frozen=True, kw_only=True):
    """[cleanup]: what the janitor removes, and when."""

    grace_period: Annotated[Duration, Meta(description="expunged mail can be restored this long", extra=WORKER)] = (
        14 * 86400.0
    )
    recovery_window: Annotated[
        Duration,
        Meta(description="restores of PostgreSQL go back so far; grace_period is not shorter", extra=WORKER),
    ] = 0.0
    deleted_namespace: Annotated[
        str, Meta(description="IMAP users see expunged mail below this, read-only; empty: they do not", extra=WORKER)
    ] = "Deleted/"
    wake_interval: Annotated[Duration, Meta(description="pause between two passes", extra=WORKER)] = 3600.0
    max_age_restriction: Annotated[
        str, Meta(description="expunge mail older than this; empty: never", extra=WORKER)
    ] = ""
    max_rows_per_second: Annotated[
        int, Meta(ge=20, description="rows and objects that are removed in a second, at most", extra=WORKER)
    ] = 2000
    log_retention: Annotated[
        Duration, Meta(description="what happened to accounts and mailboxes is kept", extra=WORKER)
    ] = 30 * 86400.0
    orphan_grace: Annotated[
        Duration, Meta(description="objects without a row are deleted after; 0: reported only", extra=WORKER)
    ] = 0.0


class JournalTable(Table, frozen=True, kw_only=True):
    """[journal]: what the object store has of the database, so that it can be built anew from there alone."""

    interval: Annotated[
        Duration,
        Meta(
            le=3600,
            description="what is older than this is in the bucket, if both are there; 0: no journal",
            extra=WORKER,
        ),
    ] = 60.0


class AuthTable(Table, frozen=True, kw_only=True):
    """[auth]: who may log in, and how."""

    default_domain: Annotated[str, Meta(description="a bare user logs in as user@default_domain", extra=WORKER)] = ""
    allow_cleartext: Annotated[bool, Meta(description="allow passwords without TLS", extra=WORKER)] = False
    quota_admins: Annotated[
        tuple[str, ...],
        Meta(description="addresses of accounts that may set everybody's quota by IMAP (SETQUOTA)", extra=LIVE),
    ] = ()
    hash_workers: Annotated[int, Meta(ge=1, le=64, description="threads that hash passwords", extra=WORKER)] = 2
    cache_ttl: Annotated[
        Duration, Meta(le=60, description="revalidate verified credentials after; at most 60s", extra=WORKER)
    ] = 60.0


class LimitsTable(Table, frozen=True, kw_only=True):
    """[limits]: bounds on what one peer or one command may use."""

    exempt_networks: Annotated[tuple[str, ...], Meta(description="no per-address limits here", extra=LIVE)] = (
        "127.0.0.0/8",
        "::1/128",
    )
    connections_per_address: Annotated[int, Meta(ge=1, description="connections of one address", extra=LIVE)] = 200
    connections_per_account: Annotated[int, Meta(ge=1, description="connections of one account", extra=LIVE)] = 50
    login_failures_per_account: Annotated[
        int, Meta(ge=0, description="failed logins to one account from one address before a block; 0: any", extra=LIVE)
    ] = 10
    login_failures_per_address: Annotated[
        int, Meta(ge=0, description="failed logins from one address before a block; 0: any", extra=LIVE)
    ] = 100
    login_failure_window: Annotated[Duration, Meta(description="so many failures are forgotten in", extra=LIVE)] = 900.0
    login_block: Annotated[Duration, Meta(description="blocked for; 0: delayed only", extra=LIVE)] = 900.0
    login_delay: Annotated[Duration, Meta(description="longest delay of a login after failures", extra=LIVE)] = 8.0
    delayed_logins_per_address: Annotated[
        int, Meta(ge=0, description="logins of one address that may be delayed at a time", extra=LIVE)
    ] = 10
    delayed_logins: Annotated[int, Meta(ge=0, description="the same, of all addresses, in a worker", extra=LIVE)] = 500
    message_size: Annotated[Size, Meta(description="largest message, LMTP and APPEND", extra=LIVE)] = 50 * 10**6
    command_line: Annotated[Size, Meta(description="longest IMAP command without literals", extra=LIVE)] = 65536
    literal: Annotated[Size, Meta(description="largest IMAP literal outside APPEND", extra=LIVE)] = 1 << 20
    literal_before_login: Annotated[Size, Meta(description="the same before login", extra=LIVE)] = 8192
    imap_messages: Annotated[
        int, Meta(ge=1, description="messages that one IMAP command works on (MESSAGELIMIT)", extra=LIVE)
    ] = 1_000_000
    imap_saved_messages: Annotated[
        int, Meta(ge=1, description="messages of one COPY or APPEND (SAVELIMIT)", extra=LIVE)
    ] = 1_000_000
    recipients: Annotated[int, Meta(ge=1, description="recipients of one LMTP transaction", extra=LIVE)] = 1000
    search_contexts: Annotated[
        int, Meta(ge=1, description="search results kept up to date (UPDATE) in one IMAP session", extra=LIVE)
    ] = 16
    uid_batch: Annotated[
        int, Meta(ge=1, le=500, description="fewest messages of an IMAP UIDBATCHES batch", extra=LIVE)
    ] = 500
    bad_commands: Annotated[int, Meta(ge=1, description="bad commands in a row before the end", extra=LIVE)] = 10
    imap_idle_timeout: Annotated[Duration, Meta(description="silence of an IMAP client", extra=LIVE)] = 1800.0
    notify_mailboxes: Annotated[
        int, Meta(ge=0, description="mailboxes that an IMAP session may watch by NOTIFY", extra=LIVE)
    ] = 10000
    imap_keepalive: Annotated[Duration, Meta(description="pause between lines sent in IDLE", extra=LIVE)] = 120.0
    pop3_idle_timeout: Annotated[Duration, Meta(description="silence of a POP3 client", extra=LIVE)] = 600.0
    pop3_login_delay: Annotated[
        Duration, Meta(description="pause between two POP3 logins of an account; 0: none", extra=LIVE)
    ] = 0.0
    managesieve_idle_timeout: Annotated[Duration, Meta(description="silence of a ManageSieve client", extra=LIVE)] = (
        1800.0
    )
    lmtp_idle_timeout: Annotated[Duration, Meta(description="silence of an LMTP client", extra=LIVE)] = 300.0
    lmtp_message_timeout: Annotated[
        Duration, Meta(description="octets of an LMTP message are all here after", extra=LIVE)
    ] = 1800.0
    login_timeout: Annotated[Duration, Meta(description="silence before login", extra=LIVE)] = 60.0


class LogTable(Table, frozen=True, kw_only=True):
    """[log]."""

    format: Annotated[Literal["json", "text"], Meta(description="json or text", extra=WORKER)] = "json"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least level written", extra=WORKER)
    ] = "info"


class SearchTable(Table, frozen=True, kw_only=True):
    """[search]."""

    index_bodies: Annotated[
        bool | None,
        Meta(
            description="keep folded body text for SEARCH BODY and TEXT",
            extra={**WORKER, "default": "true; with encryption.keyring_file false"},
        ),
    ] = None
    body_limit: Annotated[Size, Meta(description="characters of body text kept per message", extra=WORKER)] = 65536
    retention: Annotated[
        Duration, Meta(description="older texts leave the index, are searched slowly; 0: never", extra=WORKER)
    ] = 0.0


class SieveTable(Table, frozen=True, kw_only=True):
    """[sieve]: filters."""

    max_scripts: Annotated[int, Meta(ge=1, description="scripts of one account", extra=LIVE)] = 100
    max_script_size: Annotated[Size, Meta(description="largest script", extra=LIVE)] = 1 << 20
    max_storage: Annotated[Size, Meta(description="all scripts of one account together", extra=LIVE)] = 10 << 20
    max_nesting: Annotated[
        int, Meta(ge=1, le=100, description="blocks inside blocks of a script, tests inside tests", extra=LIVE)
    ] = 30
    before: Annotated[
        tuple[str, ...], Meta(description="scripts that run before those of accounts: files, directories", extra=WORKER)
    ] = ()
    after: Annotated[
        tuple[str, ...], Meta(description="scripts that run after those of accounts: files, directories", extra=WORKER)
    ] = ()
    default: Annotated[
        str, Meta(description="script of accounts that have no active one of their own: a file", extra=WORKER)
    ] = ""
    global_dir: Annotated[
        str, Meta(description="directory of the scripts that `include :global` finds", extra=WORKER)
    ] = ""
    list_dir: Annotated[
        str, Meta(description="directory of external lists, NAME.txt: `:list` finds them by name", extra=WORKER)
    ] = ""
    url: Annotated[
        str,
        Meta(
            description="the ManageSieve server as IMAP clients are told (IMAPSIEVE), sieve://host[:port]; unless given"
            " the first address of servers.managesieve",
            extra=LIVE,
        ),
    ] = ""
    expunge_discarded: Annotated[
        bool,
        Meta(description="a message that a script of its mailbox does not keep is expunged at once", extra=LIVE),
    ] = False
    max_instructions: Annotated[
        int, Meta(ge=1000, description="work of one run; a million takes about a second", extra=LIVE)
    ] = 1_000_000
    slice_instructions: Annotated[
        int, Meta(ge=100, le=5000, description="work of one run before others have their turn", extra=LIVE)
    ] = 3_000
    max_actions: Annotated[int, Meta(ge=1, description="actions of one run", extra=LIVE)] = 100
    max_redirects: Annotated[int, Meta(ge=0, description="messages that one run sends", extra=LIVE)] = 32
    max_includes: Annotated[int, Meta(ge=0, description="scripts included in one run", extra=LIVE)] = 100
    max_include_depth: Annotated[int, Meta(ge=0, description="scripts inside scripts", extra=LIVE)] = 10
    max_variables: Annotated[int, Meta(ge=1, description="variables of one script", extra=LIVE)] = 256
    max_variable_size: Annotated[Size, Meta(description="largest variable", extra=LIVE)] = 64 * 1024
    max_text: Annotated[int, Meta(ge=1024, description="characters of a text with its variables", extra=LIVE)] = 1 << 20
    max_edited: Annotated[Size, Meta(description="all versions of a message that one run edits", extra=LIVE)] = (
        128 << 20
    )
    max_made: Annotated[Size, Meta(description="all mail that one run makes", extra=LIVE)] = 16 << 20
    max_queued: Annotated[
        int,
        Meta(
            ge=0,
            description="mails of one account that wait to be sent; what would be redirected beyond stays in INBOX, no"
            " other mail is made; 0: any number",
            extra=LIVE,
        ),
    ] = 10_000
    redirect_sender: Annotated[
        Literal["sender", "owner"], Meta(description="whom bounces of redirected mail go to", extra=LIVE)
    ] = "sender"
    vacation_min_period: Annotated[
        Duration, Meta(description="least time between two replies of vacation", extra=LIVE)
    ] = 0.0
    vacation_max_period: Annotated[Duration, Meta(description="longest time between two", extra=LIVE)] = 90 * 86400.0
    vacation_default_period: Annotated[
        Duration, Meta(description="time between two where a script says nothing", extra=LIVE)
    ] = 7 * 86400.0
    duplicate_max_period: Annotated[Duration, Meta(description="longest memory of `duplicate`", extra=LIVE)] = (
        90 * 86400.0
    )
    spam_header: Annotated[str, Meta(description="header field with the spam score; empty: none", extra=LIVE)] = ""
    spam_pattern: Annotated[
        str, Meta(description="regular expression, its group is the score; empty: the first number", extra=LIVE)
    ] = ""
    spam_maximum: Annotated[float, Meta(gt=0, description="score of what is surely spam", extra=LIVE)] = 10.0
    spam_texts: Annotated[
        tuple[str, ...],
        Meta(description="scores that are words, `word=0` to `word=10`; no maximum then", extra=LIVE),
    ] = ()
    virus_header: Annotated[str, Meta(description="header field with the virus check; empty: none", extra=LIVE)] = ""
    virus_pattern: Annotated[str, Meta(description="regular expression, its group is the result", extra=LIVE)] = ""
    virus_maximum: Annotated[float, Meta(gt=0, description="result of what is surely a virus", extra=LIVE)] = 5.0
    virus_texts: Annotated[
        tuple[str, ...],
        Meta(description="results that are words, `word=0` to `word=5`; no maximum then", extra=LIVE),
    ] = ()


class OutboundTable(Table, frozen=True, kw_only=True):
    """[outbound]: the smarthost that takes what scripts send; without `host` mail waits in the queue."""

    host: Annotated[str, Meta(description="host name or address of the smarthost", extra=WORKER)] = ""
    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="its port; 0: that of `tls`",
            extra={**WORKER, "default": "587; with tls 465, with none 25"},
        ),
    ] = 0
    tls: Annotated[
        Literal["none", "starttls", "tls"], Meta(description="starttls and tls are never left out", extra=WORKER)
    ] = "starttls"
    tls_ca: Annotated[
        str, Meta(description="certificates that vouch for it, PEM; empty: the system's", extra=WORKER)
    ] = ""
    tls_cert: Annotated[str, Meta(description="our certificate chain, PEM, if it wants one", extra=WORKER)] = ""
    tls_key: Annotated[str, Meta(description="private key to it, PEM", extra=WORKER)] = ""
    user: Annotated[str, Meta(description="name for AUTH; empty: no login", extra=WORKER)] = ""
    password: Annotated[str, Meta(description="password for AUTH", extra=SECRET)] = ""
    hello: Annotated[
        str, Meta(description="host name in EHLO and reports", extra={**WORKER, "default": "the name of the machine"})
    ] = ""
    connections: Annotated[int, Meta(ge=1, le=64, description="mails of one node sent at a time", extra=WORKER)] = 4
    timeout: Annotated[Duration, Meta(description="a reply takes at most so long", extra=WORKER)] = 60.0
    hourly_limit: Annotated[
        int, Meta(ge=0, description="mails that scripts of one account send in an hour; 0: any", extra=WORKER)
    ] = 500
    retry: Annotated[Duration, Meta(description="pause after the first failure; doubled by each", extra=WORKER)] = 60.0
    retry_longest: Annotated[Duration, Meta(description="longest pause between tries", extra=WORKER)] = 86400.0
    give_up: Annotated[Duration, Meta(description="mail goes back to its sender after this time", extra=WORKER)] = (
        5 * 86400.0
    )


class ProcessTable(Table, frozen=True, kw_only=True):
    """[process]: the supervisor and its children."""

    runtime_path: Annotated[str, Meta(description="directory of the control socket and counters", extra=RESTART)] = ""
    workers: Annotated[int, Meta(ge=0, le=256, description="0: one per CPU", extra=RESTART)] = 0
    drain_timeout: Annotated[Duration, Meta(description="stop: commands in hand may finish", extra=LIVE)] = 10.0
    linger: Annotated[Duration, Meta(description="reload: old sessions may stay", extra=LIVE)] = 1800.0
    stuck_after: Annotated[Duration, Meta(description="a worker without a heartbeat is replaced", extra=LIVE)] = 60.0


class ServerTable(Table, frozen=True, kw_only=True):
    """[servers.NAME]: one protocol."""

    enabled: Annotated[bool, Meta(description="off without removing the table", extra=RESTART)] = True
    listen: Annotated[tuple[str, ...], Meta(description="addresses, host:port", extra=RESTART)] = ()
    tls_listen: Annotated[tuple[str, ...], Meta(description="addresses for implicit TLS", extra=RESTART)] = ()
    tls_cert: Annotated[str, Meta(description="certificate chain, PEM", extra=WORKER)] = ""
    tls_key: Annotated[str, Meta(description="private key, PEM", extra=WORKER)] = ""
    proxy_protocol: Annotated[
        bool, Meta(description="TCP connections begin with a PROXY header of a trusted peer", extra=WORKER)
    ] = False
    trusted_networks: Annotated[tuple[str, ...], Meta(description="peers that are believed", extra=WORKER)] = ()


class PeersTable(ServerTable, frozen=True, kw_only=True):
    """[servers.peers]: other nodes read here what this one has staged. What is sent is encrypted."""

    advertise: Annotated[
        str, Meta(description="host:port where others reach it; empty: the first of listen", extra=WORKER)
    ] = ""


class ServersTable(Table, frozen=True, kw_only=True):
    """[servers]: an absent table is a server that does not run."""

    imap: ServerTable | None = None
    pop3: ServerTable | None = None
    lmtp: ServerTable | None = None
    managesieve: ServerTable | None = None
    metrics: ServerTable | None = None
    http_api: ServerTable | None = None
    peers: PeersTable | None = None

    def items(self) -> Iterator[tuple[str, ServerTable]]:
        """Enabled servers by name."""
        for name in self.__struct_fields__:
            table = getattr(self, name)
            if table is not None and table.enabled:
                yield name, table
