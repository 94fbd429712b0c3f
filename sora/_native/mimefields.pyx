"""The small grammars of MIME header fields, and values as IMAP text.

Parameters (RFC 2045 §5.1), address lists (RFC 5322 §3.4 with the obsolete forms of §4.4), strings and literals (RFC 3501
§4.3). Values come unfolded. Nothing raises: what is broken costs one parameter or one address, never the rest.
"""

from __future__ import annotations

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

ctypedef const unsigned char* octets

# What ends a token (RFC 2045 §5.1 tspecials, white space, controls); octets above 127 count as part of it.
cdef bint[256] TSPECIAL
# What ends a word of an address: the specials that give structure (RFC 5322 §3.2.3), and white space.
cdef bint[256] ADDRESS_STOP


cdef void _fill_tables() noexcept:
    cdef int i
    for i in range(256):
        TSPECIAL[i] = i <= 32 or i == 127
        ADDRESS_STOP[i] = i <= 32
    for i in b'()<>@,;:\\"/[]?=':
        TSPECIAL[i] = True
    for i in b'()<>@,;:\\".[':
        ADDRESS_STOP[i] = True


_fill_tables()


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c + 32 if 65 <= c <= 90 else c


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint same_text(octets a, octets b, Py_ssize_t n) noexcept nogil:
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


# ------------------------------------------------------------------------------------- Content-Type and other parameters

cdef struct Cursor:
    octets p
    Py_ssize_t pos, end


cdef void skip_comment(Cursor* c) noexcept nogil:
    """Behind the comment that begins here (RFC 5322 §3.2.2); an unfinished one reaches to the end."""
    cdef int depth = 0
    while c.pos < c.end:
        if c.p[c.pos] == 40:
            depth += 1
        elif c.p[c.pos] == 41:
            depth -= 1
            if depth == 0:
                c.pos += 1
                return
        elif c.p[c.pos] == 92 and c.pos + 1 < c.end:
            c.pos += 1
        c.pos += 1


cdef void skip_space(Cursor* c) noexcept nogil:
    """Behind white space and comments."""
    while c.pos < c.end:
        if is_space(c.p[c.pos]):
            c.pos += 1
        elif c.p[c.pos] == 40:
            skip_comment(c)
        else:
            return


cdef bytes take_token(Cursor* c):
    """Up to a tspecial or white space; may be empty."""
    cdef Py_ssize_t start = c.pos
    while c.pos < c.end and not TSPECIAL[c.p[c.pos]]:
        c.pos += 1
    return piece(c.p + start, c.pos - start)


cdef bytes take_quoted(Cursor* c):
    """The text of the quoted-string that begins here, without its quoting; an unfinished one reaches to the end."""
    cdef Py_ssize_t start
    cdef bytearray escaped = None
    c.pos += 1
    start = c.pos
    while c.pos < c.end and c.p[c.pos] != 34:
        if c.p[c.pos] == 92 and c.pos + 1 < c.end:
            if escaped is None:
                escaped = bytearray()
            escaped += piece(c.p + start, c.pos - start)
            c.pos += 1
            start = c.pos
        c.pos += 1
    text = piece(c.p + start, c.pos - start)
    if c.pos < c.end:
        c.pos += 1
    return text if escaped is None else bytes(escaped + text)


cdef void skip_to_semicolon(Cursor* c) noexcept nogil:
    """To the next semicolon outside of quotes, or to the end."""
    cdef bint quoted = False
    while c.pos < c.end:
        if c.p[c.pos] == 34:
            quoted = not quoted
        elif c.p[c.pos] == 92 and quoted:
            c.pos += 1
        elif c.p[c.pos] == 59 and not quoted:
            return
        c.pos += 1
    c.pos = c.end


cdef bytes take_value(Cursor* c):
    """A parameter's value. One with spaces or tspecials that should have been quoted is taken up to the semicolon."""
    cdef Py_ssize_t start, end
    if c.pos < c.end and c.p[c.pos] == 34:
        return take_quoted(c)
    start = c.pos
    value = take_token(c)
    end = c.pos
    skip_space(c)
    if c.pos >= c.end or c.p[c.pos] == 59:
        return value
    while c.pos < c.end and c.p[c.pos] != 59:
        c.pos += 1
    end = c.pos
    while end > start and is_space(c.p[end - 1]):
        end -= 1
    return piece(c.p + start, end - start)


