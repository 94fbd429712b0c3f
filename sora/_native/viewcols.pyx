# cython: language_level=3, cdivision=True, auto_pickle=False
"""The columns of a mailbox: which UIDs live and which flags they bear, as bitmaps of 1,024 UIDs.

A `Snapshot` is one version of a mailbox and never changes. It is an array of pointers to blocks and, beside it, how
many messages stand before each block. A block holds the live bitmap of 1,024 consecutive UIDs and one bitmap ("plane")
for every flag that one of them bears. Rules:

* A block is written only while it is being made; from then on versions share it by counting references (under the
  GIL, which every entry point holds).
* A block without a live message is not kept. A plane has no bit outside of the live ones and is not kept when empty.
  So equal contents are equal bytes, and comparing two blocks needs no care.
* Blocks stand in the order of their numbers, planes in the order of theirs.
* Within a word the first UID is the highest bit, as in PostgreSQL's bit(1024).
"""

cimport cython
from cpython.datetime cimport (
    PyDateTime_Check, PyDateTime_DATE_GET_HOUR, PyDateTime_DATE_GET_MINUTE, PyDateTime_DATE_GET_SECOND,
    PyDateTime_GET_DAY, PyDateTime_GET_MONTH, PyDateTime_GET_YEAR, import_datetime,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from sora._native.bytescan cimport clz64, load32be, load64be, popcount64, write_u32
from sora._native.seqset cimport NumSet, SeqSet, UidSet, numset_take, ranges_add, ranges_t

from datetime import UTC

from sora.types import SYSTEM_FLAGS

import_datetime()

cdef enum:
    WORDS = 16              # of 64 bits in a bitmap
    BLOCK = 1024            # UIDs in a block
    SHIFT = 10
    RECORD = 138            # bytes of a record of mailbox_state()
    LAST_BLOCK = 4194303    # the block of the largest UID
    LIVE = -1               # flag number of the live bitmap in a record
    SEEN = 0
    SYSTEM = 5              # flag numbers 0..4 have texts of their own

NO_RECENT = 4294967295

cdef struct plane_t:
    int32_t flag
    uint64_t bits[WORDS]

cdef struct block_t:
    int32_t refs
    uint32_t no
    int32_t count           # live messages
    int32_t unseen
    int32_t planes_n
    uint64_t live[WORDS]
    # planes_n of plane_t follow


# --- blocks ---------------------------------------------------------------------------------------------------

cdef inline plane_t *planes(const block_t *b) noexcept nogil:
    return <plane_t *>(b + 1)


cdef inline size_t block_size(int planes_n) noexcept nogil:
    return sizeof(block_t) + planes_n * sizeof(plane_t)


cdef block_t *block_new(uint32_t no, int planes_max) except NULL:
    cdef block_t *b = <block_t *>malloc(block_size(planes_max))
    if b == NULL:
        raise MemoryError
    memset(b, 0, sizeof(block_t))
    b.refs = 1
    b.no = no
    return b


cdef inline void block_drop(block_t *b) noexcept nogil:
    b.refs -= 1
    if b.refs == 0:
        free(b)


cdef const plane_t *find_plane(const block_t *b, int flag) noexcept nogil:
    cdef int i
    for i in range(b.planes_n):
        if planes(b)[i].flag == flag:
            return &planes(b)[i]
    return NULL


cdef inline bint is_empty(const uint64_t *bits) noexcept nogil:
    cdef uint64_t any = 0
    cdef int w
    for w in range(WORDS):
        any |= bits[w]
    return any == 0


cdef inline int count_bits(const uint64_t *bits) noexcept nogil:
    cdef int w, total = 0
    for w in range(WORDS):
        total += popcount64(bits[w])
    return total


# Add a plane behind the ones that are there; the caller keeps the order of flags. Masked by live, dropped if empty.
cdef void add_plane(block_t *b, int flag, const uint64_t *bits) noexcept nogil:
    cdef plane_t *p = &planes(b)[b.planes_n]
    cdef int w
    for w in range(WORDS):
        p.bits[w] = bits[w] & b.live[w]
    if not is_empty(p.bits):
        p.flag = flag
        b.planes_n += 1


# Counts of a block whose bitmaps are complete, and its memory cut to size. NULL (and freed) if nobody lives there.
cdef block_t *block_finish(block_t *b) noexcept nogil:
    cdef const plane_t *seen
    cdef block_t *fitted
    b.count = count_bits(b.live)
    if b.count == 0:
        free(b)
        return NULL
    seen = find_plane(b, SEEN)
    b.unseen = b.count - (count_bits(seen.bits) if seen != NULL else 0)
    fitted = <block_t *>realloc(b, block_size(b.planes_n))
    return fitted if fitted != NULL else b


# Position of the n-th (from 0) set bit of a word, which has more than n: halves it until one bit is left.
cdef inline int select_word(uint64_t v, int n) noexcept nogil:
    cdef int at = 0, width = 32, c
    while width:
        c = popcount64(v >> (64 - width))
        if n >= c:
            n -= c
            at += width
            v <<= width
        width >>= 1
    return at


# Position of the n-th (from 0) live message of a block.
cdef int select_bit(const uint64_t *bits, int n) noexcept nogil:
    cdef int w = 0, c
    while True:
        c = popcount64(bits[w])
        if n < c:
            return w * 64 + select_word(bits[w], n)
        n -= c
        w += 1


# How many live messages stand before a position.
cdef inline int rank_bit(const uint64_t *bits, int position) noexcept nogil:
    cdef int w, total = 0
    for w in range(position >> 6):
        total += popcount64(bits[w])
    if position & 63:
        total += popcount64(bits[position >> 6] >> (64 - (position & 63)))
    return total


cdef inline bint get_bit(const uint64_t *bits, int position) noexcept nogil:
    return (bits[position >> 6] >> (63 - (position & 63))) & 1


# Set the positions first..last.
cdef void set_bits(uint64_t *bits, int first, int last) noexcept nogil:
    cdef uint64_t ones = ~(<uint64_t>0)
    cdef int a = first >> 6, z = last >> 6, w
    cdef uint64_t head = ones >> (first & 63), tail = ones << (63 - (last & 63))
    if a == z:
        bits[a] |= head & tail
        return
    bits[a] |= head
    for w in range(a + 1, z):
        bits[w] = ones
    bits[z] |= tail


# Runs of set bits as ranges of numbers; offset is the number of position 0.
cdef int add_runs(ranges_t *out, const uint64_t *bits, uint32_t offset) except -1 nogil:
    cdef int w, start, length
    cdef uint64_t v, ones = ~(<uint64_t>0)
    for w in range(WORDS):
        v = bits[w]
        if v == ones:
            ranges_add(out, offset + w * 64, offset + w * 64 + 63)
            continue
        while v:
            start = clz64(v)
            length = clz64(~(v << start))   # never 64: v is not all ones
            ranges_add(out, offset + w * 64 + start, offset + w * 64 + start + length - 1)
            v &= ~((ones << (64 - length)) >> start)
    return 0


# --- records of mailbox_state() ------------------------------------------------------------------------------------

cdef struct record_t:
    uint32_t no
    int32_t flag
    const unsigned char *bits


cdef int by_block(const void *a, const void *b) noexcept nogil:
    cdef const record_t *x = <const record_t *>a
    cdef const record_t *y = <const record_t *>b
    if x.no != y.no:
        return 1 if x.no > y.no else -1
    return (x.flag > y.flag) - (x.flag < y.flag)


cdef int read_record(const unsigned char *p, record_t *record) except -1:
    record.no = load32be(p)
    record.flag = <int16_t>((p[4] << 8) | p[5])
    record.bits = p + 10
    if record.no > LAST_BLOCK or record.flag < LIVE or load32be(p + 6) != BLOCK:
        raise ValueError("not a record of a mailbox state")
    return 0


# Records in the order of block and flag; the caller frees them.
cdef record_t *read_records(bytes state, Py_ssize_t *n) except? NULL:
    cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(state)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(state), i
    cdef record_t *records
    n[0] = size // RECORD
    if size % RECORD:
        raise ValueError("a mailbox state is cut short")
    if size == 0:
        return NULL
    records = <record_t *>malloc(n[0] * sizeof(record_t))
    if records == NULL:
        raise MemoryError
    try:
        for i in range(n[0]):
            read_record(p + i * RECORD, &records[i])
    except BaseException:
        free(records)
        raise
    qsort(records, n[0], sizeof(record_t), by_block)
    for i in range(1, n[0]):
        if by_block(&records[i - 1], &records[i]) == 0:
            free(records)
            raise ValueError("a mailbox state names a bitmap twice")
    return records


cdef inline void load_bits(uint64_t *bits, const unsigned char *p) noexcept nogil:
    cdef int w
    for w in range(WORDS):
        bits[w] = load64be(p + 8 * w)


# The block of records[0..n-1]; NULL without an exception if nobody lives in it (or its live bitmap is missing).
cdef block_t *block_of_records(const record_t *records, Py_ssize_t n) except? NULL:
    cdef block_t *b
    cdef Py_ssize_t i
    cdef uint64_t bits[WORDS]
    if records[0].flag != LIVE:
        return NULL
    b = block_new(records[0].no, <int>(n - 1))
    load_bits(b.live, records[0].bits)
    if b.no == 0:
        b.live[0] &= ~(<uint64_t>1 << 63)       # there is no UID 0
    for i in range(1, n):
        load_bits(bits, records[i].bits)
        add_plane(b, records[i].flag, bits)
    return block_finish(b)


cdef Py_ssize_t group_end(const record_t *records, Py_ssize_t n, Py_ssize_t start) noexcept nogil:
    cdef Py_ssize_t i = start + 1
    while i < n and records[i].no == records[start].no:
        i += 1
    return i


# --- changed copies of a block -------------------------------------------------------------------------------------

# A copy with the flags in `set` added to mask, and those in `clear` (with replace: all others) taken away.
cdef block_t *block_with_flags(const block_t *old, const uint64_t *mask, list to_set, object to_clear, bint replace) except NULL:
    cdef block_t *b = block_new(old.no, old.planes_n + <int>len(to_set))
    cdef uint64_t bits[WORDS]
    cdef int i = 0, w, flag
    cdef list pending = sorted(set(to_set))
    memcpy(b.live, old.live, sizeof(b.live))
    while i < old.planes_n or pending:
        if i == old.planes_n or (pending and <int>pending[0] < planes(old)[i].flag):
            add_plane(b, <int>pending.pop(0), mask)
            continue
        flag = planes(old)[i].flag
        memcpy(bits, planes(old)[i].bits, sizeof(bits))
        if pending and <int>pending[0] == flag:
            pending.pop(0)
            for w in range(WORDS):
                bits[w] |= mask[w]
        elif replace or flag in to_clear:
            for w in range(WORDS):
                bits[w] &= ~mask[w]
        add_plane(b, flag, bits)
        i += 1
    return block_finish(b)


# A copy without the messages of mask; NULL without an exception if none is left.
cdef block_t *block_without(const block_t *old, const uint64_t *mask) except? NULL:
    cdef block_t *b = block_new(old.no, old.planes_n)
    cdef int i, w
    for w in range(WORDS):
        b.live[w] = old.live[w] & ~mask[w]
    for i in range(old.planes_n):
        add_plane(b, planes(old)[i].flag, planes(old)[i].bits)
    return block_finish(b)


# The messages of `old` with the flags of `new`; those that new has not keep their own.
cdef block_t *block_held(const block_t *old, const block_t *new) except NULL:
    cdef block_t *b = block_new(old.no, old.planes_n + new.planes_n)
    cdef uint64_t bits[WORDS]
    cdef int i = 0, j = 0, w, flag
    memcpy(b.live, old.live, sizeof(b.live))
    while i < old.planes_n or j < new.planes_n:
        memset(bits, 0, sizeof(bits))
        flag = 32768
        if i < old.planes_n:
            flag = planes(old)[i].flag
        if j < new.planes_n:
            flag = min(flag, planes(new)[j].flag)
        if i < old.planes_n and planes(old)[i].flag == flag:
            for w in range(WORDS):
                bits[w] |= planes(old)[i].bits[w] & ~new.live[w]
            i += 1
        if j < new.planes_n and planes(new)[j].flag == flag:
            for w in range(WORDS):
                bits[w] |= planes(new)[j].bits[w]
            j += 1
        add_plane(b, flag, bits)
    return block_finish(b)


# In `out` the messages of both blocks whose flags differ.
cdef void changed_bits(const block_t *a, const block_t *z, uint64_t *out) noexcept nogil:
    cdef int i = 0, j = 0, w
    memset(out, 0, WORDS * sizeof(uint64_t))
    while i < a.planes_n or j < z.planes_n:
        if j == z.planes_n or (i < a.planes_n and planes(a)[i].flag < planes(z)[j].flag):
            for w in range(WORDS):
                out[w] |= planes(a)[i].bits[w]
            i += 1
        elif i == a.planes_n or planes(z)[j].flag < planes(a)[i].flag:
            for w in range(WORDS):
                out[w] |= planes(z)[j].bits[w]
            j += 1
        else:
            for w in range(WORDS):
                out[w] |= planes(a)[i].bits[w] ^ planes(z)[j].bits[w]
            i += 1
            j += 1
    for w in range(WORDS):
        out[w] &= a.live[w] & z.live[w]


# --- versions ------------------------------------------------------------------------------------------------------

cdef void start(ranges_t *b) noexcept nogil:
    b.r = NULL
    b.n = b.cap = 0


@cython.final
cdef class Diff:
    """What a client that knows the older version must be told."""

    cdef readonly list expunged_seqs
    cdef readonly UidSet vanished
    cdef readonly UidSet changed
    cdef readonly UidSet arrived

    def __bool__(self):
        return bool(self.expunged_seqs) or bool(self.changed) or bool(self.arrived)

    def __repr__(self):
        return f"Diff(vanished={self.vanished}, changed={self.changed}, arrived={self.arrived})"


@cython.final
cdef class Snapshot:
    """One version of one mailbox."""

    cdef block_t **blocks
    cdef uint32_t *before           # messages in front of each block, and one entry more: all of them
    cdef Py_ssize_t n
    cdef readonly int64_t uid_next
    cdef readonly int64_t highest_modseq
    cdef readonly Py_ssize_t unseen

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n):
            block_drop(self.blocks[i])
        free(self.blocks)
        free(self.before)

    # --- making ---

    @staticmethod
    cdef Snapshot make(Py_ssize_t room, int64_t uid_next, int64_t highest_modseq):
        cdef Snapshot s = Snapshot.__new__(Snapshot)
        s.uid_next = uid_next
        s.highest_modseq = highest_modseq
        s.blocks = <block_t **>malloc(max(room, 1) * sizeof(block_t *))
        s.before = <uint32_t *>malloc((room + 1) * sizeof(uint32_t))
        if s.blocks == NULL or s.before == NULL:
            raise MemoryError
        s.before[0] = 0
        return s

    # Takes the caller's reference; NULL is nothing.
    cdef inline void push(self, block_t *b) noexcept:
        if b == NULL:
            return
        self.blocks[self.n] = b
        self.before[self.n + 1] = self.before[self.n] + b.count
        self.unseen += b.unseen
        self.n += 1

    cdef inline void share(self, block_t *b) noexcept:
        b.refs += 1
        self.push(b)

    @classmethod
    def load(cls, state, uid_next, highest_modseq):
        return Snapshot.make(0, 0, 0).apply(state, uid_next, highest_modseq)

    def apply(self, state, uid_next, highest_modseq):
        cdef Py_ssize_t n = 0, i = 0, j = 0, end
        cdef record_t *records = read_records(state, &n) if state is not None else NULL
        cdef Snapshot made
        try:
            made = Snapshot.make(self.n + n, uid_next, highest_modseq)
            while i < self.n or j < n:
                if j == n or (i < self.n and self.blocks[i].no < records[j].no):
                    made.share(self.blocks[i])
                    i += 1
                    continue
                if i < self.n and self.blocks[i].no == records[j].no:
                    i += 1
                end = group_end(records, n, j)
                made.push(block_of_records(records + j, end - j))
                j = end
        finally:
            free(records)
        made.fit()
        return made

    # Give back the room that was reserved for blocks that turned out empty.
    cdef void fit(self) noexcept:
        cdef void *fitted = realloc(self.blocks, max(self.n, 1) * sizeof(block_t *))
        if fitted != NULL:
            self.blocks = <block_t **>fitted
        fitted = realloc(self.before, (self.n + 1) * sizeof(uint32_t))
        if fitted != NULL:
            self.before = <uint32_t *>fitted

    # A new version with blocks exchanged: changes has the index of each and its new block (NULL: gone), whose
    # references it takes, whatever happens.
    cdef Snapshot exchange(self, changes_t *changes, int64_t highest_modseq):
        cdef Snapshot made = Snapshot.make(self.n, self.uid_next, highest_modseq)
        cdef Py_ssize_t i, k = 0
        for i in range(self.n):
            if k < changes.n and changes.at[k] == i:
                made.push(changes.blocks[k])
                changes.blocks[k] = NULL
                k += 1
            else:
                made.share(self.blocks[i])
        return made

    def patch_flags(self, modseq, blocks, set, clear, replace):
        cdef list to_set = [check_flag(flag) for flag in set]
        cdef object to_clear = frozenset(clear)
        cdef uint64_t mask[WORDS]
        cdef Py_ssize_t i
        cdef changes_t changes
        cdef list ordered = sorted(blocks)
        changes_start(&changes, len(ordered))
        try:
            for no, applied in ordered:
                i = self.find_block(no) if 0 <= no <= LAST_BLOCK else self.n
                if i == self.n or self.blocks[i].no != <uint32_t>no:
                    raise ValueError(f"no block {no} in this version")
                load_applied(mask, applied)
                if changes.n and changes.at[changes.n - 1] == i:
                    raise ValueError(f"block {no} comes twice")
                changes_add(&changes, i, block_with_flags(self.blocks[i], mask, to_set, to_clear, replace))
            return self.exchange(&changes, modseq)
        finally:
            changes_free(&changes)

    def patch_expunge(self, modseq, uids):
        cdef UidSet gone = uids if isinstance(uids, UidSet) else UidSet.from_numbers(uids)
        cdef Py_ssize_t i, at = 0
        cdef uint64_t mask[WORDS]
        cdef changes_t changes
        gone.require_numbers()
        changes_start(&changes, self.n)
        try:
            for i in range(self.n):
                if mask_of_uids(self.blocks[i], gone, &at, mask):
                    changes_add(&changes, i, block_without(self.blocks[i], mask))
            return self.exchange(&changes, modseq)
        finally:
            changes_free(&changes)

    def hold_expunges(self, Snapshot newer not None):
        cdef Snapshot made = Snapshot.make(self.n, self.uid_next, self.highest_modseq)
        cdef Py_ssize_t i, j = 0
        for i in range(self.n):
            while j < newer.n and newer.blocks[j].no < self.blocks[i].no:
                j += 1
            if j == newer.n or newer.blocks[j].no != self.blocks[i].no or newer.blocks[j] == self.blocks[i]:
                made.share(self.blocks[i])
            else:
                made.push(block_held(self.blocks[i], newer.blocks[j]))
        return made

    # --- lookups ---

    # Index of the first block whose number is not below no.
    cdef Py_ssize_t find_block(self, uint32_t no) noexcept nogil:
        cdef Py_ssize_t lo = 0, hi = self.n, mid
        while lo < hi:
            mid = (lo + hi) >> 1
            if self.blocks[mid].no < no:
                lo = mid + 1
            else:
                hi = mid
        return lo

    # Index of the block that holds the message `index` (from 0), which must exist.
    cdef Py_ssize_t block_of_index(self, uint32_t index) noexcept nogil:
        cdef Py_ssize_t lo = 0, hi = self.n, mid
        while lo < hi:
            mid = (lo + hi) >> 1
            if self.before[mid + 1] <= index:
                lo = mid + 1
            else:
                hi = mid
        return lo

    # The block of a live uid; NULL if it is not here.
    cdef const block_t *block_of_uid(self, uint32_t uid, Py_ssize_t *at) noexcept nogil:
        at[0] = self.find_block(uid >> SHIFT)
        if at[0] == self.n or self.blocks[at[0]].no != uid >> SHIFT:
            return NULL
        if not get_bit(self.blocks[at[0]].live, uid & (BLOCK - 1)):
            return NULL
        return self.blocks[at[0]]

    cdef uint32_t last_uid(self) noexcept nogil:
        cdef const block_t *b
        if self.n == 0:
            return 0
        b = self.blocks[self.n - 1]
        return (b.no << SHIFT) + select_bit(b.live, b.count - 1)

    def __len__(self):
        return self.before[self.n]

    def __repr__(self):
        return f"Snapshot({len(self)} messages, uid_next={self.uid_next}, highest_modseq={self.highest_modseq})"

    @property
    def size_bytes(self):
        cdef Py_ssize_t i, total = self.n * (sizeof(block_t *) + sizeof(uint32_t))
        for i in range(self.n):
            total += block_size(self.blocks[i].planes_n)
        return total

    def seq(self, uid):
        cdef Py_ssize_t i
        cdef const block_t *b
        if not 0 < uid <= NO_RECENT:
            return 0
        b = self.block_of_uid(uid, &i)
        return 0 if b == NULL else self.before[i] + rank_bit(b.live, <uint32_t>uid & (BLOCK - 1)) + 1

    def uid(self, seq):
        cdef Py_ssize_t i
        if not 0 < seq <= self.before[self.n]:
            raise IndexError(f"no message {seq}")
        i = self.block_of_index(seq - 1)
        return (self.blocks[i].no << SHIFT) + select_bit(self.blocks[i].live, <int>(seq - 1 - self.before[i]))

    # *messages* with numbers instead of `*`.
    cdef NumSet resolved(self, NumSet messages):
        cdef NumSet numbers
        if isinstance(messages, SeqSet):
            numbers = messages.resolve(self.before[self.n])
        else:
            numbers = messages.resolve(self.last_uid())
        numbers.require_numbers()
        return numbers

    # The messages of block i that are in *numbers*; ranges before `at` lie behind us. False if there are none.
    cdef bint mask(self, Py_ssize_t i, NumSet numbers, bint by_uid, Py_ssize_t *at, uint64_t *mask) noexcept nogil:
        if by_uid:
            return mask_of_uids(self.blocks[i], numbers, at, mask)
        return mask_of_seqs(self.blocks[i], self.before[i], numbers, at, mask)

    def uids(self, SeqSet seqs not None):
        cdef NumSet numbers = self.resolved(seqs)
        cdef Py_ssize_t i, at = 0
        cdef uint64_t mask[WORDS]
        cdef ranges_t out
        start(&out)
        for i in range(self.n):
            if mask_of_seqs(self.blocks[i], self.before[i], numbers, &at, mask):
                add_runs(&out, mask, self.blocks[i].no << SHIFT)
        return numset_take(UidSet, &out)

    def present(self, UidSet uids not None):
        cdef NumSet numbers = self.resolved(uids)
        cdef Py_ssize_t i, at = 0
        cdef uint64_t mask[WORDS]
        cdef ranges_t out
        start(&out)
        for i in range(self.n):
            if mask_of_uids(self.blocks[i], numbers, &at, mask):
                add_runs(&out, mask, self.blocks[i].no << SHIFT)
        return numset_take(UidSet, &out)

    def seqs(self, UidSet uids not None):
        cdef NumSet numbers = self.resolved(uids)
        cdef Py_ssize_t i, at = 0
        cdef uint64_t mask[WORDS]
        cdef ranges_t out
        start(&out)
        for i in range(self.n):
            if mask_of_uids(self.blocks[i], numbers, &at, mask):
                add_seqs(&out, self.blocks[i], mask, self.before[i] + 1)
        return numset_take(SeqSet, &out)

    def all_uids(self):
        cdef Py_ssize_t i
        cdef ranges_t out
        start(&out)
        for i in range(self.n):
            add_runs(&out, self.blocks[i].live, self.blocks[i].no << SHIFT)
        return numset_take(UidSet, &out)

    # --- flags ---

    def with_flag(self, flag_no, bint value=True):
        cdef int flag = check_flag(flag_no), w
        cdef Py_ssize_t i
        cdef const plane_t *p
        cdef uint64_t bits[WORDS]
        cdef ranges_t out
        start(&out)
        for i in range(self.n):
            p = find_plane(self.blocks[i], flag)
            if p == NULL:
                if not value:
                    add_runs(&out, self.blocks[i].live, self.blocks[i].no << SHIFT)
                continue
            for w in range(WORDS):
                bits[w] = p.bits[w] if value else self.blocks[i].live[w] & ~p.bits[w]
            add_runs(&out, bits, self.blocks[i].no << SHIFT)
        return numset_take(UidSet, &out)

    def among(self, UidSet uids not None, flag_no, bint value=True):
        cdef int flag = check_flag(flag_no), w
        cdef NumSet numbers = self.resolved(uids)
        cdef Py_ssize_t i, at = 0
        cdef const plane_t *p
        cdef uint64_t mask[WORDS]
        cdef ranges_t out
        start(&out)
        for i in range(self.n):
            if not mask_of_uids(self.blocks[i], numbers, &at, mask):
                continue
            p = find_plane(self.blocks[i], flag)
            for w in range(WORDS):
                if p == NULL:
                    mask[w] = 0 if value else mask[w]
                else:
                    mask[w] &= p.bits[w] if value else ~p.bits[w]
            add_runs(&out, mask, self.blocks[i].no << SHIFT)
        return numset_take(UidSet, &out)

    def count_flag(self, flag_no):
        cdef int flag = check_flag(flag_no)
        cdef Py_ssize_t i, total = 0
        cdef const plane_t *p
        for i in range(self.n):
            p = find_plane(self.blocks[i], flag)
            if p != NULL:
                total += count_bits(p.bits)
        return total

    def first_unseen(self):
        cdef Py_ssize_t i
        cdef int w
        cdef const plane_t *p
        cdef uint64_t v
        for i in range(self.n):
            if self.blocks[i].unseen == 0:
                continue
            p = find_plane(self.blocks[i], SEEN)
            for w in range(WORDS):
                v = self.blocks[i].live[w] & ~(p.bits[w] if p != NULL else 0)
                if v:
                    return self.before[i] + rank_bit(self.blocks[i].live, w * 64 + clz64(v)) + 1
        return 0

    def flags(self, uid):
        cdef Py_ssize_t at
        cdef int i
        cdef const block_t *b = NULL
        if 0 < uid <= NO_RECENT:
            b = self.block_of_uid(uid, &at)
        if b == NULL:
            raise KeyError(uid)
        return tuple([planes(b)[i].flag for i in range(b.planes_n)
                      if get_bit(planes(b)[i].bits, <uint32_t>uid & (BLOCK - 1))])

    def flag_numbers(self):
        cdef Py_ssize_t i
        cdef int j
        cdef set found = set()
        for i in range(self.n):
            for j in range(self.blocks[i].planes_n):
                found.add(planes(self.blocks[i])[j].flag)
        return tuple(sorted(found))

    # --- comparing ---

    def diff(self, Snapshot newer not None):
        cdef Diff found = Diff.__new__(Diff)
        cdef ranges_t out[3]
        cdef Py_ssize_t i = 0, j = 0
        cdef const block_t *a
        cdef const block_t *z
        cdef list expunged = []
        for i in range(3):
            start(&out[i])
        i = 0
        while i < self.n or j < newer.n:
            a = self.blocks[i] if i < self.n else NULL
            z = newer.blocks[j] if j < newer.n else NULL
            if z == NULL or (a != NULL and a.no < z.no):
                compare(a, NULL, self.before[i], out, expunged)
                i += 1
            elif a == NULL or z.no < a.no:
                compare(NULL, z, 0, out, expunged)
                j += 1
            else:
                if a != z:
                    compare(a, z, self.before[i], out, expunged)
                i += 1
                j += 1
        found.expunged_seqs = expunged
        found.vanished = numset_take(UidSet, &out[0])
        found.changed = numset_take(UidSet, &out[1])
        found.arrived = numset_take(UidSet, &out[2])
        return found

    # --- writing ---

    def flags_text(self, uid, names, bint recent):
        cdef tuple flags = self.flags(uid)
        cdef list texts = [SYSTEM_FLAGS[flag] for flag in flags if flag < SYSTEM]
        if recent:
            texts.append(b"\\Recent")
        texts += [names[flag] for flag in flags if flag >= SYSTEM and flag in names]
        return b"(" + b" ".join(texts) + b")"

    def write_fetch_flags(self, NumSet messages not None, names, bint with_uid, recent_after=NO_RECENT,
                          Py_ssize_t chunk=1000, *, bytes modseqs=None, bint with_flags=True, bint uid_only=False):
        return FlagWriter(self, messages, names, with_uid, recent_after, chunk, modseqs, with_flags, uid_only)


