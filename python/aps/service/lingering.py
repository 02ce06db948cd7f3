"""Lingering close: a client that still sends gets its last answer whole.

Where a connection is closed while bytes come that nobody has read, the system resets it: the client fails to send, or
loses an answer that it has not read yet. So the connection is closed for writing, and what comes is read and forgotten
until the client closes too, for a short time and so many bytes at most.
"""

import asyncio
from typing import Protocol, cast

LONGEST_S = 5.0  # wall seconds, once the answer is sent
MOST_BYTES = 1 << 24


class Sender(Protocol):
    """What a transport's protocol says of its client. still_sends: it may have more to send."""

    @property
    def still_sends(self) -> bool: ...


class LingeringTransport:
    """A connection's transport, as far as who answers needs it, whose `close` lingers while the client still sends.

    patient: it does so; False: it closes at once. lingers: it has been closed so; it says that it is closing then.
    """

    __slots__ = ("_transport", "abort", "is_closing", "lingers", "patient", "write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.patient, self.lingers = True, False
        self.write, self.abort, self.is_closing = transport.write, transport.abort, transport.is_closing

    def close(self) -> None:
        """Send what has been written, and close."""
        transport = self._transport
        if not self.patient or self.lingers or self.is_closing() or not _sender(transport).still_sends:
            transport.close()
            return
        self.lingers, self.is_closing = True, _yes
        transport.set_protocol(_Forgetting(transport))
        try:
            transport.write_eof()
            transport.resume_reading()
        except OSError:  # its client has reset it
            transport.abort()

    @property
    def sent(self) -> bool:
        """Whether the system has taken all that was written."""
        return not self._transport.get_write_buffer_size()


def _sender(transport: asyncio.Transport) -> Sender:
    return cast(Sender, transport.get_protocol())


def _yes() -> bool:
    return True


class _Forgetting(asyncio.Protocol):
    """Reads for a protocol what it has no use for any more."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._protocol = transport, transport.get_protocol()
        self._left = MOST_BYTES

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
