# cython: language_level=3
"""Bounded queue of 64-bit hints between processes: many producers, one consumer, and an eventfd as the bell.

The memory is a memory file made before the fork; a process that is replaced by `exec` hands its descriptor and that of
the bell to its successor, and the queue goes on. Each slot carries a sequence number (Vyukov's bounded
queue): at position p it reads p when it is free, p + 1 when its value is published, p + capacity when it was consumed.

Three things may go wrong, and none of them may stop the queue, because what it carries is only a hint:

* A producer dies between taking a position and publishing it. The consumer sees a `hole` and may `skip` it.
* The producer was merely slow. It publishes with compare-and-swap, so a skipped position stays skipped (with a plain
  store the slot would go back by one lap and every later `put` would find the queue full).
* The consumer dies between taking a value and moving on. The next one sees a hole too, and skips it without touching a
  slot that is in use again.

Going to sleep: the consumer sets a flag with a sequentially consistent exchange and only then looks at the tail once
more; a producer publishes and only then looks at the flag. With a plain store of the flag wake-ups were lost.
"""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdint.h>
    #include <unistd.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/eventfd.h>

    typedef struct { uint64_t seq; uint64_t value; } ring_slot;
    typedef struct {               /* one cache line for each side that writes */
        uint64_t tail;    char pad1[56];
        uint64_t head;    char pad2[56];
        uint64_t asleep;  char pad3[56];
        uint64_t dropped; char pad4[56];
        uint64_t mask;    char pad5[56];
        ring_slot slots[];
    } ring_t;

    static size_t ring_size(uint64_t capacity) { return sizeof(ring_t) + capacity * sizeof(ring_slot); }

    static int memory_new(uint64_t capacity) {
        int fd = memfd_create("sora-ring", MFD_CLOEXEC);
        if (fd >= 0 && ftruncate(fd, ring_size(capacity)) == 0) return fd;
        if (fd >= 0) close(fd);
        return -1;
    }
    /* The ring in a memory file: a new one begins empty (mask 0), one of the same capacity goes on. */
    static ring_t *ring_map(int fd, uint64_t capacity) {
        struct stat facts;
        if (fstat(fd, &facts) < 0 || (uint64_t)facts.st_size != ring_size(capacity)) return 0;
        ring_t *r = mmap(0, ring_size(capacity), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (r == MAP_FAILED) return 0;
        if (r->mask) return r;
        r->mask = capacity - 1;
        for (uint64_t i = 0; i < capacity; i++) r->slots[i].seq = i;
        return r;
    }
    static void ring_free(ring_t *r) { munmap(r, ring_size(r->mask + 1)); }

    /* Take a position: 1, or 0 when the queue is full. */
    static int ring_take(ring_t *r, uint64_t *position) {
        uint64_t t = __atomic_load_n(&r->tail, __ATOMIC_RELAXED);
        for (;;) {
            uint64_t seq = __atomic_load_n(&r->slots[t & r->mask].seq, __ATOMIC_ACQUIRE);
            int64_t lap = (int64_t)(seq - t);
            if (lap == 0) {
                if (__atomic_compare_exchange_n(&r->tail, &t, t + 1, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
                    *position = t;
                    return 1;
                }
            } else if (lap < 0) {
                return 0;
            } else {
                t = __atomic_load_n(&r->tail, __ATOMIC_RELAXED);
            }
        }
    }
    /* Publish at a position taken before; 0 when the consumer has given it up in between. */
    static int ring_publish(ring_t *r, uint64_t position, uint64_t value, int bell) {
        ring_slot *s = &r->slots[position & r->mask];
        uint64_t free_seq = position;
        if (__atomic_load_n(&s->seq, __ATOMIC_ACQUIRE) != position) return 0;
        s->value = value;
        if (!__atomic_compare_exchange_n(&s->seq, &free_seq, position + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) return 0;
        if (__atomic_load_n(&r->asleep, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&r->asleep, 0, __ATOMIC_SEQ_CST)) {
            uint64_t one = 1;
            if (write(bell, &one, sizeof one) < 0) { /* EAGAIN: the bell rings already */ }
        }
        return 1;
    }
    static void ring_drop(ring_t *r) { __atomic_fetch_add(&r->dropped, 1, __ATOMIC_RELAXED); }

    static int ring_get(ring_t *r, uint64_t *value) {
        uint64_t h = __atomic_load_n(&r->head, __ATOMIC_RELAXED);
        ring_slot *s = &r->slots[h & r->mask];
        if (__atomic_load_n(&s->seq, __ATOMIC_SEQ_CST) != h + 1) return 0;
        *value = s->value;
        __atomic_store_n(&s->seq, h + r->mask + 1, __ATOMIC_RELEASE);
        __atomic_store_n(&r->head, h + 1, __ATOMIC_RELEASE);
        return 1;
    }
    static int ring_arm(ring_t *r) {
        __atomic_exchange_n(&r->asleep, 1, __ATOMIC_SEQ_CST);
        return __atomic_load_n(&r->tail, __ATOMIC_SEQ_CST) == __atomic_load_n(&r->head, __ATOMIC_RELAXED);
    }
    static int ring_hole(ring_t *r) {
        uint64_t h = __atomic_load_n(&r->head, __ATOMIC_RELAXED);
        return __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) != h
            && __atomic_load_n(&r->slots[h & r->mask].seq, __ATOMIC_ACQUIRE) != h + 1;
    }
    /* Give the position at the head up, unless its producer publishes at this very moment. */
    static int ring_skip(ring_t *r) {
        uint64_t h = __atomic_load_n(&r->head, __ATOMIC_RELAXED), seq = h;
        ring_slot *s = &r->slots[h & r->mask];
        if (!ring_hole(r)) return 0;
        if (!__atomic_compare_exchange_n(&s->seq, &seq, h + r->mask + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
            && seq == h + 1) return 0;
        __atomic_store_n(&r->head, h + 1, __ATOMIC_RELEASE);
        return 1;
    }
    static uint64_t ring_used(ring_t *r) {
        return __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) - __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
    }
    static uint64_t ring_dropped(ring_t *r) { return __atomic_load_n(&r->dropped, __ATOMIC_RELAXED); }
    static int bell_new(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
    static void bell_silence(int bell) { uint64_t n; if (read(bell, &n, sizeof n) < 0) { /* EAGAIN: not rung */ } }
    """
    ctypedef struct ring_t:
        uint64_t mask
    int memory_new(uint64_t capacity) nogil
    ring_t *ring_map(int fd, uint64_t capacity) nogil
    void ring_free(ring_t *r) nogil
    int ring_take(ring_t *r, uint64_t *position) nogil
    int ring_publish(ring_t *r, uint64_t position, uint64_t value, int bell) nogil
    void ring_drop(ring_t *r) nogil
    int ring_get(ring_t *r, uint64_t *value) nogil
    int ring_arm(ring_t *r) nogil
    int ring_hole(ring_t *r) nogil
    int ring_skip(ring_t *r) nogil
    uint64_t ring_used(ring_t *r) nogil
    uint64_t ring_dropped(ring_t *r) nogil
    int bell_new() nogil
    void bell_silence(int bell) nogil
    int close(int fd) nogil


cdef class Ring:
    """The queue; made before the fork, then used by every process that inherited it.

    The memory and the eventfd live until the last process that holds the object is gone.

    Args:
        capacity: Number of slots, a power of two.
        memory: Descriptor of the memory of a ring of this capacity, to go on with it; it is ours from now on.
        bell: Its eventfd.
    """

    cdef ring_t *_ring
    cdef readonly int fd
    cdef readonly int memory

    def __cinit__(self, uint64_t capacity, int memory=-1, int bell=-1):
        self.fd = self.memory = -1
        if capacity < 2 or capacity > 1 << 24 or capacity & (capacity - 1):
            raise ValueError(f"capacity must be a power of two from 2 to 16777216, not {capacity}")
        self.memory = memory if memory >= 0 else memory_new(capacity)
        self._ring = ring_map(self.memory, capacity)
        if self._ring == NULL:
            raise MemoryError("no memory for the ring")
        self.fd = bell if bell >= 0 else bell_new()
        if self.fd < 0:
            raise OSError("no eventfd for the ring")

    def __dealloc__(self):
        if self._ring != NULL:
            ring_free(self._ring)
        if self.fd >= 0:
            close(self.fd)
        if self.memory >= 0:
            close(self.memory)

    def __len__(self):
        return ring_used(self._ring)

    def put(self, uint64_t value):
        """Append a hint and wake the consumer if it sleeps; False (and counted) if there was no room."""
        cdef uint64_t position
        if ring_take(self._ring, &position) and ring_publish(self._ring, position, value, self.fd):
            return True
        ring_drop(self._ring)
        return False

    def take(self):
        """First half of `put`, for tests of what a dead producer leaves behind: a position, or None when full."""
        cdef uint64_t position
        return position if ring_take(self._ring, &position) else None

    def publish(self, uint64_t position, uint64_t value):
        """Second half of `put`; False if the consumer has skipped the position."""
        return bool(ring_publish(self._ring, position, value, self.fd))

    def drain(self, Py_ssize_t limit=1024):
        """Up to `limit` hints in order. Consumer only."""
        cdef uint64_t value
        cdef list values = []
        while limit > 0 and ring_get(self._ring, &value):
            values.append(value)
            limit -= 1
        return values

    def arm(self):
        """Silence the bell and ask for the next one; False if there is something to drain (do not sleep)."""
        bell_silence(self.fd)
        return bool(ring_arm(self._ring))

    def hole(self):
        """True if the position at the head was taken but is not published (yet)."""
        return bool(ring_hole(self._ring))

    def skip(self):
        """Give up the position of a `hole`; False if it was published meanwhile. Consumer only."""
        return bool(ring_skip(self._ring))

    @property
    def capacity(self):
        return self._ring.mask + 1

    @property
    def dropped(self):
        """Hints that found no room, of all processes."""
        return ring_dropped(self._ring)
