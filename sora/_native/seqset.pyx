# cython: language_level=3, cdivision=True
"""Sets of message numbers: RFC 9051 sequence-set, as sorted ranges in a C array.

A set is made once and never changes. Its ranges are ascending and at least one number apart, so equal sets have equal
arrays. `*` cannot be a number yet while a command is parsed; because it is the largest number in use, any number of
`n:*` and `*` in one set come to the same as the single range from the smallest n, and that n is all that is kept.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp

from sora._native.bytescan cimport scan_number, write_u32

from sora.errors import BadSyntax

cdef uint32_t MAX = 4294967295

cdef object bad(str why):
    return BadSyntax(f"Invalid message set: {why}")


cdef int by_first(const void *a, const void *b) noexcept nogil:
    cdef uint32_t x = (<const uint32_t *>a)[0], y = (<const uint32_t *>b)[0]
    return (x > y) - (x < y)


# Sort and merge in place.
cdef void normalise(ranges_t *b) noexcept nogil:
    cdef Py_ssize_t i, last = 0
    cdef uint32_t *r = b.r
    for i in range(1, b.n):
        if r[2 * i] < r[2 * i - 2]:
            qsort(r, b.n, 2 * sizeof(uint32_t), by_first)
            break
    for i in range(1, b.n):
        if <uint64_t>r[2 * i] <= <uint64_t>r[2 * last + 1] + 1:
            if r[2 * i + 1] > r[2 * last + 1]:
                r[2 * last + 1] = r[2 * i + 1]
        else:
            last += 1
            r[2 * last] = r[2 * i]
            r[2 * last + 1] = r[2 * i + 1]
    if b.n:
        b.n = last + 1


cdef NumSet numset_take(type cls, ranges_t *b):
    cdef NumSet made = cls.__new__(cls)
    cdef uint32_t *fitted
    made.n = b.n
    if b.n == 0:
        free(b.r)
    else:
        fitted = <uint32_t *>realloc(b.r, b.n * 2 * sizeof(uint32_t))
        made.r = fitted if fitted != NULL else b.r
    b.r = NULL
    b.n = b.cap = 0
    return made


cdef NumSet numset_saved(type cls):
    cdef NumSet made = cls.__new__(cls)
    made.saved = True
    return made


# seq-number = nz-number / "*"  (RFC 9051 §9); 0 is `*`. Gives how many bytes were read.
cdef Py_ssize_t scan_seq_number(const unsigned char *p, const unsigned char *end, uint32_t *number) except -1:
    cdef uint64_t value
    cdef Py_ssize_t n
    if p < end and p[0] == c'*':
        number[0] = 0
        return 1
    n = scan_number(p, end, &value)
    if n == 0:
        raise bad("a number is missing")
    if p[0] == c'0' or value > MAX:
        raise bad("a number is out of range")
    number[0] = <uint32_t>value
    return n


# seq-range = seq-number [":" seq-number]
cdef Py_ssize_t scan_seq_range(const unsigned char *p, const unsigned char *end, ranges_t *b, uint32_t *star) except -1:
    cdef const unsigned char *start = p
    cdef uint32_t a, z
    p += scan_seq_number(p, end, &a)
    z = a
    if p < end and p[0] == c':':
        p += 1
        p += scan_seq_number(p, end, &z)
    if a and z:
        ranges_push(b, min(a, z), max(a, z))
    else:
        a = a or z or MAX
        star[0] = min(star[0], a) if star[0] else a
    return p - start


cdef NumSet numset_parse(type cls, const unsigned char *text, Py_ssize_t size):
    cdef const unsigned char *p = text
    cdef const unsigned char *end = text + size
    cdef ranges_t b
    cdef uint32_t star = 0
    cdef NumSet made
    b.r = NULL
    b.n = b.cap = 0
    if size == 1 and text[0] == c'$':
        return numset_saved(cls)
    try:
        p += scan_seq_range(p, end, &b, &star)
        while p < end:
            if p[0] != c',':
                raise bad("a comma is missing")
            p += 1
            p += scan_seq_range(p, end, &b, &star)
    except BaseException:
        free(b.r)
        raise
    normalise(&b)
    made = numset_take(cls, &b)
    made.star = star
    return made


cdef uint32_t in_range(object number) except 0:
    cdef int beyond = 0
    cdef long long v = PyLong_AsLongLongAndOverflow(number, &beyond)
    if beyond or v < 1 or v > MAX:
        raise ValueError(f"{number} is not a message number")
    return <uint32_t>v


cdef class NumSet:
    """An immutable set of numbers 1..4294967295; use SeqSet or UidSet."""

    def __dealloc__(self):
        free(self.r)

    @classmethod
    def parse(cls, bytes text):
        return numset_parse(cls, <const unsigned char *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    @classmethod
    def empty(cls):
        return cls.__new__(cls)

    @classmethod
    def from_ranges(cls, ranges):
        cdef ranges_t b
        b.r = NULL
        b.n = b.cap = 0
        try:
            for lo, hi in ranges:
                if in_range(lo) > in_range(hi):
                    raise ValueError(f"{lo}:{hi} is not a range")
                ranges_push(&b, <uint32_t>lo, <uint32_t>hi)
        except BaseException:
            free(b.r)
            raise
        normalise(&b)
        return numset_take(cls, &b)

    @classmethod
    def from_numbers(cls, numbers):
        cdef ranges_t b
        cdef uint32_t v
        b.r = NULL
        b.n = b.cap = 0
        try:
            for number in numbers:
                v = in_range(number)
                if b.n and v == <uint64_t>b.r[2 * b.n - 1] + 1:
                    b.r[2 * b.n - 1] = v
                else:
                    ranges_push(&b, v, v)
        except BaseException:
            free(b.r)
            raise
        normalise(&b)
        return numset_take(cls, &b)

    cdef int require_numbers(self) except -1:
        if self.star:
            raise ValueError("the set has a `*`: resolve it first")
        if self.saved:
            raise ValueError("the set is `$`: put the saved result in its place first")
        return 0

    @property
    def has_star(self):
        return self.star != 0

    @property
    def is_saved(self):
        return self.saved

    @property
    def first(self):
        self.require_numbers()
        return self.r[0] if self.n else 0

    @property
    def last(self):
        self.require_numbers()
        return self.r[2 * self.n - 1] if self.n else 0

    def resolve(self, largest):
        cdef ranges_t b
        cdef uint32_t end
        if self.saved:
            self.require_numbers()
        if not self.star:
            return self
        end = in_range(largest) if largest else 0
        b.r = NULL
        b.n = b.cap = 0
        for i in range(self.n):
            ranges_push(&b, self.r[2 * i], self.r[2 * i + 1])
        if end:
            ranges_push(&b, min(self.star, end), end)
        normalise(&b)
        return numset_take(type(self), &b)

    def ranges(self):
        cdef Py_ssize_t i
        self.require_numbers()
        return [(self.r[2 * i], self.r[2 * i + 1]) for i in range(self.n)]

    def bounds(self):
        cdef Py_ssize_t i
        self.require_numbers()
        return [self.r[2 * i] for i in range(self.n)], [self.r[2 * i + 1] for i in range(self.n)]

    def __len__(self):
        cdef Py_ssize_t i, total = 1
        if self.count == 0:
            self.require_numbers()
            for i in range(self.n):
                total += <Py_ssize_t>self.r[2 * i + 1] - self.r[2 * i] + 1
            self.count = total
        return self.count - 1

    def __bool__(self):
        return self.n > 0 or self.star != 0 or self.saved

    def __contains__(self, number):
        cdef Py_ssize_t lo = 0, hi = self.n, mid
        cdef long long v
        cdef int beyond = 0
        self.require_numbers()
        if not isinstance(number, int):
            return False
        v = PyLong_AsLongLongAndOverflow(number, &beyond)
        if beyond or v < 1 or v > MAX:
            return False
        while lo < hi:
            mid = (lo + hi) >> 1
            if self.r[2 * mid + 1] < v:
                lo = mid + 1
            else:
                hi = mid
        return lo < self.n and self.r[2 * lo] <= v

    def __iter__(self):
        cdef Py_ssize_t i
        cdef uint64_t v
        self.require_numbers()
        for i in range(self.n):
            v = self.r[2 * i]
            while v <= self.r[2 * i + 1]:
                yield v
                v += 1

    def __bytes__(self):
        """As it goes on the wire; 22 bytes hold the longest range with its comma."""
        cdef Py_ssize_t i
        cdef char *buffer
        cdef char *out
        if self.saved:
            return b"$"
        buffer = <char *>malloc((self.n + 1) * 22)
        if buffer == NULL:
            raise MemoryError
        out = buffer
        for i in range(self.n):
            out += write_u32(out, self.r[2 * i])
            if self.r[2 * i] != self.r[2 * i + 1]:
                out[0] = c':'
                out += 1 + write_u32(out + 1, self.r[2 * i + 1])
            out[0] = c','
            out += 1
        if self.star:
            if self.star != MAX:
                out += write_u32(out, self.star)
                out[0] = c':'
                out += 1
            out[0] = c'*'
            out += 2
        try:
            return PyBytes_FromStringAndSize(buffer, max(out - buffer - 1, 0))
        finally:
            free(buffer)

    def __repr__(self):
        return f"{type(self).__name__}({bytes(self).decode()})"

    def __eq__(self, other):
        cdef NumSet that
        if type(self) is not type(other):
            return NotImplemented
        that = other
        return (
            self.n == that.n and self.star == that.star and self.saved == that.saved
            and (self.n == 0 or memcmp(self.r, that.r, self.n * 2 * sizeof(uint32_t)) == 0)
        )

    def __hash__(self):
        return hash((type(self), bytes(self)))

    def __or__(self, other):
        cdef NumSet a = self, z
        cdef Py_ssize_t i = 0, j = 0
        cdef ranges_t b
        if type(self) is not type(other):
            return NotImplemented
        z = other
        a.require_numbers()
        z.require_numbers()
        b.r = NULL
        b.n = b.cap = 0
        while i < a.n or j < z.n:
            if j == z.n or (i < a.n and a.r[2 * i] <= z.r[2 * j]):
                ranges_add(&b, a.r[2 * i], a.r[2 * i + 1])
                i += 1
            else:
                ranges_add(&b, z.r[2 * j], z.r[2 * j + 1])
                j += 1
        return numset_take(type(self), &b)

    def __and__(self, other):
        cdef NumSet a = self, z
        cdef Py_ssize_t i = 0, j = 0
        cdef uint32_t lo, hi
        cdef ranges_t b
        if type(self) is not type(other):
            return NotImplemented
        z = other
        a.require_numbers()
        z.require_numbers()
        b.r = NULL
        b.n = b.cap = 0
        while i < a.n and j < z.n:
            lo = max(a.r[2 * i], z.r[2 * j])
            hi = min(a.r[2 * i + 1], z.r[2 * j + 1])
            if lo <= hi:
                ranges_push(&b, lo, hi)
            if a.r[2 * i + 1] < z.r[2 * j + 1]:
                i += 1
            else:
                j += 1
        return numset_take(type(self), &b)

    def __sub__(self, other):
        cdef NumSet a = self, z
        cdef Py_ssize_t i, k, j = 0
        cdef uint64_t lo
        cdef ranges_t b
        if type(self) is not type(other):
            return NotImplemented
        z = other
        a.require_numbers()
        z.require_numbers()
        b.r = NULL
        b.n = b.cap = 0
        for i in range(a.n):
            lo = a.r[2 * i]
            while j < z.n and z.r[2 * j + 1] < lo:
                j += 1
            # A range of z may reach into the next one of a: j itself stays.
            k = j
            while k < z.n and z.r[2 * k] <= a.r[2 * i + 1]:
                if z.r[2 * k] > lo:
                    ranges_push(&b, <uint32_t>lo, z.r[2 * k] - 1)
                lo = <uint64_t>z.r[2 * k + 1] + 1
                k += 1
            j = max(j, k - 1)
            if lo <= a.r[2 * i + 1]:
                ranges_push(&b, <uint32_t>lo, a.r[2 * i + 1])
        return numset_take(type(self), &b)


cdef class SeqSet(NumSet):
    """Sequence numbers of one session's view."""


cdef class UidSet(NumSet):
    """UIDs of one mailbox."""
