from typing import final

from aps_core.contention import Contention
from aps_core.token_buckets import TokenBuckets

@final
class Admission:
    """Judges and admits: the scheduler's own, driven from C."""

    def __new__(
        cls,
        contention: Contention,
        request_buckets: TokenBuckets,
        max_context: int,
        expected_output: int,
        epoch: float,
    ) -> Admission: ...
