"""A request's output as server-sent events, as it comes."""

import asyncio

from msgspec import UNSET
from starlette.types import Send

from aps.driver import Driver, Ticket
from aps.service.answers import Answers
from aps.service.errors import Headers, internal
from aps.service.refusals import refusal_of
from aps.service.wire import Chunk, CountedBy, Error, ErrorAnswer, encode

EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy is to pass events on as they come
]
COMMENT = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"


class Streams:
    """Sends streams. One event holds all tokens that are ready when the stream wakes.

    Until the first token a refusal is a plain answer with its status, unless a comment has been sent: then, as after a
    token, it is an event named `error`. `send` holds a client that reads slowly back: tokens of its own request pile
    up meanwhile, `max_tokens` at most, and the server cuts it off when it takes nothing for too long.
    """

    def __init__(self, driver: Driver, answers: Answers, comment_s: float) -> None:
        self._driver, self._answers = driver, answers
        self._comment_s = comment_s

    async def send(
        self, ticket: Ticket, counted_by: CountedBy, deadline_s: float | None, send: Send, headers: Headers
    ) -> None:
        """Stream an admitted request to its end; `headers` go with it. Refusal: it ended so, and nothing was sent."""
        stream = _Stream(send, headers + EVENT_STREAM)
        id = self._answers.id_of(ticket.handle)
        tokens = 0
        try:
            chunk = await self._first(ticket, stream)
            while chunk:
                tokens += len(chunk)
                await stream.write(b"data: " + encode(Chunk(id, "".join(chunk), tokens)) + b"\n\n")
                chunk = await ticket.more()
            result = await ticket.result()
        except Exception as error:
            if not stream.begun:
                raise
            await stream.end(_error(internal(error).error))
            return
        if result.status == "finished":
            answer = self._answers.answer(result, counted_by)
            answer.text = UNSET
            await stream.end(b"data: " + encode(answer) + b"\n\n" + DONE)
            return
        refusal = refusal_of(result, self._driver, deadline_s=deadline_s).charged(result.charge)
        if not stream.begun:
            raise refusal
        await stream.end(_error(refusal.error))

    async def _first(self, ticket: Ticket, stream: "_Stream") -> list[str]:
        """The first tokens, [] if there are none; comments while they do not come."""
        while True:
            try:
                async with asyncio.timeout(self._comment_s):
                    return await ticket.more()
            except TimeoutError:
                await stream.write(COMMENT)


class _Stream:
    """One answer that is sent in parts."""

    __slots__ = ("_send", "begun", "headers")

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send, self.headers, self.begun = send, headers, False

    async def write(self, part: bytes, more: bool = True) -> None:
        """Send some of it, after the head if that has not been sent."""
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def end(self, part: bytes) -> None:
        """Send the last of it."""
        await self.write(part, more=False)


def _error(error: Error) -> bytes:
    return b"event: error\ndata: " + encode(ErrorAnswer(error)) + b"\n\n"
