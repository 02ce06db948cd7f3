from typing import final

import numpy as np
import numpy.typing as npt

@final
class TokenBuckets:
    """Token buckets in rows 0..capacity-1: see the module.

    ValueError: a bad number or now. IndexError: slot out of range or not added.
    """

    def __new__(cls, capacity: int = 16, epoch: float = 0.0) -> TokenBuckets: ...
    @property
    def capacity(self) -> int:
        """Rows there are."""
    @property
    def epoch(self) -> float:
        """The instant of 0 ns, seconds."""
    def reserve(self, capacity: int) -> None:
        """Grow to at least `capacity` rows."""
    def add(self, slot: int, rate: float, burst: float, now: float, /) -> None:
        """A new, full bucket: tokens/s and tokens, both positive, or both infinite (unlimited)."""
    def set_limits(self, slot: int, rate: float, burst: float, now: float, /) -> None:
        """A new rate and burst; the level stays, down to the new burst."""
    def level(self, slot: int, now: float, /) -> float:
        """Tokens there are; negative in debt, infinite when unlimited."""
    def take(self, slot: int, amount: float, now: float, /) -> bool:
        """Take `amount` tokens if the level affords them; False: nothing taken."""
    def overdraw(self, slot: int, amount: float, now: float, /) -> None:
        """Take `amount` tokens, into debt if need be."""
    def give_back(self, slot: int, amount: float, now: float, /) -> None:
        """Return `amount` tokens, up to the burst."""
    def time_until(self, slot: int, amount: float, now: float, /) -> float:
        """Seconds from now until `amount` is affordable, rounded up: 0.0 now, infinity never."""
    def take_many(
        self,
        slots: npt.NDArray[np.int32],
        amounts: npt.NDArray[np.float64],
        now: float,
        /,
        out: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """`take` for each pair in order, at one instant: shapes (n,), into `out` if given. All is checked first."""
