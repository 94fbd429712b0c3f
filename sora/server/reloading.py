"""What a reload changes: keys that running processes take, that new processes take, and that need a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sora import config as configuration
from sora.net.tls import client_context, server_context
from sora.services.filters import site_scripts
from sora.store.keyring import open_keyring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.config import Config


class Change(Struct, frozen=True):
    """Changed keys by what they need.

    Attributes:
        live: Running processes take them.
        worker: The new generation takes them.
        restart: Nobody takes them before the supervisor is restarted.
        effective: The configuration to go on with: the new one, with the old values of the `restart` keys.
    """

    live: tuple[str, ...]
    worker: tuple[str, ...]
    restart: tuple[str, ...]
    effective: Config


def classify(old: Config, new: Config) -> Change:
    """Compare the running configuration with a new one."""
    by_class: dict[str, list[str]] = {"live": [], "worker": [], "restart": []}
    for key in configuration.changed_keys(old, new):
        by_class[_reload_class(key, old, new)].append(key.path)
    effective = new
    for path in by_class["restart"]:
        effective = _put_back(effective, old, path)
    return Change(tuple(by_class["live"]), tuple(by_class["worker"]), tuple(by_class["restart"]), effective)


def _reload_class(key: configuration.Key, old: Config, new: Config) -> str:
    """A server that appears or goes away needs a restart as a whole: the sockets are opened once."""
    table, _, _ = key.path.rpartition(".")
    if configuration.get(old, table) is None or configuration.get(new, table) is None:
        return "restart"
    return key.reload


def _put_back(config: Config, old: Config, path: str) -> Config:
    """`config` with the value that `old` has at `path`; a table that one of them lacks is put back whole."""
    table, _, _ = path.rpartition(".")
    if configuration.get(config, table) is None or configuration.get(old, table) is None:
        path = table
    return replace(config, path, configuration.get(old, path))


def replace(config: Config, path: str, value: Any) -> Config:
    """A copy of the configuration with another value at `table.key`."""

    def inner(struct: Any, names: list[str]) -> Any:
        name, *rest = names
        new = inner(getattr(struct, name), rest) if rest else value
        return msgspec.structs.replace(struct, **{name: new})

    replaced: Config = inner(config, path.split("."))
    return replaced


def live_values(config: Config) -> dict[str, Any]:
    """The `live` keys and their values, to be told to running processes."""
    return {key.path: configuration.get(config, key.path) for key in configuration.keys() if key.reload == "live"}


def apply_live(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration of a running process after it was told new `live` values (lists in JSON are tuples here).

    After an upgrade a supervisor of a later release tells also of keys that this one does not know.
    """
    known = {key.path for key in configuration.keys() if key.reload == "live"}
    for path, value in values.items():
        if path not in known:
            continue
        config = replace(config, path, tuple(value) if isinstance(value, list) else value)
    return config


def check_files(config: Config) -> None:
    """Load what the new generation will load, so that a bad certificate stops the reload and nothing else.

    Raises:
        ConfigError: A certificate, key, keyring or script that cannot be used.
    """
    for _, server in tuple(config.servers.items()):
        if server.tls_cert:
            server_context(server.tls_cert, server.tls_key)
    if config.outbound.host and config.outbound.tls != "none":
        client_context(config.outbound.tls_ca, config.outbound.tls_cert, config.outbound.tls_key)
    open_keyring(config)
    site_scripts.load(config.sieve)
