"""Requests by the id that their callers know: outstanding ones, and for a while those that have ended."""

import time
from collections import deque

from aps.driver import Driver, Result, Ticket
from aps.service.access import Role
from aps.service.answers import Answers
from aps.service.config import Settings
from aps.service.errors import Refusal
from aps.service.refusals import refusal_of, unknown_request
from aps.service.wire import CountedBy, RequestState, Standing

Ended = tuple[float, Result, CountedBy, float | None]  # wall seconds of its end, ..., its deadline_s


class Requests:
    """What `GET` and `DELETE /requests/{id}` speak of. Memory is bounded by the settings' `max_finished*`."""

    def __init__(self, driver: Driver, settings: Settings, answers: Answers) -> None:
        self._driver, self._answers = driver, answers
        self._for_s = settings.keep_finished_s
        self._most, self._most_text = settings.max_finished, settings.max_finished_bytes
        self._ended: dict[int, Ended] = {}
        self._order: deque[int] = deque()
        self._text = 0  # characters

    def keep(self, result: Result, counted_by: CountedBy, deadline_s: float | None) -> None:
        """An admitted request has ended."""
        handle: int = result.id  # type: ignore[assignment]
        self._ended[handle] = (time.monotonic(), result, counted_by, deadline_s)
        self._order.append(handle)
        self._text += len(result.text)
        while len(self._order) > self._most or self._text > self._most_text:
            self._forget_first()

    def state(self, id: str, role: Role) -> RequestState:
        """Where the request stands. Refusal, 404: there is none, or none that this role may see."""
        ticket, ended = self._find(id, role)
        if ticket is not None:
            where = self._driver.explain(ticket.id)
            standing = Standing(**{name: getattr(where, name) for name in Standing.__struct_fields__})
            return RequestState(id=id, tenant_id=ticket.tenant, state=where.state, explain=standing)
        assert ended is not None
        _, result, counted_by, deadline_s = ended
        state = RequestState(id=id, tenant_id=result.tenant, state=result.status)  # type: ignore[arg-type]
        if result.status == "finished":
            state.answer = self._answers.answer(result, counted_by)
        else:
            state.error = refusal_of(result, self._driver, deadline_s=deadline_s).error
        return state

    def cancel(self, id: str, role: Role) -> RequestState:
        """End it, unless it has ended: how it stands then. Refusal, 404, as of `state`."""
        ticket, _ = self._find(id, role)
        if ticket is None or not self._driver.cancel(ticket.id):
            return self.state(id, role)
        return RequestState(id=id, tenant_id=ticket.tenant, state="cancelled")

    def _find(self, id: str, role: Role) -> tuple[Ticket | None, Ended | None]:
        if role.kind == "metrics":
            raise Refusal("forbidden", "a metrics key reads GET /metrics and nothing else")
        handle = self._answers.handle_of(id)
        self._forget_old()
        ticket, ended = self._driver.ticket(handle), self._ended.get(handle)
        owner = ticket.tenant if ticket is not None else ended[1].tenant if ended is not None else None
        if owner is None or (role.kind == "tenant" and role.tenant != owner):
            raise unknown_request()
        return ticket, ended

    def _forget_old(self) -> None:
        too_old = time.monotonic() - self._for_s
        while self._order and self._ended[self._order[0]][0] < too_old:
            self._forget_first()

    def _forget_first(self) -> None:
        forgotten = self._ended.pop(self._order.popleft())
        self._text -= len(forgotten[1].text)
