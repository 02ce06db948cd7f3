from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class AllWait:
    total_ns: int
    def __new__(cls, tenants: int) -> AllWait: ...
    def read(self, now_ns: int) -> tuple[int, NDArray[np.int64]]: ...