cdef int check_flag(flag) except -1:
    if not 0 <= flag <= 32767:
        raise ValueError(f"{flag} is not a flag number")
    return flag


# bit(1024) as the database sends it: 128 bytes, or with its length in front.
cdef int load_applied(uint64_t *mask, bytes applied) except -1:
    cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(applied)
    if PyBytes_GET_SIZE(applied) == 132 and load32be(p) == BLOCK:
        p += 4
    elif PyBytes_GET_SIZE(applied) != 128:
        raise ValueError("not a bitmap of 1024 bits")
    load_bits(mask, p)
    return 0


# --- changes on their way into a new version

cdef struct changes_t:
    Py_ssize_t n
    Py_ssize_t *at
    block_t **blocks


cdef int changes_start(changes_t *c, Py_ssize_t room) except -1:
    c.n = 0
    c.at = <Py_ssize_t *>malloc(max(room, 1) * sizeof(Py_ssize_t))
    c.blocks = <block_t **>malloc(max(room, 1) * sizeof(block_t *))
    if c.at == NULL or c.blocks == NULL:
        free(c.at)
        free(c.blocks)
        raise MemoryError
    return 0


cdef void changes_add(changes_t *c, Py_ssize_t at, block_t *b) noexcept:
    c.at[c.n] = at
    c.blocks[c.n] = b
    c.n += 1


