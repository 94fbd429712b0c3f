"""A plain model of `Ring`: what a queue of hints does, one step at a time."""

from __future__ import annotations


class RingModel:
    """Positions taken in order; each is open, published, or given up."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self.head = 0
        self.values: dict[int, int] = {}
        self.dropped = 0
        self.armed = False
        self.rung = False

    def __len__(self) -> int:
        return self.taken - self.head

    def take(self) -> int | None:
        """A position, or None when all are in use."""
        if len(self) == self.capacity:
            return None
        self.taken += 1
        return self.taken - 1

    def publish(self, position: int, value: int) -> bool:
        """True unless the position was given up."""
        if position < self.head or position in self.values:
            return False
        self.values[position] = value
        if self.armed:
            self.armed, self.rung = False, True
        return True

    def put(self, value: int) -> bool:
        """Both at once."""
        position = self.take()
        if position is None:
            self.dropped += 1
            return False
        return self.publish(position, value)

    def drain(self, limit: int) -> list[int]:
        """Published values from the head up to the first open position."""
        values = []
        while len(values) < limit and self.head in self.values:
            values.append(self.values.pop(self.head))
            self.head += 1
        return values

    def arm(self) -> bool:
        """Silence the bell, ask for the next; False if there is something between head and tail."""
        self.rung, self.armed = False, True
        return len(self) == 0

    def hole(self) -> bool:
        """True if the head was taken and is not published."""
        return len(self) > 0 and self.head not in self.values

    def skip(self) -> bool:
        """Give the head up if it is a hole."""
        if not self.hole():
            return False
        self.head += 1
        return True
