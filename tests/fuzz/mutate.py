"""Mutations of inputs that nearly follow a grammar: a seed, and the same inputs come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

LONGEST: Final = 8192
"""Octets of an input: what hurts only when it is long is for the target `work`."""
ODD: Final = b'\0\t\n\r "%&()*+,-./:;<>@[\\]{}~\x7f\x80\xc3\xff09Az'


class Mutator:
    """Makes inputs out of a corpus, which grows by what turns out to be new.

    Attributes:
        corpus: Inputs to begin with.
        words: What the grammar knows.
    """

    def __init__(self, choose: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> None:
        self.corpus = list(corpus) or [b""]
        self.words = list(words) or [b" "]
        self._choose = choose
        self._steps: Sequence[Callable[[bytes], bytes]] = (
            self._word, self._word, self._word, self._splice, self._splice, self._flip, self._octet, self._cut,
            self._truncate, self._repeat, self._swap, self._number,
        )  # fmt: skip

    def make(self) -> bytes:
        """The next input."""
        data = self._choose.choice(self.corpus)
        for _ in range(self._choose.choice((1, 1, 2, 3, 5, 8))):
            data = self._choose.choice(self._steps)(data)
        return data[:LONGEST]

    def _place(self, data: bytes) -> int:
        return self._choose.randint(0, len(data))

    def _word(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._choose.choice(self.words) + data[at + self._choose.choice((0, 0, 1, 4)) :]

    def _splice(self, data: bytes) -> bytes:
        other = self._choose.choice(self.corpus)
        start = self._place(other)
        at = self._place(data)
        return data[:at] + other[start : start + self._choose.randint(1, 60)] + data[at:]

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return b"\0"
        at = self._choose.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self._choose.randrange(8)]) + data[at + 1 :]

    def _octet(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + bytes([self._choose.choice(ODD)]) + data[at + self._choose.randrange(2) :]

    def _cut(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at + self._choose.randint(1, 30) :]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _repeat(self, data: bytes) -> bytes:
        at = self._place(data)
        end = at + self._choose.randint(1, 20)
        return data[:end] + data[at:end] * self._choose.choice((1, 2, 10, 100)) + data[end:]

    def _swap(self, data: bytes) -> bytes:
        """Two lines change places."""
        lines = data.split(b"\r\n")
        one, other = self._choose.randrange(len(lines)), self._choose.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
        return b"\r\n".join(lines)

    def _number(self, data: bytes) -> bytes:
        at = self._place(data)
        bits = self._choose.choice((0, 1, 7, 8, 15, 16, 31, 32, 63, 64))
        return data[:at] + b"%d" % ((1 << bits) + self._choose.randint(-1, 1)) + data[at:]
