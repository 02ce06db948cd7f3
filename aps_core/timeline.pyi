from typing import SupportsFloat, final

from aps_core.settlement import Settlement

@final
class Timeline:
    """The scheduler's time: the scheduler's own, driven from C."""

    def __new__(cls, settlement: Settlement, epoch: SupportsFloat) -> Timeline: ...
