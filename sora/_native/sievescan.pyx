# cython: language_level=3, cdivision=True, auto_pickle=False
"""Tokens and generic grammar of Sieve (RFC 5228 §8): commands, tests and arguments, whatever their names are.

One pass, in time linear in the script; one token is read ahead. Line ends are CRLF or, as people's editors make them,
LF alone; lines and columns count from 1, columns in characters. The first error ends the reading: what follows it could
be anything.

Sources and their arguments are not known to the garbage collector: they are made from the leaves up, are never changed,
and so hold no cycles.
"""

cimport cython
from cpython.unicode cimport (
    PyUnicode_4BYTE_KIND,
    PyUnicode_DATA,
    PyUnicode_FromKindAndData,
    PyUnicode_KIND,
    PyUnicode_READ,
    PyUnicode_Substring,
)
from libc.stdlib cimport free, malloc

from sora.errors import BadScript

cdef enum:
    WORD
    TAG
    NUMBER
    STRING
    MARK
    END

    MOST_DIGITS = 20        # of a number that can be small enough

cdef tuple KINDS = ("WORD", "TAG", "NUMBER", "STRING", "MARK", "END")
cdef object LARGEST = 2**63 - 1
cdef dict UNITS = {0: 1, ord("k"): 2**10, ord("m"): 2**20, ord("g"): 2**30}


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Argument:
    """One argument of a command or test.

    `value` is text for a string and for a tag (in lower case, with its colon), an int for a number, and a tuple of
    arguments for a list of strings.
    """

    cdef readonly int line
    cdef readonly int column
    cdef readonly bint is_tag
    cdef readonly object value

    def __init__(self, int line, int column, value, bint is_tag=False):
        self.line = line
        self.column = column
        self.value = value
        self.is_tag = is_tag

    def __eq__(self, other):
        return isinstance(other, Argument) and (self.line, self.column, self.value, self.is_tag) == (
            other.line, other.column, other.value, other.is_tag
        )

    def __repr__(self):
        return f"Argument({self.line}, {self.column}, {self.value!r}{', is_tag=True' if self.is_tag else ''})"


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Source:
    """A command or a test as it is written.

    `name` is in lower case, `tests` are those that it applies to, `listed` says that they stand in parentheses. `block`
    is None where the command ends in a semicolon, and for a test.
    """

    cdef readonly int line
    cdef readonly int column
    cdef readonly str name
    cdef readonly tuple arguments
    cdef readonly tuple tests
    cdef readonly bint listed
    cdef readonly tuple block

    def __init__(
        self, int line, int column, str name, tuple arguments=(), tuple tests=(), bint listed=False, tuple block=None
    ):
        self.line = line
        self.column = column
        self.name = name
        self.arguments = arguments
        self.tests = tests
        self.listed = listed
        self.block = block

    def __eq__(self, other):
        return isinstance(other, Source) and (
            self.line, self.column, self.name, self.arguments, self.tests, self.listed, self.block
        ) == (other.line, other.column, other.name, other.arguments, other.tests, other.listed, other.block)

    def __repr__(self):
        return (
            f"Source({self.line}, {self.column}, {self.name!r}, {self.arguments!r}, {self.tests!r}, "
            f"{bool(self.listed)}, {self.block!r})"
        )


def parse(str source not None, int nesting=30):
    """The commands of a script."""
    reader = _Reader(source, nesting)
    reader.advance()
    return reader.script()


def tokens(str source not None):
    """Kind, line, column and value of every token; the last one is of kind END."""
    found = []
    reader = _Reader(source, 0)
    while True:
        reader.advance()
        value = reader.text
        if reader.kind == NUMBER:
            value = reader.number
        elif reader.kind == MARK:
            value = chr(reader.mark)
        found.append((KINDS[reader.kind], reader.line, reader.column, value))
        if reader.kind == END:
            return found


cdef inline bint is_first(Py_UCS4 c) noexcept nogil:
    return c == c'_' or c'a' <= c <= c'z' or c'A' <= c <= c'Z'


