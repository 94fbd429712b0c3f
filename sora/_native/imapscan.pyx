# cython: language_level=3, cdivision=True, auto_pickle=False
"""IMAP command scanner (sans-IO) and the cursor that the grammar reads a command with.

The scanner cuts the stream into commands and does nothing else: it looks for line ends and for `{n}` before them, and
reads tag and name. What stands behind the name is read by the cursor when the grammar asks for it. Rules:

* A literal is decided before a byte of it is read: `next()` gives NeedLiteral until accept(), stream() or discard().
* Whatever the tail of a line announces is believed, even where the grammar allows no literal: a client that sends
  `{n+}` sends n bytes behind it, and they must never be taken for commands.
* max_line bounds the text of a command, all its lines together, literals aside. A longer one is thrown away up to its
  line end as it arrives; the literals `{n+}` behind it are drained too.
* The result depends on the bytes only, never on how they were cut into pieces.
"""

from base64 import b64decode, b64encode
from datetime import date, datetime, timedelta, timezone

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

from sora._native.bytescan cimport is_digit, scan_number, upper
from sora._native.seqset cimport NumSet, SeqSet, UidSet, numset_parse

from sora.errors import BadSyntax, LineTooLong

cdef enum:
    KEEP_BUFFER = 1024      # a larger buffer is given back once it is empty: most sessions are idle
    TAIL = 64               # bytes kept of a line that is thrown away, to see the literal at its end

    # RFC 9051 §9
    ATOM = 1                # ATOM-CHAR
    ASTRING = 2             # ASTRING-CHAR = ATOM-CHAR / resp-specials
    LIST = 4                # list-char = ATOM-CHAR / list-wildcards / resp-specials
    TAG = 8                 # any ASTRING-CHAR except "+"
    NAME = 16               # letters, digits, "." "-" "_": the names of FETCH items
    NUMSET = 32             # digits , : * $

cdef uint8_t CLASSES[256]


cdef void fill_classes():
    cdef int c
    for c in range(33, 127):
        if c not in b'(){%*"\\]':
            CLASSES[c] |= ATOM
        if CLASSES[c] & ATOM or c == c']':
            CLASSES[c] |= ASTRING | LIST
        if c in b"%*":
            CLASSES[c] |= LIST
        if CLASSES[c] & ASTRING and c != c'+':
            CLASSES[c] |= TAG
        if 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122 or c in b".-_":
            CLASSES[c] |= NAME
        if 48 <= c <= 57 or c in b",:*$":
            CLASSES[c] |= NUMSET


fill_classes()

cdef dict MONTHS = {
    name: number
    for number, name in enumerate(
        (b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN", b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC"), 1
    )
}
cdef dict FLAGS = {
    flag.upper(): flag for flag in (rb"\Seen", rb"\Answered", rb"\Flagged", rb"\Deleted", rb"\Draft", rb"\Recent")
}


# --- modified UTF-7 (RFC 3501 §5.1.3) --------------------------------------------------------------------------------


def encode_utf7(str name not None):
    """Mailbox name to modified UTF-7."""
    cdef list out = []
    cdef Py_ssize_t i = 0, start, n = len(name)
    if name.isascii() and name.isprintable() and "&" not in name:
        return name.encode()
    while i < n:
        start = i
        while i < n and not " " <= name[i] <= "~":
            i += 1
        if i > start:
            shifted = b64encode(name[start:i].encode("utf-16-be"), b"+,").rstrip(b"=")
            out.append(b"&" + shifted + b"-")
            continue
        while i < n and " " <= name[i] <= "~":
            i += 1
        out.append(name[start:i].encode().replace(b"&", b"&-"))
    return b"".join(out)


