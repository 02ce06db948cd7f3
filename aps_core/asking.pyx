"""Where a request comes in at the driver. This is compiled because every request passes it."""
from libc.stdint cimport INT32_MAX, int64_t

from aps_core.arguments cimport whole
from aps_core.stage cimport Stage
from aps_core.tickets cimport Ticket


cdef class Asking:
    """What `aps.Driver` is built on. Its fields:

    scheduler: whose `submit` is asked. _stage, _desk: its pump and the pump's desk. _player: it. _read: the backend's
    clock. _new_future: its loop's. draining: whether new requests are refused.

    Its methods beside: _unusual(prompt, id, deadline_s), which checks them and gives the deadline as a float or None.
    _tenant(name), its settings. _refusal(tenant, bid), the verdict while draining. _abandon(ticket), which ends it.
    """

    @classmethod
    def __class_getitem__(cls, types):
        """For annotations: `Asking[Ticket, Result]`."""
        return cls

    def submit(
        self, tenant, *, prompt_tokens, max_tokens=None, bid=None, deadline_s=None, prompt=None, id=None,
        simulated_output_tokens=None, trace=None,
    ):
        """Ask now. A "no" is an answer: `ticket.verdict`, and a Result with status "throttled" or "rejected".

        max_tokens, bid: the tenant's defaults when None. deadline_s: seconds from now in which it must have started.
        prompt: its text, for the backend; prompt_tokens counts. id: any hashable that no outstanding request has.
        simulated_output_tokens: what a simulated backend is to generate, at most max_tokens; above it counts as that.
        trace: headers of the request's trace context, for the backend.

        KeyError: unknown tenant. ValueError, TypeError: a bad number or id. DriverError: it is closed or has failed.
        """
        return self.ask(tenant, prompt_tokens, max_tokens, bid, deadline_s, prompt, id, simulated_output_tokens, trace)

    async def infer(
        self, tenant, *, prompt_tokens, max_tokens=None, bid=None, deadline_s=None, prompt=None, id=None,
        simulated_output_tokens=None, trace=None,
    ):
        """Ask, and wait for the end. Cancelling the waiting task cancels the request. See `submit`."""
        cdef Ticket ticket = self.ask(
            tenant, prompt_tokens, max_tokens, bid, deadline_s, prompt, id, simulated_output_tokens, trace
        )
        if ticket.answer is None:
            ticket.waiter = waiter = self._new_future()  # nobody else can wait for it yet
            try:
                await waiter
                if ticket.answer is None:
                    return await ticket.result()
            except BaseException:
                self._abandon(ticket)
                raise
        return ticket.answer

    cdef Ticket ask(self, tenant, prompt_tokens, max_tokens, bid, deadline_s, prompt, id, simulated, trace):
        cdef Stage stage = self._stage
        cdef Ticket ticket
        cdef int64_t prompt_size, most
        try:
            now = self._read()
        except Exception as error:
            raise self._player.stop(error) from error
        cdef double at = now
        if stage.now <= at < stage.next_at:
            stage.now = at
        else:
            now = self._player.advance()
        # Once a request is admitted an error stops the driver: whatever the caller got wrong is found here.
        if (
            id is not None or not (prompt is None or type(prompt) is str)
            or not (deadline_s is None or (type(deadline_s) is float and deadline_s == deadline_s))
        ):
            deadline_s = self._unusual(prompt, id, deadline_s)
        prompt_size = whole(prompt_tokens, "prompt_tokens", 1, INT32_MAX)
        if max_tokens is None:
            max_tokens = self._tenant(tenant).default_max_tokens
        most = whole(max_tokens, "max_tokens", 1, INT32_MAX)
        if simulated is not None:
            simulated = whole(simulated, "simulated_output_tokens", 1, INT32_MAX)
        if self.draining:
            verdict = self._refusal(self._tenant(tenant), bid)
        else:
            verdict = self.scheduler.submit(
                tenant, prompt_tokens=prompt_tokens, max_tokens=max_tokens, bid=bid, now=now,
                deadline_at=None if deadline_s is None else now + deadline_s,
            )
        try:
            ticket = self._desk.enter(verdict, tenant, prompt, prompt_size, most, simulated, id, now)
            if trace is not None:
                ticket.trace = trace
            # While every device is in the middle of a step nothing can start before one ends.
            if stage.open or deadline_s is not None:
                self._player.entered()
        except Exception as error:
            raise self._player.stop(error) from error
        return ticket
