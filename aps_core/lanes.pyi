from typing import SupportsFloat, final

from aps_core.request_table import RequestTable

@final
class Lanes:
    """The order of waiting requests: the scheduler's own, driven from C; `AgingHeap` is the queue to use on its own."""

    def __new__(cls, table: RequestTable, tenants: int, aging_horizon_s: SupportsFloat) -> Lanes: ...
    def reserve(self, tenants: int) -> None:
        """Make room for tenant numbers below `tenants`."""
