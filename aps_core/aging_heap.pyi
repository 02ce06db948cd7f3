from typing import SupportsFloat, SupportsIndex, final

import numpy as np
import numpy.typing as npt

@final
class AgingHeap:
    """A priority queue of requests with bids 1..10 that age; the highest effective bid first, ties by arrival.

    Effective bid at time t: ``bid + 9 * (t - arrival) / aging_horizon_s``. Times are seconds from 0 to 4e8.
    TypeError: no number, or no integer where one is due. ValueError: out of range. The heap is then as it was.
    """

    def __new__(
        cls,
        tenants: SupportsIndex = 16,
        aging_horizon_s: SupportsFloat = 30.0,
        capacity: SupportsIndex = 1024,
    ) -> AgingHeap: ...
    @property
    def tenants(self) -> int:
        """Tenant numbers are 0..tenants-1."""
    @property
    def count(self) -> int:
        """Requests that wait."""
    @property
    def aging_horizon_s(self) -> float:
        """Seconds; infinity: bids do not age."""
    def __len__(self) -> int: ...
    def reserve(self, tenants: int) -> None:
        """Make room for tenant numbers below `tenants` (1..2**24); new ones are open."""
    def set_aging_horizon(self, seconds: SupportsFloat) -> None:
        """Change the horizon: 0 to 1e8 s, or infinity."""
    def push(self, tenant: SupportsIndex, bid: SupportsIndex, now: SupportsFloat) -> int:
        """Add a request that arrives at `now`, never before an earlier call's; its handle."""
    def pop(self) -> int:
        """Take out the open tenants' first; its handle. IndexError: none waits."""
    def peek(self) -> int | None:
        """The handle that `pop` would return, or None."""
    def remove(self, handle: SupportsIndex) -> None:
        """Take out one request. KeyError: stale or foreign handle."""
    def rebid(self, handle: SupportsIndex, bid: SupportsIndex) -> None:
        """Give a request another bid; it keeps its arrival. KeyError: stale or foreign handle."""
    def set_tenant_open(self, tenant: SupportsIndex, opened: bool) -> None:
        """Let a tenant's requests compete (the default) or not."""
    def effective_bid(self, handle: SupportsIndex, now: SupportsFloat) -> float:
        """Its effective bid at `now`, not before its arrival; infinity under a horizon of 0. KeyError: stale handle."""
    def push_many(
        self,
        tenants: npt.NDArray[np.int32],
        bids: npt.NDArray[np.int32],
        now: SupportsFloat,
        *,
        out: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Add requests in array order, all arriving at `now`; their handles, shape (n,), `out` if given."""
    def pop_many(self, n: SupportsIndex, *, out: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Take out the open tenants' first n, fewer when fewer wait; their handles, a view of `out` if given."""
    def hold_many(
        self,
        tenants: npt.NDArray[np.int32],
        bids: npt.NDArray[np.int32],
        now: SupportsFloat,
        step: SupportsFloat,
        *,
        out: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int64]:
        """For each i: pop, then push at ``now + i * step``; the handles popped. IndexError: none would wait."""
