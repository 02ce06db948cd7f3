from collections.abc import Sequence
from typing import Any, Self, final

from numpy.typing import ArrayLike

from aps_core.gpu import Engine
from aps_core.scheduler import Scheduler

@final
class Replay:
    """One scheduler and its engines in virtual time; no Python inside the loop. It owns all of them from now on.

    tenants, prompt_tokens, output_tokens, max_tokens, bids: (n,) int32, tenants being the scheduler's slots; a request
    generates min(output_tokens, max_tokens). at_ns: (n,) int64 since the scheduler's epoch, not falling over the
    requests that follow nobody. after: (n,) int64, -1 or the earlier request whose end, however it ends, this one
    follows: its at_ns is the time from then to its arrival. deadline_ns: (n,) int64 after the arrival; the largest
    int64: none. points: bins of the time series at most; stays: entries that the log of stays keeps.
    engines: one for each of the scheduler's devices, new, of the same slots, blocks and tokens a block.

    ValueError (TypeError for a wrong type) names what is wrong, the value and what is allowed.
    """

    now_ns: int
    steps: int
    submitted: int
    ended: int
    n: int
    engines: tuple[Engine, ...]
    def __new__(
        cls,
        scheduler: Scheduler,
        engines: Sequence[Engine],
        *,
        tenants: ArrayLike,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        max_tokens: ArrayLike,
        bids: ArrayLike,
        at_ns: ArrayLike,
        after: ArrayLike | None = None,
        deadline_ns: ArrayLike | None = None,
        points: int = 1024,
        stays: int = 0,
    ) -> Self: ...
    def run(self, until_ns: int = ..., events: int = ...) -> bool:
        """Play on. True: nothing more happens up to until_ns, where the clock now stands (where the last event was, if
        until_ns is beyond what the scheduler's clock holds, 4e8 s). False: so many events (steps that end, wake-ups,
        instants of arrival) have been played and there are more. The GIL is free meanwhile.

        RuntimeError: a step would overrun its device's KV cache, or its model gives it no time in 0..4e8 s.
        """
    def finish(self) -> None:
        """Close the books where the clock stands: what is still here stays unfinished."""
    def read(self) -> dict[str, Any]:
        """After `finish`. The arrays by request, (n,): int64 submitted_ns, started_ns (the beginning of the first step
        that computed for it), first_token_ns, finished_ns (its end, however it ended), order (of first dispatches: 0,
        1, ...), all -1 for never; int32 generated, recomputed_tokens (prefilled again after preemptions by recompute),
        preemptions, device (the last, -1: none), batch_size (requests that ran on it with the first dispatch) and
        reason: 0 finished, above 0 the core's reason code, -1 never submitted, -2 still here.

        batch_sizes: (slots + 1,) int64, batches by the requests that then ran; released: (4,) int64, batches by release
        code. all_wait_ns, all_wait_tokens: (2, tenants) int64, as `aps.metrics.Metrics` defines it, prefill and output,
        tenants in the order of their slots. idle_slot_ns: ints, by device: time in steps times slots that were free
        as the step began although somebody who may go waited. widest_gap: of the scheduler, in cost units.
        """
    def series(self) -> dict[str, Any]:
        """Over time, in b bins: edges_ns (b + 1,) int64; waiting, running, held_blocks (b, 3) float64: least, mean over
        time, most, of all devices; served (b, 2, tenants) int64: prefill and output tokens of steps that end in the
        bin; backlog (b, tenants) float64: part of the bin in which the tenant had a waiting request. Bin k lasts from
        edge k, excluded, to edge k + 1."""
    def stays(self) -> dict[str, Any]:
        """The log of stays, by columns: request, device, slot, began_ns, prefilled_ns, ended_ns (-1: not yet), end (0
        finished, 1 preempted, -1 still running); and dropped: stays beyond those kept."""
