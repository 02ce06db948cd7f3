"""The stress test: the burst, the limits, then the trace, against a running service."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aps.stress import limits as limit_phase
from aps.stress.client import Client, Outcome, ServiceError
from aps.stress.counters import Counters
from aps.stress.report import DEFINITIONS, phase
from aps.stress.tenants import Tenants
from aps.stress.workloads import BURST_BIDS, TRACE_TENANTS, Call, burst, trace_slice


@dataclass(frozen=True)
class Plan:
    """What to run: the burst's size and seed, the limits, the part of the trace, how long its clients keep retrying."""

    per_tenant: int = 50
    seed: int = 0
    limits: bool = True
    trace_start_s: float = 0.0
    trace_s: float = 60.0
    patience_s: float = 60.0


class Progress(Protocol):
    """Told when a phase begins (its name, how many calls) and at each call that ends."""

    def begin(self, name: str, calls: int) -> None: ...

    def advance(self) -> None: ...


async def stress(url: str, plan: Plan, progress: Progress, *, admin_key: str | None = None) -> dict[str, Any]:
    """Run `plan` against the service at `url`; the report as plain data.

    With an admin key the tenants that the service lacks are brought, and removed at the end. `passed` is True when
    every request of the burst completed and the limits answered as they should. `skipped`: parts whose tenants are
    not there. ServiceError when there is no service, it does not let us in, or it lacks the tenants of the burst.
    """
    async with Client(url, admin_key=admin_key) as client, Tenants(client) as tenants:
        if lacking := tenants.lacks([*BURST_BIDS]):
            raise ServiceError(
                f"{url} has no {' and no '.join(lacking)}: `aps serve` has them by default; to a service with tenants "
                "of its own they are brought with its admin key, APS_ADMIN_KEY"
            )
        calls = burst(plan.per_tenant, plan.seed)
        phases = [
            await _phase(
                client, "burst", _burst_title(plan), calls, lambda: client.burst(calls, progress.advance), progress
            )
        ]
        skipped: dict[str, str] = {}
        limits = None
        full = Counters(await client.metrics())
        if plan.limits and not _skip("limits", tenants.lacks(limit_phase.TENANTS), skipped):
            progress.begin("limits", len(limit_phase.small()) + len(limit_phase.large()))
            limits = await limit_phase.meet_limits(client, progress.advance)
        if plan.trace_s > 0 and not _skip("trace", tenants.lacks(TRACE_TENANTS), skipped):
            if limits is not None:
                await limit_phase.refilled(client, full)
            phases.append(await _trace(client, plan, progress))
        health, brought = client.health, tenants.brought
    completed, sent = phases[0]["completed"], phases[0]["sent"]
    verdict = f"{completed} of {sent} requests of the burst completed"
    if limits is not None and not limits["as_told"]:
        verdict += "; the limits did not answer as they should"
    return {
        "url": url,
        "service": health,
        "seed": plan.seed,
        "brought": brought,
        "phases": phases,
        "limits": limits,
        "skipped": skipped,
        "passed": completed == sent and (limits is None or limits["as_told"]),
        "verdict": verdict,
        "definitions": DEFINITIONS,
    }


def _skip(part: str, lacking: Sequence[str], skipped: dict[str, str]) -> bool:
    if lacking:
        skipped[part] = f"the service has no {', '.join(lacking)}; with APS_ADMIN_KEY they are brought"
    return bool(lacking)


async def _trace(client: Client, plan: Plan, progress: Progress) -> dict[str, Any]:
    arrivals = trace_slice(plan.trace_start_s, plan.trace_s)
    return await _phase(
        client,
        "trace",
        _trace_title(plan),
        arrivals,
        lambda: client.play(arrivals, progress.advance, patience_s=plan.patience_s),
        progress,
    )


async def _phase(
    client: Client,
    name: str,
    title: str,
    calls: Sequence[Call],
    send: Callable[[], Awaitable[list[Outcome]]],
    progress: Progress,
) -> dict[str, Any]:
    progress.begin(name, len(calls))
    before = Counters(await client.metrics())
    outcomes = await send()
    after = Counters(await client.metrics())
    return {"name": name, "title": title, **phase(outcomes, before, after)}


def _burst_title(plan: Plan) -> str:
    return f"Burst: {plan.per_tenant} VIP (bid 10) and {plan.per_tenant} free (bid 1) requests at once, weights 85:15"


def _trace_title(plan: Plan) -> str:
    begin, end = plan.trace_start_s, plan.trace_start_s + plan.trace_s
    return f"Trace: Azure code 2023, {begin:g} to {end:g} s, synthetic tenants that obey Retry-After"
