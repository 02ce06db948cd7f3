"""`POST /infer`, from the body's bytes to the answer's: an ASGI application in front of the framework's router.

Nothing here makes a task, and nothing but the types of `wire` checks or encodes.
"""

from asyncio import CancelledError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from aps.driver import Driver, DriverError, Ticket
from aps.service.access import OPEN, Access
from aps.service.answers import Answers
from aps.service.bodies import infer_request
from aps.service.connection import Connection, connection_of
from aps.service.entry import GONE, Entry
from aps.service.errors import ENDS_CONNECTION, JSON, Headers, Refusal, headers_of, internal
from aps.service.limits import BodyReader
from aps.service.logs import RequestLog
from aps.service.refusals import refusal_of, unknown_tenant
from aps.service.requests import Requests
from aps.service.streaming import Streams
from aps.service.watch import Watch
from aps.service.wire import Accepted, CountedBy, ErrorAnswer, InferRequest, Verdict, encode

if TYPE_CHECKING:
    from aps.service.tracing import Tracing


class Infer:
    """The application. What it needs is shared with the routes of the framework."""

    def __init__(
        self,
        driver: Driver,
        access: Access,
        bodies: BodyReader,
        answers: Answers,
        requests: Requests,
        streams: Streams,
        log: RequestLog | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._driver, self._access, self._bodies = driver, access, bodies
        self._answers, self._requests, self._streams = answers, requests, streams
        self._log, self._tracing = log, tracing
        self._watched = log is not None or tracing is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        headers: Headers = []
        entry, reason = None, None
        if self._watched:
            entry = self._begin(scope["headers"])
        try:
            status, body = await self._infer(scope["headers"], receive, send, connection, headers, entry)
        except (ClientDisconnect, CancelledError) as error:
            if entry is not None:
                self._end(entry, GONE)
            if isinstance(error, ClientDisconnect):
                return
            raise
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else internal(error)
            status, body = refusal.status, encode(ErrorAnswer(refusal.error))
            headers += headers_of(status, refusal.error)
            reason = refusal.error.reason
        if entry is not None and not entry.later:
            self._end(entry, status or 200, reason)
        if not status:
            return
        headers.append((b"content-length", b"%d" % len(body)))
        if connection is not None and status not in ENDS_CONNECTION:
            if connection.answer(send, status, headers, body):
                return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _infer(
        self,
        asked_with: Headers,
        receive: Receive,
        send: Send,
        connection: Connection | None,
        headers: Headers,
        entry: Entry | None,
    ) -> tuple[int, bytes]:
        """Status and body of the answer, 0 when it has been sent; or raise the refusal. `headers` gets theirs, `entry`
        what the log says."""
        access, driver = self._access, self._driver
        role = OPEN if access.open else access.identify(_authorization(asked_with))
        asked = infer_request(await self._bodies.read(asked_with, receive))
        name = role.tenant_for(None if asked.tenant_id is UNSET else asked.tenant_id)
        tenant = driver.scheduler.tenants.get(name)
        if tenant is None:
            raise unknown_tenant(name)
        prompt_tokens, counted_by = _count(driver, asked)
        deadline_s = asked.deadline_s
        ticket = driver.submit(
            name,
            prompt=asked.prompt,
            prompt_tokens=prompt_tokens,
            max_tokens=asked.max_tokens,
            bid=asked.bid,
            deadline_s=deadline_s,
            trace=None if entry is None else entry.trace,
        )
        if entry is not None:
            entry.asked(ticket, self._answers.id_of(ticket.handle) if ticket.handle else None, asked.stream)
        if not ticket.handle:
            self._answers.rate_headers(tenant, headers)
            assert ticket.answer is not None
            by_text = asked.prompt is not None
            raise refusal_of(ticket.answer, driver, deadline_s=deadline_s, max_tokens=asked.max_tokens, by_text=by_text)
        self._requests.begin(ticket, counted_by, deadline_s)
        if not asked.wait:
            self._answers.rate_headers(tenant, headers)
            return 202, self._accept(ticket, counted_by, headers, entry)
        cancel = partial(_cancel, driver, ticket, entry)
        watch = None
        if connection is not None:
            connection.gone = cancel
        else:
            watch = Watch(receive, cancel)
        try:
            if asked.stream:
                self._answers.rate_headers(tenant, headers)
                await self._streams.send(ticket, counted_by, deadline_s, send, headers)
                return 0, b""
            while ticket.answer is None:
                if ticket.error is not None:
                    raise ticket.failure()
                await ticket.wait()
        finally:
            if connection is not None:
                connection.gone = None
            if watch is not None:
                watch.close()
            if ticket.answer is None and not ticket.done:
                cancel()
            answer = self._requests.leave(ticket)
            if entry is not None:
                entry.ended(ticket)
        result = ticket.answer
        self._answers.rate_headers(tenant, headers)
        if result.status != "finished":
            raise refusal_of(result, driver, deadline_s=deadline_s)
        headers.append(JSON)
        return 200, answer

    def _accept(
        self,
        ticket: Ticket,
        counted_by: CountedBy,
        headers: Headers,
        entry: Entry | None,
    ) -> bytes:
        """202: it will be kept when it ends, and nobody waits for it until then."""
        if entry is not None:
            entry.later = True
        ticket.add_done_callback(partial(self._ended, entry))
        verdict = ticket.verdict
        id = self._answers.id_of(ticket.handle)
        headers += (JSON, (b"location", b"/requests/" + id.encode()))
        return encode(
            Accepted(
                id=id,
                tenant_id=ticket.tenant,
                prompt_tokens=ticket.prompt_tokens,
                counted_by=counted_by,
                verdict=Verdict("admitted", verdict.reason, verdict.bid, verdict.clamped),
            )
        )

    def _ended(self, entry: Entry | None, ticket: Ticket) -> None:
        self._requests.leave(ticket)
        if entry is not None:
            entry.ended(ticket)
            self._end(entry, 202)

    def _begin(self, headers: Headers) -> Entry:
        """Somebody wants to know what becomes of it."""
        entry = Entry()
        if self._tracing is not None:
            self._tracing.begin(entry, headers)
        return entry

    def _end(self, entry: Entry, status: int, reason: str | None = None) -> None:
        """It is over, with that status; reason: of a refusal."""
        if entry.gone:
            status = GONE
        if self._log is not None:
            self._log.end(entry, status, reason)
        if self._tracing is not None:
            self._tracing.end(entry, status, reason)


def _authorization(headers: Headers) -> bytes | None:
    for name, value in headers:
        if name == b"authorization":
            return value
    return None


def _cancel(driver: Driver, ticket: Ticket, entry: Entry | None) -> None:
    """Its client has gone."""
    if entry is not None:
        entry.gone = True
    with suppress(DriverError):
        driver.cancel(ticket.id)


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
