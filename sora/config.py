"""The configuration: its tables (`tables`) read from a TOML file, and checked.

Values: sizes are `"25MB"` (powers of 1,000) or `"25MiB"` (powers of 1,024); durations are `"90s" "15m" "1h" "14d"`;
`${NAME}` inside any string is taken from the environment; a secret `x` may be given as `x_file`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from sora.errors import ConfigError
from sora.tables import (
    AuthTable,
    CleanupTable,
    DatabaseTable,
    EncryptionTable,
    JournalTable,
    LimitsTable,
    LocalCacheTable,
    LogTable,
    ObjectStoreTable,
    OutboundTable,
    PeersTable,
    ProcessTable,
    SearchTable,
    ServersTable,
    ServerTable,
    SieveTable,
    Table,
    UploaderTable,
)
from sora.units import parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Config(Table, frozen=True, kw_only=True):
    """The whole file."""

    database: DatabaseTable = DatabaseTable()
    object_store: ObjectStoreTable = ObjectStoreTable()
    encryption: EncryptionTable = EncryptionTable()
    local_cache: LocalCacheTable = LocalCacheTable()
    uploader: UploaderTable = UploaderTable()
    cleanup: CleanupTable = CleanupTable()
    journal: JournalTable = JournalTable()
    auth: AuthTable = AuthTable()
    limits: LimitsTable = LimitsTable()
    log: LogTable = LogTable()
    search: SearchTable = SearchTable()
    sieve: SieveTable = SieveTable()
    outbound: OutboundTable = OutboundTable()
    process: ProcessTable = ProcessTable()
    servers: ServersTable = ServersTable()


class Key(Struct, frozen=True):
    """One configuration key as declared.

    Attributes:
        path: `table.key`.
        description: One line.
        reload: `live`, `worker` or `restart`.
        secret: True if its value must never be shown.
        kind: `size`, `duration` or empty.
    """

    path: str
    description: str
    reload: str
    secret: bool
    kind: str


def load(path: str | Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read and check a configuration file.

    Relative paths inside it are relative to the file.

    Raises:
        ConfigError: One line that names the key and, for an unknown key, the nearest known one.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse(tables, base=path.parent.resolve(), environment=environment)


def parse(
    tables: Mapping[str, Any], *, base: Path | None = None, environment: Mapping[str, str] | None = None
) -> Config:
    """A checked `Config` from TOML tables; `base` anchors relative paths.

    Raises:
        ConfigError: See `load`.
    """
    environment = os.environ if environment is None else environment
    base = base or Path.cwd()
    plain = _prepare(Config, tables, "", environment, base)
    try:
        config = msgspec.convert(plain, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error))) from error
    config = _filled(_absolute(config, base))
    _check(config)
    return config


def keys(table: type[Table] = Config, prefix: str = "") -> Iterator[Key]:
    """Every declared key, in the order of declaration."""
    for name, hint in get_type_hints(table, include_extras=True).items():
        nested = _table_type(hint)
        if nested is not None:
            yield from keys(nested, f"{prefix}{name}.")
        else:
            description, extra = _facts(hint)
            yield Key(
                path=prefix + name,
                description=description,
                reload=extra.get("reload", "restart"),
                secret=bool(extra.get("secret")),
                kind=extra.get("kind", ""),
            )


def changed_keys(old: Config, new: Config) -> list[Key]:
    """Keys whose value differs, for a reload to classify."""
    return [key for key in keys() if get(old, key.path) != get(new, key.path)]


def get(config: Config, path: str) -> Any:
    """The value of `table.key`; None where the table is absent."""
    value: Any = config
    for name in path.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value


def dump(config: Config) -> dict[str, Any]:
    """Plain tables with secrets masked, for `sora-admin config dump`."""
    tables: dict[str, Any] = msgspec.to_builtins(config)
    for key in keys():
        if not key.secret or not get(config, key.path):
            continue
        *parents, name = key.path.split(".")
        table = tables
        for parent in parents:
            table = table[parent]
        table[name] = "***"
    return tables


def split_address(address: str) -> tuple[str, int]:
    """`"127.0.0.1:143"` or `"[::1]:143"` to host and port.

    Raises:
        ConfigError: Neither form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535 or (":" in host and not host.startswith("[")):
        raise ConfigError(f"{address!r} is not an address such as 127.0.0.1:143 or [::1]:143")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """True if a listener at `address` can be reached from this machine only."""
    if address.startswith("unix:"):
        return True
    host = split_address(address)[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(addresses: Iterable[str]) -> bool:
    """True if one of the addresses is every address of the machine."""
    return any(split_address(address)[0] in ("", "0.0.0.0", "::") for address in addresses)


def _facts(hint: Any) -> tuple[str, dict[str, Any]]:
    """Description and merged extras of an annotated field."""
    description = ""
    extra: dict[str, Any] = {}
    if get_origin(hint) is Annotated:
        for meta in get_args(hint)[1:]:
            description = meta.description or description
            extra.update(meta.extra or {})
    return description, extra


def _table_type(hint: Any) -> type[Table] | None:
    options = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        if isinstance(option, type) and issubclass(option, Table):
            return option
    return None


def _prepare(table: type[Table], given: Any, path: str, environment: Mapping[str, str], base: Path) -> dict[str, Any]:
    """Values of one table made ready for conversion: units, environment, `_file` twins, unknown keys refused."""
    if not isinstance(given, dict):
        raise ConfigError(f"{path.rstrip('.')} must be a table")
    hints = get_type_hints(table, include_extras=True)
    ready: dict[str, Any] = {}
    for name, value in given.items():
        twin = name.removesuffix("_file")
        if name in hints:
            nested = _table_type(hints[name])
            if nested is not None:
                ready[name] = _prepare(nested, value, f"{path}{name}.", environment, base)
            else:
                ready[name] = _value(_facts(hints[name])[1], value, path + name, environment)
        elif twin in hints and _facts(hints[twin])[1].get("file_twin"):
            if twin in given:
                raise ConfigError(f"{path}{name} and {path}{twin} are both given: keep one")
            ready[twin] = _secret(base / _expand(str(value), path + name, environment), path + name)
        else:
            raise ConfigError(_unknown(path, name, hints))
    return ready


def _unknown(path: str, name: str, hints: Mapping[str, Any]) -> str:
    known = [*hints, *(f"{hint}_file" for hint in hints if _facts(hints[hint])[1].get("file_twin"))]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown key {path}{name}; the nearest known key is {path}{nearest[0]}"


def _value(extra: Mapping[str, Any], value: Any, path: str, environment: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_value(extra, item, path, environment) for item in value]
    if not isinstance(value, str):
        return value
    value = _expand(value, path, environment)
    try:
        if extra.get("kind") == "size":
            return parse_size(value)
        if extra.get("kind") == "duration":
            return parse_duration(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return value


def _expand(value: str, path: str, environment: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ConfigError(f"{path}: the environment has no {match[1]}")
        return environment[match[1]]

    return _ENVIRONMENT.sub(replace, value)


def _secret(file: Path, path: str) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{path}: {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {file}: not UTF-8") from error


def _readable(message: str) -> str:
    """`Expected `int`, got `str` - at `$.limits.recipients`` becomes `limits.recipients: expected int, got str`."""
    problem, _, where = message.partition(" - at ")
    problem = problem.replace("`", "")
    where = where.strip("`").removeprefix("$.")
    return f"{where}: {problem[:1].lower()}{problem[1:]}" if where else problem


_PATHS: Final = {
    "database": ("embedded",),
    "object_store": ("path",),
    "encryption": ("keyring_file",),
    "local_cache": ("path",),
    "uploader": ("staging_path",),
    "outbound": ("tls_ca", "tls_cert", "tls_key"),
    "process": ("runtime_path",),
    "sieve": ("before", "after", "default", "global_dir", "list_dir"),
}


def _absolute(config: Config, base: Path) -> Config:
    changes = {}
    for table_name, names in _PATHS.items():
        table = getattr(config, table_name)
        paths = {name: _anchored(getattr(table, name), base) for name in names if getattr(table, name)}
        changes[table_name] = msgspec.structs.replace(table, **paths)
    servers = {}
    for name, server in config.servers.items():
        files = {key: str(base / getattr(server, key)) for key in ("tls_cert", "tls_key") if getattr(server, key)}
        servers[name] = msgspec.structs.replace(server, **files)
    changes["servers"] = msgspec.structs.replace(config.servers, **servers)
    return msgspec.structs.replace(config, **changes)


def _anchored(path: str | tuple[str, ...], base: Path) -> str | tuple[str, ...]:
    return str(base / path) if isinstance(path, str) else tuple(str(base / one) for one in path)


def _filled(config: Config) -> Config:
    """With the defaults that depend on other keys: text of bodies is not for PostgreSQL where they are encrypted."""
    if config.search.index_bodies is not None:
        return config
    search = msgspec.structs.replace(config.search, index_bodies=not config.encryption.keyring_file)
    return msgspec.structs.replace(config, search=search)


FUTURE: Final = ("database.replicas",)
"""Keys that this release knows and cannot obey."""


def _check(config: Config) -> None:
    """Rules over more than one key."""
    for path in FUTURE:
        if get(config, path) != get(Config(), path):
            raise ConfigError(f"{path}: this release cannot do that; leave the key out")
    if bool(config.database.embedded) == bool(config.database.primary):
        raise ConfigError("database: give exactly one of database.embedded and database.primary")
    _check_object_store(config.object_store)
    if not config.uploader.staging_path:
        raise ConfigError("uploader.staging_path is missing")
    if not config.process.runtime_path:
        raise ConfigError("process.runtime_path is missing")
    _check_cleanup(config)
    _check_uploader(config.uploader)
    _check_outbound(config.outbound)
    _check_sieve(config.sieve)
    if config.servers.peers is not None:
        _check_peers(config.servers.peers)
    if config.local_cache.capacity and not config.local_cache.path:
        raise ConfigError("local_cache.path is missing (or set local_cache.capacity = 0)")
    for network in config.limits.exempt_networks:
        _check_network("limits.exempt_networks", network)
    for name, server in config.servers.items():
        _check_server(name, server)


LEAST_AGE_S: Final = 86400.0
"""Shorter limits would be a mistake in the unit, and would empty every mailbox."""


def _check_cleanup(config: Config) -> None:
    for path in ("cleanup.max_age_restriction", "cleanup.log_retention", "cleanup.orphan_grace", "search.retention"):
        value = get(config, path)
        try:
            seconds = parse_duration(value) if isinstance(value, str) and value else value or 0.0
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        if value and seconds < LEAST_AGE_S:
            raise ConfigError(f"{path}: at least 1d, or leave it out")
    _check_namespace(config.cleanup.deleted_namespace)
    _check_recovery(config.cleanup)


def _check_recovery(table: CleanupTable) -> None:
    """A database that is put back in time needs the bodies that it had then."""
    for path in ("grace_period", "orphan_grace"):
        kept_s = getattr(table, path)
        if kept_s < table.recovery_window and (kept_s or path == "grace_period"):
            raise ConfigError(
                f"cleanup.{path} is shorter than cleanup.recovery_window: a restored database would lack bodies"
            )


LEAST_SILENCE_S: Final = 120.0
"""A node that was silent for less may only have been slow."""


def _check_namespace(prefix: str) -> None:
    levels = prefix.removesuffix("/").split("/")
    plain = prefix.isascii() and prefix.isprintable() and not set(prefix) & set('"\\*%')
    if prefix and not (plain and all(levels) and levels[0].upper() != "INBOX" and levels[0] != "Shared"):
        raise ConfigError(f"cleanup.deleted_namespace: {prefix!r} cannot be the beginning of mailbox names")


def _check_uploader(table: UploaderTable) -> None:
    if 0 < table.adopt_after < LEAST_SILENCE_S:
        raise ConfigError(f"uploader.adopt_after: at least {LEAST_SILENCE_S:.0f}s, or 0")
    if 0 < table.quarantine_retention < LEAST_AGE_S:
        raise ConfigError("uploader.quarantine_retention: at least 1d, or 0")


LONGEST_REPLY_S: Final = 120.0
"""A mail that is being sent is nobody else's for half an hour; an attempt must be over by then."""


def _check_outbound(table: OutboundTable) -> None:
    if table.tls_key and not table.tls_cert:
        raise ConfigError("outbound.tls_key needs outbound.tls_cert")
    if table.password and not table.user:
        raise ConfigError("outbound.password needs outbound.user")
    if table.user and not table.password:
        raise ConfigError("outbound.user needs outbound.password or outbound.password_file")
    if table.host and table.user and table.tls == "none" and not is_loopback(f"{_bracketed(table.host)}:1"):
        raise ConfigError(
            'outbound.user: no password goes over the network in clear; outbound.tls = "starttls" or "tls"'
        )
    if not 1 <= table.timeout <= LONGEST_REPLY_S:
        raise ConfigError(f"outbound.timeout: 1s to {LONGEST_REPLY_S:.0f}s")
    if not 1 <= table.retry <= table.retry_longest <= table.give_up:
        raise ConfigError("outbound: 1s <= retry <= retry_longest <= give_up")
    if not table.hello.isascii() or any(not "!" <= c <= "~" for c in table.hello):
        raise ConfigError("outbound.hello: a host name in ASCII")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_SIEVE_URL: Final = re.compile(r"sieve://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
"""`sieveurl-server` of RFC 5804 §3 as a name of a capability can have it: a bracket would end the response code."""
_WORD_AND_NUMBER = re.compile(r"[^=]+=(?:10|[0-9])")


def _check_sieve(table: SieveTable) -> None:
    if table.url and not _SIEVE_URL.fullmatch(table.url):
        raise ConfigError("sieve.url: it has the form sieve://host or sieve://host:port")
    for name in ("spam", "virus"):
        try:
            re.compile(getattr(table, f"{name}_pattern"))
        except re.error as error:
            raise ConfigError(f"sieve.{name}_pattern: {error}") from error
        for text in getattr(table, f"{name}_texts"):
            if not _WORD_AND_NUMBER.fullmatch(text):
                raise ConfigError(f"sieve.{name}_texts: {text!r} is not word=number")
    if table.vacation_min_period > table.vacation_max_period:
        raise ConfigError("sieve.vacation_min_period: it is longer than sieve.vacation_max_period")


def _check_peers(table: PeersTable) -> None:
    if table.tls_listen or table.tls_cert:
        raise ConfigError("servers.peers: it has no TLS, what it sends is encrypted in another way")
    if table.advertise:
        split_address(table.advertise)
    elif table.enabled and is_wildcard(table.listen[:1]):
        raise ConfigError("servers.peers.advertise is missing: others cannot reach a wildcard address")


def _check_object_store(table: ObjectStoreTable) -> None:
    needed = ("path",) if table.kind == "directory" else ("endpoint", "bucket", "access_key", "secret_key")
    for name in needed:
        if not getattr(table, name):
            raise ConfigError(f'object_store.{name} is missing (kind = "{table.kind}")')


SERVED: Final = frozenset({"imap", "lmtp", "managesieve", "metrics", "peers", "pop3"})
"""Servers that this release has; the other tables are known names, kept for the releases that will have theirs."""

PROXIED: Final = frozenset({"imap", "lmtp", "managesieve", "pop3"})
"""Servers that take a PROXY header."""


def _check_server(name: str, server: ServerTable) -> None:
    path = f"servers.{name}"
    if name not in SERVED:
        raise ConfigError(f"{path}: this release has no such server; remove the table or set {path}.enabled = false")
    for address in server.listen:
        if not address.startswith("unix:"):
            split_address(address)
        elif name != "lmtp":
            raise ConfigError(f"{path}.listen: only lmtp listens on a UNIX socket")
    for address in server.tls_listen:
        if address.startswith("unix:"):
            raise ConfigError(f"{path}.tls_listen: a UNIX socket has no implicit TLS")
        split_address(address)
    if server.tls_listen and not (server.tls_cert and server.tls_key):
        raise ConfigError(f"{path}.tls_listen needs {path}.tls_cert and {path}.tls_key")
    if bool(server.tls_cert) != bool(server.tls_key):
        raise ConfigError(f"{path}.tls_cert and {path}.tls_key go together")
    for network in server.trusted_networks:
        _check_network(f"{path}.trusted_networks", network)
    if server.proxy_protocol and name not in PROXIED:
        raise ConfigError(f"{path}.proxy_protocol: {name} reads no PROXY header")
    if server.proxy_protocol and not server.trusted_networks:
        raise ConfigError(f"{path}.proxy_protocol needs {path}.trusted_networks, the addresses of the proxies")
    if name == "lmtp" and not server.trusted_networks and not all(map(is_loopback, server.listen + server.tls_listen)):
        # LMTP has no authentication: whoever reaches the port can deliver.
        raise ConfigError(
            "servers.lmtp listens beyond loopback: servers.lmtp.trusted_networks must say who may deliver"
        )


def _check_network(path: str, network: str) -> None:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
