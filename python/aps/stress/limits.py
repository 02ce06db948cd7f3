"""Two tenants meet their limits: small requests that both bursts hold, then large ones; who must wait, how long."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from aps.stress.client import Client, Outcome
from aps.stress.counters import Counters
from aps.stress.workloads import Call

TENANTS = ("tenant_a", "tenant_b")
SMALL = (30, 20)  # prompt and max tokens: 50 of them are 2,500, which bursts of 5,000 and of 3,000 hold
SMALL_EACH = 50
LARGE = (600, 100)
LARGE_ALL = 20
SOON_ENOUGH_S = 15.0  # simulated seconds in which the default buckets are full again

TITLE = (
    f"Limits: {SMALL_EACH} requests of {sum(SMALL)} tokens from each of {' and '.join(TENANTS)} at once, "
    f"then {LARGE_ALL} of {sum(LARGE)}"
)


def small() -> list[Call]:
    """The requests that both bursts hold, the tenants taking turns."""
    return [Call(tenant, *SMALL) for _ in range(SMALL_EACH) for tenant in TENANTS]


def large() -> list[Call]:
    """The requests that they do not."""
    return [Call(TENANTS[turn % len(TENANTS)], *LARGE) for turn in range(LARGE_ALL)]


async def meet_limits(client: Client, done: Callable[[], None]) -> dict[str, Any]:
    """Send both; the report as plain data.

    `as_told` is True when as many small requests were admitted as the buckets held, and whoever was refused was told
    when to come back, in whole seconds rounded up from the exact time.
    """
    before, outcomes = {}, {}
    for size, calls in (("small", small()), ("large", large())):
        before[size] = Counters(await client.metrics())
        outcomes[size] = await client.burst(calls, done)
    tenants: dict[str, Any] = {}
    for name in TENANTS:
        level = _level(before["small"], name)
        tenants[name] = {
            "held": min(SMALL_EACH, int(level // sum(SMALL))) if level < math.inf else SMALL_EACH,
            **{
                size: _size([one for one in sent if one.call.tenant == name], _level(before[size], name))
                for size, sent in outcomes.items()
            },
        }
    return {
        "title": TITLE,
        "tenants": tenants,
        "as_told": all(tenant["small"]["admitted"] >= tenant["held"] for tenant in tenants.values())
        and all(_told(outcome) for sent in outcomes.values() for outcome in sent),
    }


async def refilled(client: Client, levels: Counters) -> None:
    """Wait until the buckets hold what they held at that scrape, or would have had the time to."""
    for _ in range(round(SOON_ENOUGH_S)):
        now = Counters(await client.metrics())
        if all(_level(now, name) >= _level(levels, name) - 1.0 for name in TENANTS):
            return
        await asyncio.sleep(1.0 / client.time_scale)


def _level(counters: Counters, tenant: str) -> float:
    return counters.total("aps_bucket_level_tokens", tenant=tenant)


def _size(sent: Sequence[Outcome], level: float) -> dict[str, Any]:
    """One tenant's requests of one size, and what was in its bucket just before. Seconds of Retry-After are the
    client's."""
    waits = [wait for outcome in sent for wait in outcome.told]
    return {
        "level_before": None if level == math.inf else level,
        "sent": len(sent),
        "admitted": sum(outcome.answer is not None for outcome in sent),
        "throttled": len(waits),
        "failed": sum(outcome.answer is None and not outcome.told for outcome in sent),
        "retry_after_s": [min(wait.exact_s for wait in waits), max(wait.exact_s for wait in waits)] if waits else None,
        "retry_after": [min(wait.header for wait in waits), max(wait.header for wait in waits)] if waits else None,
    }


def _told(outcome: Outcome) -> bool:
    return outcome.answer is not None or any(
        wait.status == 429 and wait.exact_s > 0 and wait.header == max(1, math.ceil(wait.exact_s))
        for wait in outcome.told
    )
