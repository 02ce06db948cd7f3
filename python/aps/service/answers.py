"""What a request gets back: ids, answers, and the headers that tell a tenant what is left of its rates."""

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
        """Add `x-ratelimit-*` of a tenant with limits: what its buckets hold, and wall seconds until they are full."""
        scheduler = self._driver.scheduler
        try:
            if settings.burst != inf:
                self._put(headers, b"tokens", settings.rate, settings.burst, scheduler.level(settings.name))
            if settings.request_burst != inf:
                level = scheduler.request_level(settings.name)
                self._put(headers, b"requests", settings.request_rate, settings.request_burst, level)
        except KeyError:  # the tenant has been removed
            return

    def _put(self, headers: Headers, unit: bytes, rate: float, burst: float, level: float) -> None:
        full_in_s = (burst - level) / rate / self._time_scale
        headers += (
            (b"x-ratelimit-limit-" + unit, b"%d" % burst),
            (b"x-ratelimit-remaining-" + unit, b"%d" % level if level > 0.0 else b"0"),
            (b"x-ratelimit-reset-" + unit, b"%.3f" % (full_in_s if full_in_s < LONGEST_RETRY_S else LONGEST_RETRY_S)),
        )


def _nanoseconds(seconds: float) -> float:
    """Instants are whole nanoseconds; below that there is only rounding."""
    return int(seconds * 1e9 + 0.5) / 1e9 if seconds > 0.0 else 0.0
