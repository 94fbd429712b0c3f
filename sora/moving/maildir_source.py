"""Mail out of a maildir, with what Dovecot keeps beside it.

A folder is read into a table on disk first, names and UIDs only: the memory that it takes does not grow with it. The
files themselves are opened one at a time. Other programs may deliver and set flags meanwhile: a file that was renamed
is looked for once more, and one that is gone was expunged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from sora.errors import Refused
from sora.formats import dovecot, maildir, names
from sora.formats.lines import ToCrlf
from sora.moving import files
from sora.moving.source import (
    GONE,
    PIECE_BYTES,
    WINDOW,
    FolderBroken,
    Piece,
    SourceFolder,
    SourceMessage,
    SourceScript,
    Told,
    key_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sora.formats.dovecot import UidListHeader

Layout = Literal["auto", "maildir++", "fs"]

UIDLIST: Final = b"dovecot-uidlist"
KEYWORDS: Final = b"dovecot-keywords"
MAX_DEPTH: Final = 16
MAX_SCRIPT: Final = 1024 * 1024
_PARTS: Final = (b"cur", b"new")
_OURS: Final = frozenset((b"cur", b"new", b"tmp", b"sieve"))


class MaildirSource(Told):
    """A maildir.

    Args:
        path: The directory with `cur` of the INBOX in it.
        layout: How folders lie below it; `auto` looks.
        escape: Character that Dovecot writes before two hex digits (`storage_escape`); empty: none.
        sieve: Where `.dovecot.sieve` and `sieve` are; None: in the maildir or above it.
    """

    def __init__(self, path: Path, layout: Layout = "auto", escape: str = "", sieve: Path | None = None) -> None:
        super().__init__()
        self._path = path
        self._escape = escape
        self._sieve = sieve
        try:
            self._root = files.open_root(path)
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        self._tables: dict[bytes, sqlite3.Connection] = {}
        self._layout = self._find_layout() if layout == "auto" else layout
        if not _has(self._root, b"cur") and not self._directories():
            os.close(self._root)
            raise Refused(f"{path} is no maildir: there is no `cur` in it")

    def _find_layout(self) -> Layout:
        found = [name for name, _ in files.subdirectories(self._root)]
        if any(name.startswith(b".") and name not in (b".", b"..") for name in found):
            return "maildir++"
        return "fs" if any(name not in _OURS for name in found) else "maildir++"

    # ------------------------------------------------------------------------------------------------ folders

    def folders(self) -> list[SourceFolder]:
        """See `Source.folders`."""
        found = [self._folder(path, levels) for path, levels in self._directories()]
        if _has(self._root, b"cur"):
            found.append(self._folder(b"", [names.INBOX]))
        return sorted(found, key=lambda folder: (folder.key != b"", folder.name.split(names.DELIMITER)))

    def _directories(self) -> list[tuple[bytes, list[str]]]:
        if self._layout == "fs":
            return list(self._below(b"", []))
        return list(self._dotted())

    def _dotted(self) -> Iterator[tuple[bytes, list[str]]]:
        for name, link in files.subdirectories(self._root):
            if not name.startswith(b".") or not name.strip(b"."):
                continue
            if link:
                self._problem(name, "a link is not followed")
            elif self._is_folder(name):
                yield name, names.maildirpp_levels(name, self._escape)

    def _below(self, path: bytes, levels: list[str]) -> Iterator[tuple[bytes, list[str]]]:
        try:
            with files.directory(self._root, path) as fd:
                found = list(files.subdirectories(fd))
        except OSError as error:
            self._problem(path, f"it cannot be read: {error.strerror}")
            return
        for name, link in found:
            if name in _OURS or name.startswith(b"."):
                continue
            below = b"/".join(filter(None, (path, name)))
            if link:
                self._problem(below, "a link is not followed")
                continue
            named = [*levels, names.decode_level(name, self._escape)]
            if self._is_folder(below):
                yield below, named
            if len(named) < MAX_DEPTH:
                yield from self._below(below, named)
            else:
                self._problem(below, "directories lie too deep in each other: what is in there is left out")

    def _is_folder(self, path: bytes) -> bool:
        """What cannot be looked into may be one: it is told when its messages are asked for."""
        return _has(self._root, path + b"/cur")

    def _folder(self, path: bytes, levels: list[str]) -> SourceFolder:
        header, count = None, 0
        with contextlib.suppress(OSError), files.directory(self._root, path) as fd:
            header = self._header(fd)
            count = sum(1 for part in _PARTS for _ in _names(fd, part))
        return SourceFolder(
            key=path,
            name=names.name_of(levels),
            uidvalidity=header.uidvalidity if header else 0,
            uid_next=header.uid_next if header else 0,
            messages=count,
        )

    def _header(self, fd: int) -> UidListHeader | None:
        try:
            opened = files.open_file(fd, UIDLIST)
        except OSError:
            return None
        with open(opened, "rb") as file:
            return dovecot.parse_uidlist_header(file.readline(dovecot.MAX_LINE))

    # ------------------------------------------------------------------------------------------------ messages

    def messages(self, folder: SourceFolder) -> Iterator[list[SourceMessage]]:
        """See `Source.messages`; what has no UID comes last, in the order of the names, as Dovecot would number it."""
        with self._reading(folder) as fd:
            table = self._table(folder.key)
            keywords = dovecot.parse_keywords(files.read_small(fd, KEYWORDS) or b"")
            rows = table.execute(
                "SELECT f.base, f.place, l.uid FROM found f LEFT JOIN listed l USING (base) "
                "ORDER BY l.uid IS NULL, l.uid, f.base"
            )
            while window := rows.fetchmany(WINDOW):
                yield self._window(fd, folder.key, window, keywords)

    def _window(
        self, fd: int, path: bytes, rows: list[tuple[bytes, bytes, int | None]], keywords: dict[int, str]
    ) -> list[SourceMessage]:
        """Messages as they are now: a file whose flags have changed since they were listed has another name."""
        found = [(base, place, uid, _stat(fd, place)) for base, place, uid in rows]
        if any(stat is None for *_, stat in found):
            self._look_again(fd, path)
            places = {base: self._place(path, base) or place for base, place, _, stat in found if stat is None}
            found = [
                (base, places[base], uid, _stat(fd, places[base])) if stat is None else (base, place, uid, stat)
                for base, place, uid, stat in found
            ]
        return [_message(base, place, uid, stat, keywords) for base, place, uid, stat in found]

    @contextlib.contextmanager
    def _reading(self, folder: SourceFolder) -> Iterator[int]:
        """A folder, open.

        Raises:
            FolderBroken: It cannot be read.
        """
        try:
            with files.directory(self._root, folder.key) as fd:
                yield fd
        except OSError as error:
            raise FolderBroken(f"it cannot be read: {error.strerror}") from error

    def uid_next(self, folder: SourceFolder) -> int:
        """See `Source.uid_next`."""
        with self._reading(folder):
            table = self._table(folder.key)
        (last,) = table.execute("SELECT max(uid) FROM listed").fetchone()
        return max(folder.uid_next, (last or 0) + 1)

    def _table(self, path: bytes) -> sqlite3.Connection:
        """Names and UIDs of a folder; only the one in hand is kept."""
        if path not in self._tables:
            for table in self._tables.values():
                table.close()
            self._tables = {path: self._read_table(path)}
        return self._tables[path]

    def _read_table(self, path: bytes) -> sqlite3.Connection:
        table = sqlite3.connect("", isolation_level=None)  # on disk, without a name
        table.execute("PRAGMA journal_mode = off")
        table.execute("PRAGMA cache_size = -4096")
        table.execute("CREATE TABLE listed (base BLOB PRIMARY KEY, uid INT) WITHOUT ROWID")
        table.execute("CREATE TABLE found (base BLOB PRIMARY KEY, place BLOB) WITHOUT ROWID")
        table.execute("BEGIN")
        with files.directory(self._root, path) as fd:
            table.executemany("INSERT OR REPLACE INTO listed VALUES (?, ?)", self._listed(fd, path))
            _find(table, fd, "IGNORE")  # a file that is in both was moved while we looked
        table.execute("COMMIT")
        return table

    def _listed(self, fd: int, path: bytes) -> Iterator[tuple[bytes, int]]:
        try:
            opened = files.open_file(fd, UIDLIST)
        except FileNotFoundError:
            return  # Dovecot never looked at it
        except OSError as error:
            self._problem(path + b"/" + UIDLIST, f"{error.strerror}; UIDs are new")
            return
        broken = 0
        with open(opened, "rb") as file:
            header = dovecot.parse_uidlist_header(file.readline(dovecot.MAX_LINE))
            if header is None or not header.uidvalidity:
                self._problem(path + b"/" + UIDLIST, "its first line is none; UIDs are new")
                return
            while line := file.readline(dovecot.MAX_LINE):
                entry = dovecot.parse_uidlist_line(line, header.version)
                if entry is not None:
                    yield entry.base, entry.uid
                else:
                    broken += 1
        if broken:
            self._problem(path + b"/" + UIDLIST, f"{broken} lines are none; those messages get new UIDs")

    # ------------------------------------------------------------------------------------------------ octets

    def pieces(self, folder: SourceFolder, messages: Sequence[SourceMessage]) -> Iterator[Piece]:
        """See `Source.pieces`."""
        looked = False
        with self._reading(folder) as fd:
            for number, message in enumerate(messages):
                assert isinstance(message.place, bytes)
                try:
                    opened = _open(fd, message.place)
                except FileNotFoundError:
                    # a file whose flags have changed has another name; one look finds those of all
                    looked = looked or self._look_again(fd, folder.key)
                    opened = self._open_renamed(fd, folder.key, message.place)
                    if opened < 0:
                        yield Piece(number, b"", last=True, problem=GONE)
                        continue
                except OSError as error:
                    yield Piece(number, b"", last=True, problem=error.strerror or "cannot be read")
                    continue
                yield from _octets(number, opened)

    def _open_renamed(self, fd: int, path: bytes, place: bytes) -> int:
        base = maildir.parse(place.partition(b"/")[2]).base
        now = self._place(path, base)
        try:
            return _open(fd, now) if now is not None else -1
        except FileNotFoundError:
            return -1

    def _place(self, path: bytes, base: bytes) -> bytes | None:
        """Where a message was seen last."""
        row = self._table(path).execute("SELECT place FROM found WHERE base = ?", (base,)).fetchone()
        return row[0] if row else None

    def _look_again(self, fd: int, path: bytes) -> bool:
        _find(self._table(path), fd, "REPLACE")
        return True

    # ------------------------------------------------------------------------------------------------ the rest

    def subscriptions(self) -> list[str]:
        """See `Source.subscriptions`."""
        separator = b"/" if self._layout == "fs" else b"."
        text = files.read_small(self._root, b"subscriptions") or b""
        return [names.name_of(levels) for levels in dovecot.parse_subscriptions(text, separator, self._escape)]

    def scripts(self) -> list[SourceScript]:
        """See `Source.scripts`; `.dovecot.sieve` is a link to the active one, or that script itself."""
        places = [self._sieve] if self._sieve else [self._path, self._path.absolute().parent]
        for place in places:
            try:
                root = files.open_root(place)
            except OSError:
                continue
            try:
                found = list(self._scripts_of(root))
            finally:
                os.close(root)
            if found:
                return found
        return []

    def _scripts_of(self, root: int) -> Iterator[SourceScript]:
        active = ""
        try:
            active = os.path.basename(os.readlink(b".dovecot.sieve", dir_fd=root)).decode("utf-8", "replace")
        except FileNotFoundError:
            return  # other directories called `sieve` are none of an account
        except OSError:  # no link
            text = files.read_small(root, b".dovecot.sieve", MAX_SCRIPT)
            if text is not None:
                yield SourceScript("dovecot", text, active=True)
        try:
            with files.directory(root, b"sieve") as fd:
                for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):
                    if name.endswith(b".sieve"):
                        text = files.read_small(fd, name, MAX_SCRIPT)
                        shown = name.decode("utf-8", "replace")
                        if text is None:
                            self._problem(name, "not a plain file, or too large")
                        else:
                            yield SourceScript(shown.removesuffix(".sieve"), text, active=shown == active)
        except OSError:
            if active:
                self._problem(b".dovecot.sieve", "its script is not in the directory `sieve`")

    def _problem(self, name: bytes, text: str) -> None:
        self._problems.append(f"{name.decode('utf-8', 'replace').lstrip('/')}: {text}")

    def close(self) -> None:
        """See `Source.close`."""
        for table in self._tables.values():
            table.close()
        self._tables = {}
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def _message(
    base: bytes, place: bytes, uid: int | None, found: os.stat_result | None, keywords: dict[int, str]
) -> SourceMessage:
    return SourceMessage(
        key=key_of(base),
        uid=uid or 0,
        flags=maildir.flags_of(maildir.parse(place.partition(b"/")[2]).letters, keywords),
        internal_date=None if found is None else _date(found.st_mtime),
        size=found.st_size if found else 0,
        place=place,
    )


def _find(table: sqlite3.Connection, fd: int, conflict: Literal["IGNORE", "REPLACE"]) -> None:
    for part in _PARTS:
        rows = ((maildir.parse(name).base, part + b"/" + name) for name in _names(fd, part))
        table.executemany(f"INSERT OR {conflict} INTO found VALUES (?, ?)", rows)


def _open(fd: int, place: bytes) -> int:
    part, _, name = place.partition(b"/")
    with files.directory(fd, part) as parent:
        return files.open_file(parent, name)


def _stat(fd: int, place: bytes) -> os.stat_result | None:
    """None: renamed meanwhile, or expunged; `pieces` looks again."""
    part, _, name = place.partition(b"/")
    try:
        with files.directory(fd, part) as parent:
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None


def _octets(number: int, opened: int) -> Iterator[Piece]:
    convert = ToCrlf()
    try:
        with open(opened, "rb", buffering=0) as file:
            while octets := file.read(PIECE_BYTES):
                yield Piece(number, convert.feed(octets))
    except OSError as error:
        yield Piece(number, b"", last=True, problem=error.strerror or "cannot be read")
        return
    yield Piece(number, b"", last=True)


def _names(fd: int, part: bytes) -> Iterator[bytes]:
    """Names of the messages in `cur` or `new`; hidden files are none."""
    try:
        with files.directory(fd, part) as opened, os.scandir(opened) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield os.fsencode(entry.name)
    except FileNotFoundError:
        return  # `new` need not be there


def _has(fd: int, name: bytes) -> bool:
    try:
        with files.directory(fd, name):
            return True
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _date(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (OverflowError, ValueError, OSError):
        return None
