# cython: language_level=3, cdivision=True
"""Facts of messages as C arrays: what SEARCH by date and size, SORT and THREAD ask about a hundred thousand messages.

`Columns` holds what `message_columns()` gives, `Texts` the texts of one field, folded. Both are keyed by UID and
ascending, so a set of UIDs is walked beside them in one pass. A key of a sort is one number a message, parallel to the
set that is sorted: a date, a size, or the rank of a text among the others. The loops over many messages run without
the interpreter's lock, so that a thread can take them off the event loop.
"""

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from sora._native.seqset cimport NumSet, UidSet, numset_take, ranges_add, ranges_t

import array

CONTENT_ID, INTERNAL_DATE, SENT_DATE, SAVED_DATE, SIZE, SORT_DATE = range(6)

FROM_FIELD, SENDER_FIELD, REPLY_TO_FIELD, TO_FIELD, CC_FIELD, BCC_FIELD = range(6)

cdef enum:
    KEPT = 5                # columns of a record behind its UID; SORT_DATE is made of two of them
    RECORD = 4 + KEPT * 8
    SENT = 2
    INTERNAL = 1

cdef int64_t NONE = <int64_t>(<uint64_t>1 << 63)
cdef array.array NUMBERS = array.array("I")
cdef array.array VALUES = array.array("q")


cdef inline uint32_t u32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline int64_t i64(const uint8_t *p) noexcept nogil:
    return <int64_t>((<uint64_t>u32(p) << 32) | u32(p + 4))


# The first place whose number is not below v.
cdef inline Py_ssize_t place_of(const uint32_t *numbers, Py_ssize_t n, uint32_t v) noexcept nogil:
    cdef Py_ssize_t low = 0, high = n, middle
    while low < high:
        middle = (low + high) >> 1
        if numbers[middle] < v:
            low = middle + 1
        else:
            high = middle
    return low


