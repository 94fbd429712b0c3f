# cython: language_level=3, cdivision=True
"""Threads of messages: THREAD (RFC 5256 §3) over a hundred thousand messages.

A node is a message id that some message has or refers to, or a message without an id of its own. Links go from child to
parent only. What the algorithms do with trees is done on one array, the parent of each message, because every set of
siblings is in the order of one sort: messages are taken in that order and put at the end of their parents' children.

Parents are numbered like this: -1 is the root, 0 to n - 1 are messages, n and above are dummies. A dummy stands directly
under the root, has no parent, and is where its first child would be.

Nothing here recurses: one message may refer to the next for as long as there are messages. Ids are hashed with a key of
this process, so that nobody can choose ids which meet in one place. The loops run without the interpreter's lock.
"""

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from sora._native.seqset cimport UidSet, numset_take, ranges_add, ranges_t

import array
import os

from sora._native.columns import expand, sort_numbers
from sora._native.seqset import UidSet as Uids

cdef uint64_t KEY0 = int.from_bytes(os.urandom(8), "little")
cdef uint64_t KEY1 = int.from_bytes(os.urandom(8), "little")

cdef enum:
    # Steps up from a parent in search of a loop. A thread as deep as this is no conversation, and where it is joined to
    # another, messages that were made for it would cost the square of their number.
    DEEPEST = 10000


cdef inline uint32_t u32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint64_t turned(uint64_t v, int by) noexcept nogil:
    return (v << by) | (v >> (64 - by))


cdef struct sip_t:
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d


cdef inline void sip_round(sip_t *s) noexcept nogil:
    s.a += s.b
    s.c += s.d
    s.b = turned(s.b, 13) ^ s.a
    s.d = turned(s.d, 16) ^ s.c
    s.a = turned(s.a, 32)
    s.c += s.b
    s.a += s.d
    s.b = turned(s.b, 17) ^ s.c
    s.d = turned(s.d, 21) ^ s.a
    s.c = turned(s.c, 32)


# SipHash-1-3.
cdef uint64_t hash_of(const uint8_t *p, Py_ssize_t n) noexcept nogil:
    cdef sip_t s
    cdef uint64_t word
    cdef Py_ssize_t i = 0, k
    s.a = KEY0 ^ <uint64_t>0x736f6d6570736575
    s.b = KEY1 ^ <uint64_t>0x646f72616e646f6d
    s.c = KEY0 ^ <uint64_t>0x6c7967656e657261
    s.d = KEY1 ^ <uint64_t>0x7465646279746573
    while i + 8 <= n:
        memcpy(&word, p + i, 8)
        s.d ^= word
        sip_round(&s)
        s.a ^= word
        i += 8
    word = <uint64_t>n << 56
    for k in range(n - i):
        word |= <uint64_t>p[i + k] << (8 * k)
    s.d ^= word
    sip_round(&s)
    s.a ^= word
    s.c ^= 0xff
    for k in range(3):
        sip_round(&s)
    return s.a ^ s.b ^ s.c ^ s.d


