"""What a caller of the driver holds: the ticket of a submitted request, its stream of tokens, its result."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from math import nan
from typing import Literal, NamedTuple

from aps.metrics import Tally
from aps.verdicts import Released, Verdict

Outcome = Literal["finished", "cancelled", "expired", "rejected", "throttled", "failed"]

_new = tuple.__new__  # a NamedTuple without its Python-level constructor: half the time


class DriverError(RuntimeError):
    """The driver has failed (the cause is chained) or is closed."""


class Result(NamedTuple):
    """How a request ended. Instants and durations are seconds of the scheduler's clock, simulated ones included.

    id: as in the verdict. status: "finished"; "cancelled"; "expired" (the deadline passed before it started);
    "failed" (the backend lost it); "throttled" or "rejected" (not admitted, or a change of limits made it impossible).
    reason: the verdict's reason, or why an admitted request did not finish; "finished" for one that did.
    text, output_tokens: what was generated, also of a request that did not finish (its text only when it finished).
    prompt_tokens: as asked. bid: after clamping and new bids. charge: bucket tokens that it cost in the end.
    queue_wait_s: arrival to first scheduled step; ttft_s: to the first output token; e2e_s: to the end. None: not
    reached. device: -1 if it never started. batch_size: requests on the device when it joined, itself included.
    released: why its batch was released; None if it never started.
    """

    id: Hashable
    status: Outcome
    reason: str
    verdict: Verdict
    tenant: str
    text: str
    prompt_tokens: int
    output_tokens: int
    bid: int
    charge: float
    arrived_at: float
    queue_wait_s: float | None
    ttft_s: float | None
    e2e_s: float
    device: int
    batch_size: int
    released: Released | None


class Ticket:
    """One submitted request; also the `Job` that a backend sees.

    Cancelling a wait for its `result` or its `chunks` does not cancel the request: `Driver.cancel` does.
    """

    __slots__ = (
        "_error",
        "_listen",
        "_mail",
        "_result",
        "_waiters",
        "account",
        "arrived_at",
        "batch_size",
        "bid",
        "bid_metrics",
        "delivered",
        "device",
        "first_token_at",
        "generated",
        "handle",
        "id",
        "max_tokens",
        "metrics",
        "prefill",
        "prompt",
        "prompt_tokens",
        "released",
        "running",
        "scheduled_at",
        "simulated_output_tokens",
        "tenant",
        "verdict",
    )

    def __init__(
        self,
        handle: int,
        verdict: Verdict,
        metrics: Tally,
        bid_metrics: Tally,
        arrived_at: float,
        prompt: str | None,
        prompt_tokens: int,
        max_tokens: int,
        simulated_output_tokens: int | None,
        listen: Callable[["Ticket"], list[str]],
    ) -> None:
        self.handle = handle
        self.id = verdict.id
        self.verdict = verdict
        self.metrics = metrics
        self.bid_metrics = bid_metrics
        self.tenant = metrics.name
        self.account = metrics.account
        self.arrived_at = arrived_at
        self.prompt = prompt
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.simulated_output_tokens = simulated_output_tokens
        self.bid = verdict.bid
        self.generated = 0
        self.delivered = 0  # tokens that its stream was given
        self.prefill: int | None = None
        self.running = False
        self.device = -1
        self.batch_size = 0
        self.released: Released | None = None
        self.scheduled_at: float | None = None
        self.first_token_at: float | None = None
        self._listen = listen
        self._mail: list[str] | None = None  # tokens that a stream has not taken yet
        self._waiters: list[asyncio.Future[None]] | None = None
        self._result: Result | None = None
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self._result is not None or self._error is not None

    async def result(self) -> Result:
        """Wait for the end. DriverError when the driver failed before it."""
        while self._result is None:
            if self._error is not None:
                raise self._failure()
            await self._woken()
        return self._result

    async def chunks(self) -> AsyncIterator[list[str]]:
        """The output as it comes: each item is all tokens that are ready, in order. One stream a ticket.

        It ends with the request, however that ended; `result` says how. RuntimeError: it is being streamed already.
        """
        self.check_unread()
        mail = self._listen(self) if self._result is None else []
        if self._result is not None:
            if self._result.text:
                yield [self._result.text]
            return
        self._mail = mail
        try:
            while True:
                mail = self._mail
                if mail:
                    self._mail = []
                    yield mail
                elif self._error is not None:
                    raise self._failure()
                elif self._result is not None:
                    return
                else:
                    await self._woken()
        finally:
            self._mail = None

    def check_unread(self) -> None:
        """RuntimeError: somebody takes the chunks."""
        if self._mail is not None:
            raise RuntimeError(f"request {self.id!r} is being streamed already")

    async def _woken(self) -> None:
        """Until `wake`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        await waiter

    def wake(self) -> None:
        """Every wait looks again."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def deliver(self, tokens: Sequence[str]) -> None:
        """More output for the stream, which wakes once for all that comes before it runs."""
        if self._mail is not None:
            self._mail.extend(tokens)
            self.wake()

    def conclude(
        self, status: Outcome, reason: str, now: float, tokens: int = 0, charge: float = 0.0, text: str = ""
    ) -> None:
        """It is over: counts what it used, and wakes whoever waits."""
        arrived_at, first_at = self.arrived_at, self.first_token_at
        # The engine counts whole nanoseconds, so a step may seem to begin a hair before its request came.
        wait = None if self.scheduled_at is None else max(0.0, self.scheduled_at - arrived_at)
        first = None if first_at is None else first_at - arrived_at
        took = now - arrived_at
        row = (self.id, status, reason, self.verdict, self.tenant, text, self.prompt_tokens, tokens, self.bid, charge)
        times = (arrived_at, wait, first, took, self.device, self.batch_size, self.released)
        self._result = _new(Result, row + times)
        for tally in (self.metrics, self.bid_metrics):
            tally.output_tokens += tokens
            tally.charged += charge
        if wait is not None:
            finished = status == "finished"
            pace = (took - first) / (tokens - 1) if finished and first is not None and tokens > 1 else nan
            for tally in (self.metrics, self.bid_metrics):
                tally.times(wait, nan if first is None else first, pace, took if finished else nan)
        self.wake()

    def count(self, outcome: str, prompt_tokens: int) -> None:
        """It ends so, having used so much of its prompt."""
        for tally in (self.metrics, self.bid_metrics):
            setattr(tally, outcome, getattr(tally, outcome) + 1)
            tally.prompt_tokens += prompt_tokens

    def fail(self, cause: Exception) -> None:
        """It will never be known how it ends."""
        self._error = cause
        self.wake()

    def _failure(self) -> DriverError:
        failure = DriverError(f"the driver has failed: {self._error!r}")
        failure.__cause__ = self._error
        return failure


class Stream:
    """`async for token in stream`. Leaving the loop early, also by cancellation, cancels the request.

    `async with` it when the loop might never begin. The verdict is `ticket.verdict`: a request that was not admitted
    has no tokens.
    """

    __slots__ = ("_cancel", "ticket")

    def __init__(self, ticket: Ticket, cancel: Callable[[Ticket], None]) -> None:
        self.ticket = ticket
        self._cancel = cancel

    async def __aiter__(self) -> AsyncIterator[str]:
        self.ticket.check_unread()  # another's stream goes on
        try:
            async for chunk in self.ticket.chunks():
                for token in chunk:
                    yield token
        finally:
            self._leave()

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def result(self) -> Result:
        """How it ended."""
        return await self.ticket.result()

    def _leave(self) -> None:
        if not self.ticket.done:
            self._cancel(self.ticket)
