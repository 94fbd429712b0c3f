"""Text out of octets: charsets, encoded words, transfer encodings, HTML, and case folding for search and sorting.

Nothing here raises on any input, and every result can be stored: no NUL, no lone surrogate (PostgreSQL refuses both).
"""

from __future__ import annotations

import binascii
import codecs
import re
import sys
import unicodedata
from encodings.aliases import aliases
from functools import lru_cache
from html import unescape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_TEXT: Final = {
    "base64_codec", "bz2_codec", "hex_codec", "mbcs", "oem", "quopri_codec", "rot_13", "tactis", "uu_codec",
    "zlib_codec",
}  # fmt: skip

# What mail calls a charset, where Python has no such name or means a narrower one (WHATWG Encoding Standard: browsers
# read iso-8859-1 as windows-1252, gb2312 as gbk, ks_c_5601-1987 as cp949, and mailers count on it).
_MISNOMERS: Final = {
    "": "us_ascii",
    "default": "us_ascii",
    "us_ascii": "us_ascii",
    "x_unknown": "us_ascii",
    "unknown": "us_ascii",
    "unknown_8bit": "us_ascii",
    "8bit": "us_ascii",
    "7bit": "us_ascii",
    "none": "us_ascii",
    "utf": "utf_8",
    "utf8mb4": "utf_8",
    "utf_8_": "utf_8",
    "unicode_1_1_utf_7": "utf_7",
    "x_unicode_2_0_utf_7": "utf_7",
    "unicode": "utf_16",
    "ansi": "cp1252",
    "iso_8859_1": "cp1252",
    "iso8859_1": "cp1252",
    "latin1": "cp1252",
    "latin_1": "cp1252",
    "l1": "cp1252",
    "x_ansi": "cp1252",
    "x_cp1252": "cp1252",
    "cp_1252": "cp1252",
    "win_1252": "cp1252",
    "windows1252": "cp1252",
    "iso_8859_8_i": "iso8859_8",
    "iso_8859_8_e": "iso8859_8",
    "iso_8859_6_i": "iso8859_6",
    "iso_8859_6_e": "iso8859_6",
    "x_mac_roman": "mac_roman",
    "macintosh": "mac_roman",
    "x_mac_cyrillic": "mac_cyrillic",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x_gbk": "gb18030",
    "cp936": "gb18030",
    "gb_2312_80": "gb18030",
    "ks_c_5601_1987": "cp949",
    "ks_c_5601": "cp949",
    "euc_kr": "cp949",
    "x_windows_949": "cp949",
    "shift_jis": "cp932",
    "sjis": "cp932",
    "x_sjis": "cp932",
    "windows_31j": "cp932",
    "iso_2022_jp": "iso2022_jp_ext",
    "cp50220": "iso2022_jp_ext",
    "x_euc_jp": "euc_jp",
    "big5": "big5hkscs",
    "x_x_big5": "big5hkscs",
    "tis_620": "cp874",
    "windows_874": "cp874",
    "iso_8859_11": "cp874",
    "koi8_ru": "koi8_u",
}


def _codecs() -> dict[str, str]:
    """Every name that is looked up, in one closed table: an unknown one must not make Python search its path."""
    known = {codec: codec for codec in aliases.values() if codec not in _NOT_TEXT}
    known.update((alias, codec) for alias, codec in aliases.items() if codec not in _NOT_TEXT)
    known.update((codec, codec) for codec in ("cp874", "koi8_u", "mac_cyrillic"))
    for number in (*range(1250, 1259), 874):
        known[f"windows_{number}"] = known[f"cp{number}"] = known[f"x_cp{number}"] = f"cp{number}"
    known.update({name: codec for name, codec in _MISNOMERS.items() if codec != "us_ascii"})
    for name in (*(name for name, codec in _MISNOMERS.items() if codec == "us_ascii"), "ascii"):
        known[name] = ""
    return known


_CODECS: Final = _codecs()
_SEPARATORS: Final = str.maketrans("-.: ", "____")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_ENCODED_WORD: Final = re.compile(rb"=\?([^?\s]{1,75})\?([bBqQ])\?([^?\r\n]*)\?=")


def clean(text: str) -> str:
    """Replace what PostgreSQL refuses, NUL and lone surrogates, by U+FFFD."""
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    try:
        text.encode()  # several times as fast as looking for surrogates
    except UnicodeEncodeError:
        return _UNSTORABLE.sub("\ufffd", text)
    return text.replace("\0", "\ufffd") if "\0" in text else text


