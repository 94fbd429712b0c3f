"""Mail out of another IMAP server (RFC 3501 and 9051), read only.

Folders are opened with EXAMINE and bodies fetched with PEEK: nothing changes over there. UIDs are listed first, in
ranges of sequence numbers, during which a server may announce no EXPUNGE; after that everything goes by UID. Small
messages come several to a FETCH, large ones in parts, and an answer that is larger than what was asked for ends the
connection: what the server says about sizes is not relied on.

A connection that breaks is made again, a few times, if the folder is still the same one.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from array import array
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import imapclient
from imapclient.exceptions import IMAPClientError, LoginError

from sora.errors import Refused, Unavailable
from sora.formats import names
from sora.formats.flags import of_names
from sora.moving.sieve_source import SieveClient
from sora.moving.source import (
    GONE,
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
    from collections.abc import Callable, Iterator, Sequence

_T = TypeVar("_T")

Security = Literal["tls", "starttls", "none"]

TIMEOUT_S: Final = 120.0
ATTEMPTS: Final = 5
LIST_RANGE: Final = 2000
"""Sequence numbers whose UIDs are asked for together."""
TOGETHER_BYTES: Final = 1024 * 1024
TOGETHER: Final = 50
"""Small messages of one FETCH."""
PART_BYTES: Final = 4 * 1024 * 1024
"""Of a large message: a server may read all of it for each part."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""Octets that one command may be answered with."""

SPECIAL: Final = {b"\\sent": "\\Sent", b"\\drafts": "\\Drafts", b"\\trash": "\\Trash", b"\\junk": "\\Junk",
                  b"\\archive": "\\Archive"}  # fmt: skip
_QUOTED: Final = re.compile(r"\bb(['\"])(.*)\1$", re.DOTALL)
"""What a server said, as the library quotes it at the end of its errors."""
_VIRTUAL: Final = frozenset((b"\\all", b"\\flagged", b"\\important"))
"""Folders that show messages of others (RFC 6154)."""
_NO_FOLDER: Final = frozenset((b"\\noselect", b"\\nonexistent"))


