"""`POST /infer` as servers see it: an ASGI application in front of the framework's router, and a short cut.

Both take a request through the same `Exchange`. An application is awaited, which takes a task and a future a request;
a `Connection`, whose server is ours, needs neither for a request that has come whole and is answered in one piece.
"""

from asyncio import CancelledError
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from aps.driver import Ticket
from aps.service.connection import connection_of
from aps.service.entry import GONE
from aps.service.exchange import Answer, Exchange, Parties
from aps.service.heads import send_whole
from aps.service.limits import BodyReader
from aps.service.offered import Offered
from aps.service.streaming import Streams
from aps.service.watch import Watch


class Infer:
    """The application. What it needs is shared with the routes of the framework."""

    method, url = b"POST", b"/infer"

    def __init__(self, parties: Parties, bodies: BodyReader, streams: Streams) -> None:
        self._parties, self._bodies, self._streams = parties, bodies, streams

    # Awaited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(Exchange(self._parties, scope["headers"]), scope, receive, send)

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        reason = None
        try:
            status, body = await self._answer(exchange, scope, receive, send)
        except (ClientDisconnect, CancelledError) as error:
            exchange.close(GONE)
            if isinstance(error, ClientDisconnect):
                return
            raise
        except Exception as error:
            status, body, reason = exchange.refuse(error)
        try:
            if status:
                await send_whole(send, status, exchange.lines, body)
        finally:
            if status != 202:
                exchange.close(status or 200, reason)

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> Answer:
        """Status and body, status 0 when it has been sent; or raise the refusal."""
        asked = exchange.asked
        if asked is None:
            exchange.identify(scope["headers"])
            asked = exchange.read(await self._bodies.read(scope["headers"], receive))
            exchange.identify(scope["headers"])  # the key may have been revoked meanwhile
        ticket = exchange.submit()
        if asked.wait is False:
            return exchange.accept()
        connection, watch = connection_of(scope), None
        if connection is not None:
            connection.watch(exchange.cancel)
        else:
            watch = Watch(receive, exchange.cancel)
        try:
            if asked.stream:
                await self._streams.send(ticket, exchange.counted_by, asked.deadline_s, send, exchange.stream())
                return 0, b""
            while not ticket.done:
                await ticket.wait()
        finally:
            if connection is not None:
                connection.gone = None
            if watch is not None:
                watch.close()
            if not ticket.done:
                exchange.cancel()
            exchange.leave()
        return exchange.answer()

    # Called

    def take(self, request: Offered, body: bytes) -> None:
        """Answer a whole request, in a while."""
        exchange = Exchange(self._parties, request.headers)
        reason = None
        try:
            exchange.identify(request.headers)
            request.forget_head()
            self._bodies.check(body)
            asked = exchange.read(body)
            if asked.stream:
                request.run(partial(self._serve, exchange))
                return
            ticket = exchange.submit()
            if asked.wait is not False:
                request.connection.watch(exchange.cancel)
                ticket.add_done_callback(partial(_ended, exchange, request))
                return
            status, said = exchange.accept()
        except Exception as error:
            status, said, reason = exchange.refuse(error)
        request.answer(status, exchange.lines, said)
        if status != 202:
            exchange.close(status, reason)


def _ended(exchange: Exchange, request: Offered, _: Ticket) -> None:
    """Of one that somebody waits for."""
    request.connection.gone = None
    reason = None
    try:
        exchange.leave()
        status, said = exchange.answer()
    except Exception as error:
        status, said, reason = exchange.refuse(error)
    request.answer(status, exchange.lines, said)
    exchange.close(status, reason)
