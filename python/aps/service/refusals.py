"""The driver's "no" in words: what was asked, what the limit is, what would do."""

from math import floor, inf

from aps._checks import INT32_MAX
from aps.driver import Driver, Result
from aps.scheduler import Scheduler
from aps.service.errors import Refusal, draining
from aps.tenants import Tenant, queue_tokens

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
    scaled = driver.backend.time_scale != 1.0  # then two kinds of seconds are spoken of
    if result.status == "rejected" and result.verdict.admitted:
        return _no_longer(result, tenant, driver.scheduler)
    if result.status == "rejected":
        return _never(result, max_tokens, by_text, tenant, driver.scheduler)
    if result.status == "throttled" and result.reason != "deadline_expired":
        asked = tenant.default_max_tokens if max_tokens is None else max_tokens
        why = _full(result.reason, result.prompt_tokens + asked, tenant, driver.scheduler, scaled)
        retry_after_s = min(result.verdict.retry_after_s / driver.backend.time_scale, LONGEST_RETRY_S)
        when = f"try again in {_few_digits(retry_after_s)} s" + (" of your clock" if scaled else "")
        return Refusal(result.reason, f"{why}: {when}", retry_after_s=retry_after_s)
    if result.status == "failed":
        return Refusal("backend_failed", f"the backend failed after {result.output_tokens} output tokens")
    if result.reason == "deadline_expired":
        return Refusal(
            "deadline_expired",
            f"it had not started {deadline_s or 0.0:g} {'simulated ' if scaled else ''}s after it arrived",
            field="deadline_s",
        )
    if result.status == "cancelled" and driver.draining:
        return draining()
    return Refusal("cancelled", f"the request was ended: {result.reason}")


def _never(result: Result, asked: int | None, by_text: bool, tenant: Tenant, scheduler: Scheduler) -> Refusal:
    largest = _largest(scheduler, tenant, result)
    max_tokens = tenant.default_max_tokens if asked is None else asked
    return Refusal(
        result.reason,
        f"{result.prompt_tokens} prompt + {max_tokens} max tokens{_dearer(result, scheduler)} exceed "
        f"{_limit(result.reason, tenant, scheduler)}: {_remedy(largest)}",
        field="max_tokens" if largest else ("prompt" if by_text else "prompt_tokens"),
        largest_max_tokens=largest,
        burst=tenant.burst if tenant.burst < inf else None,
    )


def _no_longer(result: Result, tenant: Tenant, scheduler: Scheduler) -> Refusal:
    """Of one that was admitted."""
    largest = _largest(scheduler, tenant, result)
    return Refusal(
        result.reason,
        f"the limits changed while it waited: its prompt + max tokens{_dearer(result, scheduler)} exceed "
        f"{_limit(result.reason, tenant, scheduler)} now: {_remedy(largest)}",
        largest_max_tokens=largest,
        burst=tenant.burst if tenant.burst < inf else None,
    )


def _largest(scheduler: Scheduler, tenant: Tenant, result: Result) -> int:
    """The largest max_tokens that passes every test; the verdict's passes the one that failed."""
    prompt_tokens = result.prompt_tokens
    premium = _premium(result, scheduler)
    largest = result.verdict.largest
    tokens = [
        inf if largest is None else prompt_tokens + largest,
        _cache_tokens(scheduler),
        _share_tokens(tenant, scheduler),
        tenant.burst / premium,
        scheduler.limits.max_context or inf,
        tenant.max_request_tokens or inf,
        queue_tokens(scheduler.limits),
        queue_tokens(tenant),
    ]
    most = int(min(tokens))
    if most * premium > tenant.burst:  # the quotient was rounded up
        most -= 1
    return max(0, most - prompt_tokens)


def _cache_tokens(scheduler: Scheduler) -> int:
    """What one request may have of a device."""
    blocks = max(floor(scheduler.policy.kv_high_watermark * device.kv_blocks) for device in scheduler.devices)
    return blocks * scheduler.block_tokens


def _share_tokens(tenant: Tenant, scheduler: Scheduler) -> int:
    return floor(tenant.kv_share * sum(device.kv_blocks for device in scheduler.devices)) * scheduler.block_tokens


def _premium(result: Result, scheduler: Scheduler) -> float:
    return 1.0 + scheduler.policy.bid_premium * (result.bid - 1)


def _dearer(result: Result, scheduler: Scheduler) -> str:
    """How the bid counts, where it does."""
    premium = _premium(result, scheduler)
    if result.reason != "exceeds_burst" or premium == 1.0:
        return ""
    return f" at bid {result.bid}, which counts them x{premium:.10g},"


def _limit(reason: str, tenant: Tenant, scheduler: Scheduler) -> str:
    """What a request exceeds that can never be admitted."""
    match reason:
        case "exceeds_context" if scheduler.limits.max_context is None:
            return f"the {INT32_MAX} tokens that any request may have"
        case "exceeds_context":
            return f"the longest context of {scheduler.limits.max_context} tokens"
        case "exceeds_kv_cache":
            return f"the KV cache of every device, {_cache_tokens(scheduler)} tokens at most"
        case "exceeds_max_request":
            return f"{tenant.name}'s largest request of {tenant.max_request_tokens} tokens"
        case "exceeds_kv_share":
            return f"{tenant.name}'s share of the KV cache, {_share_tokens(tenant, scheduler)} tokens"
        case "exceeds_burst":
            return f"{tenant.name}'s burst of {tenant.burst:.10g} tokens"
        case "exceeds_tenant_queue":
            return f"{tenant.name}'s queue, which takes {queue_tokens(tenant)} tokens at most"
    return f"the service's queue, which takes {queue_tokens(scheduler.limits)} tokens at most"


def _remedy(largest: int) -> str:
    return f"max_tokens may be at most {largest}" if largest else "no max_tokens would do with this prompt"


def _full(reason: str, tokens: int, tenant: Tenant, scheduler: Scheduler, scaled: bool) -> str:
    """Which bound a request meets that may be admitted later."""
    limits, name, per = scheduler.limits, tenant.name, " a simulated second" if scaled else "/s"
    match reason:
        case "over_request_rate":
            return f"{name} is over its rate of {tenant.request_rate:.10g} requests{per}"
        case "over_rate":
            return f"{name} is over its rate of {tenant.rate:.10g} tokens{per}"
        case "tenant_queue_full":
            return f"{name} has {tenant.max_queued} requests waiting, of {tenant.max_queued} at most"
        case "tenant_queue_tokens_full":
            return f"{name} may have {tenant.max_queued_tokens} tokens waiting, and has no room for {tokens} more"
        case "queue_full":
            return f"the service's queue of {limits.max_queued} requests is full, and keeps no more places for {name}"
        case "queue_tokens_full":
            queue = f"the service's queue of {limits.max_queued_tokens} tokens"
            return f"{queue} has no room for {tokens} more, and keeps none for {name}"
    return "the service is stopping"


def _few_digits(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"
