from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class Arrivals:
    def __new__(cls, at_ns: NDArray[np.int64], after: NDArray[np.int64] | None) -> Arrivals: ...