cdef class Threads:
    """The links between some messages of a mailbox."""

    cdef array.array uids
    cdef UidSet among
    cdef Py_ssize_t n           # messages
    cdef Py_ssize_t at          # of them added, or passed over
    cdef Py_ssize_t nodes
    cdef Py_ssize_t room
    cdef int32_t *parents       # of each node; -1: none
    cdef int32_t *children      # of each node: how many
    cdef int32_t *messages      # of each node; -1: nobody has that id
    cdef int32_t *node_of       # of each message; -1: it was not added
    cdef Py_ssize_t *ids        # where the id of each node begins in octets
    cdef uint32_t *lengths      # 0: it has none that anybody could refer to
    cdef uint64_t *hashes
    cdef uint8_t *octets
    cdef Py_ssize_t octets_n
    cdef Py_ssize_t octets_room
    cdef int32_t *table         # node + 1 by hash; 0: free
    cdef uint64_t mask

    def __cinit__(self, UidSet uids not None):
        cdef Py_ssize_t i
        self.uids = expand(uids)
        self.among = uids
        self.n = len(self.uids)
        self.mask = 1023
        self.table = <int32_t *>calloc(self.mask + 1, sizeof(int32_t))
        self.node_of = <int32_t *>malloc((self.n + 1) * sizeof(int32_t))
        if self.table == NULL or self.node_of == NULL:
            raise MemoryError
        for i in range(self.n):
            self.node_of[i] = -1

    def __dealloc__(self):
        free(self.parents)
        free(self.children)
        free(self.messages)
        free(self.node_of)
        free(self.ids)
        free(self.lengths)
        free(self.hashes)
        free(self.octets)
        free(self.table)

    # ------------------------------------------------------------------ step 1: links

    def add(self, bytes packed not None):
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packed)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(packed), at = 0
        cdef uint32_t before = 0, length
        while at < size:
            if size - at < 8 or <uint64_t>u32(p + at + 4) > <uint64_t>(size - at - 8):
                raise ValueError("these are no records of texts")
            if u32(p + at) <= before:
                raise ValueError("records must be ascending")
            before = u32(p + at)
            at += 8 + u32(p + at + 4)
        if self.at and size and u32(p) <= self.uids.data.as_uints[self.at - 1]:
            raise ValueError("records must be ascending")
        with nogil:
            at = 0
            while at < size:
                length = u32(p + at + 4)
                while self.at < self.n and self.uids.data.as_uints[self.at] < u32(p + at):
                    self.at += 1
                if self.at < self.n and self.uids.data.as_uints[self.at] == u32(p + at):
                    self.add_message(<int32_t>self.at, p + at + 8, length)
                    self.at += 1
                at += 8 + length

    # `message-id LF reference SP reference … LF what others read`
    cdef int add_message(self, int32_t message, const uint8_t *p, Py_ssize_t n) except -1 nogil:
        cdef Py_ssize_t at = 0, start
        cdef int32_t node = -1, before = -1, one
        while at < n and p[at] != 10:
            at += 1
        if at:
            node = self.node_for(p, at)
            if self.messages[node] >= 0:    # only the first message with an id has it
                node = -1
        if node < 0:
            node = self.new_node(NULL, 0, 0)
        self.messages[node] = message
        self.node_of[message] = node
        at += 1
        while at < n and p[at] != 10:
            start = at
            while at < n and p[at] != 32 and p[at] != 10:
                at += 1
            if at > start:
                one = self.node_for(p + start, at - start)
                if before >= 0 and self.parents[one] < 0:
                    self.link(before, one)
                before = one
            at += at < n and p[at] == 32
        if self.parents[node] >= 0:
            self.children[self.parents[node]] -= 1
            self.parents[node] = -1
        if before >= 0:
            self.link(before, node)
        return 0

    # Unless that would be a loop. The child has no parent, so it is above the parent only if it is the root there, and only
    # if it has children, which the newest message of a thread seldom has.
    cdef void link(self, int32_t parent, int32_t child) noexcept nogil:
        cdef int32_t up = parent
        cdef int steps = 0
        if self.children[child]:
            while self.parents[up] >= 0:
                up = self.parents[up]
                steps += 1
                if steps > DEEPEST:
                    return
        if up != child:
            self.parents[child] = parent
            self.children[parent] += 1

    cdef int32_t node_for(self, const uint8_t *p, Py_ssize_t n) except -1 nogil:
        cdef uint64_t code = hash_of(p, n), slot
        cdef int32_t node
        if <uint64_t>(2 * self.nodes) > self.mask:
            self.grow_table()
        slot = code & self.mask
        while self.table[slot]:
            node = self.table[slot] - 1
            if self.hashes[node] == code and self.lengths[node] == n and not memcmp(self.octets + self.ids[node], p, n):
                return node
            slot = (slot + 1) & self.mask
        node = self.new_node(p, n, code)
        self.table[slot] = node + 1
        return node

    cdef int grow_table(self) except -1 nogil:
        cdef uint64_t mask = self.mask * 4 + 3, slot
        cdef int32_t *table = <int32_t *>calloc(mask + 1, sizeof(int32_t))
        cdef Py_ssize_t i
        if table == NULL:
            with gil:
                raise MemoryError
        for i in range(self.nodes):
            if self.lengths[i]:
                slot = self.hashes[i] & mask
                while table[slot]:
                    slot = (slot + 1) & mask
                table[slot] = <int32_t>i + 1
        free(self.table)
        self.table = table
        self.mask = mask
        return 0

    cdef int32_t new_node(self, const uint8_t *p, Py_ssize_t n, uint64_t code) except -1 nogil:
        cdef Py_ssize_t room
        if self.nodes == self.room:
            room = max(1024, 2 * self.room)
            self.parents = <int32_t *>grown(self.parents, room * sizeof(int32_t))
            self.children = <int32_t *>grown(self.children, room * sizeof(int32_t))
            self.messages = <int32_t *>grown(self.messages, room * sizeof(int32_t))
            self.ids = <Py_ssize_t *>grown(self.ids, room * sizeof(Py_ssize_t))
            self.lengths = <uint32_t *>grown(self.lengths, room * sizeof(uint32_t))
            self.hashes = <uint64_t *>grown(self.hashes, room * sizeof(uint64_t))
            self.room = room
        if self.octets_n + n > self.octets_room:
            room = max(65536, self.octets_n + n, 2 * self.octets_room)
            self.octets = <uint8_t *>grown(self.octets, room)
            self.octets_room = room
        self.parents[self.nodes] = -1
        self.children[self.nodes] = 0
        self.messages[self.nodes] = -1
        self.ids[self.nodes] = self.octets_n
        self.lengths[self.nodes] = <uint32_t>n
        self.hashes[self.nodes] = code
        if n:
            memcpy(self.octets + self.octets_n, p, n)
        self.octets_n += n
        self.nodes += 1
        return <int32_t>(self.nodes - 1)

    # ------------------------------------------------------------------ steps 2 and 3: trees without dummies inside

    # The parent of each message; returns how many dummies there are. A dummy with one child is not one of them.
    cdef Py_ssize_t prune(self, int32_t *parents) except -1 nogil:
        cdef int32_t *anchors = <int32_t *>calloc(3 * self.nodes + 1, sizeof(int32_t))
        cdef int32_t *children = anchors + self.nodes
        cdef int32_t *numbers = children + self.nodes
        cdef Py_ssize_t i, dummies = 0
        cdef int32_t node, anchor
        if anchors == NULL:
            with gil:
                raise MemoryError
        for i in range(self.n):
            node = self.node_of[i]
            parents[i] = -1
            if node >= 0 and self.parents[node] >= 0:
                anchor = self.anchor_of(self.parents[node], anchors)
                if self.messages[anchor] >= 0:
                    parents[i] = self.messages[anchor]
                else:
                    parents[i] = -2 - anchor
                    children[anchor] += 1
        for i in range(self.n):
            if parents[i] < -1:
                anchor = -2 - parents[i]
                if children[anchor] == 1:
                    parents[i] = -1
                    continue
                if not numbers[anchor]:
                    dummies += 1
                    numbers[anchor] = <int32_t>dummies
                parents[i] = <int32_t>self.n + numbers[anchor] - 1
        free(anchors)
        return dummies

    # The nearest node upwards that is a message, or else the highest; remembered (plus one) for all on the way.
    cdef int32_t anchor_of(self, int32_t node, int32_t *anchors) noexcept nogil:
        cdef int32_t up = node, found, after
        while not anchors[up] and self.messages[up] < 0 and self.parents[up] >= 0:
            up = self.parents[up]
        found = anchors[up] - 1 if anchors[up] else up
        while node != up:
            after = self.parents[node]
            anchors[node] = found + 1
            node = after
        anchors[up] = found + 1
        return found

    # ------------------------------------------------------------------ the three algorithms

    def doubtful(self, sent, ranks):
        """Heads of threads whose subject occurs at several of them: whether they are replies decides."""
        cdef array.array rank = ranks
        cdef int32_t *parents = self.pruned(NULL)
        cdef int32_t *heads = NULL
        cdef ranges_t b
        cdef Py_ssize_t i
        b.r = NULL
        b.n = b.cap = 0
        try:
            check(sent, self.n)
            heads = <int32_t *>calloc(check_ranks(ranks, self.n) + 1, sizeof(int32_t))
            if heads == NULL:
                raise MemoryError
            for i in range(self.n):
                # a child of a dummy may be the one that has its subject
                heads[rank.data.as_longlongs[i]] += parents[i] < 0 or parents[i] >= self.n
            for i in range(self.n):
                if parents[i] < 0 and rank.data.as_longlongs[i] and heads[rank.data.as_longlongs[i]] > 1:
                    ranges_add(&b, self.uids.data.as_uints[i], self.uids.data.as_uints[i])
        except BaseException:
            free(b.r)
            raise
        finally:
            free(parents)
            free(heads)
        return numset_take(UidSet, &b)

    def references(self, sent, ranks, UidSet replies not None, numbers):
        cdef array.array rank = ranks
        cdef array.array order
        cdef array.array found
        cdef Py_ssize_t dummies = 0, i, r, most
        cdef int32_t *parents
        cdef uint8_t *is_reply
        check(sent, self.n)
        most = check_ranks(ranks, self.n)
        check_numbers(numbers, self.n)
        order = self.sorted_by(sent)
        parents = self.pruned(&dummies)
        is_reply = <uint8_t *>calloc(self.n + 1, 1)
        try:
            if is_reply == NULL:
                raise MemoryError
            found = expand(replies & self.among)
            with nogil:
                i = 0
                for r in range(self.n):
                    if i < found.ob_size and found.data.as_uints[i] == self.uids.data.as_uints[r]:
                        is_reply[r] = 1
                        i += 1
                dummies = gather(parents, order.data.as_uints, <const int64_t *>rank.data.as_longlongs, is_reply,
                                 self.n, dummies, most)
            return write(parents, order, numbers, self.n, dummies, None)
        finally:
            free(parents)
            free(is_reply)

    def refs(self, sent, arrived, numbers):
        cdef Py_ssize_t dummies = 0
        cdef int32_t *parents
        check(sent, self.n)
        check(arrived, self.n)
        check_numbers(numbers, self.n)
        parents = self.pruned(&dummies)
        try:
            return write(parents, self.sorted_by(sent), numbers, self.n, dummies, self.sorted_by(arrived))
        finally:
            free(parents)

    cdef int32_t *pruned(self, Py_ssize_t *dummies) except NULL:
        cdef int32_t *parents = <int32_t *>malloc((self.n + 1) * sizeof(int32_t))
        cdef Py_ssize_t found
        if parents == NULL:
            raise MemoryError
        try:
            with nogil:
                found = self.prune(parents)
        except BaseException:
            free(parents)
            raise
        if dummies != NULL:
            dummies[0] = found
        return parents

    cdef array.array sorted_by(self, object key):
        return in_order(key, self.n)


