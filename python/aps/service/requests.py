"""Requests by the id that their callers know: outstanding ones, and for a while those that have ended."""

from collections.abc import Iterator

from msgspec import Raw

from aps.driver import Driver, Result, Ticket
from aps.service.access import Role
from aps.service.answers import Answers
from aps.service.config import Settings
from aps.service.errors import Refusal
from aps.service.estimates import Starts
from aps.service.refusals import refusal_of, unknown_request
from aps.service.shelf import Ended, Shelf
from aps.service.wire import CountedBy, RequestState, Standing, encode
from aps.verdicts import Explanation

Stood = tuple[str, str, str]  # an ended request: its id, its tenant, how it ended
Open = tuple[Ticket, CountedBy, float | None]


class Requests:
    """What `GET` and `DELETE /requests/{id}` speak of. Memory is bounded by the settings' `max_finished*`."""

    def __init__(self, driver: Driver, settings: Settings, answers: Answers) -> None:
        self._driver, self._answers = driver, answers
        self._starts = Starts(driver)
        self._open: dict[int, Open] = {}
        self._ended = Shelf(settings.keep_finished_s, settings.max_finished, settings.max_finished_bytes)

    def begin(self, ticket: Ticket, counted_by: CountedBy, deadline_s: float | None) -> None:
        """An admitted request; `leave` follows. The rest is what its answer will need."""
        self._open[ticket.handle] = ticket, counted_by, deadline_s

    def leave(self, ticket: Ticket, *, told: bool) -> bytes:
        """Its answer or its error, b"" if it has not ended. told: whoever asked has been told, or is about to be."""
        handle = ticket.handle
        _, counted_by, deadline_s = self._open.pop(handle)
        result = ticket.answer
        if result is None:
            return b""  # the driver has failed
        ended = self._ended.get(handle)
        if ended is None:
            return self._keep(result, counted_by, deadline_s, told)
        if told:
            self._ended.give(handle)
        return ended[3]

    def _keep(self, result: Result, counted_by: CountedBy, deadline_s: float | None, given: bool) -> bytes:
        """An admitted request has ended; given: its answer has been, or is about to be."""
        if result.status == "finished":
            said = encode(self._answers.answer(result, counted_by))
        else:
            refusal = refusal_of(result, self._driver, deadline_s=deadline_s)
            said = encode(refusal.charged(result.charge).error)
        handle: int = result.id  # type: ignore[assignment]
        self._ended.put(handle, result.tenant, result.status, said, given=given)
        return said

    def state(self, id: str, role: Role, *, told: bool = True) -> RequestState:
        """Where the request stands; told: whoever asked gets to read it. Refusal, 404: there is none, or none that this
        role may see."""
        ticket, ended = self._find(id, role)
        where = None if ticket is None else self._explained(ticket)
        if ticket is not None and where is None:
            ticket, ended = self._find(id, role)
        if ticket is not None and where is not None:
            standing = Standing(**{name: getattr(where, name) for name in Standing.__struct_fields__})
            standing.start_in_s = self._starts.start_in_s(ticket, where)
            return RequestState(id=id, tenant_id=ticket.tenant, state=where.state, explain=standing)
        assert ended is not None
        if told:
            self._ended.give(self._answers.handle_of(id))
        _, tenant, status, said = ended
        state = RequestState(id=id, tenant_id=tenant, state=status)  # type: ignore[arg-type]
        if status == "finished":
            state.answer = Raw(said)  # type: ignore[assignment]  # encoded as it is
        else:
            state.error = Raw(said)  # type: ignore[assignment]
        return state

    def _explained(self, ticket: Ticket) -> Explanation | None:
        """None: it has ended on the way to now."""
        try:
            return self._driver.explain(ticket.id)
        except KeyError:
            return None

    def cancel(self, id: str, role: Role) -> RequestState:
        """End it, unless it has ended: how it stands then. Refusal, 404, as of `state`."""
        ticket, _ = self._find(id, role)
        if ticket is not None:
            self._driver.cancel(ticket.id)
        return self.state(id, role)

    def cancelled(self) -> Iterator[Stood]:
        """Those that have just been cancelled: their callers have not been told."""
        for handle, (ticket, *_) in self._open.items():
            if ticket.answer is not None and ticket.answer.status == "cancelled":
                yield self._answers.id_of(handle), ticket.tenant, "cancelled"

    def unread(self) -> list[Stood]:
        """Those that have ended and are kept, and whose answer nobody waited for or has read."""
        self._ended.forget_old()
        return [(self._answers.id_of(handle), tenant, ended) for handle, tenant, ended in self._ended.unread()]

    def _find(self, id: str, role: Role) -> tuple[Ticket | None, Ended | None]:
        if role.kind == "metrics":
            raise Refusal("forbidden", "a metrics key reads GET /metrics and nothing else")
        handle = self._answers.handle_of(id)
        self._ended.forget_old()
        ticket = self._driver.ticket(handle)
        ended = self._look(handle) if ticket is None else None
        owner = ticket.tenant if ticket is not None else ended[1] if ended is not None else None
        if owner is None or (role.kind == "tenant" and role.tenant != owner):
            raise unknown_request()
        return ticket, ended

    def _look(self, handle: int) -> Ended | None:
        """One that has ended, also when its caller has not been told yet: a slow reader of a stream, say."""
        asked = self._open.get(handle)
        if asked is not None and asked[0].answer is not None and self._ended.get(handle) is None:
            self._keep(asked[0].answer, *asked[1:], given=False)
        return self._ended.get(handle)
