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
    queue_wait_s: arrival to first scheduled step; ttft_s: to the first output token; e2e_s: to the end; in whole
    nanoseconds. None: not reached. device: -1 if it never started. batch_size: requests on the device when it joined,
    itself included. released: why its batch was released; None if it never started.
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


class UnfinishedError(RuntimeError):
    """A stream is over, but its request has not finished: what it gave is no whole answer, or none.

    result: how it ended; its `status` is not "finished". delivered: tokens that the stream gave.
    """

    def __init__(self, result: Result, delivered: int) -> None:
        super().__init__(result, delivered)
        self.result = result
        self.delivered = delivered

    def __str__(self) -> str:
        status, reason = self.result.status, self.result.reason
        if not self.result.verdict.admitted:
            return f"the request was not admitted: {status} ({reason})"
        return f"request {self.result.id!r} ended as {status} ({reason}) after {self.delivered} tokens"


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
        if self.done:
            wake_all(((self, call),))
        else:
            self.join((self, call))

    def wait(self) -> asyncio.Future[None]:
        """Woken when there is more of it, or when it has ended. Look again: another may have been meant."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join(waiter)
        return waiter

    def join(self, waiter: Any) -> None:
        """Have it woken too. Futures that somebody no longer waits for are forgotten."""
        if self.waiter is None:
            self.waiter = waiter
            return
        others = self.waiter if type(self.waiter) is list else [self.waiter]
        self.waiter = [other for other in others if type(other) is tuple or not other.done()]
        self.waiter.append(waiter)

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


Done = tuple[Ticket, Callable[[Ticket], object]]  # among a ticket's waiters: it, and whom to call when it has ended


def wake_all(waiters: Iterable[Any]) -> None:
    """Futures, of which some may have been cancelled, and calls (`Done`): all of them in one turn of the loop."""
    due: list[Done] = []
    for waiter in waiters:
        if type(waiter) is not tuple:
            try:
                waiter.set_result(None)
            except asyncio.InvalidStateError:
                pass
        elif waiter[0].done:
            due.append(waiter)
        else:
            waiter[0].join(waiter)
    if due:
        asyncio.get_running_loop().call_soon(_call_all, due)


def _call_all(due: list[Done]) -> None:
    for ticket, call in due:
        try:
            call(ticket)
        except Exception as error:
            context = {"message": f"{call!r} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


class Stream:
    """`async for token in stream`, once. Leaving the loop early, also by cancellation, cancels the request.

    UnfinishedError: after its last token, the request has ended without having finished, or was not admitted.
    RuntimeError: it has been iterated already. DriverError: the driver failed.

    `async with` it when the loop might never begin. The verdict is `ticket.verdict`.
    """

    __slots__ = ("_begun", "_cancel", "ticket")

    def __init__(self, ticket: Ticket, cancel: Callable[[Ticket], None]) -> None:
        self.ticket = ticket
        self._cancel = cancel
        self._begun = False

    async def __aiter__(self) -> AsyncIterator[str]:
        if self._begun:
            raise RuntimeError(f"request {self.ticket.id!r} has been streamed already")
        self.ticket.check_unread()  # another's stream goes on
        self._begun = True
        delivered = 0
        try:
            async for chunk in self.ticket.chunks():
                for token in chunk:
                    delivered += 1
                    yield token
            result = await self.result()
        finally:
            self._leave()
        if result.status != "finished":
            raise UnfinishedError(result, delivered)

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def result(self) -> Result:
        """How it ended, also without having finished. DriverError: the driver failed."""
        return await self.ticket.result()

    def _leave(self) -> None:
        if not self.ticket.done:
            self._cancel(self.ticket)
