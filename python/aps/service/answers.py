"""What a request gets back: ids, answers, and the headers that tell a tenant what is left of its rate."""

import secrets
from math import inf

from aps.driver import Driver, Result
from aps.service.errors import Headers
from aps.service.refusals import LONGEST_RETRY_S
from aps.service.wire import CountedBy, InferAnswer, Verdict


class Answers:
    """Makes them for one driver.

    An id is eight random digits of this process and the scheduler's own number of the request, in hexadecimal: nothing
    is stored for it, and an id of another process is never taken for one of this.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._prefix = secrets.token_hex(4)
        self._seconds = "simulated" if driver.backend.simulated else "wall"
        self._limits: dict[str, tuple[float, float, bytes]] = {}

    def id_of(self, handle: int) -> str:
        """What the caller knows the request by."""
        return f"{self._prefix}{handle:x}"

    def handle_of(self, id: str) -> int:
        """The scheduler's number of the request; 0, which no request has, when that is no id of this process."""
        try:
            handle = int(id[8:], 16)
        except ValueError:
            return 0
        return handle if self.id_of(handle) == id else 0

    def answer(self, handle: int, result: Result, counted_by: CountedBy) -> InferAnswer:
        """Of a finished request."""
        driver, verdict = self._driver, result.verdict
        return InferAnswer(
            id=self.id_of(handle),
            tenant_id=result.tenant,
            text=result.text,
            prompt_tokens=result.prompt_tokens,
            output_tokens=result.output_tokens,
            counted_by=counted_by,
            seconds=self._seconds,  # type: ignore[arg-type]
            time_scale=driver.backend.time_scale,
            arrived_at=_nanoseconds(result.arrived_at - driver.opened_at),
            queue_wait_s=_nanoseconds(result.queue_wait_s or 0.0),
            ttft_s=_nanoseconds(result.ttft_s or 0.0),
            e2e_s=_nanoseconds(result.e2e_s),
            batch_size=result.batch_size,
            device=result.device,
            verdict=Verdict("admitted", verdict.reason, verdict.bid, verdict.clamped),
            charge=result.charge,
        )

    def rate_headers(self, tenant: str, headers: Headers) -> None:
        """Add `x-ratelimit-*` of a tenant that has a bucket: tokens, and wall seconds until it is full."""
        settings = self._driver.scheduler.tenants.get(tenant)
        if settings is None or settings.burst == inf:
            return
        level = self._driver.scheduler.level(tenant)
        missing_s = (settings.burst - level) / settings.rate / self._driver.backend.time_scale
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % settings.burst),
            (b"x-ratelimit-remaining-tokens", b"%d" % (level if level > 0.0 else 0.0)),
            (b"x-ratelimit-reset-tokens", b"%.3f" % (missing_s if missing_s < LONGEST_RETRY_S else LONGEST_RETRY_S)),
        )


def _nanoseconds(seconds: float) -> float:
    """Instants are whole nanoseconds; below that there is only rounding."""
    return int(seconds * 1e9 + 0.5) / 1e9 if seconds > 0.0 else 0.0