cdef class Columns:
    """Immutable facts of some messages of a mailbox."""

    cdef uint32_t *uids
    cdef int64_t *facts         # KEPT numbers a message
    cdef Py_ssize_t n
    cdef Py_ssize_t room

    def __dealloc__(self):
        free(self.uids)
        free(self.facts)

    def __len__(self):
        return self.n

    @property
    def size_bytes(self):
        return self.room * (sizeof(uint32_t) + KEPT * sizeof(int64_t))

    cdef int reserve(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t room
        cdef void *grown
        if n <= self.room:
            return 0
        room = max(n, self.room + self.room // 4)
        grown = realloc(self.uids, room * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError
        self.uids = <uint32_t *>grown
        grown = realloc(self.facts, room * KEPT * sizeof(int64_t))
        if grown == NULL:
            raise MemoryError
        self.facts = <int64_t *>grown
        self.room = room
        return 0

    def add(self, bytes packed not None):
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packed)
        cdef Py_ssize_t count = PyBytes_GET_SIZE(packed) // RECORD, i, at
        cdef uint32_t before = 0, uid
        if PyBytes_GET_SIZE(packed) % RECORD:
            raise ValueError("these are no records of columns")
        for i in range(count):
            uid = u32(p + i * RECORD)
            if uid <= before:
                raise ValueError("records must be ascending")
            before = uid
        if not count:
            return
        if self.n and u32(p) <= self.uids[self.n - 1]:
            self.merge(p, count)
            return
        self.reserve(self.n + count)
        with nogil:
            for i in range(count):
                self.put(self.n + i, p + i * RECORD)
        self.n += count

    cdef void put(self, Py_ssize_t at, const uint8_t *record) noexcept nogil:
        cdef int k
        self.uids[at] = u32(record)
        for k in range(KEPT):
            self.facts[at * KEPT + k] = i64(record + 4 + 8 * k)

    # From the end, so that it is done in place; what is there already is replaced by the same.
    cdef int merge(self, const uint8_t *p, Py_ssize_t count) except -1:
        cdef Py_ssize_t fresh = 0, i, old, new, at
        for i in range(count):
            at = place_of(self.uids, self.n, u32(p + i * RECORD))
            fresh += at == self.n or self.uids[at] != u32(p + i * RECORD)
        self.reserve(self.n + fresh)
        old, new, at = self.n - 1, count - 1, self.n + fresh - 1
        while new >= 0:
            if old >= 0 and self.uids[old] > u32(p + new * RECORD):
                self.uids[at] = self.uids[old]
                memmove(self.facts + at * KEPT, self.facts + old * KEPT, KEPT * sizeof(int64_t))
                old -= 1
            else:
                if old >= 0 and self.uids[old] == u32(p + new * RECORD):
                    old -= 1
                self.put(at, p + new * RECORD)
                new -= 1
            at -= 1
        self.n += fresh
        return 0

    def present(self, UidSet uids not None):
        return self.split(uids, True)

    def missing(self, UidSet uids not None):
        return self.split(uids, False)

    cdef UidSet split(self, UidSet uids, bint here):
        cdef ranges_t b
        cdef Py_ssize_t r, at
        cdef uint64_t v
        uids.require_numbers()
        b.r = NULL
        b.n = b.cap = 0
        try:
            with nogil:
                for r in range(uids.n):
                    at = place_of(self.uids, self.n, uids.r[2 * r])
                    v = uids.r[2 * r]
                    while at < self.n and self.uids[at] <= uids.r[2 * r + 1]:
                        if here:
                            ranges_add(&b, self.uids[at], self.uids[at])
                        elif self.uids[at] > v:
                            ranges_add(&b, <uint32_t>v, self.uids[at] - 1)
                        v = <uint64_t>self.uids[at] + 1
                        at += 1
                    if not here and v <= uids.r[2 * r + 1]:
                        ranges_add(&b, <uint32_t>v, uids.r[2 * r + 1])
        except BaseException:
            free(b.r)
            raise
        return <UidSet>numset_take(UidSet, &b)

    def between(self, UidSet within not None, int column, low, high):
        cdef ranges_t b
        cdef Py_ssize_t r, at
        cdef int64_t v
        cdef bint has_low = low is not None, has_high = high is not None
        cdef int64_t bottom = low if has_low else 0, top = high if has_high else 0
        check_column(column)
        within.require_numbers()
        b.r = NULL
        b.n = b.cap = 0
        try:
            with nogil:
                for r in range(within.n):
                    at = place_of(self.uids, self.n, within.r[2 * r])
                    while at < self.n and self.uids[at] <= within.r[2 * r + 1]:
                        v = self.fact(at, column)
                        if v != NONE and (not has_low or v >= bottom) and (not has_high or v < top):
                            ranges_add(&b, self.uids[at], self.uids[at])
                        at += 1
        except BaseException:
            free(b.r)
            raise
        return numset_take(UidSet, &b)

    cdef int64_t fact(self, Py_ssize_t at, int column) noexcept nogil:
        cdef int64_t v
        if column < KEPT:
            return self.facts[at * KEPT + column]
        v = self.facts[at * KEPT + SENT]
        return v if v != NONE else self.facts[at * KEPT + INTERNAL]

    def values(self, UidSet uids not None, int column):
        cdef Py_ssize_t count = len(uids), r, at, i = 0
        cdef array.array made = array.clone(VALUES, count, False)
        cdef int64_t *out = <int64_t *>made.data.as_longlongs
        cdef bint whole = True
        cdef uint64_t v
        check_column(column)
        with nogil:
            for r in range(uids.n):
                at = place_of(self.uids, self.n, uids.r[2 * r])
                for v in range(uids.r[2 * r], <uint64_t>uids.r[2 * r + 1] + 1):
                    if at == self.n or self.uids[at] != v:
                        whole = False
                        break
                    out[i] = self.fact(at, column)
                    i += 1
                    at += 1
        if not whole:
            raise KeyError("a message is not here")
        return made

    def keep(self, UidSet uids not None):
        cdef Py_ssize_t r, at, end, kept = 0
        cdef void *fitted
        uids.require_numbers()
        for r in range(uids.n):
            at = place_of(self.uids, self.n, uids.r[2 * r])
            end = place_of(self.uids, self.n, uids.r[2 * r + 1])
            if end < self.n and self.uids[end] == uids.r[2 * r + 1]:
                end += 1
            memmove(self.uids + kept, self.uids + at, (end - at) * sizeof(uint32_t))
            memmove(self.facts + kept * KEPT, self.facts + at * KEPT, (end - at) * KEPT * sizeof(int64_t))
            kept += end - at
        self.n = kept
        if kept and kept < self.room:
            fitted = realloc(self.uids, kept * sizeof(uint32_t))
            if fitted != NULL:
                self.uids = <uint32_t *>fitted
            fitted = realloc(self.facts, kept * KEPT * sizeof(int64_t))
            if fitted != NULL:
                self.facts = <int64_t *>fitted
            self.room = kept


cdef int check_column(int column) except -1:
    if not 0 <= column <= KEPT:
        raise ValueError("there is no such column")
    return 0


# ------------------------------------------------------------------------------------------------------------- texts


cdef class Texts:
    """Texts of some messages, folded, in the order in which they were added: ascending by UID."""

    cdef uint32_t *uids
    cdef Py_ssize_t *starts     # n + 1 places in the octets
    cdef char *octets
    cdef Py_ssize_t n
    cdef Py_ssize_t room
    cdef Py_ssize_t size
    cdef Py_ssize_t octets_room

    def __cinit__(self):
        self.starts = <Py_ssize_t *>calloc(1, sizeof(Py_ssize_t))
        if self.starts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.uids)
        free(self.starts)
        free(self.octets)

    def __len__(self):
        return self.n

    cdef int push(self, uint32_t uid, const char *text, Py_ssize_t length) except -1:
        cdef void *grown
        cdef Py_ssize_t room
        if self.n == self.room:
            room = max(1024, 2 * self.room)
            grown = realloc(self.uids, room * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self.uids = <uint32_t *>grown
            grown = realloc(self.starts, (room + 1) * sizeof(Py_ssize_t))
            if grown == NULL:
                raise MemoryError
            self.starts = <Py_ssize_t *>grown
            self.room = room
        if self.size + length > self.octets_room:
            room = max(65536, 2 * self.octets_room, self.size + length)
            grown = realloc(self.octets, room)
            if grown == NULL:
                raise MemoryError
            self.octets = <char *>grown
            self.octets_room = room
        self.uids[self.n] = uid
        memcpy(self.octets + self.size, text, length)
        self.size += length
        self.n += 1
        self.starts[self.n] = self.size
        return 0

    def add(self, bytes packed not None, fold, int line=0):
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packed)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(packed), at = 0, length, text
        cdef uint32_t before = self.uids[self.n - 1] if self.n else 0
        cdef bytes folded
        cdef int k
        check_texts(p, size, before)
        while at < size:
            before, text, length = u32(p + at), at + 8, u32(p + at + 4)
            at = text + length
            for k in range(line):
                while text < at and p[text] != 10:
                    text += 1
                text = min(text + 1, at)
            length = at - text
            if is_ascii(p + text, length):
                self.push(before, <const char *>p + text, length)
                raise_case(<uint8_t *>self.octets + self.size - length, length)
            else:
                folded = fold(packed[text:text + length].decode("utf-8", "replace")).encode()
                self.push(before, PyBytes_AS_STRING(folded), PyBytes_GET_SIZE(folded))

    def ranks(self, UidSet uids not None):
        cdef Py_ssize_t count = len(uids)
        cdef array.array made = array.clone(VALUES, count, True)
        cdef int64_t *out = <int64_t *>made.data.as_longlongs
        cdef Py_ssize_t *order
        cdef int64_t *rank
        if self.n == 0:
            return made
        order = <Py_ssize_t *>malloc(2 * self.n * sizeof(Py_ssize_t))
        rank = <int64_t *>malloc(self.n * sizeof(int64_t))
        if order == NULL or rank == NULL:
            free(order)
            free(rank)
            raise MemoryError
        with nogil:
            self.rank_all(order, rank)
            self.lay_out(uids, rank, out)
        free(order)
        free(rank)
        return made

    cdef void rank_all(self, Py_ssize_t *order, int64_t *rank) noexcept nogil:
        cdef Py_ssize_t i
        cdef int64_t now = 0
        for i in range(self.n):
            order[i] = i
        self.merge_sort(order, order + self.n, self.n)
        for i in range(self.n):
            if i == 0 or self.compare(order[i - 1], order[i]):
                # nothing ranks before everything else, like the texts that are missing
                now += self.starts[order[i] + 1] > self.starts[order[i]]
            rank[order[i]] = now

    cdef int compare(self, Py_ssize_t a, Py_ssize_t b) noexcept nogil:
        cdef Py_ssize_t x = self.starts[a + 1] - self.starts[a], y = self.starts[b + 1] - self.starts[b]
        cdef int c = memcmp(self.octets + self.starts[a], self.octets + self.starts[b], x if x < y else y)
        return c if c else (x > y) - (x < y)

    # Bottom up, so that a hostile set of texts costs no more than any other.
    cdef void merge_sort(self, Py_ssize_t *a, Py_ssize_t *spare, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t width = 1, low, middle, high, i, j, k
        while width < n:
            low = 0
            while low + width < n:
                middle, high = low + width, low + 2 * width
                if high > n:
                    high = n
                if self.compare(a[middle - 1], a[middle]) > 0:
                    memcpy(spare, a + low, (middle - low) * sizeof(Py_ssize_t))
                    i, j, k = 0, middle, low
                    while i < middle - low:
                        if j < high and self.compare(a[j], spare[i]) < 0:
                            a[k] = a[j]
                            j += 1
                        else:
                            a[k] = spare[i]
                            i += 1
                        k += 1
                low += 2 * width
            width *= 2

    cdef void lay_out(self, UidSet uids, const int64_t *rank, int64_t *out) noexcept nogil:
        cdef Py_ssize_t r, at, i = 0
        cdef uint64_t v
        for r in range(uids.n):
            at = place_of(self.uids, self.n, uids.r[2 * r])
            for v in range(uids.r[2 * r], <uint64_t>uids.r[2 * r + 1] + 1):
                if at < self.n and self.uids[at] == v:
                    out[i] = rank[at]
                    at += 1
                i += 1


cdef int check_texts(const uint8_t *p, Py_ssize_t size, uint32_t before) except -1:
    cdef Py_ssize_t at = 0
    while at < size:
        if size - at < 8 or <uint64_t>u32(p + at + 4) > <uint64_t>(size - at - 8):
            raise ValueError("these are no records of texts")
        if u32(p + at) <= before:
            raise ValueError("records must be ascending")
        before = u32(p + at)
        at += 8 + u32(p + at + 4)
    return 0


def first_mailboxes(bytes packed not None, int field):
    """Records of envelopes become records of the addr-mailbox of a field's first address."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed), at = 0, next, text, length, n = 0, i
    cdef uint8_t *out
    if not 0 <= field <= BCC_FIELD:
        raise ValueError("an envelope has no such field")
    check_texts(p, size, 0)
    out = <uint8_t *>malloc(size + 1)
    if out == NULL:
        raise MemoryError
    with nogil:
        while at < size:
            next = at + 8 + u32(p + at + 4)
            text, length = first_mailbox(p, at + 8, next, field)
            memcpy(out + n, p + at, 4)
            i = n + 8
            if length >= 0:
                memcpy(out + i, p + text, length)
                i += length
            else:                           # with quoting to be undone
                length = -length
                while length > 0:
                    if p[text] == b"\\" and length > 1:
                        text += 1
                        length -= 1
                    out[i] = p[text]
                    i += 1
                    text += 1
                    length -= 1
            length = i - n - 8
            out[n + 4], out[n + 5] = <uint8_t>(length >> 24), <uint8_t>(length >> 16)
            out[n + 6], out[n + 7] = <uint8_t>(length >> 8), <uint8_t>length
            n = i
            at = next
    try:
        return PyBytes_FromStringAndSize(<const char *>out, n)
    finally:
        free(out)


cdef bint is_ascii(const uint8_t *p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint8_t seen = 0
    for i in range(n):
        seen |= p[i]
    return seen < 128


cdef void raise_case(uint8_t *p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if c_a <= p[i] <= c_z:
            p[i] -= 32


cdef enum:
    c_a = 97
    c_z = 122


# One value of an envelope: where it begins and how long it is, and where the next one does. The length of a string with
# a backslash is negated; NIL and what is no envelope are empty.
cdef Py_ssize_t read_value(const uint8_t *p, Py_ssize_t at, Py_ssize_t end, Py_ssize_t *start, Py_ssize_t *length) noexcept nogil:
    cdef Py_ssize_t n = 0
    cdef bint escaped = False
    start[0] = at
    length[0] = 0
    if at < end and p[at] == b'"':
        at += 1
        start[0] = at
        while at < end and p[at] != b'"':
            if p[at] == b"\\":
                escaped = True
                at += 1
            at += 1
        if at >= end:
            return end
        length[0] = start[0] - at if escaped else at - start[0]
        return at + 1
    if at < end and p[at] == b"{":
        at += 1
        while at < end and b"0" <= p[at] <= b"9" and n < end:
            n = n * 10 + p[at] - 48
            at += 1
        at += 3                     # }, CR, LF
        if n > end - at:
            return end
        start[0] = at
        length[0] = n
        return at + n
    while at < end and p[at] != b" " and p[at] != b")":
        at += 1
    return at


# addr-mailbox of the first address of a field: `(date subject from sender reply-to to cc bcc ...)`.
cdef (Py_ssize_t, Py_ssize_t) first_mailbox(const uint8_t *p, Py_ssize_t at, Py_ssize_t end, int field) noexcept nogil:
    cdef Py_ssize_t start, length
    cdef int i
    at += 1
    for i in range(2):
        at = read_value(p, at, end, &start, &length) + 1
    for i in range(field):
        at = skip_list(p, at, end) + 1
    if at + 1 >= end or p[at] != b"(":
        return at, 0
    at += 2
    for i in range(2):
        at = read_value(p, at, end, &start, &length) + 1
    read_value(p, at, end, &start, &length)
    return start, length


cdef Py_ssize_t skip_list(const uint8_t *p, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t start, length, before
    cdef int depth = 0
    while at < end:
        if p[at] == b"(":
            depth += 1
            at += 1
        elif p[at] == b")":
            depth -= 1
            at += 1
        elif p[at] == b" ":
            if depth <= 0:
                return at
            at += 1
        else:
            before = at
            at = read_value(p, at, end, &start, &length)
            if at == before:
                return end
        if depth <= 0:
            return at
    return end


# ----------------------------------------------------------------------------------------------------------- numbers


def expand(NumSet numbers not None):
    cdef Py_ssize_t count = len(numbers), r, i = 0
    cdef array.array made = array.clone(NUMBERS, count, False)
    cdef uint32_t *out = made.data.as_uints
    cdef uint64_t v
    with nogil:
        for r in range(numbers.n):
            for v in range(numbers.r[2 * r], <uint64_t>numbers.r[2 * r + 1] + 1):
                out[i] = <uint32_t>v
                i += 1
    return made


def sort_numbers(NumSet numbers not None, keys):
    """Stable, least significant key first: ties keep the order of the numbers."""
    cdef array.array found = expand(numbers)
    cdef Py_ssize_t n = len(found)
    cdef array.array key
    cdef uint32_t *order
    cdef uint32_t *spare
    cdef uint64_t *codes
    cdef Py_ssize_t i
    cdef bint backwards
    if n < 2:
        return found
    order = <uint32_t *>malloc(2 * n * sizeof(uint32_t))
    codes = <uint64_t *>malloc(n * sizeof(uint64_t))
    try:
        if order == NULL or codes == NULL:
            raise MemoryError
        spare = order + n
        for i in range(n):
            order[i] = <uint32_t>i
        for values, reverse in reversed(keys):
            key, backwards = values, reverse
            if len(key) != n or key.ob_descr.itemsize != 8:
                raise ValueError("a key must have one number for each message")
            with nogil:
                sort_by(<int64_t *>key.data.as_longlongs, backwards, order, spare, codes, n)
        return permuted(found, order)
    finally:
        free(order)
        free(codes)


cdef array.array permuted(array.array found, const uint32_t *order):
    cdef Py_ssize_t i, n = len(found)
    cdef array.array made = array.clone(NUMBERS, n, False)
    for i in range(n):
        made.data.as_uints[i] = found.data.as_uints[order[i]]
    return made


# Radix sort of `order` by one key, eleven bits a pass and no pass for bits in which nothing differs; descending is
# ascending by the complement, so that ties stay as they are.
cdef void sort_by(const int64_t *values, bint backwards, uint32_t *order, uint32_t *spare, uint64_t *codes, Py_ssize_t n) noexcept nogil:
    cdef uint64_t low = <uint64_t>-1, high = 0, code
    cdef Py_ssize_t counts[2048]
    cdef Py_ssize_t i, total, here
    cdef int shift = 0
    cdef bint sorted_already = True
    for i in range(n):
        code = <uint64_t>values[i] ^ (<uint64_t>1 << 63)
        if backwards:
            code = ~code
        codes[i] = code
        low = code if code < low else low
        high = code if code > high else high
    for i in range(1, n):
        if codes[order[i - 1]] > codes[order[i]]:
            sorted_already = False
            break
    if sorted_already:
        return
    high -= low
    while shift < 64 and high >> shift:
        memset(counts, 0, sizeof(counts))
        for i in range(n):
            counts[((codes[i] - low) >> shift) & 2047] += 1
        total = 0
        for i in range(2048):
            here = counts[i]
            counts[i] = total
            total += here
        for i in range(n):
            here = ((codes[order[i]] - low) >> shift) & 2047
            spare[counts[here]] = order[i]
            counts[here] += 1
        memcpy(order, spare, n * sizeof(uint32_t))
        shift += 11


def places(numbers, UidSet all not None):
    """The place of each number in a set, counted from 1; 0: it is not there."""
    cdef array.array given = numbers
    cdef Py_ssize_t n = len(given), i, low, high, middle
    cdef array.array made = array.clone(NUMBERS, n, False)
    cdef uint32_t *before
    cdef uint32_t v, total = 0
    if given.ob_descr.itemsize != 4:
        raise ValueError("an array of message numbers is needed")
    all.require_numbers()
    before = <uint32_t *>malloc((all.n + 1) * sizeof(uint32_t))
    if before == NULL:
        raise MemoryError
    with nogil:
        for i in range(all.n):
            before[i] = total
            total += all.r[2 * i + 1] - all.r[2 * i] + 1
        for i in range(n):
            v = given.data.as_uints[i]
            low, high = 0, all.n
            while low < high:
                middle = (low + high) >> 1
                if all.r[2 * middle + 1] < v:
                    low = middle + 1
                else:
                    high = middle
            if low < all.n and all.r[2 * low] <= v:
                made.data.as_uints[i] = before[low] + v - all.r[2 * low] + 1
            else:
                made.data.as_uints[i] = 0
    free(before)
    return made


def write_numbers(numbers, Py_ssize_t first, Py_ssize_t last):
    """` 1 2 3`: the numbers at some places of an array, each with a space before it."""
    cdef array.array given = numbers
    cdef Py_ssize_t i, k
    cdef uint32_t v
    cdef char digits[10]
    cdef char *out
    cdef char *p
    if given.ob_descr.itemsize != 4:
        raise ValueError("an array of message numbers is needed")
    first, last = max(first, 0), min(last, len(given))
    if first >= last:
        return b""
    out = <char *>malloc((last - first) * 11)
    if out == NULL:
        raise MemoryError
    p = out
    with nogil:
        for i in range(first, last):
            v = given.data.as_uints[i]
            p[0] = b" "
            p += 1
            k = 0
            while True:
                digits[k] = <char>(48 + v % 10)
                k += 1
                v //= 10
                if v == 0:
                    break
            while k:
                k -= 1
                p[0] = digits[k]
                p += 1
    try:
        return PyBytes_FromStringAndSize(out, p - out)
    finally:
        free(out)