class ImapSource(Told):
    """An account of another server.

    Args:
        verify: Check the certificate of the server.
        sieve_port: Of its ManageSieve; 0: filters stay behind. TLS begins with STARTTLS there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        password: str,
        security: Security = "tls",
        *,
        verify: bool = True,
        sieve_port: int = 0,
    ) -> None:
        super().__init__()
        self._sieve_port = sieve_port
        self._host, self._port, self._user, self._password = host, port, user, password
        self._security = security
        self._context = ssl.create_default_context()
        if not verify:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        self._client: Any = None
        self._bound = _Bound()
        self._opened: str | None = None
        self._exists = 0
        self._uids: tuple[bytes, array[int]] = (b"", array("L"))

    # ------------------------------------------------------------------------------------------------ connection

    def _connect(self) -> Any:
        try:
            client = imapclient.IMAPClient(
                self._host,
                port=self._port,
                ssl=self._security == "tls",
                ssl_context=self._context if self._security == "tls" else None,
                timeout=TIMEOUT_S,
            )
        except ssl.SSLCertVerificationError as error:
            raise Refused(f"{self._host}: the certificate is not to be trusted", detail=_text(error)) from error
        except ssl.SSLError as error:
            if error.reason != "WRONG_VERSION_NUMBER":
                raise
            told = f"{self._host}:{self._port} speaks no TLS from the start: give --security starttls, or none"
            raise Refused(told, detail=_text(error)) from error
        try:
            self._log_in(client)
        except BaseException:
            with contextlib.suppress(OSError, IMAPClientError):
                client.shutdown()
            raise
        return client

    def _log_in(self, client: Any) -> None:
        self._bound.begin()
        self._bound.hold(client)
        try:
            if self._security == "starttls":
                client.starttls(self._context)
            client.login(self._user, self._password)
        except LoginError as error:
            raise Refused(f"{self._host} refuses the login", detail=_text(error)) from error
        except ssl.SSLCertVerificationError as error:
            raise Refused(f"{self._host}: the certificate is not to be trusted", detail=_text(error)) from error
        client.normalise_times = False

    def _do(self, act: Callable[[Any], _T], folder: SourceFolder | None = None) -> _T:
        """Ask the server, on a new connection if the old one broke.

        Raises:
            Unavailable: It does not answer, again and again.
            Refused: It says no.
            FolderBroken: It says no to what was asked of a folder.
        """
        for attempt in range(ATTEMPTS):
            try:
                if self._client is None:
                    self._client, self._opened = self._connect(), None
                if folder is not None:
                    self._examine(folder)
                self._bound.begin()
                return act(self._client)
            except (OSError, imapclient.IMAPClient.AbortError) as error:
                self._drop()
                if attempt == ATTEMPTS - 1:
                    raise Unavailable(detail=f"{self._host}: {_text(error)}") from error
                time.sleep(min(2.0**attempt, 10.0))
            except IMAPClientError as error:
                kind = Refused if folder is None else FolderBroken
                raise kind(f"{self._host}: {_text(error)}") from error
        raise AssertionError("the last attempt ends it")

    def _examine(self, folder: SourceFolder) -> None:
        name = folder.key.decode()
        if self._opened == name:
            return
        self._bound.begin()
        state = self._client.select_folder(name, readonly=True)
        self._opened, self._exists = name, int(state.get(b"EXISTS", 0))
        if folder.uidvalidity and state.get(b"UIDVALIDITY") != folder.uidvalidity:
            raise FolderBroken(f"{name}: the UIDVALIDITY has changed meanwhile")

    def _drop(self) -> None:
        client, self._client, self._opened = self._client, None, None
        if client is not None:
            with contextlib.suppress(OSError, IMAPClientError):
                client.shutdown()

    # ------------------------------------------------------------------------------------------------ folders

    def folders(self) -> list[SourceFolder]:
        """See `Source.folders`; other users' and shared ones are not this account's."""
        prefixes, others = self._do(_namespaces)
        found = []
        for attributes, delimiter, name in self._do(_list):
            flags = {bytes(flag).lower() for flag in attributes}
            if flags & _NO_FOLDER or any(name.startswith(other) for other in others):
                continue
            if flags & _VIRTUAL:
                self._notes.append(f"{name} shows messages of other folders, and is left out")
                continue
            levels = _levels(name, delimiter.decode() if delimiter else "", prefixes)
            found.append(self._folder(name, names.name_of(levels), flags))
        self._notes += self._do(lambda client: _left_behind(client, filters=not self._sieve_port))
        return sorted(found, key=lambda folder: (folder.name != names.INBOX, folder.name.split(names.DELIMITER)))

    def _folder(self, key: str, name: str, flags: set[bytes]) -> SourceFolder:
        state: dict[bytes, Any] = {}
        with contextlib.suppress(Refused):  # it is told when its messages are asked for
            state = self._do(lambda client: client.folder_status(key, ["UIDVALIDITY", "UIDNEXT", "MESSAGES"]))
        return SourceFolder(
            key=key.encode(),
            name=name,
            uidvalidity=int(state.get(b"UIDVALIDITY", 0)),
            uid_next=int(state.get(b"UIDNEXT", 0)),
            messages=int(state.get(b"MESSAGES", 0)),
            special_use=next((SPECIAL[flag] for flag in sorted(flags) if flag in SPECIAL), None),
            by_uid=True,
        )

    # ------------------------------------------------------------------------------------------------ messages

    def messages(self, folder: SourceFolder) -> Iterator[list[SourceMessage]]:
        """See `Source.messages`."""
        uids = self._list(folder)
        validity = b"%d" % folder.uidvalidity
        for start in range(0, len(uids), WINDOW):
            wanted = list(islice(uids, start, start + WINDOW))
            items = ["FLAGS", "INTERNALDATE", "RFC822.SIZE"]
            found = self._do(lambda client, w=wanted, i=items: client.fetch(w, i), folder)  # type: ignore[misc]
            yield [_message(uid, found[uid], validity) for uid in wanted if uid in found]

    def _list(self, folder: SourceFolder) -> array[int]:
        """UIDs of a folder, four or eight octets each."""
        if self._uids[0] != folder.key or not self._uids[1]:
            self._opened = None  # how many messages there are is told when it is opened
            self._uids = folder.key, self._do(lambda client: _list_uids(client, self._exists), folder)
        return self._uids[1]

    def uid_next(self, folder: SourceFolder) -> int:
        """See `Source.uid_next`."""
        uids = self._uids[1] if self._uids[0] == folder.key else ()
        return max(folder.uid_next, (uids[-1] if uids else 0) + 1)

    def pieces(self, folder: SourceFolder, messages: Sequence[SourceMessage]) -> Iterator[Piece]:
        """See `Source.pieces`."""
        start = 0
        while start < len(messages):
            end, size = start, 0
            while end < len(messages) and end - start < TOGETHER and size + messages[end].size <= TOGETHER_BYTES:
                size += messages[end].size
                end += 1
            if end == start:
                yield from self._parts(folder, start, messages[start])
                end += 1
            else:
                yield from self._together(folder, start, messages[start:end])
            start = end

    def _together(self, folder: SourceFolder, first: int, messages: Sequence[SourceMessage]) -> Iterator[Piece]:
        uids = [message.uid for message in messages]
        try:
            found = self._do(lambda client: client.fetch(uids, ["BODY.PEEK[]"]), folder)
        except FolderBroken:  # by one of them, perhaps
            for number, message in enumerate(messages, first):
                yield from self._parts(folder, number, message)
            return
        for number, uid in enumerate(uids, first):
            body = found.get(uid, {}).get(b"BODY[]")
            if body is None:
                yield Piece(number, b"", last=True, problem=GONE)
            else:
                yield Piece(number, body, last=True)

    def _parts(self, folder: SourceFolder, number: int, message: SourceMessage) -> Iterator[Piece]:
        offset = 0
        while True:
            item = f"BODY.PEEK[]<{offset}.{PART_BYTES}>"
            try:
                found = self._do(lambda client, i=item: client.fetch([message.uid], [i]), folder)  # type: ignore[misc]
            except FolderBroken as error:
                yield Piece(number, b"", last=True, problem=error.text)
                return
            part = found.get(message.uid, {}).get(b"BODY[]<%d>" % offset)
            if part is None:
                yield Piece(number, b"", last=True, problem=GONE if not offset else "its end is missing")
                return
            offset += len(part)
            if len(part) < PART_BYTES:
                yield Piece(number, part, last=True)
                return
            yield Piece(number, part)

    # ------------------------------------------------------------------------------------------------ the rest

    def subscriptions(self) -> list[str]:
        """See `Source.subscriptions`."""
        prefixes, others = self._do(_namespaces)
        found = self._do(lambda client: client.list_sub_folders())
        return [
            names.name_of(_levels(name, delimiter.decode() if delimiter else "", prefixes))
            for attributes, delimiter, name in found
            if not {bytes(flag).lower() for flag in attributes} & _NO_FOLDER
            and not any(name.startswith(other) for other in others)
        ]

    def scripts(self) -> list[SourceScript]:
        """See `Source.scripts`: IMAP has none, ManageSieve does."""
        if not self._sieve_port:
            return []
        context = None if self._security == "none" else self._context
        try:
            with SieveClient(self._host, self._sieve_port, self._user, self._password, context) as client:
                return client.scripts()
        except (Refused, Unavailable) as error:
            self._problems.append(f"filters: {error.detail or error.text}")
            return []

    def close(self) -> None:
        """See `Source.close`."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, IMAPClientError):
                client.logout()


