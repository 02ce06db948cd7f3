from collections.abc import Mapping, Sequence
from typing import Any, final

from aps_core.tenant_table import TenantTable

@final
class Saved:
    """A checked state: the scheduler's own, driven from C."""

    def __new__(
        cls, state: Mapping[str, Any], slots: Sequence[int], passed_s: float, tenants: TenantTable
    ) -> Saved: ...

@final
class BucketRows:
    """The columns of one kind of bucket, checked: the scheduler's own."""

    def __new__(cls, columns: Mapping[str, Any], prefix: str, rows: int, at_ns: int) -> BucketRows: ...
