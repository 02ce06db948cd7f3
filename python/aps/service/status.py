"""A tenant now, and lately: `GET /tenants/{id}/status`."""

from math import floor, inf, isinf
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field

from aps.driver import Driver
from aps.metrics import Histogram, Tally
from aps.policy import Limits
from aps.recent import Lately
from aps.service.estimates import Outlook, bucket_s, outlook, queue_s
from aps.service.refusals import unknown_tenant
from aps.tenants import Tenant, queue_tokens
from aps.verdicts import Snapshot, TenantSnapshot


class Percentiles(BaseModel):
    """Of the tenant's requests since the start, in seconds of the service's clock, within 1 %."""

    count: Annotated[int, Field(description="How many requests these are over.")]
    p50: Annotated[float, Field(description="Half of them took at most so long.")]
    p95: Annotated[float, Field(description="19 in 20 did.")]
    p99: Annotated[float, Field(description="99 in 100 did.")]


class Bucket(BaseModel):
    """The tenant's token bucket. `rate`, `burst` and `level` are null where there is no limit."""

    rate: Annotated[float | None, Field(description="Tokens a second of the service's clock.")]
    burst: Annotated[float | None, Field(description="Tokens that it holds at most.")]
    level: Annotated[float | None, Field(description="What it can pay now; negative when in debt.")]
    debt: Annotated[float, Field(description="What it owes: the level below zero.")]
    over_rate: Annotated[
        Literal["refuse", "queue"], Field(description="What becomes of a request that it cannot pay now.")
    ]
    typical_tokens: Annotated[
        float | None,
        Field(
            description="A typical request: prompt and max tokens, the mean of those admitted since the start; before "
            "the first one `default_max_tokens` and a prompt of as many. Null: it takes no requests, and had none."
        ),
    ]
    typical_requests: Annotated[
        int | None,
        Field(
            description="How many typical requests, at its default bid, a full bucket pays at once; null: no limit, "
            "or one alone is more than the bucket holds."
        ),
    ]


class RequestBucket(BaseModel):
    """The tenant's request bucket, in requests: one for each that is admitted. Null: there is none."""

    rate: Annotated[float | None, Field(description="Requests a second of the service's clock.")]
    burst: Annotated[float | None, Field(description="Requests that it holds at most.")]
    level: Annotated[
        float | None, Field(description="How many it may send at once now; a part of one counts for none.")
    ]


class Share(BaseModel):
    """Parts of the service, 0 to 1, beside the weight that they are by."""

    weight: Annotated[float, Field(description="The tenant's, as it is configured.")]
    promised: Annotated[float, Field(description="Its weight over all tenants': its part while all contend.")]
    received: Annotated[
        float | None,
        Field(
            description="In the window, while it and another contended: its part of the tokens that went to those who "
            "did; null: it did not contend."
        ),
    ]
    promised_then: Annotated[
        float | None,
        Field(description="Its part of those tokens by the weights of those who contended then; null as `received`."),
    ]


class Verdicts(BaseModel):
    """What the scheduler said to it, in the window."""

    admitted: Annotated[int, Field(description="Taken.")]
    throttled: Annotated[int, Field(description="Told to come again (429, 503).")]
    rejected: Annotated[int, Field(description="Never admissible (400).")]


class TenantStatus(BaseModel):
    """A tenant now."""

    tenant_id: Annotated[str, Field(description="Whose status it is.")]
    state: Annotated[
        Literal["active", "draining"],
        Field(description="draining: it has been removed, and what was accepted is still served."),
    ]
    bucket: Bucket
    request_bucket: RequestBucket
    waiting: Annotated[int, Field(description="Requests that were admitted and have not started.")]
    waiting_tokens: Annotated[int, Field(description="Prompt and max tokens of what waits.")]
    in_flight: Annotated[int, Field(description="Started and not ended.")]
    contending: Annotated[bool, Field(description="Whether it has a waiting request that may go by its own limits.")]
    in_window: Annotated[bool, Field(description="Whether it contends, and may be served now by its share.")]
    window_s: Annotated[float, Field(description="How long the window of `share` and `recent` is, now.")]
    share: Share
    recent: Verdicts
    requests: Annotated[
        dict[str, int],
        Field(
            description="Counts since it was added: admitted, throttled, rejected; of those admitted started, "
            "finished, cancelled, expired (their deadline passed first), preempted (displaced, each time)."
        ),
    ]
    refused: Annotated[dict[str, int], Field(description="Requests not admitted since the start, by reason.")]
    gpu_s: Annotated[
        float,
        Field(description="GPU time since the start, shared equally by the requests on a device, in its seconds."),
    ]
    queue_wait_s: Annotated[
        Percentiles | None, Field(description="From arrival to the first scheduled step; null: none has started.")
    ]
    ttft_s: Annotated[Percentiles | None, Field(description="From arrival to the first output token; null: none yet.")]
    e2e_s: Annotated[Percentiles | None, Field(description="From arrival to the last output token; null: none yet.")]
    estimated_wait_s: Annotated[
        float | None,
        Field(
            description="What a typical request at its default bid would wait if it came now, in seconds of the "
            "service's clock: the longer of two. Its buckets: until they can pay for what waits unpaid and for this "
            "request. The queue: 0 while slots are free for it and all ahead of it; else the tokens ahead of it, and "
            "what must end before a slot is free, over the tokens/s that the devices compute when busy; ahead is what "
            "the tenant has waiting over its share among those who contend, at most all that waits, as if each used "
            "its max_tokens. Null: not known, or it would be refused for ever."
        ),
    ]


