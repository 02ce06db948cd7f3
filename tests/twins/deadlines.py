"""Deadlines in a dictionary, sorted at every call."""

from tests.twins.clock import Clock, to_ns


class Deadlines:
    def __init__(self, epoch: float = 0.0) -> None:
        self.clock = Clock(epoch)
        self.keys: dict[int, tuple[int, int, int]] = {}  # handle: (deadline in ns, tenant, arrival number)

    def add(self, handle: int, tenant: int, number: int, deadline_at: float) -> None:
        deadline_ns = to_ns(deadline_at, self.clock.epoch)
        if deadline_ns <= self.clock.last_ns or handle in self.keys:
            raise ValueError("deadline")
        self.keys[handle] = (deadline_ns, tenant, number)

    def discard(self, handle: int) -> None:
        if handle not in self.keys:
            raise ValueError("no deadline")
        del self.keys[handle]

    def expire(self, now: float) -> list[int]:
        self.clock.last_ns = self.clock.check(now)
        gone = [handle for handle in self.keys if self.keys[handle][0] <= self.clock.last_ns]
        gone.sort(key=self.keys.__getitem__)
        for handle in gone:
            del self.keys[handle]
        return gone

    def next_ns(self) -> int | None:
        return min((deadline_ns for deadline_ns, _, _ in self.keys.values()), default=None)
