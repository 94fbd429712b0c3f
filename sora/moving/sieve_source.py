"""Filters out of a ManageSieve server (RFC 5804), read only: what IMAP does not give."""

from __future__ import annotations

import base64
import re
import socket
import ssl
from typing import Final, Self

from sora.errors import Refused, Unavailable
from sora.moving.source import SourceScript

TIMEOUT_S: Final = 60.0
MAX_LINE: Final = 8192
MAX_SCRIPT: Final = 1024 * 1024
MAX_SCRIPTS: Final = 1000
_LITERAL: Final = re.compile(rb"\{(\d{1,9})\+?\}\r?\n\Z")
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')


class SieveClient:
    """One session; a context manager that ends it.

    Args:
        context: TLS, begun by STARTTLS; None: none.

    Raises:
        Refused: No such login, or no TLS.
        Unavailable: The server does not answer.
    """

    def __init__(self, host: str, port: int, user: str, password: str, context: ssl.SSLContext | None) -> None:
        self._host = host
        try:
            self._socket = socket.create_connection((host, port), TIMEOUT_S)
        except OSError as error:
            raise Unavailable(detail=f"{host}: {error}") from error
        self._file = self._socket.makefile("rwb")
        try:
            self._log_in(user, password, context)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scripts(self) -> list[SourceScript]:
        """All of them.

        Raises:
            Refused, Unavailable: The server says no, or goes away.
        """
        found = []
        for line, text in self._ask(b"LISTSCRIPTS")[:MAX_SCRIPTS]:
            match = _QUOTED.match(line)
            name = text if text is not None else re.sub(rb"\\(.)", rb"\1", match[1]) if match else b""
            active = (line if text is not None else line[match.end() :] if match else b"").strip().upper() == b"ACTIVE"
            quoted = b"{%d+}\r\n%s" % (len(name), name)
            content = next((text for _, text in self._ask(b"GETSCRIPT " + quoted) if text is not None), b"")
            found.append(SourceScript(name.decode("utf-8", "replace"), content, active))
        return found

    def _log_in(self, user: str, password: str, context: ssl.SSLContext | None) -> None:
        self._answer()
        if context is not None:
            self._ask(b"STARTTLS")
            self._file.close()
            try:
                self._socket = context.wrap_socket(self._socket, server_hostname=self._host)
            except ssl.SSLCertVerificationError as error:
                raise Refused(f"{self._host}: the certificate is not to be trusted", detail=str(error)) from error
            except OSError as error:
                raise Unavailable(detail=f"{self._host}: {error}") from error
            self._file = self._socket.makefile("rwb")
            self._answer()
        token = base64.b64encode(b"\0%s\0%s" % (user.encode(), password.encode()))
        self._ask(b'AUTHENTICATE "PLAIN" {%d+}\r\n%s' % (len(token), token))

    def _ask(self, command: bytes) -> list[tuple[bytes, bytes | None]]:
        try:
            self._file.write(command + b"\r\n")
            self._file.flush()
        except OSError as error:
            raise Unavailable(detail=f"{self._host}: {error}") from error
        return self._answer()

    def _answer(self) -> list[tuple[bytes, bytes | None]]:
        """Lines up to the last one: each as it is, or the rest behind the literal that it begins with, and that."""
        found: list[tuple[bytes, bytes | None]] = []
        while len(found) <= MAX_SCRIPTS + 100:
            line = self._line()
            status = line.split(None, 1)[0].upper() if line.strip() else b""
            if status == b"OK":
                return found
            if status in (b"NO", b"BYE"):
                raise Refused(f"{self._host}: {line.decode('utf-8', 'replace').strip()[:200]}")
            literal = _LITERAL.match(line)
            if literal is None:
                found.append((line, None))
                continue
            if int(literal[1]) > MAX_SCRIPT:
                raise Refused(f"{self._host}: it sends a script that is too large")
            text = self._read(int(literal[1]))
            found.append((self._line(), text))
        raise Refused(f"{self._host}: it sends more than was asked for")

    def _line(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE)
        except OSError as error:
            raise Unavailable(detail=f"{self._host}: {error}") from error
        if not line.endswith(b"\n"):
            raise Unavailable(detail=f"{self._host}: the connection ended, or a line has no end")
        return line

    def _read(self, size: int) -> bytes:
        try:
            octets = self._file.read(size)
        except OSError as error:
            raise Unavailable(detail=f"{self._host}: {error}") from error
        if len(octets) != size:
            raise Unavailable(detail=f"{self._host}: the connection ended")
        return octets

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()
