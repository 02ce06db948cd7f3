"""A workload: who asks for what and when, as arrays."""

from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from aps.tenants import Tenant

NOBODY = -1


@dataclass(frozen=True, slots=True)
class Workload:
    """n requests of some tenants. Immutable and checked when made; the arrays are made read-only.

    name, description: for people. tenants: who is there; the bids are the requests' own.
    tenant: (n,) index into `tenants`. prompt_tokens, output_tokens, max_tokens: (n,) at least 1; a request generates
    min(output_tokens, max_tokens). bid: (n,) 1..10.
    after: (n,) -1, or the earlier request whose end (whatever end) this one follows: a closed loop.
    at_s: (n,) seconds from the start, not falling over the requests with after = -1; of the others the think time,
    seconds between that end and this arrival.
    deadline_s: (n,) seconds after arrival by which it must have started; inf: none. None: none has one.
    until_s: the horizon: what has not arrived by then never does, and the simulation stops there; inf: run until
    everything has ended.
    notes: what a reader or generator did that a user must know (rows left out, and why; synthetic tenants).

    Raises ValueError naming the column, the row, the value and what is allowed.
    """

    name: str
    tenants: tuple[Tenant, ...]
    tenant: NDArray[np.int32]
    at_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    max_tokens: NDArray[np.int32]
    bid: NDArray[np.int32]
    after: NDArray[np.int64] | None = None
    deadline_s: NDArray[np.float64] | None = None
    until_s: float = inf
    description: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.tenant)
        columns = {
            "tenant": (self.tenant, np.int32, 0, len(self.tenants) - 1),
            "prompt_tokens": (self.prompt_tokens, np.int32, 1, 2**31 - 1),
            "output_tokens": (self.output_tokens, np.int32, 1, 2**31 - 1),
            "max_tokens": (self.max_tokens, np.int32, 1, 2**31 - 1),
            "bid": (self.bid, np.int32, 1, 10),
            "at_s": (self.at_s, np.float64, 0, 3e8),
            "after": (self.after, np.int64, NOBODY, n - 1),
            "deadline_s": (self.deadline_s, np.float64, 0, inf),
        }
        if not self.tenants:
            raise ValueError("tenants must not be empty")
        names = [tenant.name for tenant in self.tenants]
        if len(set(names)) < len(names):
            raise ValueError(f"tenants must have different names, got {names}")
        if not self.until_s > 0:
            raise ValueError(f"until_s must be above 0, got {self.until_s!r}")
        for name, (column, kind, least, most) in columns.items():
            if column is None:
                continue
            found = np.ascontiguousarray(column, dtype=kind)
            if found.shape != (n,):
                raise ValueError(f"{name} must have one value for each of the {n} requests, got shape {found.shape}")
            bad = np.flatnonzero(~((found >= least) & (found <= most)))
            if len(bad):
                at = int(bad[0])
                raise ValueError(f"{name}[{at}] must be from {least} to {most}, got {found[at]}")
            found = found.view()
            found.flags.writeable = False
            object.__setattr__(self, name, found)
        opens = self.at_s if self.after is None else self.at_s[self.after == NOBODY]
        if np.any(opens[1:] < opens[:-1]):
            raise ValueError("at_s must not fall over the requests with after = -1")
        if self.after is not None and np.any(self.after >= np.arange(n)):
            at = int(np.flatnonzero(self.after >= np.arange(n))[0])
            raise ValueError(f"after[{at}] must be an earlier request, got {self.after[at]}")

    def __len__(self) -> int:
        return len(self.tenant)
