"""One `POST /infer`, from its head to its answer. Nothing here waits, sends or knows of a server: `infer` does.

Nothing but the types of `wire` checks or encodes.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aps.driver import Driver, DriverError, Ticket
from aps.service.access import OPEN, Access, Role
from aps.service.answers import Answers
from aps.service.bodies import infer_request
from aps.service.entry import GONE, Entry
from aps.service.errors import Headers, Refusal, headers_of, internal
from aps.service.heads import JSON, lines_of, pairs_of
from aps.service.logs import RequestLog
from aps.service.pending import Pending, size_of
from aps.service.refusals import refusal_of, unknown_tenant
from aps.service.request_ids import HEADER, given, made
from aps.service.requests import Requests
from aps.service.traffic import Traffic
from aps.service.wire import Accepted, CountedBy, ErrorAnswer, InferRequest, Verdict, encode
from aps.tenants import Tenant

if TYPE_CHECKING:
    from aps.service.tracing import Tracing

NAMED = HEADER.encode()

Answer = tuple[int, bytes]  # its status and its body


class Parties(NamedTuple):
    """Whom an exchange speaks to. tenants: the driver's, live. log, tracing: None when nobody wants to know. traffic:
    counts refusals of which the scheduler knows nothing."""

    driver: Driver
    tenants: Mapping[str, Tenant]
    access: Access
    answers: Answers
    requests: Requests
    pending: Pending
    log: RequestLog | None
    tracing: "Tracing | None"
    traffic: Traffic


class Exchange:
    """One request and its answer: `identify`, `read`, `submit`; when its ticket has ended, `leave` and `answer`.

    Whatever raises on the way, `refuse` makes an answer of; `close` is the end. head: the request's headers. lines:
    the answer's (see `heads`). asked: what was read and not yet submitted. ticket: what was submitted. While it waits
    little is kept: with many requests under way all of it has to fit the processor's cache.
    """

    __slots__ = ("_by", "_deadline_s", "_role", "_said", "_size", "asked", "counted_by", "entry", "lines", "ticket")

    _deadline_s: float | None
    _role: Role
    _said: bytes
    _size: int
    counted_by: CountedBy
    ticket: Ticket

    def __init__(self, by: Parties, head: Headers) -> None:
        self._by = by
        self.lines = b""
        self.asked: InferRequest | None = None
        self.entry: Entry | None = None
        if by.log is not None or by.tracing is not None:
            self.entry = Entry()
            if by.tracing is not None:
                by.tracing.begin(self.entry, head)

    def identify(self, head: Headers) -> None:
        """Whose key it is, and the caller's id of the request. Refusal, 401: nobody's."""
        key = None
        for name, value in head:
            if name == b"authorization":
                key = value if key is None else key
            elif name == NAMED:
                self._name(given(value.decode("latin-1")))
        access = self._by.access
        self._role = OPEN if access.open else access.identify(key)

    def _name(self, id: str | None) -> None:
        if id is not None:
            self.lines = b"%b: %b\r\n" % (NAMED, id.encode())
            if self.entry is not None:
                self.entry.request_id = id

    def read(self, body: bytes) -> InferRequest:
        """What the body asks for. Refusal, 422: it does not fit the schema."""
        self.asked = asked = infer_request(body)
        return asked

    def _name_anew(self) -> None:
        lines = self.lines
        self._name(made())
        self.lines += lines

    def submit(self) -> Ticket:
        """Ask the scheduler. Refusal: its no, those to a wrong tenant, and where the prompt cannot be held."""
        by, asked, entry = self._by, self.asked, self.entry
        assert asked is not None
        self.asked, self._deadline_s = None, asked.deadline_s
        driver = by.driver
        name = self._role.tenant_for(asked.tenant_id)
        if name not in by.tenants:
            raise unknown_tenant(name)
        prompt, pending = asked.prompt, by.pending
        self._size = size = 0 if prompt is None else size_of(prompt)
        if size and pending.bytes + size > pending.half:
            try:
                pending.check_prompt(name, size)
            except Refusal:
                self.lines += by.answers.rate_lines(name)
                raise
        prompt_tokens, self.counted_by = _count(driver, asked)
        self.ticket = ticket = driver.submit(
            name,
            prompt=prompt,
            prompt_tokens=prompt_tokens,
            max_tokens=asked.max_tokens,
            bid=asked.bid,
            deadline_s=asked.deadline_s,
            trace=None if entry is None else entry.trace,
        )
        if entry is not None:
            entry.asked(ticket, by.answers.id_of(ticket.handle) if ticket.handle else None, bool(asked.stream))
        if not ticket.handle:
            self.lines += by.answers.rate_lines(name)
            assert ticket.answer is not None
            raise refusal_of(
                ticket.answer,
                driver,
                deadline_s=asked.deadline_s,
                max_tokens=asked.max_tokens,
                by_text=prompt is not None,
            )
        if size:
            pending.hold(name, size)
        by.requests.begin(ticket, self.counted_by, asked.deadline_s)
        return ticket

    def accept(self) -> Answer:
        """202: it will be kept when it ends, and nobody waits for it until then."""
        by, ticket, entry = self._by, self.ticket, self.entry
        if entry is not None:
            entry.later = True
        ticket.add_done_callback(partial(_ended, self))
        verdict = ticket.verdict
        id = by.answers.id_of(ticket.handle)
        self.lines += by.answers.rate_lines(ticket.tenant) + JSON + b"location: /requests/%b\r\n" % id.encode()
        return 202, encode(
            Accepted(
                id=id,
                tenant_id=ticket.tenant,
                prompt_tokens=ticket.prompt_tokens,
                counted_by=self.counted_by,
                verdict=Verdict("admitted", verdict.reason, verdict.bid, verdict.clamped),
            )
        )

    def stream(self) -> Headers:
        """The headers of an answer whose body comes piece by piece."""
        self.lines += self._by.answers.rate_lines(self.ticket.tenant)
        return pairs_of(self.lines)

    def leave(self, *, told: bool = True) -> None:
        """Nobody waits for it any more. told: whoever asked has its answer, or is about to."""
        by, ticket = self._by, self.ticket
        if self._size:
            by.pending.let_go(ticket.tenant, self._size)
        self._said = by.requests.leave(ticket, told=told)
        if self.entry is not None:
            self.entry.ended(ticket)

    def answer(self) -> Answer:
        """After `leave`. Refusal: it ended otherwise than it should; DriverError: nobody knows how."""
        result = self.ticket.answer
        if result is None:
            raise self.ticket.failure()
        self.lines += self._by.answers.rate_lines(result.tenant)
        if result.status != "finished":
            raise refusal_of(result, self._by.driver, deadline_s=self._deadline_s).charged(result.charge)
        self.lines += JSON
        return 200, self._said

    def refuse(self, error: Exception) -> tuple[int, bytes, str]:
        """The answer instead, and its reason. Whoever was given no id of the scheduler's gets one to speak of it by."""
        if not self.lines.startswith(NAMED):
            self._name_anew()
        refusal = error if isinstance(error, Refusal) else internal(error)
        if refusal is not error or not hasattr(self, "ticket"):
            self._by.traffic.refused[refusal.error.reason] += 1
        self.lines += lines_of(headers_of(refusal.status, refusal.error))
        return refusal.status, encode(ErrorAnswer(refusal.error)), refusal.error.reason

    def cancel(self) -> None:
        """Its client has gone."""
        if self.entry is not None:
            self.entry.gone = True
        with suppress(DriverError):
            self._by.driver.cancel(self.ticket.id)

    def close(self, status: int, reason: str | None = None) -> None:
        """It is over, with that status (499: its client had gone); reason: of a refusal."""
        entry = self.entry
        if entry is None:
            return
        if entry.gone:
            status = GONE
        if self._by.log is not None:
            self._by.log.end(entry, status, reason)
        if self._by.tracing is not None:
            self._by.tracing.end(entry, status, reason)


def _ended(exchange: Exchange, _: Ticket) -> None:
    """A request that was answered long ago."""
    exchange.leave(told=False)
    exchange.close(202)


def _count(driver: Driver, asked: InferRequest) -> tuple[int, CountedBy]:
    """The prompt's tokens, and who counted them."""
    prompt = asked.prompt
    if prompt is None:
        assert asked.prompt_tokens is not None
        return asked.prompt_tokens, "caller"
    tokens = driver.backend.count_tokens(prompt)
    if tokens is not None:
        return max(1, tokens), "tokenizer"
    return -(-(len(prompt) if prompt.isascii() else len(prompt.encode())) // 4), "bytes/4"
