from typing import final

from aps_core.deadlines import DeadlineWheel
from aps_core.fair_share import FairShare
from aps_core.kv_cache import KVCache
from aps_core.lanes import Lanes
from aps_core.request_table import RequestTable
from aps_core.tenant_table import TenantTable
from aps_core.token_buckets import TokenBuckets

@final
class Contention:
    """Composes lanes, buckets, shares and caps: the scheduler's own, driven from C."""

    def __new__(
        cls,
        table: RequestTable,
        lanes: Lanes,
        wheel: DeadlineWheel,
        buckets: TokenBuckets,
        fair: FairShare,
        tenants: TenantTable,
        kv: KVCache,
        bid_premium: float,
        most_aside: int,
    ) -> Contention: ...
    @property
    def returning(self) -> int:
        """Preempted requests that wait to run again."""
    def reserve(self, tenants: int) -> None:
        """Make room for tenant slots below `tenants`, in every part."""