def decode_raw(data: bytes | bytearray) -> str:
    """Octets without a declared charset: UTF-8 if they are, else windows-1252."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.replace("\0", "\ufffd") if "\0" in text else text


def decode_charset(data: bytes | bytearray, charset: bytes) -> str:
    """Octets in a charset, misnomers understood; what cannot be decoded becomes U+FFFD."""
    codec = _codec_of(charset)
    if not codec:  # US-ASCII with octets above 127, and charsets nobody knows: as if nothing was declared
        return decode_raw(data)
    return clean(data.decode(codec, "replace"))


def decode_pieces(data: bytes, charset: bytes, size: int) -> Iterator[str]:
    """The same as `decode_charset`, so many octets at a time where it takes long.

    ISO-2022 is decoded line by line (RFC 1468 §2: a line begins in ASCII), because Python's decoder gives up on long
    escape sequences; a broken text can come out differently.
    """
    codec = _codec_of(charset)
    if codec in ("", "utf_8"):
        try:
            yield clean(data.decode())
        except UnicodeDecodeError:
            codec = codec or "cp1252"
        else:
            return
    if codec.startswith("iso2022"):
        yield from (clean(piece.decode(codec, "replace")) for piece in _whole_lines(data, size))
        return
    codec, data = _by_its_mark(codec, data)
    decoder = codecs.getincrementaldecoder(codec)("replace")
    for start in range(0, len(data), size):
        yield clean(decoder.decode(data[start : start + size], start + size >= len(data)))


def _whole_lines(data: bytes, size: int) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        longest = min(start + 4 * size, len(data))
        end = data.find(b"\n", start + size, longest) + 1 or longest
        yield data[start:end]
        start = end


def _by_its_mark(codec: str, data: bytes) -> tuple[str, bytes]:
    """UTF-16 and UTF-32 with the order of octets that their mark says; the machine's own without one."""
    if codec not in ("utf_16", "utf_32"):
        return codec, data
    marks = {"_le": codecs.BOM_UTF16_LE, "_be": codecs.BOM_UTF16_BE}
    if codec == "utf_32":
        marks = {"_le": codecs.BOM_UTF32_LE, "_be": codecs.BOM_UTF32_BE}
    for order, mark in marks.items():
        if data.startswith(mark):
            return codec + order, data[len(mark) :]
    return codec + ("_le" if sys.byteorder == "little" else "_be"), data


def _codec_of(charset: bytes) -> str:
    """Python's name of a charset; empty: none."""
    name = charset.decode("latin-1").strip().strip("\"'").lower()[:64].translate(_SEPARATORS)
    name = name.partition("*")[0]  # RFC 2231 §5: a language may follow
    return _CODECS.get(name, "")


# ------------------------------------------------------------------------------------------------------- encoded words


def decode_words(value: bytes) -> str:
    """An unfolded header value with its encoded words decoded (RFC 2047 §6.2).

    White space between two encoded words vanishes. Neighbours of the same charset are put together before they are
    decoded: mailers split characters, although they must not.
    """
    if b"=?" not in value:
        return decode_raw(value)
    out: list[str] = []
    pending, charset = bytearray(), b""
    position = 0
    for match in _ENCODED_WORD.finditer(value):
        between = value[position : match.start()]
        apart = not pending or bool(between.strip(b" \t"))
        if pending and (apart or charset != match[1].lower()):
            out.append(decode_charset(pending, charset))
            pending = bytearray()
        if apart:
            out.append(decode_raw(between))
        pending += _word_octets(match[2], match[3])
        charset = match[1].lower()
        position = match.end()
    if pending:
        out.append(decode_charset(pending, charset))
    out.append(decode_raw(value[position:]))
    return "".join(out)


def _word_octets(encoding: bytes, text: bytes) -> bytes:
    """The octets of an encoded word (RFC 2047 §4)."""
    if encoding in b"bB":
        return decode_base64(text)
    return binascii.a2b_qp(text, header=True)


# --------------------------------------------------------------------------------------------------- transfer encodings

_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/]+")


_TRAILING_SPACE: Final = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n|\Z)")
"""White space that a relay added to lines: it is deleted before they are decoded (RFC 2045 §6.7 rule 3)."""


def decode_base64(data: bytes) -> bytes:
    """Base64, without minding what is not part of it, padding in the middle or missing padding."""
    try:
        return binascii.a2b_base64(data)
    except binascii.Error:
        letters = _NOT_BASE64.sub(b"", data)
        if len(letters) % 4 == 1:
            letters = letters[:-1]
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def decode_transfer(data: bytes, encoding: bytes) -> bytes:
    """Undo a Content-Transfer-Encoding (RFC 2045 §6); an unknown one is left as it is."""
    encoding = encoding.lower()
    if encoding == b"base64":
        return decode_base64(data)
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(_TRAILING_SPACE.sub(b"", data))
    return data