def ordered_subject(sent, ranks, numbers):
    """Threads of messages with one subject, each under the one that was sent first."""
    cdef array.array rank = ranks
    cdef Py_ssize_t n = len(rank), i
    cdef array.array order
    cdef int32_t *first
    cdef int32_t *parents
    cdef int32_t m
    check(sent, n)
    check_numbers(numbers, n)
    order = in_order(sent, n)
    first = <int32_t *>calloc(check_ranks(ranks, n) + 1, sizeof(int32_t))
    parents = <int32_t *>malloc((n + 1) * sizeof(int32_t))
    try:
        if first == NULL or parents == NULL:
            raise MemoryError
        for i in range(n):
            m = <int32_t>order.data.as_uints[i]
            parents[m] = first[rank.data.as_longlongs[m]] - 1
            if parents[m] < 0:
                first[rank.data.as_longlongs[m]] = m + 1
        return write(parents, order, numbers, n, 0, None)
    finally:
        free(first)
        free(parents)


cdef void *grown(void *old, size_t size) except NULL nogil:
    cdef void *made = realloc(old, size)
    if made == NULL:
        with gil:
            raise MemoryError
    return made


cdef int check(object values, Py_ssize_t n) except -1:
    cdef array.array given = values
    if len(given) != n or given.ob_descr.itemsize != 8:
        raise ValueError("a key must have one number for each message")
    return 0