def decode_utf7(bytes name not None):
    """Mailbox name from modified UTF-7; only the one spelling that encode_utf7() gives is accepted."""
    cdef list out = []
    cdef Py_ssize_t i = 0, start, end
    if b"&" not in name and name.isascii():
        return _printable(name)
    while i < len(name):
        start = name.find(b"&", i)
        if start < 0:
            start = len(name)
        out.append(_printable(name[i:start]))
        if start == len(name):
            break
        end = name.find(b"-", start)
        if end < 0:
            raise BadSyntax("Mailbox name: a shift in modified UTF-7 does not end")
        out.append("&" if end == start + 1 else _unshift(name[start + 1 : end]))
        i = end + 1
    decoded = "".join(out)
    if "\0" in decoded or encode_utf7(decoded) != name:
        raise BadSyntax("Mailbox name: not the canonical modified UTF-7")
    return decoded


def _printable(bytes run):
    if not run.isascii() or not run.decode().isprintable():
        raise BadSyntax("Mailbox name: neither printable ASCII nor modified UTF-7")
    return run.decode()


def _unshift(bytes shifted):
    try:
        return b64decode(shifted + b"=" * ((4 - len(shifted) % 4) % 4), b"+,", validate=True).decode("utf-16-be")
    except ValueError as e:
        raise BadSyntax("Mailbox name: bad modified UTF-7") from e


# --- what the scanner gives ------------------------------------------------------------------------------------------

cdef enum:
    PENDING = 0
    HELD = 1
    STREAMED = 2


@cython.final
@cython.freelist(8)
cdef class Literal:
    """A literal inside a command; `data` is None if it was streamed or is still to come."""

    cdef readonly object size
    cdef readonly bint binary
    cdef readonly bytes data
    cdef int state
    cdef Py_ssize_t start       # of `{n}` or `~{n}` in the text of the command
    cdef Py_ssize_t end

    def __repr__(self):
        return f"Literal(size={self.size}, binary={self.binary})"


@cython.final
@cython.freelist(8)
cdef class NeedLiteral:
    """A literal is announced; nothing of it has been read."""

    cdef readonly uint64_t size
    cdef readonly bint synchronizing
    cdef readonly bint binary

    def __repr__(self):
        return f"NeedLiteral(size={self.size}, synchronizing={self.synchronizing}, binary={self.binary})"


@cython.final
@cython.freelist(8)
cdef class Command:
    """A command, whole or (from Scanner.partial()) up to a literal that is not yet read."""

    cdef readonly bytes tag
    cdef readonly bytes name
    cdef readonly bint uid
    cdef readonly Cursor cursor

    def __repr__(self):
        return f"Command(tag={self.tag}, name={self.name})"


# The literal that the text p[0..n) announces at its end: where its `{` or `~{` stands, or -1.
cdef Py_ssize_t literal_at_end(const unsigned char *p, Py_ssize_t n, uint64_t *size, bint *sync, bint *binary) noexcept nogil:
    cdef Py_ssize_t i = n - 1, end
    if i < 2 or p[i] != c'}':
        return -1
    sync[0] = p[i - 1] != c'+'
    if not sync[0]:
        i -= 1
    end = i
    while i > 0 and is_digit(p[i - 1]):
        i -= 1
    if i == end or i == 0 or p[i - 1] != c'{':
        return -1
    scan_number(p + i, p + end, size)
    i -= 1
    binary[0] = i > 0 and p[i - 1] == c'~'
    return i - 1 if binary[0] else i


cdef Py_ssize_t span(const unsigned char *p, Py_ssize_t pos, Py_ssize_t end, uint8_t wanted) noexcept nogil:
    while pos < end and CLASSES[p[pos]] & wanted:
        pos += 1
    return pos


cdef bytes upper_bytes(const unsigned char *p, Py_ssize_t n):
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
    cdef char *out = PyBytes_AS_STRING(made)
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = upper(p[i])
    return made


# --- the scanner -----------------------------------------------------------------------------------------------------

