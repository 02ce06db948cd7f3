from typing import final

import numpy as np
import numpy.typing as npt

@final
class TenantTable:
    """Rows 1.. are tenants; row 0 holds the totals over all of them."""

    def __new__(cls, capacity: int = 16) -> TenantTable: ...
    @property
    def capacity(self) -> int:
        """Rows there are."""
    @property
    def records(self) -> npt.NDArray[np.void]:
        """The rows: a structured array, (capacity,), with the fields of `Tenant` in tenant_table.pxd."""
    def reserve(self, capacity: int) -> None:
        """Make room for rows below `capacity`."""
