from typing import final

from aps_core.request_table import RequestTable

@final
class DeadlineWheel:
    """The deadlines of a table's requests; a table has one wheel: see the module."""

    def __new__(cls, table: RequestTable, epoch: float = 0.0) -> DeadlineWheel: ...
    @property
    def count(self) -> int:
        """Requests with a deadline."""
    @property
    def epoch(self) -> float:
        """The instant of 0 ns, seconds."""
    def add(self, handle: int, deadline_at: float, /) -> None:
        """Give a request a deadline after the latest now. KeyError: stale handle. ValueError: bad deadline, has one."""
    def discard(self, handle: int, /) -> None:
        """Take a request's deadline away. KeyError: stale handle; ValueError: it has none."""
    def expire(self, now: float, /) -> list[int]:
        """Take out all with deadline <= now: handles by (deadline, tenant, arrival number). ValueError: bad now."""
    def next_wakeup(self) -> float:
        """When to call expire: after the latest now, never after the next deadline; infinity when empty."""