cdef void changes_free(changes_t *c) noexcept:
    cdef Py_ssize_t i
    for i in range(c.n):
        if c.blocks[i] != NULL:
            block_drop(c.blocks[i])
    free(c.at)
    free(c.blocks)


# --- sets against blocks

# Both walk blocks and ranges upwards together: `at` is the first range that does not end before this block. The mask
# is cut to the live messages; False if nothing is left.

cdef bint mask_of_uids(const block_t *b, NumSet uids, Py_ssize_t *at, uint64_t *mask) noexcept nogil:
    cdef uint64_t base = <uint64_t>b.no << SHIFT, last = base + BLOCK - 1
    cdef Py_ssize_t k
    while at[0] < uids.n and uids.r[2 * at[0] + 1] < base:
        at[0] += 1
    if at[0] == uids.n or uids.r[2 * at[0]] > last:
        return False
    memset(mask, 0, WORDS * sizeof(uint64_t))
    k = at[0]
    while k < uids.n and uids.r[2 * k] <= last:
        set_bits(mask, <int>(max(<uint64_t>uids.r[2 * k], base) - base), <int>(min(<uint64_t>uids.r[2 * k + 1], last) - base))
        k += 1
    return keep_live(b, mask)


cdef bint mask_of_seqs(const block_t *b, uint32_t before, NumSet seqs, Py_ssize_t *at, uint64_t *mask) noexcept nogil:
    cdef uint32_t first = before + 1, last = before + b.count
    cdef Py_ssize_t k
    cdef int w = 0, passed = 0, c, low, high, start
    while at[0] < seqs.n and seqs.r[2 * at[0] + 1] < first:
        at[0] += 1
    if at[0] == seqs.n or seqs.r[2 * at[0]] > last:
        return False
    memset(mask, 0, WORDS * sizeof(uint64_t))
    k = at[0]
    c = popcount64(b.live[0])
    # ranges ascend, so the word of one (`passed` messages stand before it) is where the search for the next begins
    while k < seqs.n and seqs.r[2 * k] <= last:
        low = <int>(max(seqs.r[2 * k], first) - first)
        high = <int>(min(seqs.r[2 * k + 1], last) - first)
        while low - passed >= c:
            passed += c
            w += 1
            c = popcount64(b.live[w])
        start = w * 64 + select_word(b.live[w], low - passed)
        if high == low:
            mask[w] |= <uint64_t>1 << (63 - (start & 63))
        else:
            set_bits(mask, start, select_bit(b.live, high))
        k += 1
    return keep_live(b, mask)


