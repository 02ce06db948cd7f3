"""Hears of a client that hangs up while its request waits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Message, Receive


class Watch:
    """Calls `gone` once when the client disconnects. `close` ends the watch; it must be closed.

    An ASGI server says so through `receive` alone, and awaiting that beside the request's end would take a task for
    each request. So its coroutine is stepped by hand: it runs up to the future that it waits for, and goes on in that
    future's callback. To be made in a running loop, after the whole body has been received.
    """

    __slots__ = ("_call", "_receive", "gone")

    def __init__(self, receive: Receive, gone: Callable[[], object]) -> None:
        self.gone = gone
        self._receive = receive
        self._call: Coroutine[Any, Any, Message] = receive()  # type: ignore[assignment]
        self._step()

    def close(self) -> None:
        """Watch no longer."""
        self._call.close()

    def _step(self, _: object = None) -> None:
        try:
            waits_for = self._call.send(None)
        except StopIteration as ended:
            if ended.value["type"] == "http.disconnect":
                self.gone()
            else:
                self._call = self._receive()  # type: ignore[assignment]
                asyncio.get_running_loop().call_soon(self._step)
        except RuntimeError:  # it has been closed
            return
        else:
            if waits_for is None:  # a bare yield
                asyncio.get_running_loop().call_soon(self._step)
            else:
                waits_for._asyncio_future_blocking = False  # as a task does that is about to wait
                waits_for.add_done_callback(self._step)
