"""What a caller of the driver holds: the ticket of a submitted request, its stream of tokens, its result."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from aps.verdicts import Released, Verdict
from aps_core import tickets as desk

Outcome = Literal["finished", "cancelled", "expired", "rejected", "throttled", "failed"]


class DriverError(RuntimeError):
    """The driver has failed (the cause is chained) or is closed."""


class Result(NamedTuple):
    """How a request ended. Instants and durations are seconds of the scheduler's clock, simulated ones included.

    id: as in the verdict. status: "finished"; "cancelled"; "expired" (the deadline passed before it started);
    "failed" (the backend lost it); "throttled" or "rejected" (not admitted, or a change of limits made it impossible).
    reason: the verdict's reason, or why an admitted request did not finish; "finished" for one that did.
    text, output_tokens: what was generated, also of a request that did not finish (its text only when it finished).
    prompt_tokens: as asked. bid: after clamping and new bids. charge: bucket tokens that it cost in the end, to
    a whole micro-token.
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


class Ticket(desk.Ticket):
    """One submitted request; also the `Job` that a backend sees.

    Cancelling a wait for its `result`, or for `more` of it, does not cancel the request: `Driver.cancel` does.
    verdict: the scheduler's. answer: how it ended; None: not yet. retries: times that a device lost it and it was
    started again. device: -1 while it has not started.
    """

    __slots__ = ()

    answer: Result | None
    verdict: Verdict

    @property
    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self.answer is not None or self.error is not None

    async def result(self) -> Result:
        """Wait for the end. DriverError when the driver failed before it."""
        while self.answer is None:
            if self.error is not None:
                raise self.failure()
            await self.wait()
        return self.answer

    async def more(self) -> list[str]:
        """All output that is ready and was not given yet, in order; [] at the end, and `result` says how it ended.

        For one reader a ticket. Cancelling it loses nothing. DriverError when the driver failed.
        """
        if self.mail is None:
            self.listen()
        while True:
            mail = self.mail
            if mail:
                self.mail = []
                return mail
            if self.error is not None:
                raise self.failure()
            if self.answer is not None:
                return []
            await self.wait()

    def listen(self) -> None:
        """Keep the output for `more` from now on, what there is already included."""
        self.mail = []
        if self.answer is None:
            self.desk.listen(self)
        if self.answer is not None and self.answer.text and not self.mail:
            self.mail = [self.answer.text]

    async def chunks(self) -> AsyncIterator[list[str]]:
        """The output as it comes: each item is all tokens that are ready, in order. One stream a ticket.

        It ends with the request, however that ended; `result` says how. RuntimeError: it is being streamed already.
        """
        self.check_unread()
        self.listen()
        try:
            while chunk := await self.more():
                yield chunk
        finally:
            self.mail = None

    def check_unread(self) -> None:
        """RuntimeError: somebody takes the chunks."""
        if self.mail is not None:
            raise RuntimeError(f"request {self.id!r} is being streamed already")

    def add_done_callback(self, call: Callable[["Ticket"], object]) -> None:
        """Have the loop call `call(ticket)` soon after the end; soon when it has ended."""
        _Call(self, call).set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """Woken when there is more of it, or when it has ended. Look again: another may have been meant."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join(waiter)
        return waiter

    def join(self, waiter: Any) -> None:
        """Have it woken too."""
        if self.waiter is None:
            self.waiter = waiter
        elif type(self.waiter) is list:
            self.waiter.append(waiter)
        else:
            self.waiter = [self.waiter, waiter]

    def deliver(self, tokens: Sequence[str]) -> None:
        """More output for the stream, which wakes once for all that comes before it runs."""
        if self.mail is not None:
            self.mail.extend(tokens)
            waiter = self.waiter
            if waiter is not None:
                self.waiter = None
                wake_all(waiter if type(waiter) is list else (waiter,))

    def failure(self) -> DriverError:
        """For whoever waits: it will never be known how it ends."""
        failure = DriverError(f"the driver has failed: {self.error!r}")
        failure.__cause__ = self.error
        return failure


class _Call:
    """Among a ticket's waiters: what is to be called when it has ended."""

    __slots__ = ("call", "ticket")

    def __init__(self, ticket: Ticket, call: Callable[[Ticket], object]) -> None:
        self.ticket = ticket
        self.call = call

    def set_result(self, _: None) -> None:
        if self.ticket.done:
            asyncio.get_running_loop().call_soon(self.call, self.ticket)
        else:
            self.ticket.join(self)


def wake_all(waiters: Iterable[Any]) -> None:
    """Futures, of which some may have been cancelled."""
    for waiter in waiters:
        try:
            waiter.set_result(None)
        except asyncio.InvalidStateError:
            pass


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
