"""What a request gets back: ids, answers, and the headers that tell a tenant what is left of its rates."""

import secrets
from math import inf

from aps.driver import Driver, Result
from aps.service.refusals import LONGEST_RETRY_S
from aps.service.wire import CountedBy, InferAnswer, Seconds, Verdict

TOKENS, REQUESTS = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%.3f\r\n" % (3 * (unit,))
    for unit in (b"tokens", b"requests")
)


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
        self._tenants = driver.scheduler.tenants

    def id_of(self, handle: int) -> str:
        """What the caller knows the request by."""
        return self._prefix + hex(handle)[2:]

    def handle_of(self, id: str) -> int:
        """The scheduler's number of the request; 0, which no request has, when that is no id of this process."""
        try:
            handle = int(id[8:], 16)
        except ValueError:
            return 0
        return handle if self.id_of(handle) == id else 0

    def answer(self, result: Result, counted_by: CountedBy) -> InferAnswer:
        """Of a finished request."""
        id, _, _, verdict, tenant, text, prompt, output, _, charge, at, wait, ttft, e2e, device, size, _ = result
        return InferAnswer(  # by place, in the order of its fields: by name it would take five times as long
            self._prefix + hex(id)[2:],  # type: ignore[arg-type]
            tenant,
            text,
            prompt,
            output,
            counted_by,
            self._seconds,
            self._time_scale,
            int((at - self._driver.opened_at) * 1e9 + 0.5) / 1e9,  # whole nanoseconds
            wait or 0.0,
            ttft or 0.0,
            e2e,
            size,
            device,
            Verdict("admitted", verdict.reason, verdict.bid, verdict.clamped),
            charge,
        )

    def rate_lines(self, tenant: str) -> bytes:
        """`x-ratelimit-*` of a tenant with limits, as lines: what its buckets hold, and wall seconds until they are
        full."""
        settings = self._tenants.get(tenant)
        if settings is None:  # it has been removed
            return b""
        lines = b""
        if settings.burst != inf:
            level = self._driver.scheduler.level(tenant)
            lines = self._bucket(TOKENS, settings.rate, settings.burst, level)
        if settings.request_burst != inf:
            level = self._driver.scheduler.request_level(tenant)
            lines += self._bucket(REQUESTS, settings.request_rate, settings.request_burst, level)
        return lines

    def _bucket(self, lines: bytes, rate: float, burst: float, level: float) -> bytes:
        full_in_s = (burst - level) / rate / self._time_scale
        return lines % (
            burst,
            level if level > 0.0 else 0.0,
            full_in_s if full_in_s < LONGEST_RETRY_S else LONGEST_RETRY_S,
        )
