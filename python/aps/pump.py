"""The scheduler against a backend, instant by instant. No asyncio and no clock: whoever calls says how far to play."""

from collections.abc import Iterable
from contextlib import suppress
from math import inf

from aps.backends.guard import Guard
from aps.backends.protocol import Backend
from aps.metrics import Metrics
from aps.recent import Recent
from aps.scheduler import Scheduler
from aps.tickets import Result, Ticket, wake_all
from aps_core.stage import Stage
from aps_core.tickets import Desk


class Pump(Stage):
    """Plays instants in the order of time (ties: news before wake-ups, then by device), each completely: progress,
    settle, the next batch at that very instant, the next step. So how late it is called changes nothing.

    retries: how often a request that its device lost is started again, if none of its output was delivered.
    now: the instant it stands at. next_at: when something is due next. open: whether a device takes requests now; none
    does while each is in the middle of a step. progressed_at: the instant of the last news. recent: the last minute.
    desk: the outstanding requests. backend: as it was given if it is simulated, else behind a `guard`.
    """

    desk: Desk[Ticket]
    backend: Backend
    guard: Guard | None
    metrics: Metrics
    scheduler: Scheduler
    recent: Recent

    def __init__(self, scheduler: Scheduler, backend: Backend, retries: int = 0) -> None:
        self.scheduler = scheduler
        self.metrics = Metrics(lambda accounts: self.backend.served(accounts))
        self.desk = Desk(self.metrics, Ticket, Result, len(backend.devices), scheduler.epoch)
        self.guard = None if backend.simulated else Guard(backend, self.desk, self.metrics.faults)
        self.backend = self.guard or backend
        self.recent = Recent(scheduler, self.backend, self.metrics)
        self.now = self.progressed_at = scheduler.now
        self.next_at = self.never = inf  # the instant at which nothing is due any more
        self.open = True
        self._retries = retries
        self._wakeup = inf  # the scheduler's next event
        self._range = range(len(backend.devices))
        self._wake = wake_all
        self._swaps = scheduler.policy.preemption == "swap"
        self._micro = scheduler.policy.batching == "micro"
        self._watch = self.guard is not None or scheduler.policy.preemption != "off"

    # Requests

    def listen(self, ticket: Ticket) -> None:
        """Deliver the ticket's output from now on, what there is included."""
        had = 0
        if ticket.device >= 0:
            had = self.scheduler.explain(ticket.handle, now=self.now).generated
        self.desk.hear(ticket, had)
        if had:
            ticket.deliver(self.backend.tokens(ticket, 0, had))

    def cancel(self, ticket: Ticket) -> None:
        """End an outstanding request whatever it does, settled to what it used. `fill` must follow."""
        if ticket.running:
            self.backend.abort(ticket.device, ticket)
        self._give_up(ticket, "cancelled", "cancelled")

    def abandon(self, error: Exception) -> None:
        """Nothing can be relied on any more: take back what there is, and tell everybody."""
        self.metrics.freeze()
        for ticket in self.desk.tickets():
            with suppress(Exception):
                if ticket.running:
                    self.backend.abort(ticket.device, ticket)
            self._give_up(ticket, "failed", "driver_failed", error)

    # What is rare in playing

    def _displace(self, device: int, handles: Iterable[int]) -> None:
        """They leave the device for better requests."""
        for handle in handles:
            ticket = self.desk.find(handle)
            assert ticket is not None
            explanation = self.scheduler.explain(handle, now=self.now)
            self.backend.abort(device, ticket, keep=self._swaps)
            ticket.metrics.preempted += 1
            ticket.by_bid.preempted += 1
            self.metrics.recomputed_tokens += self.desk.displace(
                ticket, explanation.generated, explanation.prefill, self.now
            )

    def _ended(self, handle: int, reason: str) -> None:
        """The scheduler has ended it."""
        ticket = self.desk.find(handle)
        if ticket is not None:  # a caller who cancels at the last moment may have been faster
            status = "expired" if reason == "deadline_expired" else "rejected"
            wake_all(self.desk.end(ticket, status, reason, self.now))

    def _sort_out(
        self, tickets: list[Ticket], computed: list[int], generated: list[int], lost: list[bool]
    ) -> list[Ticket]:
        """Of those that a device has ended, the finished ones; the others are lost, with what they had."""
        finished = []
        for ticket, had, output, was_lost in zip(tickets, computed, generated, lost, strict=True):
            if was_lost:
                self.scheduler.progress(ticket.handle, had, output, now=self.now)
                self._lose(ticket)
            else:
                finished.append(ticket)
        return finished

    def _lose(self, ticket: Ticket) -> None:
        """Its device has lost it: it is started again, unless its caller has seen part of it, or that was too often."""
        if ticket.delivered or ticket.retries >= self._retries:
            self._give_up(ticket, "failed", "backend_failed")
        else:
            self.scheduler.restart(ticket.handle, now=self.now)
            self.metrics.recomputed_tokens += self.desk.lose(ticket, self.now)

    def _give_up(self, ticket: Ticket, status: str, reason: str, error: Exception | None = None) -> None:
        """It ends as it is, settled to what it used."""
        tokens = computed = 0
        charge: float | None = 0.0
        with suppress(*([Exception] if error else [])):
            if ticket.device >= 0:
                explanation = self.scheduler.explain(ticket.handle, now=self.now)
                tokens, computed = explanation.generated, explanation.computed
            charge = self.scheduler.cancel(ticket.handle, now=self.now)
        prompt = ticket.prompt_tokens if tokens else min(ticket.prompt_tokens, computed)
        wake_all(self.desk.end(ticket, status, reason, self.now, prompt, tokens, charge or 0.0, error))