# Returns the highest; there may be more texts than those of these messages.
cdef Py_ssize_t check_ranks(object values, Py_ssize_t n) except -1:
    cdef array.array given = values
    cdef Py_ssize_t i
    cdef int64_t most = 0
    check(values, n)
    for i in range(n):
        if not 0 <= given.data.as_longlongs[i] < <int64_t>1 << 31:
            raise ValueError("a rank is a place among texts")
        most = max(most, given.data.as_longlongs[i])
    return most


cdef int check_numbers(object values, Py_ssize_t n) except -1:
    cdef array.array given = values
    if len(given) != n or given.ob_descr.itemsize != 4:
        raise ValueError("there must be one number to write for each message")
    return 0


# Places 0 to n - 1, by a key and then as they are.
cdef array.array in_order(object key, Py_ssize_t n):
    cdef array.array order = sort_numbers(Uids.from_ranges([(1, n)] if n else []), [(key, False)])
    cdef Py_ssize_t i
    for i in range(n):
        order.data.as_uints[i] -= 1
    return order


# Step 5: one thread a subject, those that are not empty. Returns how many dummies there are now; those that were merged
# into another have no children any more.
cdef Py_ssize_t gather(
    int32_t *parents, const uint32_t *order, const int64_t *ranks, const uint8_t *is_reply, Py_ssize_t n, Py_ssize_t dummies,
    Py_ssize_t highest
) except -1 nogil:
    cdef Py_ssize_t most = dummies + n + 1, i, roots = 0
    cdef int32_t *table = <int32_t *>malloc((highest + 1) * sizeof(int32_t))   # the thread of a subject
    cdef int32_t *firsts = <int32_t *>malloc(most * sizeof(int32_t))     # the first child of a dummy
    cdef int32_t *merged = <int32_t *>malloc(most * sizeof(int32_t))     # the dummy that has taken the children of another
    cdef int32_t *heads = <int32_t *>malloc((n + 1) * sizeof(int32_t))   # what is under the root, in order
    cdef int32_t m, d, here, there
    cdef int64_t rank
    if table == NULL or firsts == NULL or merged == NULL or heads == NULL:
        free(table)
        free(firsts)
        free(merged)
        free(heads)
        with gil:
            raise MemoryError
    for i in range(highest + 1):
        table[i] = -1
    for i in range(most):
        firsts[i] = merged[i] = -1
    for i in range(n):
        m = <int32_t>order[i]
        if parents[m] < 0:
            heads[roots] = m
            roots += 1
        elif parents[m] >= n and firsts[parents[m] - n] < 0:
            firsts[parents[m] - n] = m
            heads[roots] = parents[m]
            roots += 1
    for i in range(roots):
        here = heads[i]
        rank = ranks[here if here < n else firsts[here - n]]
        if rank:
            there = table[rank]
            if there < 0 or (there < n and (here >= n or (is_reply[there] and not is_reply[here]))):
                table[rank] = here
    for i in range(roots):
        here = heads[i]
        rank = ranks[here if here < n else firsts[here - n]]
        if not rank or table[rank] == here:
            continue
        there = table[rank]
        if here >= n:                       # then the other is a dummy too
            merged[here - n] = there
        elif there >= n or (is_reply[here] and not is_reply[there]):
            parents[here] = there
        else:
            d = <int32_t>(n + dummies)
            dummies += 1
            parents[here] = parents[there] = d
            table[rank] = d
    for i in range(n):
        if parents[i] >= n and merged[parents[i] - n] >= 0:
            parents[i] = merged[parents[i] - n]
    free(table)
    free(firsts)
    free(merged)
    free(heads)
    return dummies


