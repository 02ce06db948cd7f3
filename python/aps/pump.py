"""The scheduler against a backend, instant by instant. No asyncio and no clock: whoever calls says how far to play."""

from collections.abc import Callable
from contextlib import suppress
from math import inf

from aps.backends.guard import Guard
from aps.backends.protocol import FAILED, Backend, Progress
from aps.metrics import Metrics
from aps.recent import Recent
from aps.scheduler import Scheduler
from aps.tickets import Result, Ticket, wake_all
from aps.verdicts import Batch
from aps_core.asking import Stage
from aps_core.tickets import Desk

MISSED_S = 1e-3  # when to ask again after a wake-up at which nothing could start


class Pump(Stage):
    """Plays instants in the order of time (ties: news before wake-ups, then by device), each completely: progress,
    settle, the next batch at that very instant, the next step. So how late it is called changes nothing.

    retries: how often a request that its device lost is started again, if none of its output was delivered.
    now: the instant it stands at. next_at: when something is due next. open: whether a device takes requests now; none
    does while each is in the middle of a step. progressed_at: the instant of the last news. recent: the last minute.
    desk: the outstanding requests. backend: as it was given if it is
    simulated, else behind a `guard`.
    """

    def __init__(self, scheduler: Scheduler, backend: Backend, retries: int = 0) -> None:
        self.scheduler = scheduler
        self.metrics = Metrics(lambda accounts: self.backend.served(accounts))
        self.desk: Desk[Ticket] = Desk(self.metrics, Ticket, Result, len(backend.devices), scheduler.epoch)
        self.guard = None if backend.simulated else Guard(backend, self.desk, self.metrics.faults)
        self.backend: Backend = self.guard or backend
        self.recent = Recent(scheduler, self.backend, self.metrics)
        self.now = self.progressed_at = scheduler.now
        self.next_at = self.never = inf  # the instant at which nothing is due any more
        self.open = True
        self._retries = retries
        self._wakeup = inf  # the scheduler's next event
        self._devices = range(len(backend.devices))
        self._swaps = scheduler.policy.preemption == "swap"
        self._micro = scheduler.policy.batching == "micro"
        self._watch = self.guard is not None or scheduler.policy.preemption != "off"

    # Time

    def play(self, now: float, out_of_time: Callable[[], bool]) -> None:
        """Every instant up to now. When it runs out of time the backend's clock is set back to where it stands."""
        backend = self.backend
        while self.next_at <= now:
            event_at = backend.next_event_at()
            if min(event_at, self._wakeup) > now:
                self.next_at = min(event_at, self._wakeup, self.never)
                break
            if event_at <= self._wakeup:
                self.now = max(self.now, event_at)
                self._take(backend.take())
            else:
                self.now = max(self.now, self._wakeup)
            self.fill()
            if out_of_time():
                late = backend.now()  # later than `now` by what playing took
                backend.slip(self.now)
                self.metrics.slipped_s += max(0.0, late - backend.now())
                return
        self.now = max(self.now, now)

    def fill(self) -> None:
        """Something has changed: give every device that takes requests what may start now, and see what is due next."""
        backend, scheduler, now = self.backend, self.scheduler, self.now
        busy = []
        for device in self._devices:
            if not backend.ready(device):
                busy.append(device)
                continue
            batch = scheduler.next_batch(device, now=now)
            backend.start(device, self._started(device, batch) if batch.started else (), now)
        wakeup = scheduler.next_wakeup(now=now, without=busy if self._micro else ())
        # It may be due although nothing could start (the start on one device has changed it for another): do not spin.
        self._wakeup = wakeup if wakeup > now else now + MISSED_S
        self.next_at = min(self._wakeup, backend.next_event_at(), self.never)
        self.open = self.guard is not None or (
            len(busy) < len(self._devices) and any(map(backend.ready, self._devices))
        )
        for handle, reason in scheduler.ended():
            ticket = self.desk.find(handle)  # type: ignore[arg-type]
            if ticket is not None:  # a caller who cancels at the last moment may have been faster
                status = "expired" if reason == "deadline_expired" else "rejected"
                wake_all(self.desk.end(ticket, status, reason, now))

    def _started(self, device: int, batch: Batch) -> list[Ticket]:
        now = self.now
        for handle in batch.preempted:
            ticket = self.desk.find(handle)  # type: ignore[arg-type]
            assert ticket is not None
            explanation = self.scheduler.explain(handle, now=now)
            self.backend.abort(device, ticket, keep=self._swaps)
            ticket.metrics.preempted += 1
            ticket.by_bid.preempted += 1
            self.metrics.recomputed_tokens += self.desk.displace(
                ticket, explanation.generated, explanation.prefill, now
            )
        jobs, size = self.desk.start(batch.started, device, batch.released, now)  # type: ignore[arg-type]
        self.metrics.batch(size, batch.released, now)
        if now >= self.recent.due_at:
            self.recent.roll(now)
        return jobs

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

    # News

    def _take(self, news: Progress) -> None:
        """Of one device, at their instant, which is now."""
        desk, scheduler, now = self.desk, self.scheduler, self.now
        self.progressed_at = now
        _, _, began_at, handles, computed, generated, flags, ended = news
        stay = len(handles) - ended
        if stay:
            scheduler.progress_many(handles[:stay], computed[:stay], generated[:stay], now=now)
        some_failed = desk.note(handles, computed, generated, flags, began_at, now, self._watch)
        if desk.listeners:
            for ticket, tokens in desk.heard(handles, generated):
                ticket.deliver(self.backend.tokens(ticket, ticket.delivered, tokens))
                ticket.delivered = tokens
        if not ended:
            return
        if stay:
            handles, generated = handles[stay:], generated[stay:]
        if some_failed:
            lost = flags[stay:] & FAILED > 0
            for handle, had, output in zip(handles[lost], computed[stay:][lost], generated[lost], strict=True):
                scheduler.progress(int(handle), int(had), int(output), now=now)
                found = desk.find(int(handle))
                assert found is not None
                self._lose(found)
            handles, generated = handles[~lost], generated[~lost]
        tickets = desk.those(handles)
        texts = self.backend.texts(tickets, generated.tolist())
        charges = scheduler.settle_many(handles, generated, now=now)
        wake_all(desk.finish(tickets, generated, charges, texts, now))

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
