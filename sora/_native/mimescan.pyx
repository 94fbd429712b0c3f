"""MIME structure in one pass over the bytes, and the small grammars of its header fields.

The pass goes line by line. The open multiparts form a stack of boundaries, and the state is one of two: in a header, or
in a body. A line that begins with `--` and an open boundary ends every part inside that multipart; the line end in front
of it belongs to the boundary (RFC 2046 §5.1.1). No recursion, no look-ahead, no copy of the message; nothing raises.

Where the bytes are broken, this follows Dovecot unless an RFC says otherwise:

- a line end is LF, with or without CR before it; a lone CR is an ordinary octet
- the longest open boundary that a line begins with is meant, the innermost if two are equal
- a boundary line inside a header ends that header; the end of the message ends everything
- a line without colon inside a header is skipped, it does not end the header
- a multipart without a boundary is a multipart without parts
- past the limits (depth, number of parts) a part is opaque: its bytes are not looked into
"""

from __future__ import annotations

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp

from sora._native.mimefields import parse_content_type

ctypedef const unsigned char* octets

LEAF = 0
TEXT = 1
MULTIPART = 2
MESSAGE = 3
OPAQUE = 4

cdef enum:
    K_LEAF = 0
    K_TEXT = 1
    K_MULTIPART = 2
    K_MESSAGE = 3
    K_OPAQUE = 4

_PLAIN = (b"text", b"plain")

cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c + 32 if 65 <= c <= 90 else c


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == 32 or c == 9


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef bint same_text(octets a, octets b, Py_ssize_t n) noexcept nogil:
    """True if *a* is *b* but for case; *b* is in lower case."""
    cdef Py_ssize_t i
    for i in range(n):
        if lower(a[i]) != b[i]:
            return False
    return True


cdef inline octets start_of(bytes text) noexcept:
    return <octets>PyBytes_AS_STRING(text)


cdef inline bytes piece(octets p, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char*>p, n)


cdef bint is_word(bytes text, bytes word) noexcept:
    return PyBytes_GET_SIZE(text) == PyBytes_GET_SIZE(word) and same_text(
        start_of(text), start_of(word), PyBytes_GET_SIZE(word)
    )


# ------------------------------------------------------------------------------------------------------------ the tree

cdef struct Field:
    Py_ssize_t start       # of the line
    Py_ssize_t name_end    # behind the name; start, if there is none
    Py_ssize_t value       # behind the colon
    Py_ssize_t end         # behind the line end of the last continuation line


@cython.final
cdef class _Source:
    """The octets of a message, kept alive and in place: a bytes object, or a large message's mapped file."""

    cdef Py_buffer view

    def __cinit__(self, data not None):
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)  # does nothing where none was had


