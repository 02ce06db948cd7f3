"""The asyncio driver: callers' requests to the scheduler, the scheduler's batches to a backend, the backend's tokens to the callers.

The only asyncio code of the library. One owner thread, the loop's. One timer.
"""

from collections.abc import AsyncIterator, Hashable
from typing import Any, Literal, NamedTuple

from aps.backends.protocol import Backend
from aps.metrics import Metrics
from aps.scheduler import Scheduler
from aps.verdicts import Verdict

Status = Literal["finished", "cancelled", "expired", "rejected", "throttled", "failed"]


class Result(NamedTuple):
    """How a request ended. Durations are seconds of the scheduler's clock (simulated ones under a simulated backend)."""

    id: Hashable  # the caller's own, else the scheduler's number; 0 when it was not admitted
    status: Status
    reason: str  # why, where status is not "finished": the verdict's reason, or how an admitted one ended
    verdict: Verdict
    tenant: str
    text: str
    prompt_tokens: int
    output_tokens: int
    bid: int  # after clamping
    charge: float  # bucket tokens at the end: what was used, times the bid's premium
    arrived_at: float
    queue_wait_s: float | None  # arrival to first scheduled step; None: never started
    ttft_s: float | None  # arrival to first output token
    e2e_s: float  # arrival to end
    device: int  # -1: never started
    batch_size: int  # requests on the device at the step it joined, itself included; 0: never started
    released: str | None  # why its batch was released: "continuous", "window", "fill"


class Ticket:
    """One submitted request. `await ticket.result()`; cancelling that wait does not cancel the request, `Driver.cancel` does."""

    id: Hashable
    verdict: Verdict
    tenant: str
    done: bool

    async def result(self) -> Result: ...

    def chunks(self) -> AsyncIterator[list[str]]:
        """Output tokens as they come: each item is every token that became ready since the last, in order."""


class Stream:
    """An async iterator over one request's tokens. Leaving the loop early, or being cancelled in it, cancels the request."""

    ticket: Ticket

    def __aiter__(self) -> AsyncIterator[str]: ...


class DriverError(RuntimeError):
    """The driver has failed or is closed; the cause is chained."""


class Driver:
    """Drives a scheduler against a backend on the running loop: `async with Driver(scheduler, backend) as driver`.

    Leaving the block cancels what is still outstanding (its callers get a Result with status "cancelled"); `drain` first to let it finish.
    Nothing but the driver may call the scheduler meanwhile. All methods must be called on the loop's thread.
    """

    metrics: Metrics
    scheduler: Scheduler
    backend: Backend

    def __init__(self, scheduler: Scheduler, backend: Backend) -> None: ...

    async def infer(self, tenant: str, *, prompt_tokens: int, max_tokens: int | None = None, bid: int | None = None, deadline_s: float | None = None,
                    prompt: str | None = None, id: Hashable | None = None, simulated_output_tokens: int | None = None) -> Result:
        """Submit and wait. A "no" is a Result too (status "throttled" or "rejected"). Cancelling the waiting task cancels the request.

        deadline_s: from now; a request that has not started by then expires. KeyError for an unknown tenant, ValueError for bad numbers, DriverError.
        """

    def submit(self, tenant: str, **same: Any) -> Ticket:
        """The same without waiting."""

    def stream(self, tenant: str, **same: Any) -> Stream:
        """The same, token by token: `async for token in driver.stream(...)`."""

    def cancel(self, id: Hashable) -> bool:
        """End a request now; its waiter gets status "cancelled". False: it has already ended, or never was."""

    async def drain(self, timeout_s: float | None = None) -> int:
        """Refuse new requests (throttled, "draining") and wait for the outstanding ones, at most `timeout_s` wall seconds; then cancel. Returns how many were cancelled."""

    now: float  # property: seconds of the scheduler's clock
    outstanding: int  # property: admitted and not ended
    draining: bool
    failed: BaseException | None

    # The scheduler's own calls at the driver's instant (everything due is played first, idle devices look again after):
    #   rebid(id, bid), explain(id), snapshot(), add_tenant(t), set_tenant(t), remove_tenant(name), set_policy(...)
