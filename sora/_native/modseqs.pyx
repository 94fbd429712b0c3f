# cython: language_level=3, cdivision=True, auto_pickle=False
"""When the messages of a mailbox changed last, at any version of it: creations by UID, and the journal of changes.

The modseq of a message at version v is that of the latest journal entry up to v that holds its bit, or else that of its
creation. So one journal answers for every session, however far each is behind, and a change costs one entry. Entries of
a block are linked from the latest to the earliest; a message that changed lately is found in the first one.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from sora._native.bytescan cimport clz64, load32be, load64be
from sora._native.seqset cimport UidSet, numset_take, ranges_add, ranges_t

cdef enum:
    WORDS = 16
    BLOCK = 1024
    SHIFT = 10
    CREATED = 12            # bytes of a creation: uint4 uid, int8 modseq
    CHANGE = 144            # bytes of a change: int8 modseq, int4 block_no, int4 1024, 128 bytes

cdef struct change_t:
    int64_t modseq
    Py_ssize_t earlier      # the one before it in the same block; -1: none
    uint32_t block
    uint64_t bits[WORDS]


# Walks a set of UIDs block by block.
cdef struct walk_t:
    Py_ssize_t at           # range
    uint64_t uid            # the next in it; 0: its first
    uint32_t block
    uint64_t mask[WORDS]


cdef inline void set_bits(uint64_t *bits, int first, int last) noexcept nogil:
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


# The next block with a UID of the set, and which of its UIDs are in it.
cdef bint walk(walk_t *k, UidSet uids) noexcept nogil:
    cdef uint64_t first, last, end
    if k.at == uids.n:
        return False
    first = max(k.uid, <uint64_t>uids.r[2 * k.at])
    k.block = <uint32_t>(first >> SHIFT)
    end = (<uint64_t>k.block << SHIFT) + BLOCK - 1
    memset(k.mask, 0, sizeof(k.mask))
    while k.at < uids.n:
        first = max(k.uid, <uint64_t>uids.r[2 * k.at])
        if first > end:
            break
        last = min(end, <uint64_t>uids.r[2 * k.at + 1])
        set_bits(k.mask, <int>(first & (BLOCK - 1)), <int>(last & (BLOCK - 1)))
        if last < uids.r[2 * k.at + 1]:
            k.uid = last + 1
            break
        k.uid = 0
        k.at += 1
    return True


@cython.final
cdef class ModSeqs:
    """Creations and changes of one mailbox after `since`, up to `highest`."""

    cdef readonly int64_t since
    cdef readonly int64_t highest
    cdef uint32_t *uids
    cdef int64_t *created
    cdef Py_ssize_t n
    cdef Py_ssize_t room
    cdef change_t *changes
    cdef readonly Py_ssize_t entries
    cdef Py_ssize_t changes_room
    cdef dict latest            # block number -> its latest change

    def __cinit__(self, since, highest, created=None, changes=None):
        self.since = since
        self.highest = since
        self.latest = {}
        self.add(highest, created, changes)

    def __dealloc__(self):
        free(self.uids)
        free(self.created)
        free(self.changes)

    def __repr__(self):
        return f"ModSeqs({self.n} creations and {self.entries} changes of {self.since}..{self.highest})"

    @property
    def size_bytes(self):
        return self.room * (sizeof(uint32_t) + sizeof(int64_t)) + self.changes_room * sizeof(change_t)

    # --- learning ---

    def add(self, highest, created, changes):
        if highest < self.highest:
            raise ValueError("modseqs do not go back")
        if created is not None:
            self.add_created(created)
        if changes is not None:
            self.add_changes(changes)
        self.highest = highest

    def add_change(self, modseq, blocks):
        if modseq < self.highest:
            raise ValueError("modseqs do not go back")
        for no, bits in blocks:
            if len(bits) != WORDS * 8:
                raise ValueError("not a bitmap of 1024 bits")
            self.push(modseq, no, <const unsigned char *>PyBytes_AS_STRING(bits))
        self.highest = modseq

    cdef int add_created(self, bytes created) except -1:
        cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(created)
        cdef Py_ssize_t more = PyBytes_GET_SIZE(created) // CREATED, i
        cdef void *grown
        cdef uint32_t uid
        if PyBytes_GET_SIZE(created) % CREATED:
            raise ValueError("creations are cut short")
        if self.n + more > self.room:
            grown = realloc(self.uids, (self.n + more) * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self.uids = <uint32_t *>grown
            grown = realloc(self.created, (self.n + more) * sizeof(int64_t))
            if grown == NULL:
                raise MemoryError
            self.created = <int64_t *>grown
            self.room = self.n + more
        for i in range(more):
            uid = load32be(p + i * CREATED)
            if self.n and uid <= self.uids[self.n - 1]:
                raise ValueError("creations are not in the order of UIDs")
            self.uids[self.n] = uid
            self.created[self.n] = <int64_t>load64be(p + i * CREATED + 4)
            self.n += 1
        return 0

    cdef int add_changes(self, bytes changes) except -1:
        cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(changes)
        cdef Py_ssize_t i
        if PyBytes_GET_SIZE(changes) % CHANGE:
            raise ValueError("changes are cut short")
        for i in range(PyBytes_GET_SIZE(changes) // CHANGE):
            if load32be(p + 12) != BLOCK:
                raise ValueError("not a bitmap of 1024 bits")
            self.push(<int64_t>load64be(p), load32be(p + 8), p + 16)
            p += CHANGE
        return 0

    cdef int push(self, int64_t modseq, uint32_t block, const unsigned char *bits) except -1:
        cdef change_t *grown
        cdef change_t *c
        cdef int w
        if self.entries and modseq < self.changes[self.entries - 1].modseq:
            raise ValueError("changes are not in the order of modseqs")
        if self.entries == self.changes_room:
            self.changes_room = max(<Py_ssize_t>8, 2 * self.changes_room)
            grown = <change_t *>realloc(self.changes, self.changes_room * sizeof(change_t))
            if grown == NULL:
                raise MemoryError
            self.changes = grown
        c = &self.changes[self.entries]
        c.modseq = modseq
        c.block = block
        c.earlier = self.latest.get(block, -1)
        for w in range(WORDS):
            c.bits[w] = load64be(bits + 8 * w)
        self.latest[block] = self.entries
        self.entries += 1
        return 0

    # --- telling ---

    # Modseqs of the messages of k.mask by their position in the block.
    cdef int fill(self, walk_t *k, int64_t as_of, int64_t *values) except -1:
        cdef Py_ssize_t entry = self.latest.get(k.block, -1)
        cdef uint64_t left[WORDS]
        cdef uint64_t hits, any = 0
        cdef int w, bit
        for w in range(WORDS):
            left[w] = k.mask[w]
            any |= left[w]
        while entry >= 0 and any:
            if self.changes[entry].modseq <= as_of:
                any = 0
                for w in range(WORDS):
                    hits = left[w] & self.changes[entry].bits[w]
                    left[w] &= ~hits
                    any |= left[w]
                    while hits:
                        bit = clz64(hits)
                        hits &= ~(<uint64_t>1 << (63 - bit))
                        values[w * 64 + bit] = self.changes[entry].modseq
            entry = self.changes[entry].earlier
        if any:
            self.fill_created(k.block, as_of, left, values)
        return 0

    cdef void fill_created(self, uint32_t block, int64_t as_of, uint64_t *left, int64_t *values) noexcept nogil:
        cdef Py_ssize_t at = self.find(block)
        cdef uint32_t uid
        cdef int w, bit
        for w in range(WORDS):
            while left[w]:
                bit = clz64(left[w])
                left[w] &= ~(<uint64_t>1 << (63 - bit))
                uid = (block << SHIFT) + w * 64 + bit
                while at < self.n and self.uids[at] < uid:
                    at += 1
                # One that is not known changed last before `since`, or its journal was merged: a later modseq than its
                # own makes a client read it once more, and loses nothing.
                values[w * 64 + bit] = as_of
                if at < self.n and self.uids[at] == uid and self.created[at] < as_of:
                    values[w * 64 + bit] = self.created[at]

    # The first creation that is not before the block.
    cdef Py_ssize_t find(self, uint32_t block) noexcept nogil:
        cdef Py_ssize_t lo = 0, hi = self.n, mid
        cdef uint64_t first = <uint64_t>block << SHIFT
        while lo < hi:
            mid = (lo + hi) >> 1
            if self.uids[mid] < first:
                lo = mid + 1
            else:
                hi = mid
        return lo

    def of(self, UidSet uids not None, int64_t as_of):
        cdef walk_t k
        cdef int64_t values[BLOCK]
        cdef bytes made = PyBytes_FromStringAndSize(NULL, len(uids) * <Py_ssize_t>sizeof(int64_t))
        cdef int64_t *out = <int64_t *>PyBytes_AS_STRING(made)
        cdef uint64_t v
        cdef int w, bit
        memset(&k, 0, sizeof(k))
        while walk(&k, uids):
            self.fill(&k, as_of, values)
            for w in range(WORDS):
                v = k.mask[w]
                while v:
                    bit = clz64(v)
                    v &= ~(<uint64_t>1 << (63 - bit))
                    out[0] = values[w * 64 + bit]
                    out += 1
        return made

    def last(self, UidSet uids not None, int64_t as_of):
        cdef walk_t k
        cdef int64_t values[BLOCK]
        cdef int64_t found = 0
        cdef uint64_t v
        cdef int w, bit
        memset(&k, 0, sizeof(k))
        while walk(&k, uids):
            self.fill(&k, as_of, values)
            for w in range(WORDS):
                v = k.mask[w]
                while v:
                    bit = clz64(v)
                    v &= ~(<uint64_t>1 << (63 - bit))
                    found = max(found, values[w * 64 + bit])
        return found

    def newer(self, UidSet uids not None, int64_t since, int64_t as_of):
        cdef walk_t k
        cdef uint64_t found[WORDS]
        cdef ranges_t out
        cdef Py_ssize_t entry, at
        cdef uint64_t v
        cdef int w, bit
        out.r = NULL
        out.n = out.cap = 0
        memset(&k, 0, sizeof(k))
        while walk(&k, uids):
            memset(found, 0, sizeof(found))
            entry = self.latest.get(k.block, -1)
            while entry >= 0 and self.changes[entry].modseq > since:
                if self.changes[entry].modseq <= as_of:
                    for w in range(WORDS):
                        found[w] |= self.changes[entry].bits[w]
                entry = self.changes[entry].earlier
            at = self.find(k.block)
            while at < self.n and self.uids[at] >> SHIFT == k.block:
                if since < self.created[at] <= as_of:
                    bit = self.uids[at] & (BLOCK - 1)
                    found[bit >> 6] |= <uint64_t>1 << (63 - (bit & 63))
                at += 1
            for w in range(WORDS):
                v = found[w] & k.mask[w]
                while v:
                    bit = clz64(v)
                    v &= ~(<uint64_t>1 << (63 - bit))
                    ranges_add(&out, (k.block << SHIFT) + w * 64 + bit, (k.block << SHIFT) + w * 64 + bit)
        return numset_take(UidSet, &out)