# Steps 4 and 6 at once, and the response: siblings are in the order in which messages are taken. Threads are too, or in
# that of the last of their messages in another order.
cdef bytes write(int32_t *parents, array.array order, object numbers, Py_ssize_t n, Py_ssize_t dummies, array.array latest):
    cdef Py_ssize_t all = n + dummies, i, size
    cdef int32_t *space = <int32_t *>malloc((5 * all + 2) * sizeof(int32_t))
    cdef array.array given = numbers
    cdef char *text
    if space == NULL:
        raise MemoryError
    try:
        with nogil:
            lay_out(parents, order.data.as_uints, NULL if latest is None else latest.data.as_uints, n, all, space)
        text = <char *>malloc(n * 10 + 2 * all * 2 + n + 16)
        if text == NULL:
            raise MemoryError
        try:
            with nogil:
                size = write_text(space, given.data.as_uints, n, all, text)
            return PyBytes_FromStringAndSize(text, size)
        finally:
            free(text)
    finally:
        free(space)


# space: first child, last child and next sibling of each node; the node `all` is the root.
cdef void lay_out(
    const int32_t *parents, const uint32_t *order, const uint32_t *latest, Py_ssize_t n, Py_ssize_t all, int32_t *space
) noexcept nogil:
    cdef int32_t *first = space
    cdef int32_t *last = space + all + 1
    cdef int32_t *after = space + 2 * all + 2
    cdef int32_t *tops
    cdef Py_ssize_t i
    cdef int32_t m, up, top
    for i in range(3 * all + 2):
        space[i] = -1
    for i in range(n):
        m = <int32_t>order[i]
        up = parents[m]
        if up < 0:
            if latest == NULL:
                append(<int32_t>all, m, first, last, after)
        else:
            if up >= n and first[up] < 0 and latest == NULL:
                append(<int32_t>all, up, first, last, after)
            append(up, m, first, last, after)
    if latest == NULL:
        return
    # From the last message backwards a thread comes up first with its latest one: put it before the others then.
    tops = after + all
    for i in range(all):
        tops[i] = -1
    for i in range(n - 1, -1, -1):
        top = top_of(parents, <int32_t>latest[i], n, tops)
        if tops[top] != -2:
            tops[top] = -2
            after[top] = first[all]
            first[all] = top


