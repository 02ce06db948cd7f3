"""The scheduler against a backend, instant by instant. No asyncio and no clock: whoever calls says how far to play."""

from collections.abc import Callable, Hashable, Sequence
from math import inf

from aps.backends.protocol import FAILED, FINISHED, FIRST_STEP, FIRST_TOKEN, Backend, Progress
from aps.metrics import Metrics
from aps.recent import Recent
from aps.scheduler import Scheduler
from aps.tickets import Ticket
from aps.verdicts import Batch

MISSED_S = 1e-3  # when to ask again after a wake-up at which nothing could start


class Pump:
    """Plays instants in the order of time (ties: news before wake-ups, then by device), each completely: progress,
    settle, the next batch at that very instant, the next step. So how late it is called changes nothing.

    now: the instant it stands at. next_at: when something is due next. tickets: outstanding requests by handle.
    """

    def __init__(self, scheduler: Scheduler, backend: Backend) -> None:
        self.scheduler = scheduler
        self.backend = backend
        self.metrics = Metrics(backend.served)
        self.recent = Recent(scheduler, backend, self.metrics)
        self.now = self.progressed_at = scheduler.now
        self.next_at = inf
        self.tickets: dict[int, Ticket] = {}
        self.named: dict[Hashable, Ticket] = {}  # of them, those with an id of the caller's
        self._streams: dict[int, Ticket] = {}
        self._wakeup = inf  # the scheduler's next event
        self._devices = range(len(backend.devices))
        self._running = [0] * len(backend.devices)
        self._swaps = scheduler.policy.preemption == "swap"
        # The face takes reports one by one; a step's come in arrays.
        self._progress_many = scheduler._core.progress_many

    # Time

    def play(self, now: float, out_of_time: Callable[[], bool]) -> None:
        """Every instant up to now. When it runs out of time the backend's clock is set back to where it stands."""
        backend = self.backend
        while self.next_at <= now:
            event_at = backend.next_event_at()
            if min(event_at, self._wakeup) > now:
                self.next_at = min(event_at, self._wakeup)
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
        for device in self._devices:
            if backend.ready(device):
                batch = scheduler.next_batch(device, now=now)
                if batch.started:
                    self._start(device, batch)
                backend.run(device, now)
        wakeup = scheduler.next_wakeup(now=now)
        # It may be due although nothing could start (a full batch that fits no idle device): do not spin.
        self._wakeup = wakeup if wakeup > now else now + MISSED_S
        self.next_at = min(self._wakeup, backend.next_event_at())
        for handle, reason in scheduler.ended():
            ticket = self.tickets.get(handle)  # type: ignore[call-overload]
            if ticket is not None:  # a caller who cancels at the last moment may have been faster
                self._vanish(ticket, reason)

    def idle(self) -> bool:
        """Whether a device takes requests now; none does while each is in the middle of a step."""
        return any(map(self.backend.ready, self._devices))

    # Requests come and go

    def enter(self, ticket: Ticket, named: bool) -> None:
        """An admitted request."""
        self.tickets[ticket.handle] = ticket
        if named:
            self.named[ticket.id] = ticket
        tokens = ticket.prompt_tokens + ticket.max_tokens
        self.metrics.arrived(ticket.metrics, ticket.bid_metrics, tokens, self.now)

    def listen(self, ticket: Ticket) -> Sequence[str]:
        """Deliver the ticket's tokens from now on; returns those it has."""
        if ticket.device >= 0:
            ticket.delivered = self.scheduler.explain(ticket.handle, now=self.now).generated
        self._streams[ticket.handle] = ticket
        return self.backend.tokens(ticket, 0, ticket.delivered) if ticket.delivered else ()

    def cancel(self, ticket: Ticket) -> None:
        """End an outstanding request whatever it does, settled to what it used. `fill` must follow."""
        self._give_up(ticket, "cancelled")

    def _start(self, device: int, batch: Batch) -> None:
        started: tuple[int, ...] = batch.started  # type: ignore[assignment]
        preempted: tuple[int, ...] = batch.preempted  # type: ignore[assignment]
        for handle in preempted:
            ticket = self.tickets[handle]
            ticket.running = False
            ticket.metrics.preempted += 1
            ticket.bid_metrics.preempted += 1
            self.backend.abort(device, ticket, keep=self._swaps)
        size = self._running[device] = self._running[device] + len(started) - len(preempted)
        for handle in started:
            ticket = self.tickets[handle]
            if ticket.device < 0:
                ticket.batch_size = size
                ticket.released = batch.released
                self.metrics.started(ticket.metrics, ticket.bid_metrics, self.now)
            else:
                explanation = self.scheduler.explain(handle, now=self.now)
                ticket.generated, ticket.prefill = explanation.generated, explanation.prefill
                if not self._swaps and ticket.generated:
                    self.metrics.recomputed_tokens += explanation.prefill
            ticket.device = device
            ticket.running = True
            self.backend.start(device, ticket)
        self.metrics.batch(size, batch.released, self.now)
        if self.now >= self.recent.due_at:
            self.recent.roll(self.now)

    # News

    def _take(self, news: Progress) -> None:
        """Of one device, at their instant, which is now."""
        now = self.progressed_at = self.now
        stay = len(news.handles) - news.ended
        if stay:
            self._progress_many(news.handles[:stay], news.computed[:stay], news.generated[:stay], now)
        if self._streams:
            self._deliver(news.handles.tolist(), news.generated.tolist())
        noted = news.flags.nonzero()[0]
        if len(noted):
            columns = (column[noted].tolist() for column in (news.handles, news.computed, news.generated, news.flags))
            for handle, computed, generated, flags in zip(*columns, strict=True):
                ticket = self.tickets[handle]
                if flags & FIRST_STEP and ticket.scheduled_at is None:
                    ticket.scheduled_at = news.began_at
                if flags & FIRST_TOKEN:
                    ticket.first_token_at = now
                if flags & FINISHED:
                    self._finish(ticket, generated)
                elif flags & FAILED:
                    self.scheduler.progress(handle, computed, generated, now=now)
                    self._give_up(ticket, "failed")

    def _deliver(self, handles: list[int], generated: list[int]) -> None:
        streams = self._streams
        for handle, tokens in zip(handles, generated, strict=True):
            ticket = streams.get(handle)
            if ticket is not None and tokens > ticket.delivered:
                ticket.deliver(self.backend.tokens(ticket, ticket.delivered, tokens))
                ticket.delivered = tokens

    # Ends

    def _finish(self, ticket: Ticket, tokens: int) -> None:
        charge = self.scheduler.settle(ticket.handle, tokens, now=self.now)
        self._running[ticket.device] -= 1
        ticket.count("finished", ticket.prompt_tokens)
        text = "".join(self.backend.tokens(ticket, 0, tokens))
        ticket.conclude("finished", "finished", self.now, tokens, charge, text)
        self._leave(ticket)

    def _give_up(self, ticket: Ticket, status: str) -> None:
        tokens = computed = 0
        if ticket.device >= 0:
            explanation = self.scheduler.explain(ticket.handle, now=self.now)
            tokens, computed = explanation.generated, explanation.computed
        if ticket.running:
            self._running[ticket.device] -= 1
            if status == "cancelled":
                self.backend.abort(ticket.device, ticket)
        charge = self.scheduler.cancel(ticket.handle, now=self.now) or 0.0
        used = ticket.prompt_tokens if tokens else min(ticket.prompt_tokens, computed)
        if status == "cancelled":
            ticket.count("cancelled", used)
            ticket.conclude("cancelled", "cancelled", self.now, tokens, charge)
        else:
            ticket.count("failed", used)
            ticket.conclude("failed", "backend_failed", self.now, tokens, charge)
        self._leave(ticket)

    def _vanish(self, ticket: Ticket, reason: str) -> None:
        """The scheduler has ended a waiting request."""
        if reason == "deadline_expired":
            ticket.count("expired", 0)
            ticket.conclude("expired", reason, self.now)
        else:
            ticket.count("dropped", 0)
            ticket.conclude("rejected", reason, self.now)
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self.metrics.ended(ticket.metrics, ticket.bid_metrics, ticket.device < 0, self.now)
        ticket.running = False
        del self.tickets[ticket.handle]
        if self.named:
            self.named.pop(ticket.id, None)
        if self._streams:
            self._streams.pop(ticket.handle, None)
