"""`POST /infer`, from the body's bytes to the answer's: an ASGI application in front of the framework's router.

Nothing here makes a task, and nothing but the types of `wire` checks or encodes.
"""

import asyncio
from contextlib import suppress

from msgspec import UNSET
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from aps.driver import Driver, DriverError, Result, Ticket
from aps.service.access import OPEN, Access, Role
from aps.service.answers import Answers
from aps.service.bodies import infer_request
from aps.service.errors import JSON, Headers, Refusal, headers_of, internal
from aps.service.limits import BodyReader
from aps.service.refusals import Asked, refusal_of, unknown_tenant
from aps.service.requests import Requests
from aps.service.streaming import Streams
from aps.service.watch import Watch
from aps.service.wire import Accepted, CountedBy, ErrorAnswer, InferRequest, Verdict, encode


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
    ) -> None:
        self._driver, self._access, self._bodies = driver, access, bodies
        self._answers, self._requests, self._streams = answers, requests, streams
        self._later: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = []
        try:
            await self._infer(scope["headers"], receive, send, headers)
        except Refusal as refusal:
            await _refuse(send, refusal, headers)
        except ClientDisconnect:
            pass
        except Exception as error:
            await _refuse(send, internal(error), headers)

    async def _infer(self, asked_with: Headers, receive: Receive, send: Send, headers: Headers) -> None:
        """Answer, or raise the refusal; `headers` gets what goes with either."""
        role = OPEN if self._access.open else self._access.identify(_authorization(asked_with))
        asked = infer_request(await self._bodies.read(asked_with, receive))
        tenant = _tenant(asked, role)
        driver = self._driver
        if tenant not in driver.scheduler.tenants:
            raise unknown_tenant(tenant)
        prompt_tokens, counted_by = _count(driver, asked)
        said = Asked(asked.max_tokens, asked.deadline_s, asked.prompt is not None)
        ticket = driver.submit(
            tenant,
            prompt=asked.prompt,
            prompt_tokens=prompt_tokens,
            max_tokens=asked.max_tokens,
            bid=asked.bid,
            deadline_s=asked.deadline_s,
        )
        if not ticket.handle:
            self._answers.rate_headers(tenant, headers)
            raise refusal_of(await ticket.result(), said, driver)
        if not asked.wait:
            await self._accept(ticket, counted_by, said, send)
            return
        watch = Watch(receive, lambda: _cancel(driver, ticket))
        try:
            if asked.stream:
                await self._streams.send(ticket, counted_by, said, send, headers)
                return
            result = await ticket.result()
        finally:
            watch.close()
            if not ticket.done:
                _cancel(driver, ticket)
        self._requests.keep(ticket.handle, result, counted_by, said)
        if watch.has_gone:
            return
        self._answers.rate_headers(tenant, headers)
        if result.status != "finished":
            raise refusal_of(result, said, driver)
        body = encode(self._answers.answer(ticket.handle, result, counted_by))
        headers += (JSON, (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _accept(self, ticket: Ticket, counted_by: CountedBy, asked: Asked, send: Send) -> None:
        """202: it will be kept when it ends, and nobody waits for it until then."""
        waiting = asyncio.create_task(self._outlive(ticket, counted_by, asked))
        self._later.add(waiting)
        waiting.add_done_callback(self._later.discard)
        verdict = ticket.verdict
        id = self._answers.id_of(ticket.handle)
        body = encode(
            Accepted(
                id=id,
                tenant_id=ticket.tenant,
                prompt_tokens=ticket.prompt_tokens,
                counted_by=counted_by,
                verdict=Verdict("admitted", verdict.reason, verdict.bid, verdict.clamped),
            )
        )
        headers: Headers = [JSON, (b"content-length", b"%d" % len(body)), (b"location", b"/requests/" + id.encode())]
        self._answers.rate_headers(ticket.tenant, headers)
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _outlive(self, ticket: Ticket, counted_by: CountedBy, asked: Asked) -> None:
        with suppress(DriverError):
            result: Result = await ticket.result()
            self._requests.keep(ticket.handle, result, counted_by, asked)


async def _refuse(send: Send, refusal: Refusal, headers: Headers) -> None:
    body = encode(ErrorAnswer(refusal.error))
    headers += headers_of(refusal.status, refusal.error)
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _authorization(headers: Headers) -> bytes | None:
    for name, value in headers:
        if name == b"authorization":
            return value
    return None


def _tenant(asked: InferRequest, role: Role) -> str:
    name = asked.tenant_id
    return role.tenant_for(None if name is UNSET else name)


def _cancel(driver: Driver, ticket: Ticket) -> None:
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
