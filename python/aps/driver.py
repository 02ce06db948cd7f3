"""The asyncio driver: callers' requests to the scheduler, its batches to a backend, tokens to the callers.

With `tickets` the only asyncio code of the library. One owner thread, the loop's; one timer; no task of its own.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from operator import index
from types import TracebackType
from typing import Protocol, Self, SupportsIndex, TypedDict, Unpack

from aps import _checks as check
from aps.backends.protocol import Backend
from aps.metrics import Metrics
from aps.pump import Pump
from aps.scheduler import Scheduler, check_id
from aps.tenants import Tenant
from aps.tickets import DriverError, Result, Stream, Ticket
from aps.verdicts import Explanation, Snapshot, Verdict

__all__ = ["Asked", "Driver", "DriverError", "Recorder", "Result", "Stream", "Ticket"]

LASTS_S = 4e8  # of the scheduler's clock, from its epoch on
LONGEST_TURN_S = 0.1  # wall seconds of playing simulated time before the loop gets a turn
DRAINING_RETRY_S = 1.0  # wall seconds: nobody knows when a draining service is back


class Asked(TypedDict, total=False):
    """What a request may say beside its tenant and prompt_tokens; see `Driver.submit`."""

    max_tokens: int | None
    bid: int | None
    deadline_s: float | None
    prompt: str | None
    id: Hashable
    simulated_output_tokens: int | None


class Recorder(Protocol):
    """Sees every call that a driver makes of its scheduler."""

    def watch(self, scheduler: Scheduler) -> Scheduler:
        """What the driver is to call instead: the same, and it notes each call, its instant and its answer."""


class Driver:
    """Drives a scheduler against a backend: `async with Driver(scheduler, backend) as driver`.

    The scheduler's devices are the backend's, and it has no requests yet (ValueError). While the driver is open nobody
    else may call it. All methods are called on the loop's thread. Leaving the block cancels what is outstanding (those
    callers get a Result with status "cancelled"); `drain` first lets it finish. A timer that fires late changes nothing
    but when callers hear of it. Durations are seconds of the scheduler's clock, unless they say wall.

    recorder: notes what the scheduler is asked and answers.

    metrics: see `Metrics`. draining: whether new requests are refused. failed: what stopped the driver; None: nothing.
    """

    def __init__(self, scheduler: Scheduler, backend: Backend, *, recorder: Recorder | None = None) -> None:
        if tuple(scheduler.devices) != tuple(backend.devices):
            raise ValueError(f"devices must be the backend's, {tuple(backend.devices)}, got {scheduler.devices}")
        self.scheduler = scheduler if recorder is None else recorder.watch(scheduler)
        self.backend = backend
        self.draining = False
        self.failed: Exception | None = None
        self.opened_at = scheduler.now
        self._pump = Pump(self.scheduler, backend)
        self._opened = False
        self._or_fail = _OrFail(self._fail)
        self._loop: asyncio.AbstractEventLoop | None = None  # None: not open, or failed
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._together_at: float | None = None  # the instant of changes that are made together

    async def __aenter__(self) -> Self:
        if self._opened:
            raise DriverError("a driver is opened once")
        self.opened_at = self._pump.now = self.scheduler.now
        self._check_empty()
        self._opened = True
        await self.backend.open(self.opened_at, self._wake)
        self._loop = asyncio.get_running_loop()
        with self._or_fail:
            self._arm()  # news may have come already
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.failed is None:
                with suppress(DriverError):  # who waits is told, and so is whoever looks at `failed`
                    self._cancel_all()
        finally:
            self._stop_timer()
            self._loop = None
            await self.backend.close()

    # Requests

    async def infer(self, tenant: str, *, prompt_tokens: int, **asked: Unpack[Asked]) -> Result:
        """Ask, and wait for the end. Cancelling the waiting task cancels the request. See `submit`."""
        ticket = self.submit(tenant, prompt_tokens=prompt_tokens, **asked)
        try:
            return await ticket.result()
        finally:
            self._abandon(ticket)

    def stream(self, tenant: str, *, prompt_tokens: int, **asked: Unpack[Asked]) -> Stream:
        """Ask now, and get the tokens one by one: `async for token in driver.stream(...)`. See `submit`."""
        return Stream(self.submit(tenant, prompt_tokens=prompt_tokens, **asked), self._abandon)

    def submit(
        self,
        tenant: str,
        *,
        prompt_tokens: int,
        max_tokens: int | None = None,
        bid: int | None = None,
        deadline_s: float | None = None,
        prompt: str | None = None,
        id: Hashable = None,
        simulated_output_tokens: int | None = None,
    ) -> Ticket:
        """Ask now. A "no" is an answer: `ticket.verdict`, and a Result with status "throttled" or "rejected".

        max_tokens, bid: the tenant's defaults when None. deadline_s: seconds from now in which it must have started.
        prompt: its text, for the backend; prompt_tokens counts. id: any hashable that no outstanding request has.
        simulated_output_tokens: what a simulated backend is to generate, at most max_tokens.

        KeyError: unknown tenant. ValueError, TypeError: a bad number or id. DriverError: it is closed or has failed.
        """
        now = self._advance()
        pump = self._pump
        settings = self._tenant(tenant)
        prompt_tokens = _as_int("prompt_tokens", prompt_tokens)
        max_tokens = settings.default_max_tokens if max_tokens is None else _as_int("max_tokens", max_tokens)
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"prompt must be a str or None, got {prompt!r}")
        if id is not None:
            check_id(id)
            if id in pump.named:
                raise ValueError(f"id must be new among outstanding requests, got {id!r} again")
        if simulated_output_tokens is not None:
            simulated_output_tokens = _as_int("simulated_output_tokens", simulated_output_tokens)
            if simulated_output_tokens < 1:
                raise ValueError(f"simulated_output_tokens must be at least 1, got {simulated_output_tokens}")
        if self.draining:
            verdict = self._refusal(settings, prompt_tokens, max_tokens, bid)
        else:
            verdict = self.scheduler.submit(
                tenant,
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                bid=bid,
                now=now,
                deadline_at=None if deadline_s is None else now + deadline_s,
            )
        handle: int = verdict.id or 0  # type: ignore[assignment]
        if id is not None:
            verdict = verdict._replace(id=id)
        metrics = pump.metrics.tenants.get(tenant) or pump.metrics.tenant(tenant)
        ticket = Ticket(
            handle, verdict, metrics, now, prompt, prompt_tokens, max_tokens, simulated_output_tokens, self._listen
        )
        if not handle:
            metrics.refused[verdict.reason] += 1
            ticket.conclude(verdict.status, verdict.reason, now)  # type: ignore[arg-type]
            return ticket
        with self._or_fail:
            pump.enter(ticket, id is not None)
            # While every device is in the middle of a step nothing can start before one ends.
            if deadline_s is not None or pump.idle():
                self._look_again()
        return ticket

    def cancel(self, id: Hashable) -> bool:
        """End a request now: what it held is free at once. False: there is none, most likely because it has ended."""
        ticket = self.ticket(id)
        return ticket is not None and self._cancel(ticket)

    def ticket(self, id: Hashable) -> Ticket | None:
        """The outstanding request of this id."""
        found = self._pump.named.get(id)
        if found is None and type(id) is int:
            found = self._pump.tickets.get(id)
        return found

    async def drain(self, timeout_s: float | None = None) -> int:
        """Refuse new requests (throttled, "draining") and wait for the others; returns how many had to be cancelled.

        timeout_s: *wall* seconds to wait before what is left is cancelled; None: for ever.
        """
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                for ticket in tuple(self._pump.tickets.values()):
                    await ticket.result()
        except TimeoutError:
            return self._cancel_all()
        return 0

    # The scheduler's own calls, at the driver's instant

    def rebid(self, id: Hashable, bid: int) -> Verdict:
        """As `Scheduler.rebid`. KeyError: no such outstanding request."""
        with self._change() as now:
            ticket = self._known(id)
            verdict = self.scheduler.rebid(ticket.handle, bid, now=now)
            ticket.bid = verdict.bid
            return verdict._replace(id=ticket.id)

    def explain(self, id: Hashable) -> Explanation:
        """As `Scheduler.explain`. KeyError: no such outstanding request."""
        now = self._advance()
        ticket = self._known(id)
        return self.scheduler.explain(ticket.handle, now=now)._replace(id=ticket.id)

    def snapshot(self) -> Snapshot:
        """As `Scheduler.snapshot`; requests appear by the scheduler's numbers."""
        return self.scheduler.snapshot(now=self._advance())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Changes of tenants and policy inside this block are one: at one instant, and nothing starts between them."""
        self._together_at = self._advance()
        try:
            yield
        finally:
            self._together_at = None
            with self._or_fail:
                self._look_again()

    def add_tenant(self, tenant: Tenant) -> None:
        """As `Scheduler.add_tenant`."""
        with self._change() as now:
            self.scheduler.add_tenant(tenant, now=now)

    def set_tenant(self, tenant: Tenant) -> None:
        """As `Scheduler.set_tenant`."""
        with self._change() as now:
            self.scheduler.set_tenant(tenant, now=now)

    def remove_tenant(self, name: str) -> None:
        """As `Scheduler.remove_tenant`."""
        with self._change() as now:
            self.scheduler.remove_tenant(name, now=now)

    def set_policy(self, aging_horizon_s: float | None = None, fairness_window: float | None = None) -> None:
        """As `Scheduler.set_policy`."""
        with self._change() as now:
            self.scheduler.set_policy(aging_horizon_s, fairness_window, now=now)

    # Looking

    @property
    def metrics(self) -> Metrics:
        """What has been counted."""
        return self._pump.metrics

    @property
    def now(self) -> float:
        """The scheduler's clock, in seconds."""
        if self._loop is not None:
            with suppress(DriverError), self._or_fail:
                return max(self._pump.now, self._clock())
        return self._pump.now

    @property
    def outstanding(self) -> int:
        """Requests admitted and not ended."""
        return len(self._pump.tickets)

    # Time

    def _advance(self) -> float:
        """Play what is due; returns the instant at which the caller acts."""
        if self._loop is None or self.failed is not None:
            raise DriverError("the driver has failed" if self.failed else "the driver is not open") from self.failed
        pump = self._pump
        with self._or_fail:
            now = self._clock()
            if pump.next_at > now:
                if now > pump.now:
                    pump.now = now
            else:
                self._play(now)
        return pump.now

    def _clock(self) -> float:
        now = self.backend.now()
        if not now - self.scheduler.epoch <= LASTS_S:
            raise OverflowError(
                f"the scheduler's clock ends {LASTS_S:g} s after its epoch, the backend's is at {now!r}"
            )
        return now

    def _play(self, now: float) -> None:
        self._pump.play(now, self._turn())
        self._arm()

    def _look_again(self) -> None:
        self._pump.fill()
        self._arm()

    @contextmanager
    def _change(self) -> Iterator[float]:
        """The caller changes the scheduler at the instant this gives."""
        if self._together_at is not None:
            yield self._together_at
            return
        yield self._advance()
        with self._or_fail:
            self._look_again()

    def _turn(self) -> Callable[[], bool]:
        """Says when the turn that begins now has lasted too long."""
        assert self._loop is not None
        clock = self._loop.time
        until = clock() + LONGEST_TURN_S
        return lambda: clock() > until

    def _arm(self) -> None:
        """Have the one timer fire when something is due, or before."""
        at = self._pump.next_at
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it looks again then
            self._stop_timer()
        if at < inf and self._loop is not None:
            wall_s = max(0.0, at - self.backend.now()) / self.backend.time_scale
            # The two clocks may differ in their last bits: a nanosecond late is better than a moment too early.
            self._timer = self._loop.call_at(self._loop.time() + wall_s + 1e-9, self._ring)
            self._timer_at = at

    def _ring(self) -> None:
        self._timer = None
        with suppress(DriverError), self._or_fail:  # everybody concerned has been told
            self._play(self._clock())

    def _wake(self) -> None:
        """For the backend: there are news."""
        self._pump.next_at = -inf
        if self._loop is not None:
            with suppress(DriverError), self._or_fail:
                self._arm()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Failing, and giving up

    def _fail(self, error: Exception) -> DriverError:
        """It stops the driver, and everybody who waits hears of it."""
        self.failed = error
        self._loop = None
        self._stop_timer()
        for ticket in self._pump.tickets.values():
            ticket.fail(error)
        self._pump.tickets.clear()
        self._pump.named.clear()
        return DriverError(f"the driver has failed: {error!r}")

    def _cancel(self, ticket: Ticket) -> bool:
        if ticket.done or self._loop is None:
            return False
        self._advance()
        if ticket.done:
            return False
        with self._or_fail:
            self._pump.cancel(ticket)
            self._look_again()
        return True

    def _abandon(self, ticket: Ticket) -> None:
        """Its caller leaves, most likely with an exception of their own: that one counts."""
        with suppress(DriverError):
            self._cancel(ticket)

    def _cancel_all(self) -> int:
        self._advance()
        tickets = tuple(self._pump.tickets.values())
        with self._or_fail:
            for ticket in tickets:
                self._pump.cancel(ticket)
            self._look_again()
        return len(tickets)

    def _listen(self, ticket: Ticket) -> list[str]:
        self._advance()
        with self._or_fail:
            return [] if ticket.done else list(self._pump.listen(ticket))

    def _refusal(self, tenant: Tenant, prompt_tokens: int, max_tokens: int, bid: int | None) -> Verdict:
        """While draining. The scheduler is not asked, so its checks are made here."""
        asked = tenant.default_bid if bid is None else bid
        check.integer("prompt_tokens", prompt_tokens, 1, check.INT32_MAX)
        check.integer("max_tokens", max_tokens, 1, check.INT32_MAX)
        check.integer("bid", asked, 1, 10)
        counts = min(asked, tenant.max_bid)
        later_s = DRAINING_RETRY_S * self.backend.time_scale  # in seconds of the scheduler's clock, as every verdict's
        return Verdict("throttled", "draining", None, counts, bid is not None and counts < bid, later_s, None)

    def _check_empty(self) -> None:
        snapshot = self.scheduler.snapshot(now=self.opened_at)
        live = snapshot.waiting + sum(tenant.in_flight for tenant in snapshot.tenants.values())
        if live:
            raise ValueError(f"scheduler must have no live requests when a driver opens, got {live}")

    def _known(self, id: Hashable) -> Ticket:
        ticket = self.ticket(id)
        if ticket is None:
            raise KeyError(f"no outstanding request {id!r}")
        return ticket

    def _tenant(self, name: str) -> Tenant:
        settings = self.scheduler.tenants.get(name)
        if settings is None:
            raise KeyError(f"unknown tenant {name!r}")
        return settings


class _OrFail:
    """Around whatever touches the pump or the backend: an error in there leaves nothing to rely on."""

    __slots__ = ("_fail",)

    def __init__(self, fail: Callable[[Exception], DriverError]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DriverError):
            raise self._fail(error) from error


def _as_int(field: str, value: SupportsIndex) -> int:
    """Counters add these up: a NumPy integer would overflow in them."""
    if type(value) is int:
        return value
    if not isinstance(value, bool):
        try:
            return index(value)
        except TypeError:
            pass
    raise TypeError(f"{field} must be an int, got {value!r}")