# The node under the root above a message; remembered for all on the way. -2: itself, and its thread is placed.
cdef int32_t top_of(const int32_t *parents, int32_t m, Py_ssize_t n, int32_t *tops) noexcept nogil:
    cdef int32_t up = m, found, next
    while tops[up] == -1 and up < n and parents[up] >= 0:
        up = parents[up]
    found = tops[up] if tops[up] >= 0 else up
    while m != up:
        next = parents[m]
        tops[m] = found
        m = next
    return found


cdef inline void append(int32_t parent, int32_t child, int32_t *first, int32_t *last, int32_t *after) noexcept nogil:
    if first[parent] < 0:
        first[parent] = child
    else:
        after[last[parent]] = child
    last[parent] = child


cdef Py_ssize_t write_text(int32_t *space, const uint32_t *numbers, Py_ssize_t n, Py_ssize_t all, char *text) noexcept nogil:
    cdef int32_t *first = space
    cdef int32_t *stack = space + all + 1       # the last children are of no use any more
    cdef int32_t *after = space + 2 * all + 2
    cdef Py_ssize_t depth = 0, size = 0
    cdef int32_t node = first[all], child
    while True:
        if node < 0:                            # no more siblings: their parent's thread is at its end
            if depth == 0:
                return size
            depth -= 1
            text[size] = b")"
            size += 1
            node = after[stack[depth]]
            continue
        text[size] = b"("
        size += 1
        stack[depth] = node
        depth += 1
        if node < n:
            size += write_number(numbers[node], text + size)
        child = first[node]
        while child >= 0 and after[child] < 0 and node < n:     # a line of only children stays in one list
            text[size] = b" "
            size += 1 + write_number(numbers[child], text + size + 1)
            child = first[child]
        if child >= 0 and node < n:
            text[size] = b" "
            size += 1
        node = child


cdef inline Py_ssize_t write_number(uint32_t v, char *out) noexcept nogil:
    cdef char digits[10]
    cdef Py_ssize_t k = 0, i
    while True:
        digits[k] = <char>(48 + v % 10)
        k += 1
        v //= 10
        if v == 0:
            break
    for i in range(k):
        out[i] = digits[k - 1 - i]
    return k
