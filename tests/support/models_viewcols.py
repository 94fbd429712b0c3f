"""Plain model of a mailbox snapshot: a dict from UID to its set of flag numbers, in UID order."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from msgspec import Struct

from sora.types import SEEN, SYSTEM_FLAGS
from tests.support import models_seqset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Mailbox = dict[int, frozenset[int]]


class PlainDiff(Struct):
    """See viewcols.Diff."""

    expunged_seqs: list[int]
    vanished: list[int]
    changed: list[int]
    arrived: list[int]


def bitmap(uids: Iterable[int]) -> bytes:
    """bit(1024) of the UIDs of one block: the first is the highest bit of the first byte."""
    bits = bytearray(128)
    for uid in uids:
        bits[(uid & 1023) >> 3] |= 128 >> (uid & 7)
    return bytes(bits)


def record(block: int, flag: int, uids: Iterable[int]) -> bytes:
    """A record of mailbox_state(); flag -1 is the live bitmap."""
    return struct.pack(">ihi", block, flag, 1024) + bitmap(uids)


def records(mailbox: Mapping[int, frozenset[int]], blocks: Iterable[int] | None = None) -> list[bytes]:
    """The whole state, or that of some blocks (a block without messages has an empty live bitmap)."""
    wanted = sorted({uid >> 10 for uid in mailbox} if blocks is None else set(blocks))
    found = []
    for block in wanted:
        here = {uid: flags for uid, flags in mailbox.items() if uid >> 10 == block}
        found.append(record(block, -1, here))
        found += [
            record(block, flag, (uid for uid, flags in here.items() if flag in flags))
            for flag in sorted(set().union(*here.values()))
        ]
    return found


def seqs(mailbox: Mapping[int, frozenset[int]]) -> dict[int, int]:
    """Sequence number of every UID."""
    return {uid: seq for seq, uid in enumerate(sorted(mailbox), 1)}


def diff(old: Mapping[int, frozenset[int]], new: Mapping[int, frozenset[int]]) -> PlainDiff:
    """What a client that knows *old* must be told; EXPUNGEs found by playing them on a list."""
    vanished = sorted(old.keys() - new.keys())
    client = sorted(old)
    expunged = []
    for uid in vanished:
        expunged.append(client.index(uid) + 1)
        client.remove(uid)
    return PlainDiff(
        expunged,
        vanished,
        sorted(uid for uid in old.keys() & new.keys() if old[uid] != new[uid]),
        sorted(new.keys() - old.keys()),
    )


def flags_text(flags: Iterable[int], names: Mapping[int, bytes], recent: bool) -> bytes:
    """The parenthesised flags: system flags, \\Recent, keywords; those without a name are left out."""
    ordered = sorted(flags)
    words = [SYSTEM_FLAGS[flag] for flag in ordered if flag in SYSTEM_FLAGS]
    words += [rb"\Recent"] if recent else []
    words += [names[flag] for flag in ordered if flag not in SYSTEM_FLAGS and flag in names]
    return b"(" + b" ".join(words) + b")"


def fetch_line(
    mailbox: Mapping[int, frozenset[int]],
    uid: int,
    names: Mapping[int, bytes],
    with_uid: bool,
    recent_after: int,
    *,
    modseq: int | None = None,
    with_flags: bool = True,
    uid_only: bool = False,
) -> bytes:
    """One FETCH response, or UIDFETCH."""
    items = [b"UID %d" % uid] if with_uid else []
    if with_flags:
        items.append(b"FLAGS " + flags_text(mailbox[uid], names, uid > recent_after))
    if modseq is not None:
        items.append(b"MODSEQ (%d)" % modseq)
    start = b"* %d UIDFETCH" % uid if uid_only else b"* %d FETCH" % seqs(mailbox)[uid]
    return b"%s (%s)\r\n" % (start, b" ".join(items))


def unseen(mailbox: Mapping[int, frozenset[int]]) -> list[int]:
    """UIDs without \\Seen."""
    return [uid for uid in sorted(mailbox) if SEEN not in mailbox[uid]]


def load(state: bytes) -> Mailbox:
    """The mailbox that some records describe."""
    flags: dict[int, set[int]] = {}
    planes: list[tuple[int, int]] = []
    for at in range(0, len(state), 138):
        block, flag, _ = struct.unpack_from(">ihi", state, at)
        bits = bin(int.from_bytes(state[at + 10 : at + 138], "big") | 1 << 1024)[3:]
        uids = [(block << 10) + offset for offset, bit in enumerate(bits) if bit == "1"]
        if flag == -1:
            flags.update((uid, set()) for uid in uids)
        else:
            planes += [(uid, flag) for uid in uids]
    for uid, flag in planes:
        if uid in flags:
            flags[uid].add(flag)
    return {uid: frozenset(flags[uid]) for uid in sorted(flags)}


def ranges_of(mailbox: Mapping[int, frozenset[int]]) -> list[tuple[int, int]]:
    """All UIDs as inclusive ranges."""
    return models_seqset.ranges(mailbox)