cdef list take_params(Cursor* c):
    """`;name=value` pairs as sent (RFC 2045 §5.1), RFC 2231 forms untouched; what is broken is left out."""
    params = []
    while True:
        skip_to_semicolon(c)
        if c.pos >= c.end:
            return params
        c.pos += 1
        skip_space(c)
        name = take_token(c)
        skip_space(c)
        if not name or c.pos >= c.end or c.p[c.pos] != 61:
            continue
        c.pos += 1
        skip_space(c)
        params.append((name, take_value(c)))


cdef Cursor cursor_over(bytes value) noexcept:
    return Cursor(start_of(value), 0, PyBytes_GET_SIZE(value))


def parse_content_type(bytes value not None):
    """Type, subtype and parameters of an unfolded Content-Type; None if it is not one (RFC 2045 §5.1)."""
    cdef Cursor c = cursor_over(value)
    skip_space(&c)
    main = take_token(&c)
    skip_space(&c)
    if not main or c.pos >= c.end or c.p[c.pos] != 47:
        return None
    c.pos += 1
    skip_space(&c)
    sub = take_token(&c)
    if not sub:
        return None
    return main, sub, take_params(&c)


def parse_disposition(bytes value not None):
    """Kind and parameters of an unfolded Content-Disposition (RFC 2183 §2); None if it names no kind."""
    cdef Cursor c = cursor_over(value)
    skip_space(&c)
    kind = take_token(&c)
    if not kind:
        return None
    return kind, take_params(&c)


def parse_tokens(bytes value not None):
    """The tokens of an unfolded value such as Content-Language; what is between them is skipped."""
    cdef Cursor c = cursor_over(value)
    tokens = []
    while True:
        skip_space(&c)
        if c.pos >= c.end:
            return tokens
        token = take_token(&c)
        if token:
            tokens.append(token)
        else:
            c.pos += 1


# ------------------------------------------------------------------------------------------------------------ addresses

