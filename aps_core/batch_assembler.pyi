from typing import final

import numpy as np
import numpy.typing as npt

from aps_core.contention import Contention

@final
class BatchAssembler:
    """Dispatch for all devices: the scheduler's own, driven from C."""

    def __new__(cls, contention: Contention, devices: int, most_slots: int) -> BatchAssembler: ...
    @property
    def started_handles(self) -> npt.NDArray[np.int64]:
        """Handles, (most_slots,): the first are those that the last batch started."""
    @property
    def preempted_handles(self) -> npt.NDArray[np.int64]:
        """Handles, (most_slots,): the first are those that the last batch preempted."""
    def reserve(self, tenants: int) -> None:
        """Make room for tenant slots below `tenants`."""
