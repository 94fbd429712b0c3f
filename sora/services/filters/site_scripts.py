"""The scripts of the site: those that run before and after the ones of accounts, the default one, the global ones.

They are files. All of them are read and compiled when a process starts, so that a reload brings new ones, and one with
errors stops the reload and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadScript, ConfigError
from sora.sieve.interpreter import Step
from sora.sieve.script import Script, compile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sora.tables import SieveTable

SUFFIX: Final = ".sieve"
LIST_SUFFIX: Final = ".txt"


class SiteScripts(Struct, frozen=True):
    """What the site runs.

    Attributes:
        default: For accounts without an active script; None: there is none.
        shared: What `include :global` finds, by name without the suffix.
        lists: External lists (RFC 6134): their members in lower case, by name without the suffix.
    """

    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    default: Step | None = None
    shared: Mapping[str, Script] = {}
    lists: Mapping[str, frozenset[str]] = {}

    @property
    def any(self) -> bool:
        """Something runs for accounts that have no script."""
        return bool(self.before or self.after or self.default)


NONE: Final = SiteScripts()


def load(table: SieveTable) -> SiteScripts:
    """Read and compile the scripts that the configuration names.

    Raises:
        ConfigError: A file that cannot be read, or has errors; with its name, line and column.
    """
    return SiteScripts(
        tuple(_steps("sieve.before", table.before, table.max_nesting)),
        tuple(_steps("sieve.after", table.after, table.max_nesting)),
        _step("sieve.default", Path(table.default), table.max_nesting) if table.default else None,
        {
            path.stem: _compile("sieve.global_dir", path, table.max_nesting)
            for path in _files("sieve.global_dir", table.global_dir)
        },
        {path.stem: _members(path) for path in _files("sieve.list_dir", table.list_dir, LIST_SUFFIX)},
    )


def _steps(key: str, places: tuple[str, ...], max_nesting: int) -> Iterator[Step]:
    for place in places:
        for path in _files(key, place):
            yield _step(key, path, max_nesting)


def _files(key: str, place: str, suffix: str = SUFFIX) -> list[Path]:
    """The file, or those in the directory in the order of their names."""
    if not place:
        return []
    path = Path(place)
    try:
        if path.is_dir():
            return sorted(found for found in path.iterdir() if found.suffix == suffix and found.is_file())
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from error
    return [path]


def _members(path: Path) -> frozenset[str]:
    """One a line; empty lines and those that begin with `#` are for people."""
    try:
        lines = (line.strip().lower() for line in path.read_text(encoding="utf-8").splitlines())
        return frozenset(line for line in lines if line and not line.startswith("#"))
    except OSError as error:
        raise ConfigError(f"sieve.list_dir: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"sieve.list_dir: {path}: not UTF-8") from error


def _step(key: str, path: Path, max_nesting: int) -> Step:
    return Step(_compile(key, path, max_nesting), path.name)


def _compile(key: str, path: Path, max_nesting: int) -> Script:
    try:
        return compile(path.read_bytes(), max_nesting=max_nesting)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from error
    except BadScript as error:
        line, column, text = error.errors[0]
        raise ConfigError(f"{key}: {path}:{line}:{column}: {text}") from error