cdef bint keep_live(const block_t *b, uint64_t *mask) noexcept nogil:
    cdef int w
    for w in range(WORDS):
        mask[w] &= b.live[w]
    return not is_empty(mask)


# Sequence numbers of the messages in mask; first is the number of the first message of the block.
cdef int add_seqs(ranges_t *out, const block_t *b, const uint64_t *mask, uint32_t first) except -1 nogil:
    cdef int w, before = 0, bit
    cdef uint64_t v
    cdef uint32_t seq
    if memcmp(mask, b.live, sizeof(b.live)) == 0:
        ranges_add(out, first, first + b.count - 1)
        return 0
    for w in range(WORDS):
        v = mask[w]
        while v:
            bit = clz64(v)
            v &= ~(<uint64_t>1 << (63 - bit))
            seq = first + before + (popcount64(b.live[w] >> (64 - bit)) if bit else 0)
            ranges_add(out, seq, seq)
        before += popcount64(b.live[w])
    return 0


# Differences of one block, either of which may be missing, into vanished, changed and arrived. An EXPUNGE counts the
# ones before it as gone, hence the length of the list.
cdef int compare(const block_t *a, const block_t *z, uint32_t before, ranges_t *out, list expunged) except -1:
    cdef uint64_t bits[WORDS]
    cdef uint64_t v
    cdef uint32_t base = (a.no if a != NULL else z.no) << SHIFT
    cdef int w, bit
    if a != NULL:
        for w in range(WORDS):
            bits[w] = a.live[w] & ~(z.live[w] if z != NULL else 0)
            v = bits[w]
            while v:
                bit = clz64(v)
                v &= ~(<uint64_t>1 << (63 - bit))
                expunged.append(before + rank_bit(a.live, w * 64 + bit) + 1 - len(expunged))
        add_runs(&out[0], bits, base)
    if a != NULL and z != NULL:
        changed_bits(a, z, bits)
        add_runs(&out[1], bits, base)
    if z != NULL:
        for w in range(WORDS):
            bits[w] = z.live[w] & ~(a.live[w] if a != NULL else 0)
        add_runs(&out[2], bits, base)
    return 0