cdef class _Addresses:
    """Reads one address list (RFC 5322 §3.4 and §4.4) without ever giving up: what is broken costs one entry."""

    cdef Cursor c
    cdef bytes value
    cdef list found
    cdef Py_ssize_t limit
    cdef bint in_group
    # The phrase so far, words one space apart; the run: its last words that hang together by dots, without spaces.
    cdef bytearray phrase, run
    cdef Py_ssize_t phrase_before_run
    cdef Py_ssize_t at           # of the last `@` in the run, -1 if there is none
    cdef bytearray saved         # an earlier run that has one, and where
    cdef Py_ssize_t saved_at
    cdef bint quoted, glue, spaced
    cdef bytes comment

    def __init__(self, bytes value, Py_ssize_t limit):
        self.value = value
        self.limit = limit
        self.c = cursor_over(value)
        self.found = []
        self.in_group = False
        self.clear()

    cdef int clear(self) except -1:
        self.phrase = bytearray()
        self.run = bytearray()
        self.phrase_before_run = 0
        self.at = self.saved_at = -1
        self.saved = None
        self.quoted = self.glue = self.spaced = False
        self.comment = None
        return 0

    cdef int skip(self) except -1:
        """White space and comments; the last comment may turn out to be the name."""
        cdef Py_ssize_t start
        while self.c.pos < self.c.end:
            if is_space(self.c.p[self.c.pos]):
                self.c.pos += 1
            elif self.c.p[self.c.pos] == 40:
                start = self.c.pos
                skip_comment(&self.c)
                self.comment = comment_text(self.c.p, start + 1, self.c.pos)
            else:
                return 0
            self.spaced = True
        return 0

    cdef int add(self, bytes word, bint joiner) except -1:
        """Append a word, or a `.` or `@` that joins the words beside it."""
        cdef bint joined = joiner or self.glue
        if not self.phrase:
            self.comment = None  # only a comment behind an address names its owner
        if self.spaced and self.phrase:
            self.phrase.append(32)
        if not joined and self.phrase:
            if self.at >= 0:
                self.saved, self.saved_at = self.run, self.at
            self.run = bytearray()
            self.at = -1
            self.phrase_before_run = len(self.phrase)
        self.phrase += word
        self.run += word
        self.glue = joiner
        self.spaced = False
        return 0

    cdef list parse(self):
        cdef unsigned char mark
        while True:
            if 0 <= self.limit <= len(self.found):
                self.c.pos = self.c.end  # as if the list ended here: a group that is open is closed
                self.clear()
            self.skip()
            mark = self.c.p[self.c.pos] if self.c.pos < self.c.end else 44
            if mark == 44 or mark == 59 or self.c.pos >= self.c.end:  # , ;
                self.end_bare()
                if self.in_group and (mark == 59 or self.c.pos >= self.c.end):
                    self.in_group = False
                    self.found.append((None, None, None, None))
                if self.c.pos >= self.c.end:
                    return self.found
                self.c.pos += 1
            elif mark == 60:  # <
                self.angle()
            elif mark == 58 and self.phrase and not self.in_group and self.at < 0:  # :
                self.c.pos += 1
                self.in_group = True
                self.found.append((None, None, bytes(self.phrase), None))
                self.clear()
            else:
                self.word(mark)

    cdef int word(self, unsigned char mark) except -1:
        """Take a word of a phrase or of an addr-spec."""
        cdef Py_ssize_t start = self.c.pos
        if mark == 34:
            self.add(take_quoted(&self.c), False)
            self.quoted = True
        elif mark == 46:
            self.c.pos += 1
            self.add(b".", True)
        elif mark == 64:
            self.c.pos += 1
            self.add(b"@", True)
            self.at = len(self.run) - 1
        elif mark == 91:
            while self.c.pos < self.c.end and self.c.p[self.c.pos] != 93 and self.c.p[self.c.pos] != 44:
                self.c.pos += 1
            if self.c.pos < self.c.end and self.c.p[self.c.pos] == 93:
                self.c.pos += 1
            self.add(piece(self.c.p + start, self.c.pos - start), False)
        else:
            self.c.pos += 1
            while self.c.pos < self.c.end and not ADDRESS_STOP[self.c.p[self.c.pos]]:
                self.c.pos += 1
            self.add(piece(self.c.p + start, self.c.pos - start), False)
        return 0

    cdef int end_bare(self) except -1:
        """A comma, a semicolon or the end: what was gathered is an address without angle brackets."""
        if self.at < 0 and self.saved is not None:
            self.run, self.at = self.saved, self.saved_at
            self.phrase_before_run = 0
        if self.at >= 0:
            name = bytes(self.phrase[:self.phrase_before_run]).rstrip() or self.comment or None
            self.found.append((name, None, bytes(self.run[:self.at]), bytes(self.run[self.at + 1:])))
        elif self.phrase and self.phrase == self.run and not self.quoted:
            self.found.append((self.comment or None, None, bytes(self.run), b""))
        elif self.phrase:
            self.found.append((bytes(self.phrase), None, b"", b""))
        self.clear()
        return 0

    cdef int angle(self) except -1:
        """`<...>` behind a display name (RFC 5322 §4.4: with a route before the address)."""
        cdef unsigned char mark
        name = bytes(self.phrase) or None
        self.clear()
        self.c.pos += 1
        self.skip()
        route = self.route()
        while True:
            self.skip()
            mark = self.c.p[self.c.pos] if self.c.pos < self.c.end else 62
            if mark == 62 or mark == 44 or mark == 60:
                break
            self.word(mark)
        if self.at >= 0:
            mailbox, host = bytes(self.run[:self.at]), bytes(self.run[self.at + 1:])
        else:
            mailbox, host = bytes(self.phrase), b""
        self.comment = None
        self.skip_tail(mark)
        self.found.append((name or self.comment or None, route, mailbox, host))
        self.clear()
        return 0

    cdef bytes route(self):
        """The source route in front of an addr-spec, without white space; None if there is none."""
        cdef Py_ssize_t i = self.c.pos
        cdef octets p = self.c.p
        if i >= self.c.end or (p[i] != 64 and p[i] != 44):
            return None
        while i < self.c.end and p[i] != 58 and p[i] != 60 and p[i] != 62:
            i += 1
        if i >= self.c.end or p[i] != 58:
            return None
        text = piece(p + self.c.pos, i - self.c.pos)
        self.c.pos = i + 1
        return b"".join(text.split())

    cdef int skip_tail(self, unsigned char mark) except -1:
        """From the closing bracket to the next comma, semicolon or opening bracket; a comment there may be the name."""
        if self.c.pos >= self.c.end or mark != 62:
            return 0
        self.c.pos += 1
        while True:
            self.skip()
            if self.c.pos >= self.c.end:
                return 0
            mark = self.c.p[self.c.pos]
            if mark == 44 or mark == 59 or mark == 60:
                return 0
            if mark == 34:
                take_quoted(&self.c)
            else:
                self.c.pos += 1


cdef bytes comment_text(octets p, Py_ssize_t start, Py_ssize_t end):
    """What stands in a comment, without its quoting."""
    if end > start and p[end - 1] == 41:
        end -= 1
    text = piece(p + start, end - start)
    if b"\\" not in text:
        return text.strip()
    clean = bytearray()
    i = 0
    while i < len(text):
        if text[i] == 92 and i + 1 < len(text):
            i += 1
        clean.append(text[i])
        i += 1
    return bytes(clean).strip()


