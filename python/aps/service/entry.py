"""What is known of one `POST /infer`: for its line in the log, and for its span."""

import time
from collections.abc import Mapping
from typing import Any

from aps.driver import Result, Ticket

GONE = 499  # the status of a client that hung up


class Entry:
    """What is known so far. Instants are wall nanoseconds, or of the process's performance counter: `began`.

    id, tenant, verdict: None until the scheduler has answered; arrived: when that was. request_id: the caller's own, or
    the one that a refusal was given. result: how it ended; lost:
    nobody will know, because the driver has failed. later: it will end after its answer. gone: its client hung up.
    retries: how often it was started again. span, trace: what traces it, and the headers that a backend may pass on;
    None without traces. trace_id: 0 without.
    """

    __slots__ = (
        "arrived", "began", "gone", "id", "later", "lost", "max_tokens", "prompt_tokens", "request_id", "result",
        "retries", "span", "stream", "tenant", "trace", "trace_id", "verdict",
    )  # fmt: skip

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.arrived = 0
        self.id: str | None = None
        self.request_id: str | None = None
        self.tenant: str | None = None
        self.prompt_tokens = self.max_tokens = self.retries = 0
        self.gone = self.later = self.lost = self.stream = False
        self.verdict: Any = None
        self.result: Result | None = None
        self.span: Any = None
        self.trace: Mapping[str, str] | None = None
        self.trace_id = 0

    def asked(self, ticket: Ticket, id: str | None, stream: bool) -> None:
        """The scheduler has answered."""
        self.arrived = time.time_ns()
        self.id, self.tenant, self.stream = id, ticket.tenant, stream
        self.prompt_tokens, self.max_tokens, self.verdict = ticket.prompt_tokens, ticket.max_tokens, ticket.verdict

    def ended(self, ticket: Ticket) -> None:
        """Nobody waits for it any more."""
        self.result, self.retries, self.lost = ticket.answer, ticket.retries, ticket.error is not None
