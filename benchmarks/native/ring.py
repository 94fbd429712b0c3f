"""The queue of hints beside its model in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from benchmarks.cases import Case
from sora._native.ring import Ring
from tests.support.models_ring import RingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Either = Ring | RingModel
T = TypeVar("T")


def cases(messages: int) -> Iterator[Case]:
    """Every case leaves the rings as empty as it found them."""
    ring, model = Ring(1024), RingModel(1024)

    def both(name: str, step: Callable[[Either], T]) -> Case:
        return Case(f"ring.Ring.{name}", lambda: step(ring), lambda: step(model))

    yield Case(
        "ring.Ring of 1,024", lambda: len(Ring(1024)), lambda: len(RingModel(1024)), covers=("ring.Ring.__init__",)
    )
    yield both("__len__", len)
    yield both("put 1,000 and drain", lambda r: ([r.put(n) for n in range(1000)], r.drain(1024)))
    yield both("drain of nothing", lambda r: r.drain(16))
    yield both("take and publish", lambda r: (r.publish(_taken(r), 7), r.drain(1)))
    yield both("publish", lambda r: (r.publish(_taken(r), 7), r.drain(1)))
    yield both("arm", lambda r: r.arm())
    yield both("hole", lambda r: r.hole())
    yield both("skip", lambda r: (r.take() is not None, r.skip()))
    yield Case(
        "ring.Ring.capacity", lambda: (ring.capacity, ring.dropped), lambda: (model.capacity, model.dropped),
        covers=("ring.Ring.dropped",),
    )  # fmt: skip


def _taken(ring: Either) -> int:
    position = ring.take()
    assert position is not None
    return position
