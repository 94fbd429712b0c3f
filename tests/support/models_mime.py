"""Plain model of the MIME scanner: recursive, on lists of lines, slow."""

from __future__ import annotations

from dataclasses import dataclass, field

from sora._native.mimefields import parse_content_type
from sora._native.mimescan import LEAF, MESSAGE, MULTIPART, OPAQUE, TEXT

Lines = list[tuple[int, bytes]]


@dataclass
class ModelPart:
    """What `mimescan.Part` shows."""

    header_start: int
    fields_end: int = 0
    header_end: int = 0
    body_end: int = 0
    kind: int = TEXT
    type: bytes = b"text"
    subtype: bytes = b"plain"
    params: list[tuple[bytes, bytes]] = field(default_factory=list)
    children: list[ModelPart] = field(default_factory=list)
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Name in lower case, and the raw lines."""


@dataclass
class Hit:
    """A boundary line: which of the open ones, and whether it is its last."""

    which: int
    last: bool


class Model:
    """One run over a message."""

    def __init__(self, data: bytes, max_depth: int, max_parts: int) -> None:
        self.data = data
        self.max_depth = max_depth
        self.max_parts = max_parts
        self.total = 0
        self.lines: Lines = []
        position = 0
        for line in data.split(b"\n"):
            whole = line + b"\n" if position + len(line) < len(data) else line
            if whole:
                self.lines.append((position, whole))
            position += len(whole)
        self.at = 0
        self.floor = 0

    def position(self) -> int:
        """Start of the line in hand."""
        return self.lines[self.at][0] if self.at < len(self.lines) else len(self.data)

    def hit(self, boundaries: list[bytes]) -> Hit | None:
        """Is the line in hand a boundary line?"""
        line = self.lines[self.at][1]
        text = line[2:].rstrip(b" \t\n\v\f\r")
        if not line.startswith(b"--") or self.total >= self.max_parts:
            return None
        longest = -1
        for which in reversed(range(len(boundaries))):
            boundary = boundaries[which]
            if text.startswith(boundary) and (longest < 0 or len(boundary) > len(boundaries[longest])):
                longest = which
                if text in (boundary, boundary + b"--"):
                    break
        if longest < 0:
            return None
        rest = line[2 + len(boundaries[longest]) :]
        return Hit(longest, rest.rstrip(b"\n").startswith(b"--"))

    def end_before(self) -> int:
        """Where a part ends that the boundary line in hand ends."""
        end = self.position()
        for mark in (b"\n", b"\r"):
            if end > self.floor and self.data[end - 1 : end] == mark:
                end -= 1
            else:
                break
        return end

    def part(self, boundaries: list[bytes], depth: int, in_digest: bool) -> tuple[ModelPart, Hit | None]:
        """Read a part; the line in hand is then the boundary line that ended it."""
        part = ModelPart(self.position())
        self.total += 1
        hit = self.header(part, boundaries)
        self.classify(part, in_digest, depth)
        if part.header_end:
            hit = self.body(part, boundaries, depth)
        end = self.end_before() if hit is not None else len(self.data)
        part.header_start = min(part.header_start, end)
        if not part.header_end:
            part.fields_end = part.header_end = end
        part.fields_end = min(part.fields_end, end)
        part.header_end = min(part.header_end, end)
        part.body_end = end
        if part.kind == MESSAGE and not part.children:
            self.total += 1
            part.children.append(ModelPart(end, end, end, end))
        return part, hit

    def header(self, part: ModelPart, boundaries: list[bytes]) -> Hit | None:
        """Read up to the blank line (header_end is set then), a boundary line, or the end."""
        while self.at < len(self.lines):
            hit = self.hit(boundaries)
            if hit is not None:
                return hit
            start, line = self.lines[self.at]
            self.at += 1
            if line in (b"\n", b"\r\n"):
                part.fields_end, part.header_end = start, start + len(line)
                return None
            if line[:1] in (b" ", b"\t"):
                name, raw = part.fields.pop() if part.fields else (b"", b"")
                part.fields.append((name, raw + line))
                continue
            name, colon, _ = line.partition(b":")
            part.fields.append((name.rstrip(b" \t").lower() if colon else b"", line))
        return None

    def classify(self, part: ModelPart, in_digest: bool, depth: int) -> None:
        """Kind of a part whose header is known."""
        raw = next((raw for name, raw in part.fields if name == b"content-type"), None)
        if raw is None:
            if in_digest:
                part.kind, part.type, part.subtype = MESSAGE, b"message", b"rfc822"
        else:
            value = raw.partition(b":")[2].rstrip(b"\r\n").replace(b"\0", b"\xef\xbf\xbd")
            value = value.replace(b"\n\t", b"\n ").replace(b"\r\n", b"").replace(b"\n", b"").replace(b"\r", b" ")
            parsed = parse_content_type(value)
            if parsed is not None:
                part.type, part.subtype, part.params = parsed
                main, sub = part.type.lower(), part.subtype.lower()
                part.kind = {b"text": TEXT, b"multipart": MULTIPART}.get(main, LEAF)
                if (main, sub) == (b"message", b"rfc822"):
                    part.kind = MESSAGE
        if part.kind in (MULTIPART, MESSAGE) and (depth >= self.max_depth or self.total >= self.max_parts):
            part.kind = OPAQUE

    def body(self, part: ModelPart, boundaries: list[bytes], depth: int) -> Hit | None:
        """Read a body up to a boundary line of somebody else, or the end."""
        if part.kind == MESSAGE:
            child, hit = self.part(boundaries, depth + 1, in_digest=False)
            part.children.append(child)
            return hit
        own = next((value.rstrip() for name, value in part.params if name.lower() == b"boundary"), b"")
        if part.kind != MULTIPART or not own:
            return self.skip(boundaries)
        inside = [*boundaries, own]
        hit = self.skip(inside)
        while hit is not None and hit.which == len(boundaries):
            start, line = self.lines[self.at]
            self.at += 1
            if hit.last:
                self.floor = start
                return self.skip(boundaries)
            self.floor = start + len(line)
            child, hit = self.part(inside, depth + 1, in_digest=part.subtype.lower() == b"digest")
            part.children.append(child)
        return hit

    def skip(self, boundaries: list[bytes]) -> Hit | None:
        """Read up to a boundary line or the end."""
        while self.at < len(self.lines):
            hit = self.hit(boundaries)
            if hit is not None:
                return hit
            self.at += 1
        return None


def scan(data: bytes, max_depth: int = 100, max_parts: int = 10_000) -> ModelPart:
    """The part tree of a message; RFC 2231 boundaries are not understood here."""
    return Model(data, max_depth, max_parts).part([], 0, in_digest=False)[0]