# --- FETCH (FLAGS) -------------------------------------------------------------------------------------------------

# One combination of the system flags and \Recent, joined by spaces: bits 0..4 are the flags, bit 5 is \Recent.
def _system_text(combination):
    texts = [text for flag, text in sorted(SYSTEM_FLAGS.items()) if combination >> flag & 1]
    if combination >> SYSTEM & 1:
        texts.append(b"\\Recent")
    return b" ".join(texts)


cdef list SYSTEM_TEXTS = list(map(_system_text, range(64)))


@cython.final
cdef class FlagWriter:
    """Iterator over chunks of `* n FETCH (UID u FLAGS (...) MODSEQ (m))` lines; keeps its snapshot."""

    cdef Snapshot view
    cdef NumSet numbers
    cdef dict names             # flag number -> bytes
    cdef bint by_uid
    cdef bint with_uid
    cdef bint with_flags
    cdef bint uid_only
    cdef bytes modseqs          # one for each message, in order; None: they are not asked for
    cdef Py_ssize_t written     # messages so far
    cdef int64_t recent_after
    cdef Py_ssize_t chunk
    cdef Py_ssize_t block       # where we are: block, range, and what is left of the block
    cdef Py_ssize_t at
    cdef uint64_t mask[WORDS]
    cdef bint open              # mask is of `block`
    cdef int word
    cdef char *buffer
    cdef size_t used
    cdef size_t room
    cdef size_t keyword_room    # the longest list of keywords of a message in this block

    def __cinit__(self, Snapshot view, NumSet messages, names, bint with_uid, recent_after, Py_ssize_t chunk,
                  bytes modseqs, bint with_flags, bint uid_only):
        if chunk < 1:
            raise ValueError("a chunk holds one message at least")
        if modseqs is None and not with_uid and not with_flags:
            raise ValueError("nothing to write")
        self.view = view
        self.by_uid = not isinstance(messages, SeqSet)
        self.numbers = view.resolved(messages)
        self.names = {flag: name for flag, name in dict(names).items() if flag >= SYSTEM}
        self.with_uid = with_uid
        self.with_flags = with_flags
        self.uid_only = uid_only
        self.modseqs = modseqs
        self.recent_after = recent_after
        self.chunk = chunk

    def __dealloc__(self):
        free(self.buffer)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t left = self.chunk
        self.used = 0
        while left:
            if not self.open and not self.next_block():
                break
            left = self.write_block(left)
        if self.used == 0:
            raise StopIteration
        return PyBytes_FromStringAndSize(self.buffer, self.used)

    # To the next block with a message that is asked for.
    cdef bint next_block(self) except -1:
        cdef int i
        while self.block < self.view.n:
            if self.view.mask(self.block, self.numbers, self.by_uid, &self.at, self.mask):
                self.open = True
                self.word = 0
                self.keyword_room = 0
                for i in range(self.view.blocks[self.block].planes_n):
                    name = self.names.get(planes(self.view.blocks[self.block])[i].flag)
                    if name is not None:
                        self.keyword_room += len(name) + 1
                return True
            self.block += 1
        return False

    cdef int reserve(self, size_t more) except -1:
        cdef char *grown
        if self.used + more > self.room:
            self.room = max(self.used + more, 2 * self.room, <size_t>4096)
            grown = <char *>realloc(self.buffer, self.room)
            if grown == NULL:
                raise MemoryError
            self.buffer = grown
        return 0

    # Write up to `left` messages of the open block; gives what is left.
    cdef Py_ssize_t write_block(self, Py_ssize_t left) except -1:
        cdef const block_t *b = self.view.blocks[self.block]
        cdef uint32_t base = b.no << SHIFT, seq = self.view.before[self.block] + 1, uid
        cdef uint64_t planes_here[SYSTEM]
        cdef uint64_t keywords, v
        cdef int w, i, bit, sh, system
        for w in range(self.word):
            seq += popcount64(b.live[w])
        for w in range(self.word, WORDS):
            self.word = w
            if self.mask[w]:
                memset(planes_here, 0, sizeof(planes_here))
                keywords = 0
                for i in range(b.planes_n):
                    if planes(b)[i].flag < SYSTEM:
                        planes_here[planes(b)[i].flag] = planes(b)[i].bits[w]
                    else:
                        keywords |= planes(b)[i].bits[w]
            while self.mask[w]:
                if left == 0:
                    return 0
                bit = clz64(self.mask[w])
                sh = 63 - bit
                self.mask[w] &= ~(<uint64_t>1 << sh)
                uid = base + w * 64 + bit
                system = 0
                for i in range(SYSTEM):
                    system |= ((planes_here[i] >> sh) & 1) << i
                if uid > self.recent_after:
                    system |= 1 << SYSTEM
                v = popcount64(b.live[w] >> (64 - bit)) if bit else 0
                self.write_message(seq + <uint32_t>v, uid, system, (keywords >> sh) & 1, w * 64 + bit)
                left -= 1
            seq += popcount64(b.live[w])
        self.open = False
        self.block += 1
        return left

    # 180 bytes hold everything but keywords: numbers 40, the words 50, all system flags 52.
    cdef int write_message(self, uint32_t seq, uint32_t uid, int system, bint keywords, int position) except -1:
        cdef char *out
        self.reserve(180 + self.keyword_room)
        out = self.buffer + self.used
        out[0] = c'*'
        out[1] = c' '
        out += 2
        if self.uid_only:
            out += write_u32(out, uid)
            memcpy(out, b" UIDFETCH (", 11)
            out += 11
        else:
            out += write_u32(out, seq)
            memcpy(out, b" FETCH (", 8)
            out += 8
        if self.with_uid:
            memcpy(out, b"UID ", 4)
            out += 4
            out += write_u32(out, uid)
            out[0] = c' '
            out += 1
        if self.with_flags:
            out = self.write_flags(out, system, keywords, position)
        if self.modseqs is not None:
            out = self.write_modseq(out)
        memcpy(out - 1, b")\r\n", 3)        # over the space behind the last item
        self.used = out + 2 - self.buffer
        self.written += 1
        return 0

    cdef char *write_flags(self, char *out, int system, bint keywords, int position) except NULL:
        cdef bytes text = <bytes>SYSTEM_TEXTS[system]
        memcpy(out, b"FLAGS (", 7)
        out += 7
        memcpy(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        out += PyBytes_GET_SIZE(text)
        if keywords:
            out = self.write_keywords(out, position, system != 0)
        out[0] = c')'
        out[1] = c' '
        return out + 2

    cdef char *write_modseq(self, char *out) except NULL:
        cdef int64_t modseq
        cdef bytes text
        if (self.written + 1) * <Py_ssize_t>sizeof(int64_t) > PyBytes_GET_SIZE(self.modseqs):
            raise ValueError("a message without a modseq")
        memcpy(&modseq, PyBytes_AS_STRING(self.modseqs) + self.written * sizeof(int64_t), sizeof(int64_t))
        memcpy(out, b"MODSEQ (", 8)
        out += 8
        if 0 <= modseq <= NO_RECENT:
            out += write_u32(out, <uint32_t>modseq)
        else:
            text = b"%d" % modseq
            memcpy(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            out += PyBytes_GET_SIZE(text)
        out[0] = c')'
        out[1] = c' '
        return out + 2

    cdef char *write_keywords(self, char *out, int position, bint space):
        cdef const block_t *b = self.view.blocks[self.block]
        cdef int i
        cdef bytes name
        for i in range(b.planes_n):
            if planes(b)[i].flag < SYSTEM or not get_bit(planes(b)[i].bits, position):
                continue
            found = self.names.get(planes(b)[i].flag)
            if found is None:
                continue
            name = found
            if space:
                out[0] = c' '
                out += 1
            memcpy(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            out += PyBytes_GET_SIZE(name)
            space = True
        return out


# --- FETCH of rows -------------------------------------------------------------------------------------------------

UID_ITEM, FLAGS_ITEM, NUMBER_ITEM, DATE_ITEM, TEXT_ITEM, MADE_ITEM = range(6)

cdef enum:
    UID_KIND = 0
    FLAGS_KIND = 1
    NUMBER_KIND = 2
    DATE_KIND = 3
    TEXT_KIND = 4
    MADE_KIND = 5
    LINE_ROOM = 40              # `* n FETCH (`, `)` and the line's end
    NUMBER_ROOM = 20
    DATE_ROOM = 29

cdef bytes MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"


cdef inline char *write_two(char *out, int number) noexcept nogil:
    out[0] = c'0' + number // 10
    out[1] = c'0' + number % 10
    return out + 2


@cython.final
cdef class RowWriter:
    """Writes `* n FETCH (...)` lines of rows, whole chunks of them into one buffer."""

    cdef Snapshot view
    cdef list items             # (kind, label with its space, key of the row or what makes the text)
    cdef dict names
    cdef int64_t recent_after
    cdef bint uid_only
    cdef char *buffer
    cdef size_t used
    cdef size_t room

    def __cinit__(self, Snapshot view not None, items, names, recent_after=NO_RECENT, bint uid_only=False):
        self.uid_only = uid_only
        self.view = view
        self.items = list(items)
        self.names = {flag: name for flag, name in dict(names).items() if flag >= SYSTEM}
        self.recent_after = recent_after

    def __dealloc__(self):
        free(self.buffer)

    def write(self, rows):
        self.used = 0
        for row in rows:
            self.write_row(row)
        return PyBytes_FromStringAndSize(self.buffer, self.used)

    cdef int reserve(self, size_t more) except -1:
        cdef char *grown
        if self.used + more > self.room:
            self.room = max(self.used + more, 2 * self.room, <size_t>16384)
            grown = <char *>realloc(self.buffer, self.room)
            if grown == NULL:
                raise MemoryError
            self.buffer = grown
        return 0

    cdef int put(self, bytes text) except -1:
        cdef Py_ssize_t size
        if text is None:        # a column that is NULL
            raise TypeError("no text")
        size = PyBytes_GET_SIZE(text)
        self.reserve(size)
        memcpy(self.buffer + self.used, PyBytes_AS_STRING(text), size)
        self.used += size
        return 0

    cdef int put_char(self, char c) except -1:
        self.reserve(1)
        self.buffer[self.used] = c
        self.used += 1
        return 0

    def text(self, row, Py_ssize_t place):
        cdef uint32_t uid = row["uid"]
        cdef Py_ssize_t at
        self.used = 0
        self.put_item(self.items[place], row, self.block_of(uid, &at), uid)
        return PyBytes_FromStringAndSize(self.buffer, self.used)

    cdef const block_t *block_of(self, uint32_t uid, Py_ssize_t *at) except NULL:
        cdef const block_t *b = self.view.block_of_uid(uid, at)
        if b == NULL:
            raise KeyError(uid)
        return b

    cdef int write_row(self, row) except -1:
        cdef uint32_t uid = row["uid"]
        cdef Py_ssize_t at, i
        cdef const block_t *b = self.block_of(uid, &at)
        cdef char *out
        self.reserve(LINE_ROOM)
        out = self.buffer + self.used
        memcpy(out, b"* ", 2)
        if self.uid_only:
            out = out + 2 + write_u32(out + 2, uid)
            memcpy(out, b" UIDFETCH (", 11)
            out += 11
        else:
            out = out + 2 + write_u32(out + 2, self.view.before[at] + rank_bit(b.live, uid & (BLOCK - 1)) + 1)
            memcpy(out, b" FETCH (", 8)
            out += 8
        self.used = out - self.buffer
        for i in range(len(self.items)):
            if i:
                self.put_char(c' ')
            self.put_item(self.items[i], row, b, uid)
        self.put(b")\r\n")
        return 0

    cdef int put_item(self, tuple item, row, const block_t *b, uint32_t uid) except -1:
        cdef int kind = item[0]
        self.put(item[1])
        if kind == UID_KIND:
            self.put_number(uid)
        elif kind == FLAGS_KIND:
            self.put_flags(b, uid)
        elif kind == NUMBER_KIND:
            self.put_number(row[item[2]])
        elif kind == DATE_KIND:
            self.put_date(row[item[2]])
        elif kind == TEXT_KIND:
            self.put(row[item[2]])
        else:
            self.put(item[2](row))
        return 0

    cdef int put_number(self, number) except -1:
        if 0 <= number <= NO_RECENT:
            self.reserve(NUMBER_ROOM)
            self.used += write_u32(self.buffer + self.used, number)
        else:
            self.put(b"%d" % number)
        return 0

    cdef int put_date(self, moment) except -1:
        cdef char *out
        cdef int year
        if not PyDateTime_Check(moment) or moment.tzinfo is None:
            raise ValueError("a date-time needs a time zone")
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
        self.reserve(DATE_ROOM)
        out = self.buffer + self.used
        out[0] = c'"'
        write_two(out + 1, PyDateTime_GET_DAY(moment))
        if out[1] == c'0':
            out[1] = c' '
        out[3] = c'-'
        memcpy(out + 4, PyBytes_AS_STRING(MONTHS) + 3 * (PyDateTime_GET_MONTH(moment) - 1), 3)
        out[7] = c'-'
        year = PyDateTime_GET_YEAR(moment)
        write_two(out + 8, year // 100)
        write_two(out + 10, year % 100)
        out[12] = c' '
        write_two(out + 13, PyDateTime_DATE_GET_HOUR(moment))
        out[15] = c':'
        write_two(out + 16, PyDateTime_DATE_GET_MINUTE(moment))
        out[18] = c':'
        write_two(out + 19, PyDateTime_DATE_GET_SECOND(moment))
        memcpy(out + 21, b" +0000\"", 7)
        self.used += 28
        return 0

    cdef int put_flags(self, const block_t *b, uint32_t uid) except -1:
        cdef int i, system = 0
        cdef bint space
        self.put_char(c'(')
        for i in range(b.planes_n):
            if planes(b)[i].flag >= SYSTEM:
                break
            system |= get_bit(planes(b)[i].bits, uid & (BLOCK - 1)) << planes(b)[i].flag
        if uid > self.recent_after:
            system |= 1 << SYSTEM
        self.put(<bytes>SYSTEM_TEXTS[system])
        space = system != 0
        for i in range(b.planes_n):
            if planes(b)[i].flag < SYSTEM or not get_bit(planes(b)[i].bits, uid & (BLOCK - 1)):
                continue
            name = self.names.get(planes(b)[i].flag)
            if name is not None:
                if space:
                    self.put_char(c' ')
                self.put(name)
                space = True
        self.put_char(c')')
        return 0