OUTCOMES = ("admitted", "throttled", "rejected", "started", "finished", "cancelled", "expired", "preempted")


def status_of(driver: Driver, name: str) -> TenantStatus:
    """Of an active tenant or one that is draining; Refusal (404) for any other."""
    lately = driver.lately()
    snapshot = driver.snapshot()  # at the same instant or later: whoever is in it is known to the other
    if name not in snapshot.tenants.places:
        raise unknown_tenant(name)
    row = snapshot.tenants[name]
    settings = driver.scheduler.tenants.get(name)
    tally = driver.metrics.tenants.get(name) or Tally(name)
    admitted, throttled, rejected = lately.verdicts(name)
    typical = _typical(driver, settings, tally)
    return TenantStatus(
        tenant_id=name,
        state=row.state,
        bucket=_bucket(row, settings, typical),
        request_bucket=_request_bucket(row, settings),
        waiting=row.waiting,
        waiting_tokens=row.waiting_tokens,
        in_flight=row.in_flight,
        contending=row.contending,
        in_window=row.in_window,
        window_s=lately.seconds,
        share=_share(snapshot, row, lately),
        recent=Verdicts(admitted=admitted, throttled=throttled, rejected=rejected),
        requests={outcome: getattr(row, outcome) for outcome in OUTCOMES},
        refused=dict(tally.refused),
        gpu_s=tally.gpu_s,
        queue_wait_s=_percentiles(tally.queue_wait),
        ttft_s=_percentiles(tally.ttft),
        e2e_s=_percentiles(tally.e2e),
        estimated_wait_s=_estimated_wait_s(outlook(snapshot, lately), row, settings, typical),
    )


class _Typical(NamedTuple):
    """A typical request of a tenant, at its default bid. tokens: prompt and max; None: not known. never: it would be
    more than its limits or those of all ever take."""

    tokens: float | None
    premium: float
    never: bool


def _typical(driver: Driver, settings: Tenant | None, tally: Tally) -> _Typical:
    tokens = tally.asked_tokens / tally.admitted if tally.admitted else None
    if settings is None:
        return _Typical(tokens, 1.0, False)
    if tokens is None:  # an operator asks before the first request, and after each restart
        tokens = 2.0 * settings.default_max_tokens
    premium = 1.0 + driver.scheduler.policy.bid_premium * (min(settings.default_bid, settings.max_bid) - 1)
    return _Typical(tokens, premium, tokens > _most(driver.scheduler.limits, settings, premium))


def _most(limits: Limits, settings: Tenant, premium: float) -> float:
    """Prompt and max tokens of the largest request that may be admitted; KV aside."""
    bounds = (settings.max_request_tokens, limits.max_context)
    queues = (queue_tokens(settings), queue_tokens(limits))
    return min(settings.burst / premium, *(inf if bound is None else bound for bound in bounds), *queues)


def _bucket(row: TenantSnapshot, settings: Tenant | None, typical: _Typical) -> Bucket:
    burst = settings.burst if settings else inf
    at_once = None
    if typical.tokens is not None and burst < inf:
        at_once = floor(burst / (typical.tokens * typical.premium)) or None
    return Bucket(
        rate=_finite(settings.rate if settings else inf),
        burst=_finite(burst),
        level=_finite(row.level),
        debt=max(0.0, -row.level),
        over_rate=settings.over_rate if settings else "refuse",
        typical_tokens=typical.tokens,
        typical_requests=at_once,
    )


def _request_bucket(row: TenantSnapshot, settings: Tenant | None) -> RequestBucket:
    return RequestBucket(
        rate=_finite(settings.request_rate if settings else inf),
        burst=_finite(settings.request_burst if settings else inf),
        level=_finite(row.request_level),
    )


def _share(snapshot: Snapshot, row: TenantSnapshot, lately: Lately) -> Share:
    found = lately.shares.get(row.name)
    return Share(
        weight=row.weight,
        promised=row.weight / float(snapshot.tenants.columns["weight"].sum()),
        received=found.received / found.pool if found else None,
        promised_then=found.promised / found.pool if found else None,
    )


def _estimated_wait_s(look: Outlook, row: TenantSnapshot, settings: Tenant | None, typical: _Typical) -> float | None:
    """See the field."""
    if settings is None or typical.tokens is None or typical.never:
        return None  # it takes no new requests, or none that are like the others
    wait_s = queue_s(look, row, typical.tokens, row.waiting_tokens, waits=False)
    if wait_s is None:
        return None
    if settings.request_rate < inf:
        wait_s = max(wait_s, (1.0 - row.request_level) / settings.request_rate)
    unpaid = row.waiting_tokens if settings.over_rate == "queue" else 0
    return max(wait_s, bucket_s(row, settings, (unpaid + typical.tokens) * typical.premium))


def _percentiles(times: Histogram) -> Percentiles | None:
    p50, p95, p99 = (times.quantile(q) for q in (0.5, 0.95, 0.99))
    if p50 is None or p95 is None or p99 is None:
        return None
    return Percentiles(count=times.count, p50=round(p50, 9), p95=round(p95, 9), p99=round(p99, 9))


def _finite(value: float) -> float | None:
    return None if isinf(value) else value
