"""Mail into a maildir that Dovecot reads with the same UIDs, flags, keywords and dates.

A message is a file whose name follows from its UID, so an export that was cut short finds what is there. The octets are
written as they are stored, with CRLF: Dovecot shows them so, and nothing is guessed when they come back. Letters for
keywords are there for 26 in a folder; `dovecot-uidlist` is written last, when all of a folder is there.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from sora.errors import Refused
from sora.formats import dovecot, maildir, names
from sora.moving import files
from sora.moving.source import Told
from sora.types import FIRST_KEYWORD
from sora.wire import utf7

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from sora._native.mimescan import Octets
    from sora.moving.sink import SinkFolder, SinkMessage, SinkScript

Layout = Literal["auto", "maildir++", "fs"]

MARKER: Final = b".sora-export"
_UIDLIST: Final = b"dovecot-uidlist"
_OURS: Final = re.compile(rb"\.U\d+V\d+\.sora,S=\d+\Z")
_PARTIAL: Final = b".dovecot-uidlist.part"
_TAKEN: Final = re.compile(r"\.|(?:cur|new|tmp|sieve|subscriptions|maildirfolder|maildirsize)\Z|dovecot")
"""Levels that Dovecot, or this, has other things under, or does not show."""
MAX_FILE_NAME: Final = 255


class MaildirSink(Told):
    """A maildir.

    Args:
        path: New, empty, or begun by the same export.
        mailboxes: All names that will come: they decide about the layout.
        about: Names the export.
    """

    def __init__(self, path: Path, mailboxes: Iterable[str], about: str, layout: Layout = "auto") -> None:
        super().__init__()
        dotted = any(not names.can_be_maildirpp(name) for name in mailboxes)
        self.layout: Literal["maildir++", "fs"] = ("fs" if dotted else "maildir++") if layout == "auto" else layout
        try:
            self._root = files.make_target(path, MARKER, f"{about} {self.layout}\n".encode())
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        if self.layout == "fs":
            self._notes.append("folders lie as in Dovecot's LAYOUT=fs")
        self._taken: set[bytes] = set()
        self._called: dict[str, str] = {}
        self._folder = -1
        self._cur = -1
        self._there: sqlite3.Connection | None = None
        self._uidlist: BinaryIO | None = None
        self._letters: dict[int, int] = {}
        self._header: SinkFolder | None = None

    def begin(self, folder: SinkFolder) -> bool:
        """See `Sink.begin`: what is there is looked through once more, because flags may have changed."""
        self._folder = files.make_directory(self._root, self._directory(folder.name))
        for part in (b"cur", b"new", b"tmp"):
            os.close(files.make_directory(self._folder, part))
        if folder.name != names.INBOX and self.layout == "maildir++":
            files.write_file(self._folder, b"maildirfolder")
        self._cur = files.make_directory(self._folder, b"cur")
        self._there = _list(self._cur)
        self._letters = {
            number: letter for letter, number in enumerate(folder.keywords) if letter < maildir.MAX_LETTERS
        }
        for number in list(folder.keywords)[maildir.MAX_LETTERS :]:
            self._notes.append(f"{folder.name}: no letter left for the keyword {folder.keywords[number]}")
        files.write_file(
            self._folder,
            b"dovecot-keywords",
            dovecot.write_keywords({letter: folder.keywords[number] for number, letter in self._letters.items()}),
        )
        self._header = folder
        self._uidlist = self._begin_uidlist(folder)
        return True

    def _begin_uidlist(self, folder: SinkFolder) -> BinaryIO:
        file = open(files.create(self._folder, _PARTIAL), "wb")
        guid = os.urandom(16).hex().encode()
        for line in dovecot.write_uidlist(folder.uidvalidity, folder.uid_next, guid, ()):
            file.write(line)
        return file

    def _directory(self, name: str) -> bytes:
        """Where a mailbox lies; a name that would be another's, or a part of a maildir, gets another one."""
        levels = name.split(names.DELIMITER)
        if self.layout == "fs":
            levels, directory, fit = [_beside(level) for level in levels], names.fs_directory, _fit_each
        else:
            levels, directory, fit = [level.replace(".", "_") for level in levels], names.maildirpp_directory, _fit
        number = 1
        while directory(chosen := fit(levels, "" if number == 1 else f" ({number})")) in self._taken:
            number += 1
        if chosen != name:
            self._notes.append(f"{name} is called {chosen} there")
            self._called[name] = chosen
        self._taken.add(directory(chosen))
        return directory(chosen)

    def has(self, message: SinkMessage) -> bool:
        """See `Sink.has`."""
        assert self._there is not None
        base = self._base(message)
        row = self._there.execute("SELECT name FROM found WHERE base = ?", (base,)).fetchone()
        if row is None:
            return False
        wanted = base + maildir.INFO + self._letters_of(message)
        if row[0] != wanted:
            os.rename(row[0], wanted, src_dir_fd=self._cur, dst_dir_fd=self._cur)
        return True

    def scratch(self) -> BinaryIO:
        """See `Sink.scratch`."""
        return files.scratch(self._root)

    def put(self, message: SinkMessage, data: Octets | None) -> None:
        """See `Sink.put`."""
        base = self._base(message)
        if data is not None:
            name = base + maildir.INFO + self._letters_of(message)
            files.write_file(self._cur, name, data, mtime=message.internal_date.timestamp())
        assert self._uidlist is not None
        assert self._there is not None
        self._there.execute("DELETE FROM found WHERE base = ?", (base,))
        self._uidlist.write(b"%d :%s\n" % (message.uid, base))

    def _base(self, message: SinkMessage) -> bytes:
        assert self._header is not None
        seconds = max(0, int(message.internal_date.timestamp()))
        return b"%d.U%dV%d.sora,S=%d" % (seconds, message.uid, self._header.uidvalidity, message.size)

    def _letters_of(self, message: SinkMessage) -> bytes:
        keywords = [self._letters[number] for number in message.flags if number in self._letters]
        system = [number for number in message.flags if number < FIRST_KEYWORD]
        return maildir.letters_of(system, keywords).encode()

    def end(self) -> None:
        """See `Sink.end`."""
        if self._uidlist is not None:
            self._remove_old()
            self._uidlist.flush()
            os.fsync(self._uidlist.fileno())
            os.fsync(self._cur)
            os.rename(_PARTIAL, _UIDLIST, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        self._leave()

    def _remove_old(self) -> None:
        """What an earlier run has written and is not in the mailbox any more: Dovecot would show it as new mail."""
        assert self._there is not None
        for base, name in self._there.execute("SELECT base, name FROM found"):
            if _OURS.search(base):
                os.unlink(name, dir_fd=self._cur)

    def finish(self, subscriptions: Sequence[str], scripts: Sequence[SinkScript]) -> None:
        """See `Sink.finish`."""
        called = [self._called.get(name, name) for name in subscriptions]
        files.write_file(self._root, b"subscriptions", dovecot.write_subscriptions(called))
        self._notes += write_scripts(self._root, scripts)
        os.fsync(self._root)

    def _leave(self) -> None:
        if self._uidlist is not None:
            self._uidlist.close()
        if self._there is not None:
            self._there.close()
        for fd in (self._folder, self._cur):
            if fd >= 0:
                os.close(fd)
        self._uidlist, self._there, self._folder, self._cur = None, None, -1, -1

    def close(self) -> None:
        """See `Sink.close`."""
        self._leave()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def write_scripts(root: int, scripts: Sequence[SinkScript]) -> list[str]:
    """`sieve/` and the link `.dovecot.sieve`, as Dovecot's Pigeonhole has them; what could not be called as it is."""
    if not scripts:
        return []
    called: dict[str, str] = {}
    folder = files.make_directory(root, b"sieve")
    try:
        for script in scripts:
            called[script.name] = names.unlike(_script_name(script.name), called.values())
            files.write_file(folder, _script_file(called[script.name]), script.content)
    finally:
        os.close(folder)
    active = next((script for script in scripts if script.active), None)
    if active is not None:
        temporary = b".dovecot.sieve.part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=root)
        os.symlink(b"sieve/" + _script_file(called[active.name]), temporary, dir_fd=root)
        os.rename(temporary, b".dovecot.sieve", src_dir_fd=root, dst_dir_fd=root)
    return [f"script {name} is called {there} there" for name, there in called.items() if there != name]


def _script_name(name: str) -> str:
    """What a file may be called: no way to another directory, not hidden, with room for what comes behind it."""
    plain = names.level(name)
    return _short(f"_{plain}" if plain.startswith(".") else plain, str.encode, MAX_FILE_NAME - 20)


def _script_file(name: str) -> bytes:
    return f"{name}.sieve".encode()


def _beside(level: str) -> str:
    """A level that is not called as something else is there."""
    return f"_{level}" if _TAKEN.match(level) else level


def _fit(levels: list[str], suffix: str) -> str:
    """A name with a suffix, of which the whole is one file name: the longest levels are cut."""
    made = list(levels)
    while len(names.maildirpp_directory(names.DELIMITER.join(made) + suffix)) > MAX_FILE_NAME:
        longest = max(range(len(made)), key=lambda i: len(made[i]))
        made[longest] = made[longest][:-1]
    return names.DELIMITER.join(made) + suffix


def _fit_each(levels: list[str], suffix: str) -> str:
    """A name with a suffix, of which each level is a file name."""
    *above, last = levels
    last = _short(last, lambda level: utf7.encode(level + suffix), MAX_FILE_NAME) + suffix
    return names.DELIMITER.join([*(_short(level, utf7.encode, MAX_FILE_NAME) for level in above), last])


def _short(text: str, encode: Callable[[str], bytes], most: int) -> str:
    while len(encode(text)) > most:
        text = text[:-1]
    return text


def _list(cur: int) -> sqlite3.Connection:
    """Names that are there, by what does not change of them."""
    table = sqlite3.connect("", isolation_level=None)
    table.execute("PRAGMA journal_mode = off")
    table.execute("PRAGMA cache_size = -4096")
    table.execute("CREATE TABLE found (base BLOB PRIMARY KEY, name BLOB) WITHOUT ROWID")
    table.execute("BEGIN")
    with os.scandir(cur) as entries:
        named = ((maildir.parse(os.fsencode(entry.name)).base, os.fsencode(entry.name)) for entry in entries)
        table.executemany("INSERT OR REPLACE INTO found VALUES (?, ?)", named)
    table.execute("COMMIT")
    return table
