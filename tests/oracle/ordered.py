"""SORT and THREAD over the collection, and THREAD of mailboxes made to be odd.

A difference is noted for each message that stands elsewhere. Which one of two messages was moved cannot be seen, so as
few as possible are taken for moved, and those with an explanation before others.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tests.oracle.collect import Sample
from tests.oracle.compare import Comparison, Difference
from tests.oracle.criteria import SORTS, THREAD_SETS, THREADINGS
from tests.oracle.explained import explain
from tests.oracle.made import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.oracle.client import Answer

Forest = list["Node"]
Node = tuple[int | None, list["Node"]]
"""A message number, None for one that is missing, and what is below it."""

_TOKEN: Final = re.compile(rb"[()]|\d+")


def compare_orders(comparison: Comparison) -> None:
    """SORT, then THREAD, over the whole collection."""
    _sorts(comparison)
    for algorithm in THREADINGS:
        for wanted in THREAD_SETS:
            command = b"THREAD %b UTF-8 %b" % (algorithm, wanted)
            ours, theirs = (client.ask([command])[0] for client in comparison.clients)
            _threads(comparison, algorithm.decode(), forest(ours), forest(theirs))


def compare_threads(comparison: Comparison) -> None:
    """Every made mailbox by every algorithm; here the answers must be equal as they are."""
    for number, (name, messages) in enumerate(THREADS.items()):
        mailbox = b"Threads%d" % number
        for client in comparison.clients:
            client.ok(b"CREATE " + mailbox)
            appends = (b"APPEND %b {%d+}\r\n%b" % (mailbox, len(message), message) for message in messages)
            assert all(answer.status == b"OK" for answer in client.ask(appends))
            client.ok(b"SELECT " + mailbox)
        sample = Sample("threads", name, b"".join(messages))
        for algorithm in THREADINGS:
            kind = f"THREAD {algorithm.decode()}"
            for command in (b"THREAD %b UTF-8 ALL" % algorithm, b"UID THREAD %b US-ASCII NOT 2" % algorithm):
                both = [forest(client.ask([command])[0]) for client in comparison.clients]
                if algorithm == b"REFS":  # their order is asked over the collection
                    both = [sorted(threads, key=_latest) for threads in both if not isinstance(threads, bytes)]
                comparison.note(sample, kind, command.decode(), *both)


# ---------------------------------------------------------------------------------------------------------------- SORT


def _sorts(comparison: Comparison) -> None:
    answers = [
        [client.ask([command])[0] for command in SORTS] for client in comparison.clients
    ]  # Dovecot hangs on more
    for command, ours, theirs in zip(SORTS, *answers, strict=True):
        key = command.decode("utf-8", "backslashreplace")
        if ours.status != theirs.status or ours.status != b"OK":
            comparison.note(comparison.samples[0], "SORT", key, ours.status.decode(), theirs.status.decode())
            continue
        comparison.compared["SORT"] += 1
        mine, their = _numbers(ours), _numbers(theirs)
        for number in sorted(set(mine) ^ set(their)):
            sample = comparison.samples[number - 1]
            comparison.differences.append(Difference(sample, "SEARCH", key, number in mine, number in their))
        both = set(mine) & set(their)
        mine, their = ([number for number in order if number in both] for order in (mine, their))
        for number in moved(mine, their, lambda n, key=key: _weight(comparison.samples[n - 1], key)):
            places = mine.index(number), their.index(number)
            comparison.differences.append(Difference(comparison.samples[number - 1], "SORT", key, *places))


def _numbers(answer: Answer) -> list[int]:
    return [int(word) for line in answer.untagged if line.startswith(b"* SORT") for word in line.split()[2:]]


def _weight(sample: Sample, key: str) -> int:
    """Light ones are given up first."""
    return 1 if explain(Difference(sample, "SORT", key, 0, 1)) else 1000


def moved(ours: Sequence[int], theirs: Sequence[int], weight: Callable[[int], int]) -> list[int]:
    """Numbers to take out of both orders so that they are equal: the lightest choice."""
    if list(ours) == list(theirs):
        return []
    place = {number: at for at, number in enumerate(theirs)}
    best = [0] * (len(theirs) + 1)  # a Fenwick tree of the heaviest run that ends at or before a place
    ends: list[int] = [-1] * (len(theirs) + 1)
    before: dict[int, int] = {}
    for number in ours:
        total, last = 0, -1
        at = place[number]
        while at > 0:
            if best[at] > total:
                total, last = best[at], ends[at]
            at &= at - 1
        before[number] = last
        total += weight(number)
        at = place[number] + 1
        while at < len(best):
            if total > best[at]:
                best[at], ends[at] = total, number
            at += at & -at
    total, last, at = 0, -1, len(theirs)
    while at > 0:
        if best[at] > total:
            total, last = best[at], ends[at]
        at &= at - 1
    kept = set()
    while last >= 0:
        kept.add(last)
        last = before[last]
    return [number for number in ours if number not in kept]


# -------------------------------------------------------------------------------------------------------------- THREAD


def forest(answer: Answer) -> Forest | bytes:
    """The threads of a THREAD response (RFC 5256 §4); the status of a refusal."""
    if answer.status != b"OK":
        return answer.status
    lines = [line for line in answer.untagged if line.startswith(b"* THREAD")]
    assert len(lines) == 1, lines
    tokens = _TOKEN.findall(lines[0])
    threads: Forest = []
    at = 0
    while at < len(tokens):
        assert tokens[at] == b"("
        thread, at = _thread(tokens, at + 1)
        threads.append(thread)
    return threads


def _thread(tokens: list[bytes], at: int) -> tuple[Node, int]:
    """`3 6 (4 23)(44 7 96)`, and where its parenthesis was closed.

    What is in parentheses at the beginning has a parent that is not there.
    """
    line: list[Node] = []
    while tokens[at] not in b"()":
        line.append((int(tokens[at]), []))
        at += 1
    branches: Forest = []
    while tokens[at] == b"(":
        branch, at = _thread(tokens, at + 1)
        branches.append(branch)
    if not line:
        line.append((None, []))
    for above, below in pairwise(line):
        above[1].append(below)
    line[-1][1].extend(branches)
    return line[0], at + 1


def _threads(comparison: Comparison, algorithm: str, ours: Forest | bytes, theirs: Forest | bytes) -> None:
    """Whose child a message is, and the order of threads and of answers."""
    kind = f"THREAD {algorithm}"
    if isinstance(ours, bytes) or isinstance(theirs, bytes):
        comparison.note(comparison.samples[0], kind, "status", ours, theirs)
        return
    _parenthood(comparison, kind, ours, theirs)
    if algorithm == "REFS":
        _by_arrival(comparison, kind, ours, theirs)
        theirs = sorted(theirs, key=_latest)
        ours = sorted(ours, key=_latest)
    mine, their = (dict(_parents(threads)) for threads in (ours, theirs))
    same = {number for number in mine.keys() & their.keys() if mine[number] == their[number]}
    order = [[number for number in _flat(threads) if number in same] for threads in (ours, theirs)]
    comparison.compared[kind] += 1
    forests = [dict(_families(threads)) for threads in (ours, theirs)]

    def odd(number: int) -> Difference:
        """A message stands where the first of those beside it belongs: one of them may have the reason."""
        near = (number, *(n for families in forests for n in families.get(number, ())))
        found = [Difference(comparison.samples[n - 1], kind, "order", 0, 1) for n in near]
        return next((d for d in found if explain(d)), found[0])

    for number in moved(*order, lambda n: 1 if explain(odd(n)) else 1000):
        places = order[0].index(number), order[1].index(number)
        comparison.differences.append(Difference(odd(number).sample, kind, "order", *places))


def _parenthood(comparison: Comparison, kind: str, ours: Forest, theirs: Forest) -> None:
    """A difference is that of the message itself, or of one that it was put to by one of the two."""
    samples = comparison.samples
    ids = Counter(_own_id(sample) for sample in samples)
    forests = [dict(_families(threads)) for threads in (ours, theirs)]
    for number in sorted(forests[0].keys() | forests[1].keys()):
        comparison.compared[kind] += 1
        near = [families.get(number, ()) for families in forests]
        if near[0] == near[1]:
            continue
        names = [" ".join(samples[n - 1].name for n in family) for family in near]
        field = "parent, an id of two" if ids[_own_id(samples[number - 1])] > 1 else "parent"
        found = [Difference(samples[n - 1], kind, field, *names) for n in (number, *near[0], *near[1])]
        comparison.differences.append(next((d for d in found if explain(d)), found[0]))


def _own_id(sample: Sample) -> object:
    match = re.search(rb"(?im)^message-id:\s*(<[^>]*>)", sample.data)
    return match[1] if match is not None else sample.name


def _families(threads: Forest) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Message and parent; beside one whose parent is missing, all that hang there; nothing for a root."""
    waiting: list[tuple[Node, tuple[int, ...]]] = [(thread, ()) for thread in threads]
    while waiting:
        (number, below), family = waiting.pop()
        if number is not None:
            yield number, family
        here = (number,) if number is not None else tuple(child for child, _ in below if child is not None)
        waiting += [(child, here) for child in below]


def _by_arrival(comparison: Comparison, kind: str, ours: Forest, theirs: Forest) -> None:
    """The order of threads in REFS: one of two dates decides."""
    days = [[_latest(thread) // 2 for thread in threads] for threads in (ours, theirs)]
    if days[0] != days[1]:
        comparison.differences.append(Difference(comparison.samples[0], kind, "order of threads", *days))


def _latest(thread: Node) -> int:
    """The number of the message of a thread that came last; two have the same date (see `compare.fill`)."""
    return max(_flat([thread])) - 1


def _parents(threads: Forest) -> Iterator[tuple[int, int | None]]:
    """Message and parent: None for a root, the first message below it, negative, for one that is missing."""
    waiting: list[tuple[Node, int | None]] = [(thread, None) for thread in threads]
    while waiting:
        (number, below), parent = waiting.pop()
        if number is not None:
            yield number, parent
        here = number if number is not None else -min(_flat(below))
        waiting += [(child, here) for child in below]


def _flat(threads: Forest) -> list[int]:
    """Numbers in the order in which they are answered."""
    found = []
    waiting = list(reversed(threads))
    while waiting:
        number, below = waiting.pop()
        if number is not None:
            found.append(number)
        waiting += reversed(below)
    return found
