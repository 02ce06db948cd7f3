from typing import final

from aps_core.batch_assembler import BatchAssembler

@final
class Settlement:
    """Ends requests and gives back what they held: the scheduler's own, driven from C."""

    def __new__(cls, assembler: BatchAssembler) -> Settlement: ...
