"""Plain models of the small grammars of header fields, for values that are right; the standard library where it can."""

from __future__ import annotations

import re
from email.utils import getaddresses

_TOKEN = rb"[^\s;=/,()<>\"]+"
_PARAM = re.compile(rb";\s*(" + _TOKEN + rb')\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')
_TYPE = re.compile(rb"\s*(" + _TOKEN + rb")\s*/\s*(" + _TOKEN + rb")\s*(?=;|\Z)")
_KIND = re.compile(rb"\s*(" + _TOKEN + rb")\s*(?=;|\Z)")
_QUOTABLE = re.compile(rb"[^\r\n\x80-\xff]*")
_STRUCTURE = re.compile(rb'\(|\)|"(?:[^"\\]|\\.)*"|\{(\d+)\}\r\n|[^\s()"{]+')

Params = list[tuple[bytes, bytes]]


def _params(value: bytes, at: int) -> Params:
    found = []
    for match in _PARAM.finditer(value, at):
        plain = match[3].strip() if match[2] is None else re.sub(rb"\\(.)", rb"\1", match[2])
        found.append((match[1], plain))
    return found


def parse_content_type(value: bytes) -> tuple[bytes, bytes, Params] | None:
    """RFC 2045 §5.1."""
    match = _TYPE.match(value)
    return None if match is None else (match[1], match[2], _params(value, match.end()))


def parse_disposition(value: bytes) -> tuple[bytes, Params] | None:
    """RFC 2183 §2."""
    match = _KIND.match(value)
    return None if match is None else (match[1], _params(value, match.end()))


def parse_tokens(value: bytes) -> list[bytes]:
    """RFC 3282."""
    return re.findall(_TOKEN, re.sub(rb"\([^()]*\)", b" ", value))


def parse_addresses(value: bytes) -> list[tuple[bytes | None, bytes | None, bytes | None, bytes | None]]:
    """RFC 5322 §3.4, without groups and routes."""
    found: list[tuple[bytes | None, bytes | None, bytes | None, bytes | None]] = []
    for name, address in getaddresses([value.decode()]):
        if address:
            local, _, host = address.rpartition("@")
            found.append((name.encode() or None, None, local.encode(), host.encode()))
    return found


def nstring(value: bytes | None) -> bytes:
    """RFC 9051 §4.3."""
    if value is None:
        return b"NIL"
    value = value.replace(b"\0", b"\xef\xbf\xbd")
    if _QUOTABLE.fullmatch(value):
        return b'"' + re.sub(rb'(["\\])', rb"\\\1", value) + b'"'
    return b"{%d}\r\n%s" % (len(value), value)


Tree = list["bytes | Tree"]


def strip_extensions(structure: bytes) -> bytes:
    """Reads the whole list into a tree, drops the extension data of every part, writes it again."""
    stack: list[Tree] = [[]]
    at = 0
    while at < len(structure):
        if structure[at] == 32:
            at += 1
            continue
        match = _STRUCTURE.match(structure, at)
        assert match is not None
        at = match.end()
        if match[0] == b"(":
            stack.append([])
        elif match[0] == b")":
            done = stack.pop()
            stack[-1].append(done)
        elif match[1]:
            stack[-1].append(match[0] + structure[at : at + int(match[1])])
            at += int(match[1])
        else:
            stack[-1].append(match[0])
    root = stack[0][0]
    assert isinstance(root, list)
    return _write(_strip(root))


def _strip(part: Tree) -> Tree:
    if isinstance(part[0], list):
        parts = [item for item in part if isinstance(item, list)]
        count = next(number for number, item in enumerate(part) if not isinstance(item, list))
        return [*(_strip(item) for item in parts[:count]), part[count]]
    kind, subtype = (str(item).lower() for item in part[:2])
    if "text" in kind:
        return part[:8]
    if "message" in kind and "rfc822" in subtype and isinstance(part[8], list):
        return [*part[:8], _strip(part[8]), part[9]]
    return part[:7]


def _write(part: bytes | Tree) -> bytes:
    if isinstance(part, bytes):
        return part
    text = b""
    for before, item in zip([b"", *part], part, strict=False):
        text += b"" if not text or (isinstance(before, list) and isinstance(item, list)) else b" "
        text += _write(item)
    return b"(" + text + b")"