@cython.final
cdef class Part:
    """One part of a message: spans into its bytes, header fields, children."""

    cdef _Source source
    cdef Field* _fields
    cdef Py_ssize_t _count, _room
    cdef readonly Py_ssize_t header_start, fields_end, header_end, body_end
    cdef readonly Py_ssize_t header_lines, body_lines
    cdef readonly int kind
    cdef readonly bytes type, subtype
    cdef readonly list params, children
    cdef Py_ssize_t _line_start, _body_line
    cdef bint _header_done, _digest
    cdef Part _parent
    cdef int _depth

    def __cinit__(self):
        self._fields = NULL
        self._count = self._room = 0

    def __dealloc__(self):
        free(self._fields)

    @property
    def body_start(self):
        return self.header_end

    cdef int add_field(self, Py_ssize_t start, Py_ssize_t name_end, Py_ssize_t value, Py_ssize_t end) except -1:
        cdef Field* more
        cdef Py_ssize_t room
        if self._count == self._room:
            room = self._room * 2 if self._room else 16
            more = <Field*>realloc(self._fields, room * sizeof(Field))
            if more == NULL:
                raise MemoryError
            self._fields = more
            self._room = room
        self._fields[self._count] = Field(start, name_end, value, end)
        self._count += 1
        return 0

    cdef bint field_is(self, Py_ssize_t i, octets name, Py_ssize_t length) noexcept:
        cdef Field* field = &self._fields[i]
        return field.name_end - field.start == length and same_text(
            <octets>self.source.view.buf + field.start, name, length
        )

    cdef bytes field_value(self, Py_ssize_t i):
        return unfold_span(<octets>self.source.view.buf, self._fields[i].value, self._fields[i].end)

    def first(self, bytes name not None):
        """Value of the first field of a name in lower case, unfolded; None if there is none."""
        cdef Py_ssize_t i
        for i in range(self._count):
            if self.field_is(i, start_of(name), PyBytes_GET_SIZE(name)):
                return self.field_value(i)
        return None

    def last(self, bytes name not None):
        """Value of the last field of a name in lower case, unfolded; None if there is none."""
        cdef Py_ssize_t i
        for i in range(self._count - 1, -1, -1):
            if self.field_is(i, start_of(name), PyBytes_GET_SIZE(name)):
                return self.field_value(i)
        return None

    def every(self, bytes name not None):
        """Values of all fields of a name in lower case, unfolded, in order."""
        cdef Py_ssize_t i
        return [
            self.field_value(i)
            for i in range(self._count)
            if self.field_is(i, start_of(name), PyBytes_GET_SIZE(name))
        ]

    def fields(self):
        """Name as written and unfolded value of every field, in order."""
        cdef Py_ssize_t i
        cdef Field* field
        cdef octets p = <octets>self.source.view.buf
        result = []
        for i in range(self._count):
            field = &self._fields[i]
            if field.name_end > field.start:
                result.append((piece(p + field.start, field.name_end - field.start), self.field_value(i)))
        return result

    def lines(self):
        """Name in lower case (empty: a line without name), start and end of every field, in order."""
        cdef Py_ssize_t i
        cdef Field* field
        cdef octets p = <octets>self.source.view.buf
        result = []
        for i in range(self._count):
            field = &self._fields[i]
            result.append((piece(p + field.start, field.name_end - field.start).lower(), field.start, field.end))
        return result


cdef bytes unfold_span(octets p, Py_ssize_t start, Py_ssize_t end):
    """A field's value on one line (RFC 5322 §2.2.3), safe in IMAP text: no CR, LF or NUL is left."""
    cdef bytearray clean
    cdef Py_ssize_t i
    cdef bint special = False
    while start < end and is_space(p[start]):
        start += 1
    while end > start and (p[end - 1] == 10 or p[end - 1] == 13):
        end -= 1
    for i in range(start, end):
        if p[i] == 13 or p[i] == 10 or p[i] == 0:
            special = True
            break
    if not special:
        return piece(p + start, end - start)
    clean = bytearray()
    i = start
    while i < end:
        if p[i] == 10 or (p[i] == 13 and i + 1 < end and p[i + 1] == 10):
            i += 2 if p[i] == 13 else 1
            if i < end and p[i] == 9:  # Dovecot shows the tab of a folded line as a space
                clean.append(32)
                i += 1
        elif p[i] == 13:
            clean.append(32)
            i += 1
        elif p[i] == 0:
            clean += b"\xef\xbf\xbd"
            i += 1
        else:
            clean.append(p[i])
            i += 1
    return bytes(clean)


# ---------------------------------------------------------------------------------------------------------- the scanner

cdef struct Boundary:
    octets text
    Py_ssize_t length


