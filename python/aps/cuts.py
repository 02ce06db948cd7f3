"""What was counted of tenants between two instants. Cuts can be added: together they are what all was counted in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps_core.tally import COUNTS

__all__ = ["COUNTS", "Cut"]


class Cut(NamedTuple):
    """names: tenants of which something was counted, each once. numbers: int64, a row for each of them, a column for
    each of COUNTS. refused: of those that had any, requests refused, by tenant and reason.

    COUNTS: requests `admitted`, `finished`, `cancelled`, `expired`, `dropped`, `failed`, as in `Tally`;
    `prompt_tokens`, `output_tokens` of requests that have ended; `charged_micro`, their charges in micro-tokens;
    `gpu_ns`, time of devices, also of requests that run. False when there is nothing in it.
    """

    names: Sequence[str]
    numbers: NDArray[np.int64]
    refused: Mapping[str, Mapping[str, int]]

    def __bool__(self) -> bool:
        return bool(self.names)

    def rows(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Each tenant, and its numbers by COUNTS."""
        for name, numbers in zip(self.names, self.numbers.tolist(), strict=True):
            yield name, dict(zip(COUNTS, numbers, strict=True))

    @classmethod
    def together(cls, cuts: Iterable["Cut"]) -> "Cut":
        """The sum of any number of cuts."""
        cuts = list(cuts)
        places: dict[str, int] = {}
        for cut in cuts:
            for name in cut.names:
                places.setdefault(name, len(places))
        numbers = np.zeros((len(places), len(COUNTS)), np.int64)
        refused: dict[str, dict[str, int]] = {}
        for cut in cuts:
            numbers[[places[name] for name in cut.names]] += cut.numbers
            for name, reasons in cut.refused.items():
                sums = refused.setdefault(name, {})
                for reason, count in reasons.items():
                    sums[reason] = sums.get(reason, 0) + count
        return cls(list(places), numbers, refused)
