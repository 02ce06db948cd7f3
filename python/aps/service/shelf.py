"""Ended requests that stay readable for a while, and which of them go when there is room for no more."""

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

# Wall seconds of its end, tenant, how it ended, and its answer or error as it is sent. One string instead of the many
# objects of a result: as many requests end between its making and its forgetting as are kept, so none of that would
# still be in a processor's cache.
Ended = tuple[float, str, str, bytes]


class Shelf:
    """At most `most` of `most_bytes` in all, none for longer than `for_s` wall seconds after its end.

    When it is full, those go first whose answer has been given: before all others the ones that were fetched from here,
    in that order, then the oldest. One that is unread goes only when there are no others, and that is the oldest of the
    tenant that has most of them, of either bound: so it keeps more than its part, a bound over the number of tenants
    that keep something. To put one that is given, which every request does, costs little; a call is O(log tenants),
    amortized.
    """

    def __init__(self, for_s: float, most: int, most_bytes: int) -> None:
        self._for_s, self._most, self._most_bytes = for_s, most, most_bytes
        self._ended: dict[int, Ended] = {}
        self._bytes = 0
        # Handles. All, in the order of their ends: those that were unread when they were in the way, and then the rest.
        self._passed: deque[int] = deque()
        self._order: deque[int] = deque()
        self._fetched: deque[int] = deque()
        self._unread = Pile(most, most_bytes)
        self.get = self._ended.get  # how one ended; None: it has not, or has been forgotten

    def put(self, handle: int, tenant: str, status: str, said: bytes, *, given: bool) -> None:
        """A request has ended; given: whoever asked has its answer, or is about to."""
        ended, now = self._ended, time.monotonic()
        ended[handle] = (now, tenant, status, said)
        self._order.append(handle)
        self._bytes += len(said)
        if not given:
            self._unread.add(handle, tenant, len(said))
        if len(ended) > self._most or self._bytes > self._most_bytes:
            self._make_room(now - self._for_s)

    def _make_room(self, too_old: float) -> None:
        ended = self._ended
        plain = not (self._fetched or self._passed or self._unread.parts)  # most often: all are given, in their order
        if not plain:
            self._forget_until(too_old)
        while len(ended) > self._most or self._bytes > self._most_bytes:
            handle = self._order.popleft() if plain else self._first_given() or self._unread.pop()
            if handle in ended:
                self._bytes -= len(ended.pop(handle)[3])
        if not plain:
            self._order = self._tidy(self._order)

    def give(self, handle: int) -> None:
        """Its answer has been given, if it is here."""
        ended = self._ended.get(handle)
        if ended is not None and self._unread.remove(handle, ended[1]):
            self._fetched = self._with(self._fetched, handle)

    def unread(self) -> Iterator[tuple[int, str, str]]:
        """Handle, tenant and how it ended, of each that nobody has read."""
        return ((handle, tenant, self._ended[handle][2]) for handle, tenant in self._unread)

    def forget_old(self) -> None:
        """Those that are too old."""
        self._forget_until(time.monotonic() - self._for_s)

    def _forget_until(self, too_old: float) -> None:
        for queue in (self._passed, self._order):
            while queue:
                handle = queue[0]
                one = self._ended.get(handle)
                if one is not None:
                    if one[0] >= too_old:
                        return
                    del self._ended[handle]
                    self._bytes -= len(one[3])
                    self._unread.remove(handle, one[1])
                queue.popleft()

    def _first_given(self) -> int:
        """Out of its queue; 0: there is none."""
        ended, unread = self._ended, self._unread
        for queue in (self._fetched, self._order):
            while queue:
                handle = queue.popleft()
                if handle not in ended:
                    continue
                if not unread.parts or not unread.has(handle, ended[handle][1]):
                    return handle
                self._passed = self._with(self._passed, handle)
        return 0

    def _with(self, queue: deque[int], handle: int) -> deque[int]:
        queue.append(handle)
        return self._tidy(queue)

    def _tidy(self, queue: deque[int]) -> deque[int]:
        """Without those that are no longer here, when they are many."""
        if len(queue) <= 2 * len(self._ended) + 8:
            return queue
        return deque(handle for handle in queue if handle in self._ended)


class Pile:
    """Some of a shelf, in `parts` by tenant: who has most of a bound is found without a look at all of them."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self.parts: dict[str, _Part] = {}
        # The largest load first. A part is listed with at least its load, but for the one that was added to last: that
        # most often is the one with most, and pays at once. Listings that are not their part's last are stale.
        self._heap: list[Listed] = []
        self._last: _Part | None = None
        self._numbers = count()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Handles and tenants; a tenant's oldest first."""
        return ((handle, tenant) for tenant, part in self.parts.items() for handle in part.sizes)

    def has(self, handle: int, tenant: str) -> bool:
        """Whether it is there."""
        part = self.parts.get(tenant)
        return part is not None and handle in part.sizes

    def add(self, handle: int, tenant: str, size: int) -> None:
        """It is the newest of its tenant."""
        part = self.parts.get(tenant)
        if part is None:
            part = self.parts[tenant] = _Part(tenant)
        last = self._last
        if part is not last:
            if last is not None and (load := self._load(last)) > last.load:
                self._list(last, load)
            self._last = part
        part.sizes[handle] = size
        part.bytes += size

    def remove(self, handle: int, tenant: str) -> bool:
        """Whether it was there."""
        part = self.parts.get(tenant)
        if part is None or handle not in part.sizes:
            return False
        part.bytes -= part.sizes.pop(handle)
        if not part.sizes:
            self._forget(part)
        return True

    def pop(self) -> int:
        """The oldest of the tenant with most; 0: there is none."""
        part = self._fullest()
        if part is None:
            return 0
        handle, size = part.sizes.popitem(last=False)
        part.bytes -= size
        if not part.sizes:
            self._forget(part)
        return handle

    def _fullest(self) -> "_Part | None":
        heap, last = self._heap, self._last
        if last is not None:
            load = self._load(last)
            if not heap or load >= -heap[0][0]:
                return last
            if load > last.load:
                self._list(last, load)
        while heap:
            listed = heap[0]
            part = listed[2]
            if part.listed is not listed:
                heappop(heap)
            elif (load := self._load(part)) < part.load:
                heapreplace(heap, part.list(load, next(self._numbers)))
            else:
                return part
        return None

    def _list(self, part: "_Part", load: int) -> None:
        heap = self._heap
        heappush(heap, part.list(load, next(self._numbers)))
        if len(heap) > 2 * len(self.parts) + 8:
            heap[:] = (part.listed for part in self.parts.values() if part.listed is not None)
            heapify(heap)

    def _forget(self, part: "_Part") -> None:
        del self.parts[part.tenant]
        part.listed = None
        if part is self._last:
            self._last = None

    def _load(self, part: "_Part") -> int:
        """How much of the bounds a tenant takes: of the one of which it takes more, times both."""
        number, size = len(part.sizes) * self._most_bytes, part.bytes * self._most
        return number if number > size else size


class _Part:
    """What a tenant has in a pile. load: with which it is listed."""

    __slots__ = ("bytes", "listed", "load", "sizes", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.sizes: OrderedDict[int, int] = OrderedDict()  # by handle, the oldest first
        self.bytes = 0
        self.load = -1
        self.listed: Listed | None = None

    def list(self, load: int, number: int) -> "Listed":
        self.load = load
        self.listed = listed = (-load, number, self)
        return listed


Listed = tuple[int, int, _Part]  # the number tells apart those of one load
