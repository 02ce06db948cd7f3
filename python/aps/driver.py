"""The asyncio driver: callers' requests to the scheduler, its batches to a backend, tokens to the callers.

With `tickets` the only asyncio code of the library. One owner thread, the loop's; one timer; no task of its own.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from inspect import isawaitable
from threading import Lock
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict, Unpack

from aps import _checks as check
from aps.backends.protocol import Backend, Health
from aps.conservation import discrepancies
from aps.cuts import Cut
from aps.metrics import Metrics
from aps.player import Player
from aps.pump import Pump
from aps.recent import Lately
from aps.scheduler import FIRST_HANDLE, LAST_HANDLE, Scheduler, check_id
from aps.state import SchedulerState
from aps.tenants import Tenant
from aps.tickets import DriverError, Result, Stream, Ticket, UnfinishedError
from aps.verdicts import Explanation, Snapshot, Verdict
from aps_core.asking import Asking

__all__ = ["Asked", "Driver", "DriverError", "Recorder", "Result", "Stream", "Ticket", "UnfinishedError"]

DRAINING_RETRY_S = 1.0  # wall seconds: nobody knows when a draining service is back
CLOSING_S = 10.0  # wall seconds that a backend may take to close


class Asked(TypedDict, total=False):
    """What a request may say beside its tenant and prompt_tokens; see `Driver.submit`."""

    max_tokens: int | None
    bid: int | None
    deadline_s: float | None
    prompt: str | None
    id: Hashable
    simulated_output_tokens: int | None
    trace: Mapping[str, str] | None


class Recorder(Protocol):
    """Sees every call that a driver makes of its scheduler."""

    def watch(self, scheduler: Scheduler) -> Scheduler:
        """What the driver is to call instead: the same, but each call is noted, with its instant and its answer."""


class Driver(Asking[Ticket, Result]):
    """Drives a scheduler against a backend: `async with Driver(scheduler, backend) as driver`.

    The scheduler's devices are the backend's, and it has no requests yet (ValueError). While the driver is open nobody
    else may call it. All methods are called on the loop's thread; other threads go through `call`. Leaving the block
    cancels what is outstanding (those callers get a Result with status "cancelled"); `drain` first lets it finish. A
    timer that fires late changes nothing but when callers hear of it. Durations are seconds of the scheduler's clock,
    unless they say wall.

    recorder: notes what the scheduler is asked and answers. retries: how often a request that its device lost is
    started again, on any device, while none of its output has been delivered. stall_s: *wall* seconds without progress
    after which a running request is held to be lost (and up to a quarter more); None: never. Simulated backends lose
    nothing.

    metrics: see `Metrics`. draining: whether new requests are refused.
    """

    scheduler: Scheduler
    _player: Player

    def __init__(
        self,
        scheduler: Scheduler,
        backend: Backend,
        *,
        recorder: Recorder | None = None,
        retries: int = 2,
        stall_s: float | None = 120.0,
    ) -> None:
        if tuple(scheduler.devices) != tuple(backend.devices):
            raise ValueError(f"devices must be the backend's, {tuple(backend.devices)}, got {scheduler.devices}")
        check.integer("retries", retries, 0, check.INT32_MAX)
        if stall_s is not None:
            check.number("stall_s", stall_s, "a number of seconds > 0, or None", lambda x: x > 0)
        self.scheduler = scheduler if recorder is None else recorder.watch(scheduler)
        self.backend = backend
        self.draining = False
        self.opened_at = scheduler.now
        self._pump = Pump(self.scheduler, backend, retries)
        self._pump.desk.listen = self._listen
        self._player = Player(self._pump, scheduler.epoch, backend.time_scale, stall_s)
        self._opened = False
        self._stage, self._desk = self._pump, self._pump.desk
        self._read = self._player.read
        self._new_future: Callable[[], asyncio.Future[None]]
        self._used_before: dict[str, tuple[int, int]] = {}  # see conservation
        self._calls: dict[object, Future[Any]] = {}  # of other threads, not begun
        self._calls_lock = Lock()

    async def __aenter__(self) -> Self:
        if self._opened:
            raise DriverError("a driver is opened once")
        self.opened_at = self._pump.now = self._pump.progressed_at = self.scheduler.now
        self._check_empty()
        self._opened = True
        await self._player.open()
        self._pump.recent.roll(self._pump.now)
        self._new_future = asyncio.get_running_loop().create_future
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.failed is None:
                with suppress(DriverError):  # who waits is told, and so is whoever looks at `failed`
                    self._cancel_all()
        finally:
            self._player.close()
            with self._calls_lock:
                calls, self._calls = self._calls, {}
            for call in calls.values():
                call.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await self._pump.backend.close()

    # Requests

    def stream(self, tenant: str, *, prompt_tokens: int, **asked: Unpack[Asked]) -> Stream:
        """Ask now, and get the tokens one by one: `async for token in driver.stream(...)`. See `submit`.

        The loop ends when the request has finished; else it raises UnfinishedError after the tokens that there were.
        """
        return Stream(self.submit(tenant, prompt_tokens=prompt_tokens, **asked), self._abandon)

    def cancel(self, id: Hashable) -> bool:
        """End a request now: what it held is free at once. False: there is none, most likely because it has ended."""
        ticket = self.ticket(id)
        return ticket is not None and self._cancel(ticket)

    def ticket(self, id: Hashable) -> Ticket | None:
        """The outstanding request of this id."""
        found = self._pump.desk.named.get(id)
        if found is None and type(id) is int and FIRST_HANDLE <= id <= LAST_HANDLE:
            found = self._pump.desk.find(id)
        return found

    async def drain(self, timeout_s: float | None = None) -> int:
        """Refuse new requests (throttled, "draining") and wait for the others; returns how many had to be cancelled.

        timeout_s: *wall* seconds to wait before what is left is cancelled; None: for ever.
        """
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                for ticket in self._pump.desk.tickets():
                    await ticket.result()
        except TimeoutError:
            return self._cancel_all()
        return 0

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """For other threads: have the loop's thread call a function; the future of its answer.

        What is awaitable is awaited there: `driver.call(driver.infer, "tenant", prompt_tokens=10).result()`. Cancelling
        the future cancels the call, or what it awaits. A call not begun when the driver closes is cancelled.
        DriverError: it is closed or has failed.
        """
        loop = self._player.loop
        if loop is None:
            raise self._player.closed()
        ticket = object()

        async def make() -> Any:
            with self._calls_lock:
                self._calls.pop(ticket, None)
            answer = function(*arguments, **options)
            return await answer if isawaitable(answer) else answer

        making = make()
        with self._calls_lock:
            try:
                future = self._calls[ticket] = asyncio.run_coroutine_threadsafe(making, loop)
            except RuntimeError:
                making.close()
                raise DriverError("the driver's loop is closed") from None
        return future

    # The scheduler's own calls, at the driver's instant

    def rebid(self, id: Hashable, bid: int) -> Verdict:
        """As `Scheduler.rebid`. KeyError: no such outstanding request."""
        with self._player.change() as now:
            ticket = self._known(id)
            verdict = self.scheduler.rebid(ticket.handle, bid, now=now)
            ticket.bid = verdict.bid
            return verdict._replace(id=ticket.id)

    def explain(self, id: Hashable) -> Explanation:
        """As `Scheduler.explain`. KeyError: no such outstanding request."""
        now = self._player.advance()
        ticket = self._known(id)
        return self.scheduler.explain(ticket.handle, now=now)._replace(id=ticket.id)

    def snapshot(self) -> Snapshot:
        """As `Scheduler.snapshot`; requests appear by the scheduler's numbers."""
        return self.scheduler.snapshot(now=self._player.advance())

    def add_tenant(self, tenant: Tenant) -> None:
        """As `Scheduler.add_tenant`."""
        with self._player.change() as now:
            self.scheduler.add_tenant(tenant, now=now)
            counted = self.metrics.tenants.get(tenant.name)
            if counted is not None:  # it was here before, and the scheduler has forgotten it, or not
                row = self.scheduler.snapshot(now=now).tenants[tenant.name]
                used = counted.prompt_tokens - row.prompt_tokens, counted.output_tokens - row.output_tokens
                self._used_before[tenant.name] = used

    def set_tenant(self, tenant: Tenant) -> None:
        """As `Scheduler.set_tenant`."""
        with self._player.change() as now:
            self.scheduler.set_tenant(tenant, now=now)

    def remove_tenant(self, name: str) -> None:
        """As `Scheduler.remove_tenant`."""
        with self._player.change() as now:
            self.scheduler.remove_tenant(name, now=now)

    def set_policy(self, aging_horizon_s: float | None = None, fairness_window: float | None = None) -> None:
        """As `Scheduler.set_policy`."""
        with self._player.change() as now:
            self.scheduler.set_policy(aging_horizon_s, fairness_window, now=now)

    def state(self) -> SchedulerState:
        """As `Scheduler.state`. A driver that has been closed has the state of its end."""
        open = self._player.loop is not None
        return self.scheduler.state(now=self._player.advance() if open else self.scheduler.now)

    def restore(self, state: SchedulerState, *, passed_s: float) -> None:
        """As `Scheduler.restore`, before the driver is opened (DriverError)."""
        if self._opened:
            raise DriverError("a state is restored before the driver is opened")
        self.scheduler.restore(state, passed_s=passed_s, now=self.scheduler.now)

    @contextmanager
    def together(self) -> Iterator[float]:
        """What is changed within happens at one instant, and nothing starts before it is left. Not to be awaited in."""
        with self._player.together() as now:
            yield now

    # Looking

    @property
    def metrics(self) -> Metrics:
        """What has been counted, GPU time up to the last instant that was played."""
        self._pump.metrics.advance(self._pump.now)
        return self._pump.metrics

    def cut(self) -> Cut:
        """What was counted of tenants since the last cut: see `Metrics.cut`. Also when it is closed or has failed."""
        with suppress(DriverError):
            self._player.advance()
        return self._pump.metrics.cut(self._pump.now)

    @property
    def now(self) -> float:
        """The scheduler's clock, in seconds."""
        return self._player.now()

    @property
    def failed(self) -> Exception | None:
        """What stopped the driver; None: nothing."""
        return self._player.failed

    @property
    def outstanding(self) -> int:
        """Requests admitted and not ended."""
        return self._pump.desk.outstanding

    def lately(self) -> Lately:
        """What happened in the last `window_s` seconds: work, shares, verdicts."""
        now = self._player.advance()
        return self._pump.recent.look(now)

    @property
    def window_s(self) -> float:
        """How long `lately` looks back; may be set."""
        return self._pump.recent.window_s

    @window_s.setter
    def window_s(self, seconds: float) -> None:
        self._pump.recent.window_s = seconds

    @property
    def progressed_at(self) -> float:
        """The instant at which a device last finished a step or sent news; at first when the driver was opened."""
        return self._pump.progressed_at

    def health(self, device: int) -> Health:
        """Whether a device gets work: what the backend says of it, and whether it rests because it has failed."""
        self._player.now()
        return self._pump.backend.health(device)

    def invariants(self, snapshot: Snapshot | None = None) -> dict[str, int]:
        """By how much scheduler, driver and backend disagree, by what is counted: all 0 when everything is conserved.

        See `aps.conservation`. snapshot: one of this instant, if it is at hand. For every scrape: O(outstanding).
        """
        if snapshot is None:
            now = self._pump.now if self._player.loop is None else self._player.advance()
            snapshot = self.scheduler.snapshot(now=now)
        return discrepancies(self._pump, snapshot, self._used_before)

    # What is rare of `submit`

    def _unusual(self, prompt: str | None, id: Hashable, deadline_s: float | None) -> float | None:
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"prompt must be a str or None, got {prompt!r}")
        if id is not None:
            check_id(id)
            if id in self._pump.desk.named:
                raise ValueError(f"id must be new among outstanding requests, got {id!r} again")
        if deadline_s is None:
            return None
        check.number("deadline_s", deadline_s, "a number of seconds, or None", lambda x: x == x)
        return float(deadline_s)

    def _tenant(self, name: str) -> Tenant:
        settings = self.scheduler.tenants.get(name)
        if settings is None:
            raise KeyError(f"unknown tenant {name!r}")
        return settings

    def _refusal(self, tenant: Tenant, bid: int | None) -> Verdict:
        """While draining. The scheduler is not asked, so its check of the bid is made here."""
        asked = tenant.default_bid if bid is None else bid
        check.integer("bid", asked, 1, 10)
        counts = min(asked, tenant.max_bid)
        later_s = DRAINING_RETRY_S * self.backend.time_scale  # in seconds of the scheduler's clock, as every verdict's
        return Verdict("throttled", "draining", None, counts, bid is not None and counts < bid, later_s, None)

    # Giving up

    def _cancel(self, ticket: Ticket) -> bool:
        if ticket.done or self._player.loop is None:
            return False
        self._player.advance()
        if ticket.done:
            return False
        with self._player.or_stop:
            self._pump.cancel(ticket)
            self._player.look_again()
        return True

    def _abandon(self, ticket: Ticket) -> None:
        """Its caller leaves, most likely with an exception of their own: that one counts."""
        with suppress(DriverError):
            self._cancel(ticket)

    def _cancel_all(self) -> int:
        self._player.advance()
        tickets = self._pump.desk.tickets()
        with self._player.or_stop:
            for ticket in tickets:
                self._pump.cancel(ticket)
            self._player.look_again()
        return len(tickets)

    def _listen(self, ticket: Ticket) -> None:
        self._player.advance()
        with self._player.or_stop:
            if not ticket.done:
                self._pump.listen(ticket)

    def _check_empty(self) -> None:
        snapshot = self.scheduler.snapshot(now=self.opened_at)
        live = snapshot.waiting + int(snapshot.tenants.columns["in_flight"].sum())
        if live:
            raise ValueError(f"scheduler must have no live requests when a driver opens, got {live}")

    def _known(self, id: Hashable) -> Ticket:
        ticket = self.ticket(id)
        if ticket is None:
            raise KeyError(f"no outstanding request {id!r}")
        return ticket
