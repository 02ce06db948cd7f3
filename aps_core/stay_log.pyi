from typing import Any, final

@final
class StayLog:
    capacity: int
    count: int
    dropped: int
    def __new__(cls, capacity: int) -> StayLog: ...
    def read(self) -> dict[str, Any]: ...
