"""Which tenants a plot tells apart, when there are more than it can."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab.workload import Workload


class Group(NamedTuple):
    """Some tenants, drawn as one. tenants: their indices in the workload; rows: which requests are theirs."""

    name: str
    tenants: Sequence[int]
    rows: NDArray[np.bool_]


def groups(workload: Workload, most: int) -> list[Group]:
    """Every tenant that has requests, or those with the highest bids and most requests and one group of the rest."""
    names = [tenant.name for tenant in workload.tenants]
    counts = np.bincount(workload.tenant, minlength=len(names))
    bids = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(bids, workload.tenant, workload.bid)
    sizes = np.round(np.log2(np.maximum(counts, 1)))  # of about one size: the workload's order
    order = [int(at) for at in np.lexsort((np.arange(len(names)), -sizes, -bids)) if counts[at]]
    alone, rest = (order, []) if len(order) <= most else (order[: most - 1], order[most - 1 :])
    alone = sorted(alone, key=lambda at: (-bids[at], at))
    found = [Group(names[at], [at], workload.tenant == at) for at in alone]
    if rest:
        found.append(Group(f"{len(rest)} others", rest, np.isin(workload.tenant, rest)))
    return found
