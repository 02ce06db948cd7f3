from typing import Any, final

import numpy as np
import numpy.typing as npt

RECORD: np.dtype[np.void]

@final
class RequestTable:
    """A growing table of requests named by handles: see the module."""

    def __new__(cls, capacity: int = 0, *, generation_limit: int = ...) -> RequestTable: ...
    @property
    def capacity(self) -> int:
        """Rows there are."""
    @property
    def count(self) -> int:
        """Rows in use."""
    @property
    def retired(self) -> int:
        """Rows whose generations are used up."""
    @property
    def generation_limit(self) -> int:
        """Uses of a row before it is retired."""
    @property
    def bytes_per_row(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Bytes allocated for rows: capacity * bytes_per_row."""
    def reserve(self, capacity: int) -> None:
        """Grow to at least `capacity` rows. ValueError: negative. OverflowError: above 2**28 - 1. MemoryError."""
    def allocate(self, tenant: int = 0, number: int = 0) -> int:
        """Take a row, growing when full; its handle."""
    def free(self, handle: int) -> None:
        """Give the row back. KeyError: stale or foreign handle. ValueError: it has a deadline."""
    def row_of(self, handle: int) -> int:
        """The row of a handle. KeyError: stale or foreign handle."""
    def column(self, name: str) -> npt.NDArray[Any]:
        """A copy of one field of all rows ever used, shape (rows ever used,). KeyError: no such field."""