cdef inline bint is_digit(Py_UCS4 c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef inline bint is_letter(Py_UCS4 c) noexcept nogil:
    return is_first(c) or is_digit(c)


cdef inline Py_UCS4 lower(Py_UCS4 c) noexcept nogil:
    return <Py_UCS4> (<unsigned int> c | 32)


@cython.final
cdef class _Reader:
    """The token at hand, and what reads the next one.

    text: word and tag in lower case, the tag with its colon; string without quotes, its line ends CRLF.
    """

    cdef str source
    cdef int characters      # kind of the representation of the source
    cdef void *data
    cdef Py_ssize_t length
    cdef Py_ssize_t at       # behind the token at hand
    cdef int lines           # begun up to `at`
    cdef Py_ssize_t line_start
    cdef int nesting

    cdef int kind
    cdef int line
    cdef int column
    cdef str text
    cdef object number
    cdef Py_UCS4 mark
    cdef Py_UCS4 *out        # room for a string that is not copied as it is; made once

    def __cinit__(self, str source, int nesting):
        self.source = source
        self.characters = PyUnicode_KIND(source)
        self.data = PyUnicode_DATA(source)
        self.length = len(source)
        self.lines = 1
        self.nesting = nesting
        self.text = ""

    def __dealloc__(self):
        free(self.out)

    cdef inline Py_UCS4 peek(self, Py_ssize_t place) noexcept:
        """A character; NUL behind the end, which no script contains."""
        return PyUnicode_READ(self.characters, self.data, place) if place < self.length else 0

    # ----------------------------------------------------------------------------------------------- tokens

    cdef int advance(self) except -1:
        """Read the next token."""
        cdef Py_UCS4 c
        cdef Py_ssize_t start
        self.skip_space()
        start = self.at
        self.line = self.lines
        self.column = <int> (start - self.line_start + 1)
        if start >= self.length:
            self.kind = END
            self.text = ""
            return 0
        c = self.peek(start)
        if is_first(c):
            if (c == c't' or c == c'T') and self.begins_text(start):
                self.read_text()
            else:
                self.kind = WORD
                self.read_name(start)
        elif c == c':' and is_first(self.peek(start + 1)):
            self.kind = TAG
            self.read_name(start)
        elif is_digit(c):
            self.read_number(start)
        elif c == c'"':
            self.read_quoted(start)
        elif c == c';' or c == c',' or c == c'{' or c == c'}' or c == c'(' or c == c')' or c == c'[' or c == c']':
            self.kind = MARK
            self.mark = c
            self.at += 1
        else:
            what = chr(c)
            self.fail(f"Unexpected character {what!r}" if what.isprintable() else "Unexpected character")
        return 0

    cdef int skip_space(self) except -1:
        cdef Py_UCS4 c
        cdef int lines
        cdef Py_ssize_t line_start, start
        while self.at < self.length:
            c = self.peek(self.at)
            if c == c'\n':
                self.at += 1
                self.lines += 1
                self.line_start = self.at
            elif c == c' ' or c == c'\t' or c == c'\r':
                self.at += 1
            elif c == c'#':
                while self.at < self.length and self.peek(self.at) != c'\n':
                    self.at += 1
            elif c == c'/' and self.peek(self.at + 1) == c'*':
                start, lines, line_start = self.at, self.lines, self.line_start
                self.at += 2
                while not (self.peek(self.at) == c'*' and self.peek(self.at + 1) == c'/'):
                    if self.at >= self.length:
                        self.line, self.column = lines, <int> (start - line_start + 1)
                        self.fail("The comment does not end")
                    self.step()
                self.at += 2
            else:
                return 0
        return 0

    cdef inline void step(self) noexcept:
        """Pass over a character, which may end a line."""
        if self.peek(self.at) == c'\n':
            self.lines += 1
            self.line_start = self.at + 1
        self.at += 1

    cdef int read_name(self, Py_ssize_t start) except -1:
        cdef Py_UCS4 c
        self.at = start + 1
        while is_letter(c := self.peek(self.at)):
            self.at += 1
        self.text = PyUnicode_Substring(self.source, start, self.at)
        if not self.text.islower():
            self.text = self.text.lower()
        return 0

    cdef int read_number(self, Py_ssize_t start) except -1:
        cdef Py_UCS4 c, unit = 0
        cdef Py_ssize_t end
        while is_digit(self.peek(self.at)):
            self.at += 1
        end = self.at
        c = self.peek(end)
        if is_first(c):
            unit = lower(c)
            if unit != c'k' and unit != c'm' and unit != c'g' or is_letter(self.peek(end + 1)):
                self.fail("This is no number")
            self.at += 1
        self.kind = NUMBER
        self.text = ""
        number = None
        if end - start <= MOST_DIGITS:
            number = int(PyUnicode_Substring(self.source, start, end)) * UNITS[<int> unit]
        if number is None or number > LARGEST:
            self.fail("The number is too large")
        self.number = number
        return 0

    cdef int read_quoted(self, Py_ssize_t start) except -1:
        cdef Py_UCS4 c
        cdef bint plain = True
        self.at = start + 1
        while (c := self.peek(self.at)) != c'"':
            if c == c'\\':
                plain = False
                self.at += 1
            elif c == c'\n':
                plain = False
            if self.at >= self.length:
                self.fail("The string does not end")
            self.step()
        self.kind = STRING
        self.text = PyUnicode_Substring(self.source, start + 1, self.at) if plain else self.unescaped(start + 1)
        self.at += 1
        return 0

    cdef str unescaped(self, Py_ssize_t start):
        r"""Of a quoted string: `\` before a character is gone, and line ends are CRLF."""
        cdef Py_UCS4 c
        cdef Py_ssize_t place = start, size = 0
        self.make_room()
        while place < self.at:
            c = self.peek(place)
            if c == c'\\':
                place += 1
                c = self.peek(place)
            size = put(self.out, size, c)
            place += 1
        return PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, self.out, size)

    cdef int make_room(self) except -1:
        """Every character may be a line end that gets its CR."""
        if self.out == NULL:
            self.out = <Py_UCS4 *> malloc(2 * sizeof(Py_UCS4) * (self.length + 1))
            if self.out == NULL:
                raise MemoryError
        return 0

    cdef bint begins_text(self, Py_ssize_t start) noexcept:
        """`text:` and nothing but white space and a comment up to the end of the line; `at` is behind it then."""
        cdef Py_ssize_t place = start + 5
        cdef Py_UCS4 c
        if self.length - start < 6 or self.peek(start + 4) != c':' or (
            lower(self.peek(start + 1)) != c'e' or lower(self.peek(start + 2)) != c'x'
            or lower(self.peek(start + 3)) != c't'
        ):
            return False
        while (c := self.peek(place)) == c' ' or c == c'\t':
            place += 1
        if c == c'#':
            while place < self.length and self.peek(place) != c'\n':
                place += 1
        elif c == c'\r':
            place += 1
        if self.peek(place) != c'\n':
            return False
        self.at = place
        self.step()
        return True

    cdef int read_text(self) except -1:
        """A multi-line string (RFC 5228 §2.4.2): of a line that begins with a dot the first one is gone."""
        cdef Py_ssize_t size = 0, end
        cdef Py_UCS4 c
        cdef bint begins = True
        self.make_room()
        while True:
            if self.at >= self.length:
                self.fail('The text does not end: a line with "." alone is missing')
            c = self.peek(self.at)
            if begins and c == c'.':
                end = self.at + 1
                if self.peek(end) == c'\r':
                    end += 1
                if end >= self.length or self.peek(end) == c'\n':
                    break
            else:
                size = put(self.out, size, c)
            begins = c == c'\n'
            self.step()
        self.text = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, self.out, size)
        self.kind = STRING
        self.at = end
        if end < self.length:
            self.step()
        return 0

    # ----------------------------------------------------------------------------------------------- grammar

    cdef tuple script(self):
        found = []
        while self.kind != END:
            found.append(self.command(0))
        return tuple(found)

    cdef Source command(self, int depth):
        cdef Source found
        if self.kind != WORD:
            self.fail(f"Expected a command, but found {self.told()}")
        found = self.begun()
        found.tests = self.tests(0)
        if self.is_at(c'{'):
            found.block = self.block(depth)
        elif not self.skip(c';'):
            self.fail(f'Expected ";" or a block after "{found.name}" and its arguments, but found {self.told()}')
        return found

    cdef Source begun(self):
        """A command or test with its name and arguments."""
        cdef Source found = Source.__new__(Source)
        found.line, found.column, found.name = self.line, self.column, self.text
        self.advance()
        found.arguments = self.arguments()
        found.listed = self.is_at(c'(')
        return found

    cdef tuple block(self, int depth):
        cdef int line = self.line, column = self.column
        if depth >= self.nesting:
            self.fail(f"Blocks nest deeper than {self.nesting}")
        self.advance()
        found = []
        while not self.skip(c'}'):
            if self.kind == END:
                raise BadScript([(line, column, "The block does not end")])
            found.append(self.command(depth + 1))
        return tuple(found)

    cdef tuple arguments(self):
        cdef list found = None
        while self.kind == STRING or self.kind == NUMBER or self.kind == TAG or self.is_at(c'['):
            if found is None:
                found = []
            found.append(self.list_() if self.kind == MARK else self.plain())
        return () if found is None else tuple(found)

    cdef Argument plain(self):
        cdef Argument found = Argument.__new__(Argument)
        found.line, found.column, found.is_tag = self.line, self.column, self.kind == TAG
        found.value = self.number if self.kind == NUMBER else self.text
        self.advance()
        return found

    cdef Argument list_(self):
        cdef Argument found = Argument.__new__(Argument)
        found.line, found.column = self.line, self.column
        self.advance()
        items = [self.string()]
        while self.skip(c','):
            items.append(self.string())
        if not self.skip(c']'):
            self.fail(f'Expected "," or "]", but found {self.told()}')
        found.value = tuple(items)
        return found

    cdef Argument string(self):
        if self.kind != STRING:
            self.fail(f"Expected a string, but found {self.told()}")
        return self.plain()

    cdef tuple tests(self, int depth):
        """One test, a list of them in parentheses, or none."""
        if self.kind == WORD:
            return (self.test(depth),)
        if not self.skip(c'('):
            return ()
        found = [self.test(depth)]
        while self.skip(c','):
            found.append(self.test(depth))
        if not self.skip(c')'):
            self.fail(f'Expected "," or ")", but found {self.told()}')
        return tuple(found)

    cdef Source test(self, int depth):
        cdef Source found
        if depth >= self.nesting:
            self.fail(f"Tests nest deeper than {self.nesting}")
        if self.kind != WORD:
            self.fail(f"Expected a test, but found {self.told()}")
        found = self.begun()
        found.tests = self.tests(depth + 1)
        return found

    cdef inline bint is_at(self, Py_UCS4 mark) noexcept:
        return self.kind == MARK and self.mark == mark

    cdef inline int skip(self, Py_UCS4 mark) except -1:
        if not self.is_at(mark):
            return 0
        self.advance()
        return 1

    cdef str told(self):
        """The token at hand, in a message."""
        if self.kind == WORD or self.kind == TAG:
            return f'"{self.text}"'
        if self.kind == MARK:
            return f'"{chr(self.mark)}"'
        if self.kind == NUMBER:
            return f"number {self.number}"
        return "a string" if self.kind == STRING else "the end of the script"

    cdef int fail(self, str text) except -1:
        raise BadScript([(self.line, self.column, text)])


cdef inline Py_ssize_t put(Py_UCS4 *out, Py_ssize_t size, Py_UCS4 c) noexcept nogil:
    """Append a character, and CR before a LF that has none; the new size."""
    if c == c'\n' and (size == 0 or out[size - 1] != c'\r'):
        out[size] = c'\r'
        size += 1
    out[size] = c
    return size + 1