cdef enum:
    LINE = 0            # reading a line of a command
    DECIDE = 1          # NeedLiteral was given
    HOLD = 2            # a literal comes into memory
    STREAM = 3          # the session takes it
    DRAIN_LITERAL = 4   # it is thrown away, and then
    DRAIN_LINE = 5      # the rest of its command


@cython.final
cdef class Scanner:
    """Cuts what a client sends into commands."""

    cdef public bytes tag
    cdef public bint utf8
    cdef readonly uint64_t held
    cdef uint64_t left              # of a literal, in HOLD, STREAM and DRAIN_LITERAL
    cdef public Py_ssize_t max_line
    cdef int state
    cdef unsigned char *buffer      # received and not consumed: [start, end), no LF before `scanned`
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef Py_ssize_t scanned
    cdef Py_ssize_t room
    cdef Py_ssize_t text_size       # of the lines of this command that were consumed
    cdef list lines                 # ... and they themselves, if there is a literal
    cdef list literals
    cdef bytes holding              # the literal that comes into memory, filled as it arrives
    cdef Command command            # being read
    cdef NeedLiteral need
    cdef bytes tail                 # end of a line in DRAIN_LINE
    cdef bint line_too_long         # take_line() is throwing a line away

    def __init__(self, Py_ssize_t max_line=65536, bint utf8=False):
        if max_line < 1:
            raise ValueError("max_line must be positive")
        self.max_line = max_line
        self.utf8 = utf8
        self.tail = b""

    def __dealloc__(self):
        free(self.buffer)

    # --- buffer ---

    def feed(self, data not None):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.reserve(view.len)
            memcpy(self.buffer + self.end, view.buf, view.len)
            self.end += view.len
        finally:
            PyBuffer_Release(&view)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef unsigned char *grown
        cdef Py_ssize_t room
        if self.end + more <= self.room and self.room:
            return 0
        if self.start:
            memmove(self.buffer, self.buffer + self.start, self.end - self.start)
            self.end -= self.start
            self.scanned -= self.start
            self.start = 0
        if self.end + more > self.room or not self.room:
            room = max(self.end + more, min(2 * self.room, self.end + more + 1048576), 256)
            grown = <unsigned char *>realloc(self.buffer, room)
            if grown == NULL:
                raise MemoryError
            self.buffer = grown
            self.room = room
        return 0

    cdef void consume(self, Py_ssize_t n) noexcept:
        self.start += n
        self.scanned = self.start
        if self.start == self.end:
            self.start = self.end = self.scanned = 0
            if self.room > KEEP_BUFFER:
                free(self.buffer)
                self.buffer = NULL
                self.room = 0

    # Length of the line that begins at start, without its LF; -1 if it has not ended.
    cdef Py_ssize_t find_line(self) noexcept:
        cdef const unsigned char *found = NULL
        if self.scanned < self.end:
            found = <const unsigned char *>memchr(self.buffer + self.scanned, c'\n', self.end - self.scanned)
        if found == NULL:
            self.scanned = self.end
            return -1
        self.scanned = found - self.buffer
        return self.scanned - self.start

    @property
    def buffered(self):
        return self.end - self.start

    @property
    def remaining(self):
        return self.left if self.state == STREAM else 0

    def clear(self):
        """Everything received is thrown away, a command being read too."""
        self.consume(self.end - self.start)
        self.forget()
        self.state = LINE
        self.left = 0
        self.line_too_long = False

    # --- commands ---

    def next(self):
        """The next command, a literal to decide on, or None if more bytes are needed."""
        while True:
            if self.state == LINE:
                return self.next_line()
            if self.state == DECIDE:
                return self.need
            if self.state == HOLD:
                if not self.hold_literal():
                    return None
            elif self.state == STREAM:
                if self.left:
                    return None
                self.state = LINE
            elif self.state == DRAIN_LITERAL:
                if not self.drain_literal():
                    return None
            elif not self.drain_line():
                return None

    cdef object next_line(self):
        cdef Py_ssize_t n = self.find_line(), size
        cdef uint64_t literal_size = 0
        cdef bint sync = False, binary = False
        if (n if n >= 0 else self.end - self.start) + self.text_size > self.max_line:
            self.refuse_long_line()
        if n < 0:
            return None
        size = n - 1 if n and self.buffer[self.start + n - 1] == c'\r' else n
        at = literal_at_end(self.buffer + self.start, size, &literal_size, &sync, &binary)
        line = PyBytes_FromStringAndSize(<char *>self.buffer + self.start, size)
        self.consume(n + 1)
        if self.command is None:
            try:
                self.begin(line)
            except BadSyntax:
                self.abandon(at >= 0 and not sync, literal_size)
                raise
        if at < 0:
            return self.complete(line)
        return self.announce(line, at, literal_size, sync, binary)

    # A command begins: tag SP name, name being two words for UID.
    cdef int begin(self, bytes line) except -1:
        cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(line)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(line), tag_end = span(p, 0, n, TAG), start, end
        cdef Command command
        self.tag = None
        if tag_end == 0 or (tag_end < n and p[tag_end] != c' '):
            raise BadSyntax("A command begins with a tag")
        self.tag = line[:tag_end]
        start = tag_end + 1
        end = span(p, start, n, ATOM)
        if end <= start:
            raise BadSyntax("The name of the command is missing")
        command = Command.__new__(Command)
        if end - start == 3 and upper_bytes(p + start, 3) == b"UID" and end < n and p[end] == c' ':
            command.uid = span(p, end + 1, n, ATOM) > end + 1
            if command.uid:
                end = span(p, end + 1, n, ATOM)
        if end < n and p[end] != c' ':
            raise BadSyntax("The name of the command has a character that is not allowed")
        command.tag = self.tag
        command.name = upper_bytes(p + start, end - start)
        command.cursor = Cursor.__new__(Cursor)
        command.cursor.uid = command.uid
        command.cursor.utf8 = self.utf8
        command.cursor.pos = end
        self.command = command
        return 0

    # Spaces at the end of a command are forgiven, here once for all commands.
    cdef Command complete(self, bytes line):
        cdef Command command = self.command
        line = line.rstrip(b" ")
        if self.lines is not None:
            self.lines.append(line)
            line = b"".join(self.lines)
        command.cursor.extend(line, self.literals)
        self.forget()
        return command

    cdef NeedLiteral announce(self, bytes line, Py_ssize_t at, uint64_t size, bint sync, bint binary):
        cdef Literal literal = Literal.__new__(Literal)
        literal.size = size
        literal.binary = binary
        literal.start = self.text_size + at
        self.text_size += len(line)
        literal.end = self.text_size
        if self.lines is None:
            self.lines = []
            self.literals = []
        self.lines.append(line)
        self.literals.append(literal)
        self.need = NeedLiteral.__new__(NeedLiteral)
        self.need.size = size
        self.need.synchronizing = sync
        self.need.binary = binary
        self.left = size
        self.state = DECIDE
        return self.need

    # The command being read is no more; `tag` stays for the answer.
    cdef void forget(self):
        self.command = None
        self.lines = None
        self.literals = None
        self.need = None
        self.holding = None
        self.text_size = 0
        self.held = 0

    # Give the command up; a literal that the client sends without waiting is on its way.
    cdef void abandon(self, bint literal_follows, uint64_t size):
        self.forget()
        self.left = size if literal_follows else 0
        self.state = DRAIN_LITERAL if literal_follows else LINE

    cdef int refuse_long_line(self) except -1:
        cdef Py_ssize_t seen = min(self.end - self.start, self.max_line + 1), tag_end
        if self.command is None:
            tag_end = span(self.buffer + self.start, 0, seen, TAG)
            self.tag = None
            if 0 < tag_end < seen and self.buffer[self.start + tag_end] == c' ':
                self.tag = PyBytes_FromStringAndSize(<char *>self.buffer + self.start, tag_end)
        self.forget()
        self.scanned = self.start
        self.tail = b""
        self.state = DRAIN_LINE
        raise LineTooLong("The command line is too long")

    # --- literals ---

    def partial(self):
        """The command being read, up to the literal that was announced."""
        if self.lines is None:
            return None
        self.lines = [b"".join(self.lines)]     # the next time only one has to be put behind it
        self.command.cursor.extend(self.lines[0], self.literals)
        return self.command

    cdef Literal decided(self):
        if self.state != DECIDE:
            raise RuntimeError("no literal waits for a decision")
        return <Literal>self.literals[len(self.literals) - 1]

    # The bytes go to their place as they arrive, so that a large literal is in memory once. The room is not touched
    # before, so announcing much and sending nothing costs next to nothing.
    def accept(self):
        cdef Literal literal = self.decided()
        if self.left >> 62:
            raise MemoryError
        self.holding = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.left)
        literal.state = HELD
        self.held += self.left
        self.state = HOLD

    def stream(self):
        self.decided().state = STREAMED
        self.state = STREAM

    def take(self, Py_ssize_t n):
        cdef Py_ssize_t available = self.end - self.start
        cdef bytes taken
        if self.state != STREAM:
            raise RuntimeError("no literal is being streamed")
        if n < 0:
            raise ValueError("a negative number of bytes")
        if <uint64_t>available > self.left:
            available = <Py_ssize_t>self.left
        n = min(n, available)
        if n == 0:
            return b""
        taken = PyBytes_FromStringAndSize(<char *>self.buffer + self.start, n)
        self.consume(n)
        self.left -= n
        return taken

    def discard(self):
        """Nothing happens between commands."""
        if self.command is None:
            return
        if self.state == DECIDE:
            self.abandon(not self.need.synchronizing, self.left)
        else:
            # Accepted or streamed already: the client sends it in any case.
            self.abandon(True, self.left)

    cdef bint hold_literal(self) except -1:
        cdef Py_ssize_t n = <Py_ssize_t>min(self.left, <uint64_t>(self.end - self.start))
        cdef Py_ssize_t filled = PyBytes_GET_SIZE(self.holding) - <Py_ssize_t>self.left
        if n:
            memcpy(PyBytes_AS_STRING(self.holding) + filled, self.buffer + self.start, n)
            self.consume(n)
            self.left -= n
        if self.left:
            return False
        (<Literal>self.literals[len(self.literals) - 1]).data = self.holding
        self.holding = None
        self.state = LINE
        return True

    cdef bint drain_literal(self) except -1:
        cdef uint64_t n = min(self.left, <uint64_t>(self.end - self.start))
        self.consume(<Py_ssize_t>n)
        self.left -= n
        if self.left:
            return False
        self.tail = b""
        self.state = DRAIN_LINE
        return True

    # Throw a line away; what it announces at its end is thrown away too, unless the client waits to be asked for it.
    cdef bint drain_line(self) except -1:
        cdef Py_ssize_t n = self.find_line(), size
        cdef uint64_t literal_size = 0
        cdef bint sync = False, binary = False
        size = n if n >= 0 else self.end - self.start
        kept = PyBytes_FromStringAndSize(<char *>self.buffer + self.start + max(size - TAIL, 0), min(size, TAIL))
        self.tail = (self.tail + kept)[-TAIL:]
        self.consume(size if n < 0 else n + 1)
        if n < 0:
            return False
        line = self.tail.removesuffix(b"\r")
        at = literal_at_end(<const unsigned char *>PyBytes_AS_STRING(line), len(line), &literal_size, &sync, &binary)
        self.tail = b""
        self.abandon(at >= 0 and not sync, literal_size)
        return True

    # --- other lines ---

    def take_line(self, Py_ssize_t max_line=65536):
        cdef Py_ssize_t n = self.find_line(), size
        cdef bint refused = False
        if self.state != LINE or self.command is not None:
            raise RuntimeError("a command is being read")
        size = n if n >= 0 else self.end - self.start
        if self.line_too_long:
            self.consume(size if n < 0 else n + 1)
            if n < 0:
                return None
            self.line_too_long = False
            return self.take_line(max_line)
        if size > max_line:
            self.consume(size if n < 0 else n + 1)
            self.line_too_long = n < 0
            raise LineTooLong
        if n < 0:
            return None
        if size and self.buffer[self.start + size - 1] == c'\r':
            size -= 1
        line = PyBytes_FromStringAndSize(<char *>self.buffer + self.start, size)
        self.consume(n + 1)
        return line