class _Bound:
    """Ends a connection on which more comes than was asked for."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def begin(self) -> None:
        self._left = MOST_BYTES

    def hold(self, client: Any) -> None:
        """Count what imaplib reads: the sizes that it is told are the server's."""
        connection = client._imap
        read, readline = connection.read, connection.readline

        def bounded_read(size: int) -> bytes:
            self._take(size)
            octets: bytes = read(size)
            return octets

        def bounded_line() -> bytes:
            line: bytes = readline()
            self._take(len(line))
            return line

        connection.read, connection.readline = bounded_read, bounded_line

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ConnectionAbortedError("the server sends more than was asked for")


def _namespaces(client: Any) -> tuple[list[str], list[str]]:
    """Prefixes of the account's own folders, and of those of others."""
    if not client.has_capability("NAMESPACE"):
        return [], []
    spaces = client.namespace()
    own = [prefix for prefix, _ in spaces.personal or () if prefix]
    others = [prefix for space in (spaces.other, spaces.shared) for prefix, _ in space or () if prefix]
    return own, others


def _left_behind(client: Any, *, filters: bool) -> list[str]:
    """What the server may have, and IMAP commands of this import do not bring."""
    kinds = {"METADATA": "annotations", "ANNOTATEMORE": "annotations", "ACL": "rights that others have"}
    found = list(dict.fromkeys(kind for name, kind in kinds.items() if client.has_capability(name)))
    if filters:
        found.append("filters, for which --sieve-port is needed")
    return [f"not brought: {'; '.join(found)}"] if found else []