def parse_addresses(bytes value not None, Py_ssize_t limit=-1):
    """Name, route, mailbox and host of every address of an unfolded list, in order, up to `limit` if it is not negative."""
    cdef _Addresses parser = _Addresses(value, limit)
    return parser.parse()


# ------------------------------------------------------------------------------------------------------------ IMAP text

def nstring(bytes value):
    """NIL, a quoted string, or a literal for what cannot be quoted (RFC 3501 §4.3)."""
    cdef octets p
    cdef Py_ssize_t i, n, escapes = 0
    cdef bytes out
    cdef unsigned char* q
    if value is None:
        return b"NIL"
    p = start_of(value)
    n = PyBytes_GET_SIZE(value)
    for i in range(n):
        if p[i] > 127 or p[i] == 13 or p[i] == 10 or p[i] == 0:
            if p[i] == 0 or b"\0" in value:
                value = value.replace(b"\0", b"\xef\xbf\xbd")
            return b"{%d}\r\n%b" % (len(value), value)
        if p[i] == 34 or p[i] == 92:
            escapes += 1
    out = PyBytes_FromStringAndSize(NULL, n + escapes + 2)
    q = <unsigned char*>PyBytes_AS_STRING(out)
    q[0] = 34
    q += 1
    if escapes == 0:
        memcpy(q, p, n)
        q += n
    else:
        for i in range(n):
            if p[i] == 34 or p[i] == 92:
                q[0] = 92
                q += 1
            q[0] = p[i]
            q += 1
    q[0] = 34
    return out


# BODY from BODYSTRUCTURE: every body loses its extension data (RFC 3501 §7.4.2). The input is our own output.

cdef Py_ssize_t skip_value(octets p, Py_ssize_t pos, Py_ssize_t end) noexcept nogil:
    """Behind the value that begins here: atom, string, literal or list."""
    cdef Py_ssize_t size
    cdef int depth = 0
    while pos < end:
        if p[pos] == 40:
            depth += 1
            pos += 1
        elif p[pos] == 41:
            depth -= 1
            pos += 1
        elif p[pos] == 32:
            pos += 1
            continue
        elif p[pos] == 34:
            pos += 1
            while pos < end and p[pos] != 34:
                pos += 2 if p[pos] == 92 else 1
            pos += 1
        elif p[pos] == 123:
            size = 0
            pos += 1
            while pos < end and p[pos] != 125:
                size = size * 10 + p[pos] - 48
                pos += 1
            pos += 3 + size
        else:
            while pos < end and p[pos] != 32 and p[pos] != 41 and p[pos] != 40:
                pos += 1
        if depth <= 0:
            break
    return pos if pos < end else end


cdef Py_ssize_t copy_body(octets p, Py_ssize_t pos, Py_ssize_t end, bytearray out) except -1:
    """Append the body that begins here, without extension data; gives the position behind it."""
    cdef Py_ssize_t start = pos, close = skip_value(p, pos, end), stop
    cdef int field = 0, keep
    if pos >= end or p[pos] != 40:
        out += piece(p + pos, close - pos)
        return close
    pos += 1
    if p[pos] == 40:
        out.append(40)
        while pos < close and p[pos] == 40:
            pos = copy_body(p, pos, close, out)
        stop = skip_value(p, pos, close)
        out += piece(p + pos, stop - pos)
        out.append(41)
        return close
    keep = fields_kept(p, pos, close)
    while field < keep and pos < close - 1:
        if field == 8 and keep == 10:
            out += piece(p + start, pos + 1 - start)
            pos = start = copy_body(p, pos + 1, close, out)
        else:
            pos = skip_value(p, pos, close)
        field += 1
    out += piece(p + start, pos - start)
    out.append(41)
    return close


cdef const char* TEXT_PART = b'"text"'
cdef const char* MESSAGE_PART = b'"message" "rfc822"'


cdef int fields_kept(octets p, Py_ssize_t pos, Py_ssize_t end) noexcept nogil:
    """How many fields a single part has before its extension data: more for text and for messages."""
    if end - pos > 6 and same_text(p + pos, <octets>TEXT_PART, 6):
        return 8
    if end - pos > 18 and same_text(p + pos, <octets>MESSAGE_PART, 18):
        return 10
    return 7


def strip_extensions(bytes structure not None):
    """BODY from BODYSTRUCTURE."""
    cdef bytearray out = bytearray()
    copy_body(start_of(structure), 0, PyBytes_GET_SIZE(structure), out)
    return bytes(out)
