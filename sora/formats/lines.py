"""Line ends: files on Unix have LF, messages have CRLF (RFC 5322 §2.1)."""

from __future__ import annotations


class ToCrlf:
    """Makes every line end CRLF, piece by piece; what is CRLF already stays, and so does a CR that stands alone.

    That is what Dovecot does with the files of a maildir, so sizes and bodies are those that its clients have seen.
    """

    __slots__ = ("_cr",)

    def __init__(self) -> None:
        self._cr = False

    def feed(self, octets: bytes) -> bytes:
        """The next piece."""
        if not octets:
            return b""
        had_cr, self._cr = self._cr, octets.endswith(b"\r")
        if had_cr and octets.startswith(b"\n"):
            return b"\n" + _crlf(octets[1:])
        return _crlf(octets)


def _crlf(octets: bytes) -> bytes:
    lines = octets.count(b"\n")
    if not lines or octets.count(b"\r\n") == lines:
        return octets
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def to_lf(octets: bytes) -> bytes:
    """The other way; only for what is not compared octet by octet, such as mbox."""
    return octets.replace(b"\r\n", b"\n")
