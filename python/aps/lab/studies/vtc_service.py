"""Service as VTC's authors count it: tokens at prices, how far two clients drift apart, and the bounds on that."""

from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab.figures import times
from aps.lab.run import Run

PRICES: dict[str, Any] = {"input_weight": 1.0, "output_weight": 2.0}  # the paper's
WAITS = 1 - 1e-9  # of a bin: waiting throughout, but for rounding


def service(run: Run) -> NDArray[np.float64]:
    """(b + 1, tenants) by each edge of the run's bins: prompt + 2 x output tokens computed, divided by the weight."""
    priced = run.series.served[:, 0] * PRICES["input_weight"] + run.series.served[:, 1] * PRICES["output_weight"]
    return np.vstack((np.zeros(len(run.workload.tenants)), priced.cumsum(axis=0) / _weights(run)))


def difference(run: Run) -> float:
    """The most by which two clients' service grew apart over a stretch of bins throughout which both had a request
    waiting, over pairs of clients; 0 when no two ever wait together."""
    sums, waits = service(run), run.series.backlog >= WAITS
    clients = range(sums.shape[1])
    pairs = [(i, j) for i in clients for j in clients[:i]]
    return max((_apart(sums[:, i] - sums[:, j], waits[:, i] & waits[:, j]) for i, j in pairs), default=0.0)


def _apart(lead: NDArray[np.float64], both: NDArray[np.bool_]) -> float:
    """The widest range of `lead`, (b + 1,), within one stretch of bins that `both`, (b,), marks."""
    edges = np.flatnonzero(np.diff(both.astype(np.int8), prepend=0, append=0))
    stretches = (lead[begin : end + 1] for begin, end in zip(edges[::2], edges[1::2], strict=True))
    return max((float(np.ptp(stretch)) for stretch in stretches), default=0.0)


def their_bound(run: Run) -> float:
    """Theorem 4.4 of the paper: 2 max(w_p L, w_q M) over the least weight. One device."""
    (device,) = run.setup.devices
    longest = float(run.workload.prompt_tokens.max())
    batch = device.slots * float((run.workload.prompt_tokens + run.workload.max_tokens).max())
    held = min(batch, float(device.kv_blocks * run.setup.block_tokens))
    return float(2 * max(PRICES["input_weight"] * longest, PRICES["output_weight"] * held) / _weights(run).min())


def our_bound(run: Run) -> float:
    """docs/promises.md, service delivered, for a pair of the worst: 2 (D + c_max + F c') over the least weight."""
    policy, workload = run.policy, run.workload
    most = workload.max_tokens
    charged = most if policy.expected_output is None else np.minimum(most, policy.expected_output)
    largest = float((policy.input_weight * workload.prompt_tokens + policy.output_weight * charged).max())
    slots = sum(device.slots for device in run.setup.devices)
    return float(2 * (run.gap_bound + slots * largest) / _weights(run).min())


def shares(run: Run, begin_s: float = 0.0, end_s: float = inf) -> NDArray[np.float64]:
    """(tenants,) parts of the service between two instants (to the next edge of a bin)."""
    inside = np.flatnonzero((run.series.edges_s >= begin_s) & (run.series.edges_s <= end_s))
    sums = service(run)
    given = sums[inside[-1]] - sums[inside[0]]
    parts: NDArray[np.float64] = given / given.sum()
    return parts


def mean_ttft_s(run: Run, begin_s: float = 0.0) -> list[float]:
    """By tenant, over the requests that came from `begin_s` on; without a token by the end: the time until then."""
    ttft_s = times(run)["ttft_s"]
    came = run.submitted_at >= begin_s
    rows = [came & (run.workload.tenant == slot) for slot in range(len(run.workload.tenants))]
    return [float(ttft_s[mine].mean()) for mine in rows]


def _weights(run: Run) -> NDArray[np.float64]:
    return np.array([tenant.weight for tenant in run.workload.tenants])