def _list(client: Any) -> list[tuple[tuple[bytes, ...], bytes | None, str]]:
    """LIST, with the special uses where the server knows to tell them (RFC 6154 §2)."""
    plain: list[tuple[tuple[bytes, ...], bytes | None, str]] = client.list_folders()
    if not client.has_capability("SPECIAL-USE"):
        return plain
    connection = client._imap
    typ, data = connection._simple_command("LIST", '""', '"*"', "RETURN", "(SPECIAL-USE)")
    client._checkok("LIST", typ, data)
    _, data = connection._untagged_response(typ, data, "LIST")
    uses = {name: attributes for attributes, _, name in client._proc_folder_list(data)}
    return [((*attributes, *uses.get(name, ())), delimiter, name) for attributes, delimiter, name in plain]


def _list_uids(client: Any, exists: int) -> array[int]:
    uids = array("L")
    client.use_uid = False
    try:
        for start in range(1, exists + 1, LIST_RANGE):
            numbers = list(range(start, min(exists + 1, start + LIST_RANGE)))
            found = client.fetch(numbers, ["UID"])
            uids.extend(found[number][b"UID"] for number in numbers if number in found)
    finally:
        client.use_uid = True
    return uids


def _message(uid: int, data: dict[bytes, Any], validity: bytes) -> SourceMessage:
    return SourceMessage(
        key=key_of(validity, b"%d" % uid),
        uid=uid,
        flags=of_names(bytes(flag).decode("latin-1") for flag in data.get(b"FLAGS", ())),
        internal_date=_utc(data.get(b"INTERNALDATE")),
        size=int(data.get(b"RFC822.SIZE", 0)),
        place=uid,
    )


def _utc(date: object) -> datetime | None:
    """What the server says, if that is a date in UTC too."""
    try:
        return date.astimezone(UTC) if isinstance(date, datetime) else None
    except OverflowError:
        return None


def _levels(name: str, delimiter: str, prefixes: list[str]) -> list[str]:
    """Levels of a name, without the prefix that all of an account's folders have (`INBOX.`)."""
    for prefix in prefixes:
        if name.startswith(prefix) and len(name) > len(prefix):
            name = name[len(prefix) :]
            break
    return name.split(delimiter) if delimiter else [name]


def _text(error: Exception) -> str:
    text = _QUOTED.sub(r"\2", str(error))
    return " ".join(text.split())[:200]
