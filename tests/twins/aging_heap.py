"""What waits, as a plain list: every answer is a scan of it, with exact effective bids at an arbitrary instant."""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass
class Waiting:
    number: int  # arrival number; the twin's handle
    tenant: int
    bid: int
    arrival_ns: int


class AgingHeap:
    def __init__(self, tenants: int, aging_horizon_s: float) -> None:
        self.open = [True] * tenants
        self.waiting: list[Waiting] = []
        self.arrivals = 0
        self.last_ns = 0
        self.set_aging_horizon(aging_horizon_s)

    def reserve(self, tenants: int) -> None:
        self.open += [True] * (tenants - len(self.open))

    def set_aging_horizon(self, seconds: float) -> None:
        self.horizon_ns = None if seconds == math.inf else round(seconds * 1e9)

    def set_tenant_open(self, tenant: int, opened: bool) -> None:
        self.open[tenant] = opened

    def push(self, tenant: int, bid: int, now_ns: int) -> int:
        assert now_ns >= self.last_ns
        self.arrivals += 1
        self.last_ns = now_ns
        self.waiting.append(Waiting(self.arrivals, tenant, bid, now_ns))
        return self.arrivals

    def of(self, number: int) -> Waiting:
        return next(request for request in self.waiting if request.number == number)

    def effective_bid(self, request: Waiting, now_ns: int) -> Fraction:
        """Without aging the bid; under a horizon of 0 only the time waited counts."""
        waited = Fraction(now_ns - request.arrival_ns)
        if self.horizon_ns is None:
            return Fraction(request.bid)
        return request.bid + 9 * waited / self.horizon_ns if self.horizon_ns else waited

    def effective_bid_rounded(self, number: int, now_ns: int) -> float:
        """As people are told it: the same in doubles, and infinite under a horizon of 0."""
        request = self.of(number)
        if self.horizon_ns is None:
            return float(request.bid)
        return request.bid + 9.0 * (now_ns - request.arrival_ns) / self.horizon_ns if self.horizon_ns else math.inf

    def competing(self) -> list[Waiting]:
        return [request for request in self.waiting if self.open[request.tenant]]

    def in_order(self, now_ns: int) -> list[int]:
        """All of the open tenants, as they would be popped."""
        first = sorted(self.competing(), key=lambda it: (-self.effective_bid(it, now_ns), it.number))
        return [request.number for request in first]

    def peek(self, now_ns: int) -> int | None:
        best = None
        for request in self.competing():
            mine = self.effective_bid(request, now_ns)
            if best is None or mine > best[0] or (mine == best[0] and request.number < best[1]):
                best = mine, request.number
        return None if best is None else best[1]

    def pop(self, now_ns: int) -> int:
        number = self.peek(now_ns)
        assert number is not None
        self.remove(number)
        return number

    def remove(self, number: int) -> None:
        self.waiting.remove(self.of(number))

    def rebid(self, number: int, bid: int) -> None:
        self.of(number).bid = bid

    def pop_many(self, n: int, now_ns: int) -> list[int]:
        return [self.pop(now_ns) for _ in range(min(n, len(self.competing())))]
