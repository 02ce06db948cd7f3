"""What a request gets back: ids, answers, and the headers that tell a tenant what is left of its rate."""

import secrets
from math import inf

from aps.driver import Driver, Result
from aps.service.errors import Headers
from aps.service.refusals import LONGEST_RETRY_S
from aps.service.wire import CountedBy, InferAnswer, Seconds, Verdict
from aps.tenants import Tenant


class Answers:
    """Makes them for one driver.

    An id is eight random digits of this process and the scheduler's own number of the request, in hexadecimal: nothing
    is stored for it, and an id of another process is never taken for one of this.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._prefix = secrets.token_hex(4)
        self._seconds: Seconds = "simulated" if driver.backend.simulated else "wall"
        self._time_scale = driver.backend.time_scale

    def id_of(self, handle: int) -> str:
        """What the caller knows the request by."""
        return "%s%x" % (self._prefix, handle)  # noqa: UP031  quicker than an f-string

    def handle_of(self, id: str) -> int:
        """The scheduler's number of the request; 0, which no request has, when that is no id of this process."""
        try:
            handle = int(id[8:], 16)
        except ValueError:
            return 0
        return handle if self.id_of(handle) == id else 0

    def answer(self, result: Result, counted_by: CountedBy) -> InferAnswer:
        """Of a finished request."""
        verdict = result.verdict
        return InferAnswer(  # by place, in the order of its fields: by name it would take five times as long
            self.id_of(result.id),  # type: ignore[arg-type]
            result.tenant,
            result.text,
            result.prompt_tokens,
            result.output_tokens,
            counted_by,
            self._seconds,
            self._time_scale,
            _nanoseconds(result.arrived_at - self._driver.opened_at),
            _nanoseconds(result.queue_wait_s or 0.0),
            _nanoseconds(result.ttft_s or 0.0),
            _nanoseconds(result.e2e_s),
            result.batch_size,
            result.device,
            Verdict("admitted", verdict.reason, verdict.bid, verdict.clamped),
            result.charge,
        )

    def rate_headers(self, settings: Tenant, headers: Headers) -> None:
        """Add `x-ratelimit-*` of a tenant that has a bucket: tokens, and wall seconds until it is full."""
        burst = settings.burst
        if burst == inf:
            return
        try:
            level = self._driver.scheduler.level(settings.name)
        except KeyError:  # the tenant has been removed
            return
        full_in_s = (burst - level) / settings.rate / self._time_scale
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % burst),
            (b"x-ratelimit-remaining-tokens", b"%d" % level if level > 0.0 else b"0"),
            (b"x-ratelimit-reset-tokens", b"%.3f" % (full_in_s if full_in_s < LONGEST_RETRY_S else LONGEST_RETRY_S)),
        )


def _nanoseconds(seconds: float) -> float:
    """Instants are whole nanoseconds; below that there is only rounding."""
    return int(seconds * 1e9 + 0.5) / 1e9 if seconds > 0.0 else 0.0
