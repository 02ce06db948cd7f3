"""Requests by the id that their callers know: outstanding ones, and for a while those that have ended."""

import time
from collections import deque
from typing import NamedTuple

from aps.driver import Driver, Result, Ticket
from aps.service.access import Role
from aps.service.answers import Answers
from aps.service.config import Settings
from aps.service.errors import Refusal
from aps.service.refusals import Asked, refusal_of, unknown_request
from aps.service.wire import CountedBy, RequestState, Standing


class Ended(NamedTuple):
    """A request that has ended, as long as it is remembered."""

    at: float  # wall seconds
    result: Result
    counted_by: CountedBy
    asked: Asked


class Requests:
    """What `GET` and `DELETE /requests/{id}` speak of. Memory is bounded by the settings' `max_finished*`."""

    def __init__(self, driver: Driver, settings: Settings, answers: Answers) -> None:
        self._driver, self._answers = driver, answers
        self._for_s, self._most, self._most_text = (
            settings.keep_finished_s,
            settings.max_finished,
            settings.max_finished_bytes,
        )
        self._ended: dict[int, Ended] = {}
        self._order: deque[int] = deque()
        self._text = 0

    def keep(self, handle: int, result: Result, counted_by: CountedBy, asked: Asked) -> None:
        """It has ended."""
        now = time.monotonic()
        self._ended[handle] = Ended(now, result, counted_by, asked)
        self._order.append(handle)
        self._text += len(result.text)
        if len(self._order) > self._most or self._text > self._most_text:
            self._forget_first()
            self._forget_old(now)

    def state(self, id: str, role: Role) -> RequestState:
        """Where the request stands. Refusal, 404: there is none, or none that this role may see."""
        handle, ticket, ended = self._find(id, role)
        if ticket is not None:
            where = self._driver.explain(ticket.id)
            standing = Standing(**{name: getattr(where, name) for name in Standing.__struct_fields__})
            return RequestState(id=id, tenant_id=ticket.tenant, state=where.state, explain=standing)
        assert ended is not None
        result = ended.result
        state = RequestState(id=id, tenant_id=result.tenant, state=result.status)  # type: ignore[arg-type]
        if result.status == "finished":
            state.answer = self._answers.answer(handle, result, ended.counted_by)
        else:
            state.error = refusal_of(result, ended.asked, self._driver).error
        return state

    def cancel(self, id: str, role: Role) -> RequestState:
        """End it, unless it has ended: how it stands then. Refusal, 404, as of `state`."""
        _, ticket, _ = self._find(id, role)
        if ticket is None:
            return self.state(id, role)
        self._driver.cancel(ticket.id)
        return RequestState(id=id, tenant_id=ticket.tenant, state="cancelled")

    def _find(self, id: str, role: Role) -> tuple[int, Ticket | None, Ended | None]:
        if role.kind == "metrics":
            raise Refusal("forbidden", "a metrics key reads GET /metrics and nothing else")
        handle = self._answers.handle_of(id)
        self._forget_old(time.monotonic())
        ticket, ended = self._driver.ticket(handle), self._ended.get(handle)
        owner = ticket.tenant if ticket is not None else ended.result.tenant if ended is not None else None
        if owner is None or (role.kind == "tenant" and role.tenant != owner):
            raise unknown_request()
        return handle, ticket, ended

    def _forget_old(self, now: float) -> None:
        order, ended = self._order, self._ended
        while order and ended[order[0]].at < now - self._for_s:
            self._forget_first()

    def _forget_first(self) -> None:
        forgotten = self._ended.pop(self._order.popleft())
        self._text -= len(forgotten.result.text)
