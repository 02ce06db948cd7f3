from typing import final

@final
class TimeSeries:
    def __new__(cls, points: int, tenants: int, devices: int) -> TimeSeries: ...
