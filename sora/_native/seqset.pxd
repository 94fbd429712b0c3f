# What viewcols and imapscan use of the number sets.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc


# Ranges being collected: pairs of first and last number.
cdef struct ranges_t:
    uint32_t *r
    Py_ssize_t n
    Py_ssize_t cap


cdef inline int ranges_push(ranges_t *b, uint32_t lo, uint32_t hi) except -1 nogil:
    cdef Py_ssize_t cap
    cdef uint32_t *grown
    if b.n == b.cap:
        cap = b.cap * 2 if b.cap else 8
        grown = <uint32_t *>realloc(b.r, cap * 2 * sizeof(uint32_t))
        if grown == NULL:
            with gil:
                raise MemoryError
        b.r = grown
        b.cap = cap
    b.r[2 * b.n] = lo
    b.r[2 * b.n + 1] = hi
    b.n += 1
    return 0


# For ranges that come in ascending order of their first number: merges with the one before.
cdef inline int ranges_add(ranges_t *b, uint32_t lo, uint32_t hi) except -1 nogil:
    if b.n and <uint64_t>lo <= <uint64_t>b.r[2 * b.n - 1] + 1:
        if hi > b.r[2 * b.n - 1]:
            b.r[2 * b.n - 1] = hi
        return 0
    return ranges_push(b, lo, hi)


cdef class NumSet:
    cdef uint32_t *r        # 2 * n numbers: first and last of each range
    cdef Py_ssize_t n
    cdef uint32_t star      # n of `n:*`, the smallest if there are several; 4294967295 for `*`; 0: no star
    cdef bint saved
    cdef Py_ssize_t count   # how many numbers, one more than that; 0: nobody has asked yet

    cdef int require_numbers(self) except -1


cdef class SeqSet(NumSet):
    pass


cdef class UidSet(NumSet):
    pass


# The set takes the memory of b, which must be sorted and merged.
cdef NumSet numset_take(type cls, ranges_t *b)
cdef NumSet numset_parse(type cls, const unsigned char *text, Py_ssize_t size)
cdef NumSet numset_saved(type cls)
