"""What an operator may set of the service."""

from dataclasses import dataclass, fields
from math import isfinite


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and prices, each with a default. Seconds are the wall's. ValueError names the field that is not positive.

    gpu_hour_dollars: the price of one GPU-hour behind the dollar figures of `GET /metrics`.
    max_body_bytes, body_s: how large a body may be, and how long it may take to arrive: 413, 408.
    max_header_bytes, header_s: the same of a request's head, from its first byte (a connection's first head: from
        when it was opened): 431, 408.
    max_connections: open at once; more are answered 503 and closed.
    keep_alive_s: how long a connection may be idle.
    send_s: a client that takes nothing of its answer for so long is cut off, and its request cancelled.
    comment_s: a stream that has no token yet gets a comment this often, so that nobody in between ends it.
    keep_finished_s, max_finished, max_finished_bytes: an ended request stays readable under `GET /requests/{id}` for so
        long, unless so many have ended since, or so many characters of text.
    """

    gpu_hour_dollars: float = 1.39
    max_body_bytes: int = 1 << 20
    body_s: float = 30.0
    max_header_bytes: int = 1 << 14
    header_s: float = 10.0
    max_connections: int = 4096
    keep_alive_s: float = 75.0
    send_s: float = 30.0
    comment_s: float = 15.0
    keep_finished_s: float = 300.0
    max_finished: int = 10_000
    max_finished_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isfinite(value) or value <= 0:
                raise ValueError(f"Settings.{field.name} must be a positive number, got {value!r}")