# ----------------------------------------------------------------------------------------------------------------- HTML

_HIDDEN: Final = re.compile(r"<!--|<(script|style|template|title)\b[^<>]*>", re.IGNORECASE)
"""What is not shown: comments, and elements with their content."""
_HIDDEN_END: Final = {
    name: re.compile(rf"</{name}\b[^<>]*>", re.IGNORECASE) for name in ("script", "style", "template", "title")
}
_INLINE: Final = frozenset(
    "a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd mark q s samp small span strike strong sub sup "
    "tt u var wbr".split()
)
"""Tags that do not part words."""
_TAG: Final = re.compile(r"<(/?[a-zA-Z][a-zA-Z0-9]*+|[/!?])[^<>]*+>")
_REFERENCE: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});?")


def html_text(html: str) -> str:
    """The words of an HTML text, for search and preview; each character is looked at a fixed number of times.

    Args:
        html: Clean text; so is the result.
    """
    pieces = _TAG.split(without_hidden(html))
    pieces[1::2] = ["" if tag.lstrip("/").lower() in _INLINE else "\n" for tag in pieces[1::2]]
    text = "".join(pieces)
    if "&" in text:
        text = _REFERENCE.sub(_character, text)
    return text


def without_hidden(html: str) -> str:
    """HTML without comments, scripts and styles; one that is not closed hides the rest."""
    return "".join(shown_pieces(html, len(html)))


def shown_pieces(html: str, size: int) -> Iterator[str]:
    """The same, in pieces for which about so many characters are looked at."""
    position = 0
    while position < len(html):
        end = html.find("<", position + size)  # what hides has no other "<" in it
        end = len(html) if end < 0 else end
        match = _HIDDEN.search(html, position, end)
        if match is None:
            yield html[position:end]
            position = end
            continue
        yield html[position : match.start()]
        if match[1] is None:
            end = html.find("-->", match.end())
            position = end + 3 if end >= 0 else len(html)
        else:
            yield " "
            closing = _HIDDEN_END[match[1].lower()].search(html, match.end())
            position = closing.end() if closing else len(html)


def _character(reference: re.Match[str]) -> str:
    return _unescape(reference[0])


_unescape: Final = lru_cache(1024)(unescape)


# -------------------------------------------------------------------------------------------------------------- folding


def _title_exceptions() -> dict[int, str]:
    """Characters whose simple titlecase mapping is not what `str.upper` gives: ß, ŉ, dž and their like."""
    exceptions = {}
    for code in range(0x80, 0x20000):
        char = chr(code)
        title = char.title()
        title = title if len(title) == 1 else char
        if title != char.upper():
            exceptions[code] = title
    return exceptions


_TITLE: Final = _title_exceptions()
_UNUSUAL: Final = re.compile("([" + "".join(map(chr, _TITLE)) + "])")


_COMBINING: Final = "".join(filter(unicodedata.combining, map(chr, range(0x300, 0x1F000))))
_MARKS: Final = re.compile(f"[{_COMBINING}\u0f73\u0f75\u0f81\uff9e\uff9f]{{31,}}")
"""Characters that decompose to combining marks alone, more of them than any text has on one letter (UAX #15 §13)."""


def fold(text: str) -> str:
    """Map text so that i;unicode-casemap comparison becomes comparison of code points (RFC 5051 §2).

    Titlecase by the simple mapping, then compatibility decomposition. Stored text and search keys are both folded.
    """
    if text.isascii():
        return text.upper()
    if "\n" in text:  # most lines are ASCII, which is much cheaper; a line end takes no part in any mapping
        return "\n".join(map(fold, text.split("\n")))
    pieces = _UNUSUAL.split(text)
    pieces[::2] = map(str.upper, pieces[::2])
    pieces[1::2] = [_TITLE[ord(char)] for char in pieces[1::2]]
    return unicodedata.normalize("NFKD", _MARKS.sub(_in_order, "".join(pieces)))


def _in_order(marks: re.Match[str]) -> str:
    """A long run of marks, decomposed and in canonical order: Python's own way to that order is quadratic."""
    decomposed = "".join([unicodedata.normalize("NFKD", mark) for mark in marks[0]])
    return "".join(sorted(decomposed, key=unicodedata.combining))


def collapse(text: str) -> str:
    """White space runs become one space; none at the ends."""
    return " ".join(text.split())
