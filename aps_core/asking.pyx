"""Where a request comes in at the driver. Of the driver this alone is compiled, because every request passes it."""
from aps_core.tickets cimport Ticket


cdef class Stage:
    """Where a pump stands: at the instant now, with something due at next_at; open: whether a device takes requests."""


cdef class Asking:
    """What `aps.Driver` is built on. Its fields:

    scheduler: whose `submit` is asked. _stage, _desk: its pump and the pump's desk. _player: it. _read: the backend's
    clock. draining: whether new requests are refused.

    Its methods beside: _unusual(prompt, id, simulated), which checks them and gives what to simulate as an int.
    _tenant(name), its settings. _refusal(tenant, prompt_tokens, max_tokens, bid), the verdict while draining.
    """

    @classmethod
    def __class_getitem__(cls, ticket):
        """For annotations: `Asking[Ticket]`."""
        return cls

    def _ask(self, tenant, prompt_tokens, max_tokens, bid, deadline_s, prompt, id, simulated, trace):
        """The ticket of a request that comes now; see `Driver.submit`."""
        cdef Stage stage = self._stage
        cdef Ticket ticket
        try:
            now = self._read()
        except Exception as error:
            raise self._player.stop(error) from error
        cdef double at = now
        if stage.now <= at < stage.next_at:
            stage.now = at
        else:
            now = self._player.advance()
        if id is not None or simulated is not None or not (prompt is None or type(prompt) is str):
            simulated = self._unusual(prompt, id, simulated)
        if max_tokens is None:
            max_tokens = self._tenant(tenant).default_max_tokens
        if self.draining:
            verdict = self._refusal(self._tenant(tenant), prompt_tokens, max_tokens, bid)
        else:
            verdict = self.scheduler.submit(
                tenant, prompt_tokens=prompt_tokens, max_tokens=max_tokens, bid=bid, now=now,
                deadline_at=None if deadline_s is None else now + deadline_s,
            )
        try:
            ticket = self._desk.enter(verdict, tenant, prompt, prompt_tokens, max_tokens, simulated, id, now)
            if trace is not None:
                ticket.trace = trace
            # While every device is in the middle of a step nothing can start before one ends.
            if stage.open or deadline_s is not None:
                self._player.entered()
        except Exception as error:
            raise self._player.stop(error) from error
        return ticket