# --- the cursor ------------------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(8)
cdef class Cursor:
    """Reads the arguments of a command, left to right. All methods raise BadSyntax with a reason."""

    cdef public bint uid
    cdef public bint utf8
    cdef bytes source           # the lines of the command on end, without their ends
    cdef list literals
    cdef const unsigned char *p
    cdef Py_ssize_t pos
    cdef Py_ssize_t size
    cdef Py_ssize_t line        # literals that begin before pos

    cdef void extend(self, bytes text, list literals):
        self.source = text
        self.p = <const unsigned char *>PyBytes_AS_STRING(text)
        self.size = PyBytes_GET_SIZE(text)
        self.literals = literals if literals is not None else []

    def __repr__(self):
        return f"Cursor(at {self.pos} of {self.size})"

    cdef object bad(self, str why):
        return BadSyntax(why)

    # --- small steps ---

    cdef inline Literal here(self):
        cdef Literal literal
        if self.line < len(self.literals):
            literal = self.literals[self.line]
            if literal.start == self.pos:
                return literal
        return None

    def sp(self):
        if self.pos >= self.size or self.p[self.pos] != c' ':
            raise self.bad("A space is missing")
        self.pos += 1
        return self

    cdef bint matches(self, bytes text):
        cdef const unsigned char *t = <const unsigned char *>PyBytes_AS_STRING(text)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(text), i
        if self.size - self.pos < n:
            return False
        for i in range(n):
            if upper(self.p[self.pos + i]) != upper(t[i]):
                return False
        return True

    def skip(self, bytes text not None):
        if not self.matches(text):
            return False
        self.pos += PyBytes_GET_SIZE(text)
        return True

    def expect(self, bytes text not None):
        if not self.skip(text):
            raise self.bad(f"{text.decode()} is missing")
        return self

    def peek(self):
        return self.p[self.pos] if self.pos < self.size else -1

    def at_end(self):
        return self.pos >= self.size

    def end(self):
        if self.pos < self.size:
            raise self.bad("Something follows the last argument")

    def at_literal(self):
        return self.here() is not None

    def at_pending(self):
        cdef Literal literal = self.here()
        return literal is not None and literal.state == PENDING

    def mark(self):
        return self.pos

    def reset(self, Py_ssize_t mark):
        if not 0 <= mark <= self.pos:
            raise ValueError("not a mark of this cursor")
        self.pos = mark
        while self.line and (<Literal>self.literals[self.line - 1]).start >= mark:
            self.line -= 1

    def rest(self):
        cdef bytes found = self.source[self.pos:]
        self.pos = self.size
        return found

    # --- words ---

    cdef bytes run(self, uint8_t wanted, str what):
        cdef Py_ssize_t end = span(self.p, self.pos, self.size, wanted)
        if end == self.pos:
            raise self.bad(f"{what} is missing")
        found = PyBytes_FromStringAndSize(<char *>self.p + self.pos, end - self.pos)
        self.pos = end
        return found

    def atom(self):
        return self.run(ATOM, "An atom")

    def keyword(self):
        return self.run(ATOM, "A keyword").upper()

    def name(self):
        return self.run(NAME, "A name").upper()

    # quoted = DQUOTE *QUOTED-CHAR DQUOTE, the first DQUOTE being at pos
    cdef bytes quoted(self):
        cdef Py_ssize_t start = self.pos + 1, i = start
        cdef bint escaped = False
        while i < self.size and self.p[i] != c'"':
            if self.p[i] == c'\\':
                escaped = True
                i += 1
                if i == self.size or self.p[i] not in (c'"', c'\\'):
                    raise self.bad("A backslash in a quoted string stands before neither a quote nor a backslash")
            elif self.p[i] == 0 or self.p[i] == c'\r':
                raise self.bad("A quoted string has a NUL or a CR")
            i += 1
        if i >= self.size:
            raise self.bad("A quoted string does not end")
        found = PyBytes_FromStringAndSize(<char *>self.p + start, i - start)
        self.pos = i + 1
        return self.unescape(found) if escaped else found

    cdef bytes unescape(self, bytes text):
        cdef Py_ssize_t i = 0, n = PyBytes_GET_SIZE(text), size = 0
        cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
        cdef char *out = PyBytes_AS_STRING(made)
        cdef const char *p = PyBytes_AS_STRING(text)
        while i < n:
            if p[i] == c'\\':
                i += 1
            out[size] = p[i]
            size += 1
            i += 1
        return made[:size]

    def literal(self):
        cdef Literal literal = self.here()
        if literal is None:
            raise self.bad("A literal is missing")
        self.pos = literal.end
        self.line += 1
        return literal

    # The literal at pos as a string: bytes 1..255 that are held (RFC 9051 §4.3: CHAR8).
    cdef bytes literal_string(self, Literal literal):
        if literal.data is None:
            raise self.bad("This literal cannot stand here")
        if literal.binary:
            raise self.bad("A binary literal cannot stand here")
        if memchr(PyBytes_AS_STRING(literal.data), 0, PyBytes_GET_SIZE(literal.data)) != NULL:
            raise self.bad("A literal has a NUL")
        self.pos = literal.end
        self.line += 1
        return literal.data

    def string(self):
        cdef Literal literal
        if self.pos < self.size and self.p[self.pos] == c'"':
            return self.quoted()
        literal = self.here()
        if literal is None:
            raise self.bad("A string is missing")
        return self.literal_string(literal)

    cdef bytes string_or(self, uint8_t wanted, str what):
        if self.pos < self.size and CLASSES[self.p[self.pos]] & wanted:
            return self.run(wanted, what)
        if self.pos < self.size and self.p[self.pos] in (c'"', c'{', c'~'):
            return self.string()
        raise self.bad(f"{what} is missing")

    def astring(self):
        cdef Literal literal = self.here()      # `~` is an ASTRING-CHAR too
        if literal is not None:
            return self.literal_string(literal)
        return self.string_or(ASTRING, "A string")

    def nstring(self):
        cdef Py_ssize_t end
        if self.matches(b"NIL"):
            end = self.pos + 3
            if end == self.size or not CLASSES[self.p[end]] & ASTRING:
                self.pos = end
                return None
        return self.string()

    def text(self):
        cdef bytes raw = self.astring()
        try:
            return raw.decode()
        except UnicodeDecodeError as e:
            raise self.bad("A string is not UTF-8") from e

    # --- mailbox names ---

    def mailbox(self):
        name = self.decode_name(self.astring())
        return "INBOX" if len(name) == 5 and name.upper() == "INBOX" else name

    def list_mailbox(self):
        cdef Literal literal = self.here()
        raw = self.literal_string(literal) if literal is not None else self.string_or(LIST, "A mailbox pattern")
        return self.decode_name(raw)

    cdef str decode_name(self, bytes raw):
        if not self.utf8:
            return decode_utf7(raw)
        try:
            return raw.decode()
        except UnicodeDecodeError as e:
            raise self.bad("Mailbox name: not UTF-8") from e

    # --- numbers ---

    cdef uint64_t digits(self, uint64_t least, uint64_t most) except? 0:
        cdef uint64_t value
        cdef Py_ssize_t n = scan_number(self.p + self.pos, self.p + self.size, &value)
        if n == 0:
            raise self.bad("A number is missing")
        if not least <= value <= most:
            raise self.bad("A number is out of range")
        self.pos += n
        return value

    def number(self):
        return self.digits(0, 4294967295)

    def nz_number(self):
        return self.digits(1, 4294967295)

    def number64(self):
        return self.digits(0, 9223372036854775807)

    cdef NumSet set_of(self, type cls):
        cdef Py_ssize_t end = span(self.p, self.pos, self.size, NUMSET)
        cdef NumSet made = numset_parse(cls, self.p + self.pos, end - self.pos)
        self.pos = end
        return made

    def numset(self):
        return self.set_of(UidSet if self.uid else SeqSet)

    def seqset(self):
        return self.set_of(SeqSet)

    def uidset(self):
        return self.set_of(UidSet)

    # --- flags ---

    def flag(self):
        cdef bytes found
        if not self.matches(b"\\"):
            return self.run(ATOM, "A flag")
        self.pos += 1
        found = FLAGS.get(b"\\" + self.run(ATOM, "The name of a flag").upper())
        if found is None:
            raise self.bad("There is no such system flag")
        return found

    def flags(self):
        cdef tuple found
        self.expect(b"(")
        if self.skip(b")"):
            return ()
        found = self.bare_flags()
        self.expect(b")")
        return found

    def bare_flags(self):
        cdef dict found = {self.flag(): None}
        while self.pos < self.size and self.p[self.pos] == c' ':
            self.pos += 1
            found[self.flag()] = None
        found.pop(rb"\Recent", None)
        return tuple(found)

    # --- dates ---

    # n digits, no more
    cdef int fixed(self, Py_ssize_t n) except -1:
        cdef uint64_t value
        if scan_number(self.p + self.pos, self.p + min(self.pos + n, self.size), &value) != n:
            raise self.bad("A date is not well-formed")
        self.pos += n
        return <int>value

    # "-" month "-" 4DIGIT behind a day
    cdef tuple month_and_year(self):
        cdef bytes name
        self.expect(b"-")
        name = self.run(NAME, "A month")        # takes the "-" and the year too
        month = MONTHS.get(name[:3].upper())
        if month is None or len(name) != 8 or name[3:4] != b"-" or not name[4:].isdigit():
            raise self.bad("A date is not well-formed")
        return month, int(name[4:])

    # date = date-text / DQUOTE date-text DQUOTE
    def date(self):
        cdef bint quoted = self.skip(b'"')
        cdef int day = self.fixed(2 if self.pos + 1 < self.size and is_digit(self.p[self.pos + 1]) else 1)
        month, year = self.month_and_year()
        if quoted:
            self.expect(b'"')
        try:
            return date(year, month, day)
        except ValueError as e:
            raise self.bad("There is no such date") from e

    # date-time = DQUOTE date-day-fixed "-" date-month "-" date-year SP time SP zone DQUOTE
    def date_time(self):
        cdef int day, hour, minute, second, zone, sign
        self.expect(b'"')
        day = self.fixed(1) if self.skip(b" ") else self.fixed(2)
        month, year = self.month_and_year()
        self.sp()
        hour = self.fixed(2)
        self.expect(b":")
        minute = self.fixed(2)
        self.expect(b":")
        second = min(self.fixed(2), 59) if self.matches(b"60") else self.fixed(2)   # a leap second has no datetime
        self.sp()
        sign = -1 if self.matches(b"-") else 1
        if not self.skip(b"+") and not self.skip(b"-"):
            raise self.bad("A time zone is missing")
        zone = self.fixed(2) * 60
        zone += self.fixed(2)
        self.expect(b'"')
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone(sign * timedelta(minutes=zone)))
            moment.astimezone(timezone.utc)
        except (ValueError, OverflowError) as e:
            raise self.bad("There is no such date") from e
        return moment