@cython.final
cdef class _Scanner:
    """State of one pass."""

    cdef _Source source
    cdef octets p
    cdef Py_ssize_t size, line_no
    cdef int max_depth, total, max_parts
    cdef list boundaries     # bytes of the open ones, outermost first; keeps them alive
    cdef list owners         # their multiparts
    cdef Part part           # the innermost open part
    cdef Py_ssize_t floor    # behind the last boundary line that opened a part: nothing before it is given back
    cdef bint in_header

    def __init__(self, data not None, int max_depth, int max_parts):
        self.source = _Source(data)
        self.p = <octets>self.source.view.buf
        self.size = self.source.view.len
        self.line_no = 0
        self.max_depth = max_depth
        self.max_parts = max_parts
        self.total = 0
        self.boundaries = []
        self.owners = []
        self.part = None
        self.floor = 0

    cdef int open(self, Part parent, Py_ssize_t start) except -1:
        """Begin a part at *start*, where its header is expected."""
        cdef Part part = Part.__new__(Part)
        part.source = self.source
        part.header_start = part.fields_end = part.header_end = part.body_end = start
        part._line_start = self.line_no
        part.children = []
        part._parent = parent
        part.kind = K_TEXT
        part.type, part.subtype = _PLAIN
        part.params = []
        if parent is not None:
            part._depth = parent._depth + 1
            parent.children.append(part)
        self.total += 1
        self.part = part
        self.in_header = True
        return 0

    cdef int end_header(self, Part part, Py_ssize_t fields_end, Py_ssize_t header_end, Py_ssize_t line_no) except -1:
        """The header is whole: what kind of part is it?"""
        cdef bytes boundary = None
        part.fields_end = fields_end
        part.header_end = part.body_end = header_end
        part.header_lines = line_no - part._line_start
        part._body_line = line_no
        part._header_done = True
        self.in_header = False
        self.set_type(part)
        if part.kind == K_MULTIPART:
            boundary = boundary_of(part.params)
            part._digest = is_word(part.subtype, b"digest")
        if (part.kind == K_MULTIPART or part.kind == K_MESSAGE) and (
            part._depth >= self.max_depth or self.total >= self.max_parts
        ):
            part.kind = K_OPAQUE
        elif boundary is not None:
            self.boundaries.append(boundary)
            self.owners.append(part)
        return 0

    cdef int set_type(self, Part part) except -1:
        """Kind from the first Content-Type; without one it is text, or a message inside a digest."""
        value = part.first(b"content-type")
        if value is None:
            if part._parent is not None and part._parent._digest and part._parent.kind == K_MULTIPART:
                part.kind = K_MESSAGE
                part.type, part.subtype = b"message", b"rfc822"
            return 0
        parsed = parse_content_type(value)
        if parsed is None:  # RFC 2045 §5.2: what cannot be understood is plain text
            return 0
        part.type, part.subtype, part.params = parsed
        if is_word(part.type, b"text"):
            part.kind = K_TEXT
        elif is_word(part.type, b"multipart"):
            part.kind = K_MULTIPART
        elif is_word(part.type, b"message") and is_word(part.subtype, b"rfc822"):
            part.kind = K_MESSAGE
        else:
            part.kind = K_LEAF
        return 0

    cdef int find_boundary(self, Py_ssize_t start, Py_ssize_t end) noexcept:
        """Index of the open boundary that stands behind the dashes at *start*; -1 if none does."""
        cdef Py_ssize_t i, length, best_length = 0, room = end - start - 2
        cdef int best = -1
        cdef octets text = self.p + start + 2
        cdef bytes boundary
        for i in range(len(self.boundaries) - 1, -1, -1):
            boundary = <bytes>self.boundaries[i]
            length = PyBytes_GET_SIZE(boundary)
            if best_length < length <= room and memcmp(start_of(boundary), text, length) == 0:
                best = <int>i
                best_length = length
                if length == room or (length == room - 2 and text[length] == 45 and text[length + 1] == 45):
                    break
        return best

    cdef int finish(self, Part until, Py_ssize_t end, Py_ssize_t line_no) except -1:
        """End the innermost parts up to *until*, which stays open (None: all of them)."""
        cdef Part part = self.part, parent
        while part is not until:
            if part.header_start > end:  # a message that would begin behind that line end
                part.header_start = end
                part._line_start = line_no
            if not part._header_done:
                self.end_header(part, end, end, line_no)
                self.drop_boundaries(part)
            elif end < part.header_end:  # the blank line of the header was the line end of the boundary
                part.fields_end = min(part.fields_end, end)
                part.header_end = end
                part.header_lines = line_no - part._line_start
                part._body_line = line_no
            part.body_end = end
            part.body_lines = line_no - part._body_line
            if part.kind == K_MESSAGE and not part.children:
                self.open(part, end)
                self.part._line_start = line_no
                self.end_header(self.part, end, end, line_no)
                self.part._parent = None
            # A circle would keep the message in memory until the garbage collector comes by.
            parent, part._parent = part._parent, None
            part = parent
        self.part = until
        self.in_header = False
        return 0

    cdef int drop_boundaries(self, Part part) except -1:
        """Close the boundary that a header without body has just opened."""
        if self.owners and self.owners[len(self.owners) - 1] is part:
            self.owners.pop()
            self.boundaries.pop()
        return 0

    cdef int boundary_line(self, int which, Py_ssize_t start, Py_ssize_t line_end, Py_ssize_t next_start) except -1:
        """A boundary line: end what it ends, begin what it begins."""
        cdef Part owner = self.owners[which]
        cdef Py_ssize_t end = start, line_no = self.line_no
        cdef Py_ssize_t length = len(self.boundaries[which])
        cdef bint last = (
            line_end - start >= length + 4 and self.p[start + 2 + length] == 45 and self.p[start + 3 + length] == 45
        )
        if end > self.floor and self.p[end - 1] == 10:
            end -= 1
            line_no -= 1
            if end > self.floor and self.p[end - 1] == 13:
                end -= 1
        self.finish(owner, end, line_no)
        del self.boundaries[which + (0 if last else 1):]
        del self.owners[which + (0 if last else 1):]
        if next_start > line_end:
            self.line_no += 1
        self.floor = start
        if not last:
            self.open(owner, next_start)
            self.floor = next_start
        return 0

    cdef int header_line(self, Py_ssize_t start, Py_ssize_t line_end, Py_ssize_t next_start) except -1:
        """A line of a header: a field, its continuation, or the blank line."""
        cdef Part part = self.part
        cdef octets p = self.p
        cdef octets colon
        cdef Py_ssize_t name_end
        cdef Py_ssize_t stripped = line_end
        if stripped > start and next_start > line_end and p[stripped - 1] == 13:
            stripped -= 1
        self.line_no += 1 if next_start > line_end else 0
        if stripped == start:
            self.end_header(part, start, next_start, self.line_no)
            if part.kind == K_MESSAGE:
                self.open(part, next_start)
            return 0
        if is_blank(p[start]) and part._count:
            part._fields[part._count - 1].end = next_start
            return 0
        colon = <octets>memchr(p + start, 58, stripped - start)
        if colon == NULL or is_blank(p[start]):
            part.add_field(start, start, start, next_start)
            return 0
        name_end = colon - p
        while name_end > start and is_blank(p[name_end - 1]):
            name_end -= 1
        part.add_field(start, name_end, colon - p + 1, next_start)
        return 0

    cdef Part run(self):
        """Scan everything; the root part."""
        cdef Py_ssize_t pos = 0, line_end, next_start
        cdef octets newline
        cdef octets p = self.p
        cdef int which
        cdef Part root
        self.open(None, 0)
        root = self.part
        while pos < self.size:
            newline = <octets>memchr(p + pos, 10, self.size - pos)
            line_end = newline - p if newline != NULL else self.size
            next_start = line_end + 1 if newline != NULL else self.size
            if self.boundaries and line_end - pos > 2 and p[pos] == 45 and p[pos + 1] == 45 and (
                self.total < self.max_parts
            ):
                which = self.find_boundary(pos, self.stripped(pos, line_end))
                if which >= 0:
                    self.boundary_line(which, pos, line_end, next_start)
                    pos = next_start
                    continue
            if self.in_header:
                self.header_line(pos, line_end, next_start)
            elif newline != NULL:
                self.line_no += 1
            pos = next_start
        self.finish(None, self.size, self.line_no)
        return root

    cdef Py_ssize_t stripped(self, Py_ssize_t start, Py_ssize_t end) noexcept:
        """End of a line without its white space, which a relay may have added (RFC 2046 §5.1.1)."""
        while end > start and is_space(self.p[end - 1]):
            end -= 1
        return end


cdef bytes boundary_of(list params):
    """The boundary parameter, also in the pieces of RFC 2231 §3; None if there is none."""
    cdef bytes name, value
    pieces = []
    for name, value in params:
        name = name.lower()
        if name == b"boundary":
            return value.rstrip() or None
        if name.startswith(b"boundary*"):
            pieces.append(value)
    return b"".join(pieces).rstrip() or None


def scan(data not None, int max_depth=100, int max_parts=10000):
    """The part tree of a message."""
    cdef _Scanner scanner = _Scanner(data, max_depth, max_parts)
    return scanner.run()
