"""The demo: a complete Sora in one directory, on loopback, with accounts to play with.

`DIR/sora.toml` is an ordinary configuration file, written at the first run and used by later ones; `DIR/demo.json` has
what else was chosen. Options given to a later run change the two files, so that every other command sees the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from msgspec import Struct

from sora import config as configuration
from sora.errors import ConfigError, InvalidName
from sora.server.certs import ensure_self_signed
from sora.server.runtime import Runtime
from sora.store.addresses import canonical_domain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sora.config import Config

HOST: Final = "127.0.0.1"
PORTS: Final = {
    "imap": ("listen", 0),
    "imaps": ("tls_listen", 1),
    "pop3": ("listen", 2),
    "pop3s": ("tls_listen", 3),
    "lmtp": ("listen", 4),
    "managesieve": ("listen", 5),
    "metrics": ("listen", 7),
}
"""Key of the server's table and distance from the base, by name."""


FILTER: Final = 'require ["fileinto", "mailbox"]; if header :is "subject" "hello" {fileinto :create "Greetings";}'


class Facts(Struct, frozen=True):
    """What was chosen beside the configuration, kept in `demo.json`."""

    accounts: int = 2
    domain: str = "example.com"
    password: str = "demo"

    @property
    def addresses(self) -> list[str]:
        """`user1@domain` and so on."""
        return [f"user{number}@{self.domain}" for number in range(1, self.accounts + 1)]


class Demo(Struct, frozen=True):
    """A prepared directory."""

    directory: Path
    facts: Facts
    config: Config

    @property
    def path(self) -> Path:
        """The configuration file."""
        return self.directory / "sora.toml"


def prepare(
    directory: Path, *, port_base: int | None, workers: int | None, settings: Sequence[str], facts: Mapping[str, Any]
) -> Demo:
    """Write or update the files of a demo.

    Args:
        port_base: None: as before, at first 10000.
        settings: `table.key=value`.
        facts: Fields of `Facts` that were given.

    Raises:
        ConfigError: An option cannot be, or a listener is not on loopback.
    """
    directory = directory.resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "sora.toml"
        tables = _read(path) if path.exists() else _fresh()
        if port_base is not None or "servers" not in tables:
            _set_ports(tables, 10000 if port_base is None else port_base)
        kept = _facts(directory / "demo.json", facts)
        tables.setdefault("auth", {})["default_domain"] = kept.domain
        if workers is not None:
            tables.setdefault("process", {})["workers"] = workers
        for setting in settings:
            _apply(tables, setting)
        config = configuration.parse(tables, base=directory)
        _refuse_strangers(config)
        if Runtime(config).has_supervisor():
            raise ConfigError(f"a demo runs in {directory} already")
        ensure_self_signed(directory / "tls" / "cert.pem", directory / "tls" / "key.pem", ("localhost", HOST))
        _write(path, _toml(tables).encode(), 0o600)
        _write(directory / "demo.json", msgspec.json.encode(kept) + b"\n", 0o600)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    return Demo(directory, kept, config)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _fresh() -> dict[str, Any]:
    return {
        "database": {"embedded": "postgresql"},
        "object_store": {"kind": "directory", "path": "objects"},
        "local_cache": {"path": "cache", "capacity": "1GB"},
        "uploader": {"staging_path": "staging"},
        "process": {"runtime_path": "run"},
        "auth": {"allow_cleartext": True},
        "log": {"format": "json", "level": "info"},
    }


def _set_ports(tables: dict[str, Any], base: int) -> None:
    if not 1 <= base <= 65535 - max(offset for _, offset in PORTS.values()):
        raise ConfigError(f"--port-base {base}: ports end at 65535")
    servers = tables.setdefault("servers", {})
    for name, (key, offset) in PORTS.items():
        table = servers.setdefault(name.removesuffix("s") if key == "tls_listen" else name, {})
        table[key] = [f"{HOST}:{base + offset}"]
        if name != "metrics":
            table.update(tls_cert="tls/cert.pem", tls_key="tls/key.pem")


def _apply(tables: dict[str, Any], setting: str) -> None:
    """Set one `table.key=value`; a value that is not TOML is taken as a string."""
    path, equals, text = setting.partition("=")
    *parents, key = path.strip().split(".")
    if not equals or not parents or not key:
        raise ConfigError(f"--set {setting!r}: give table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {setting!r}: {parent} is not a table")
    table[key] = value


def _refuse_strangers(config: Config) -> None:
    """The demo has a known password and takes it in the clear: nobody else may reach it."""
    for name, server in config.servers.items():
        for address in (*server.listen, *server.tls_listen):
            if not configuration.is_loopback(address):
                raise ConfigError(f"servers.{name}: the demo listens on loopback only, not on {address}")


def _facts(path: Path, given: Mapping[str, Any]) -> Facts:
    """What an earlier run kept, changed by what is given now."""
    try:
        before = msgspec.json.decode(path.read_bytes(), type=Facts)
    except FileNotFoundError:
        before = Facts()
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    facts = msgspec.structs.replace(before, **{key: value for key, value in given.items() if value is not None})
    if facts.accounts < 1:
        raise ConfigError("--accounts must be at least 1")
    try:
        canonical_domain(facts.domain)
    except InvalidName as error:
        raise ConfigError(f"--domain: {error.text}") from error
    return facts


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file; a reader sees the old or the new one. Unchanged content is left alone."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    temporary.rename(path)


def _toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of nested tables of strings, numbers, truth values and lists of them."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in tables.items():
        if isinstance(value, dict):
            inner = _toml(value, f"{prefix}{key}.")
            head = f"[{prefix}{key}]\n" if any(not isinstance(v, dict) for v in value.values()) or not value else ""
            text += f"\n{head}{inner}" if head else inner
    return text


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        # JSON's strings are TOML's basic strings, but for DEL.
        return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
    return str(value)


def ready_line(demo: Demo, ports: Mapping[str, int]) -> str:
    """The JSON line for whoever started us."""
    return orjson.dumps(
        {
            "ready": True,
            "pid": os.getpid(),
            "config": str(demo.path),
            "ports": ports,
            "accounts": demo.facts.addresses,
            "api_token": None,
        }
    ).decode()


def welcome(demo: Demo, ports: Mapping[str, int]) -> str:
    """A short table for a person, and the first commands to type."""
    addresses = demo.facts.addresses
    shown = ", ".join(addresses) if len(addresses) <= 3 else f"{addresses[0]} … {addresses[-1]}"
    rows = [f"  {name:<11} {HOST}:{port}" for name, port in ports.items()]
    return "\n".join(
        [
            f"Sora runs in {demo.directory}",
            *rows,
            f"  accounts {shown}",
            f"  password {demo.facts.password}",
            "Send the first message:",
            f"  python3 -c \"import smtplib; smtplib.LMTP('{HOST}', {ports['lmtp']}).sendmail('me@example.org', "
            f"['{addresses[0]}'], 'Subject: hello\\r\\n\\r\\nThe first message.\\r\\n')\"",
            "Read it:",
            f"  curl -u '{addresses[0]}:{demo.facts.password}' 'imap://{HOST}:{ports['imap']}/INBOX;MAILINDEX=1'",
            "File the next one elsewhere (or use any ManageSieve client):",
            f"  echo '{FILTER}' | {Path(sys.executable).with_name('sora-admin')} --config {demo.path} "
            f"sieve put {addresses[0]} rules - --activate",
            f"Log: {demo.config.process.runtime_path}/sora.log",
        ]
    )
