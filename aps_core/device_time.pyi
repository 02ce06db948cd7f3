from typing import Self, final

@final
class DeviceTime:
    devices: int
    epoch: float
    def __new__(cls, devices: int, epoch: float = 0.0) -> Self: ...
    def advance(self, now: float) -> None: ...
    @property
    def busy_ns(self) -> list[int]: ...
    @property
    def left_ns(self) -> list[int]: ...

@final
class Part:
    running: int
    def __new__(cls, time: DeviceTime) -> Self: ...
