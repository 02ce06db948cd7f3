"""The driver's "no" in words: what was asked, what the limit is, what would do."""

from math import floor, inf

from aps.driver import Driver, Result
from aps.scheduler import Scheduler
from aps.service.errors import DRAINING_RETRY_S, Refusal, draining
from aps.tenants import Tenant

CONTEXT = "the longest context the service takes"
KV_CACHE = "the KV cache of every device"
KV_SHARE = "the tenant's share of the KV cache"

# Seconds of the caller's clock: what a bucket of next to no rate needs is beyond any patience, or infinite.
LONGEST_RETRY_S = 86_400.0


def unknown_tenant(name: str) -> Refusal:
    """404."""
    return Refusal("unknown_tenant", f"there is no tenant {name[:64]!r}", field="tenant_id")


def unknown_request() -> Refusal:
    """404: there never was one, it is forgotten, or it is another tenant's."""
    return Refusal("unknown_request", "there is no such request, or it has been forgotten")


def refusal_of(
    result: Result,
    driver: Driver,
    *,
    deadline_s: float | None = None,
    max_tokens: int | None = None,
    by_text: bool = False,
) -> Refusal:
    """The refusal for a request that did not finish. The rest is what it asked for; by_text: its prompt was text.

    Of one that was admitted only its deadline counts.
    """
    tenant = driver.scheduler.tenants.get(result.tenant) or Tenant(result.tenant)
    if result.status == "rejected" and result.verdict.admitted:
        return Refusal(result.reason, "the limits changed while it waited, and it can no longer be served")
    if result.status == "rejected":
        return _never(result, max_tokens, by_text, tenant, _largest(driver.scheduler, tenant, result))
    if result.status == "throttled" and result.reason != "deadline_expired":
        return _later(result, tenant, _retry_after_s(result, driver))
    if result.status == "failed":
        return Refusal("backend_failed", f"the backend failed after {result.output_tokens} output tokens")
    if result.reason == "deadline_expired":
        return Refusal(
            "deadline_expired", f"it had not started {deadline_s or 0.0:g} s after it arrived", field="deadline_s"
        )
    if result.status == "cancelled" and driver.draining:
        return draining()
    return Refusal("cancelled", f"the request was ended: {result.reason}")


def _retry_after_s(result: Result, driver: Driver) -> float:
    if result.reason == "draining":
        return DRAINING_RETRY_S
    return min(result.verdict.retry_after_s / driver.backend.time_scale, LONGEST_RETRY_S)


def _largest(scheduler: Scheduler, tenant: Tenant, result: Result) -> int:
    """The largest max_tokens that passes every test; the verdict's passes the one that failed."""
    prompt_tokens = result.prompt_tokens
    premium = 1.0 + scheduler.policy.bid_premium * (result.verdict.bid - 1)
    blocks = [floor(scheduler.policy.kv_high_watermark * device.kv_blocks) for device in scheduler.devices]
    share = floor(tenant.kv_share * sum(device.kv_blocks for device in scheduler.devices))
    tokens = [
        prompt_tokens + (result.verdict.largest or 0),
        min(max(blocks), share) * scheduler.block_tokens,
        tenant.burst / premium,
        scheduler.limits.max_context or inf,
        tenant.max_request_tokens or inf,
    ]
    most = int(min(tokens))
    if most * premium > tenant.burst:  # the quotient was rounded up
        most -= 1
    return max(0, most - prompt_tokens)


def _never(result: Result, asked: int | None, by_text: bool, tenant: Tenant, largest: int) -> Refusal:
    over = {
        "exceeds_context": CONTEXT,
        "exceeds_kv_cache": KV_CACHE,
        "exceeds_max_request": f"{tenant.name}'s largest request of {tenant.max_request_tokens} tokens",
        "exceeds_kv_share": KV_SHARE,
        "exceeds_burst": f"{tenant.name}'s burst of {tenant.burst:g} tokens",
    }[result.reason]
    max_tokens = tenant.default_max_tokens if asked is None else asked
    remedy = f"max_tokens may be at most {largest}" if largest else "no max_tokens would do with this prompt"
    return Refusal(
        result.reason,
        f"{result.prompt_tokens} prompt + {max_tokens} max tokens at bid {result.verdict.bid} exceed {over}: {remedy}",
        field="max_tokens" if largest else ("prompt" if by_text else "prompt_tokens"),
        largest_max_tokens=largest,
        burst=tenant.burst if tenant.burst < float("inf") else None,
    )


def _later(result: Result, tenant: Tenant, retry_after_s: float) -> Refusal:
    why = {
        "over_request_rate": f"{tenant.name} is over its rate of {tenant.request_rate:g} requests/s",
        "over_rate": f"{tenant.name} is over its rate of {tenant.rate:g} tokens/s",
        "tenant_queue_full": f"{tenant.name} has {tenant.max_queued} requests waiting, its most",
        "tenant_queue_tokens_full": f"{tenant.name} has no room for so many tokens in its queue",
        "queue_full": "the service's queue is full",
        "queue_tokens_full": "the service's queue has no room for so many tokens",
        "draining": "the service is stopping",
    }[result.reason]
    return Refusal(result.reason, f"{why}: try again in {_few_digits(retry_after_s)} s", retry_after_s=retry_after_s)


def _few_digits(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"
