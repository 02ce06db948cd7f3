"""The stress test: the burst, then the trace, against a running service."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aps.stress.client import Client, Outcome
from aps.stress.counters import Counters
from aps.stress.report import DEFINITIONS, phase
from aps.stress.workloads import Call, burst, trace_slice


@dataclass(frozen=True)
class Plan:
    """What to run: the burst's size and seed, the part of the trace, and how long its clients keep retrying."""

    per_tenant: int = 50
    seed: int = 0
    trace_start_s: float = 0.0
    trace_s: float = 60.0
    patience_s: float = 60.0


class Progress(Protocol):
    """Told when a phase begins (its name, how many calls) and at each call that ends."""

    def begin(self, name: str, calls: int) -> None: ...

    def advance(self) -> None: ...


async def stress(url: str, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run `plan` against the service at `url`; the report as plain data.

    `passed` is True when every request of the burst completed. ServiceError when there is no service.
    """
    async with Client(url) as client:
        calls = burst(plan.per_tenant, plan.seed)
        phases = [
            await _phase(
                client, "burst", _burst_title(plan), calls, lambda: client.burst(calls, progress.advance), progress
            )
        ]
        if plan.trace_s > 0:
            arrivals = trace_slice(plan.trace_start_s, plan.trace_s)
            phases.append(
                await _phase(
                    client,
                    "trace",
                    _trace_title(plan),
                    arrivals,
                    lambda: client.play(arrivals, progress.advance, patience_s=plan.patience_s),
                    progress,
                )
            )
        health = client.health
    completed, sent = phases[0]["completed"], phases[0]["sent"]
    return {
        "url": url,
        "service": health,
        "seed": plan.seed,
        "phases": phases,
        "passed": completed == sent,
        "verdict": f"{completed} of {sent} requests of the burst completed{_hint(phases[0])}",
        "definitions": DEFINITIONS,
    }


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


def _hint(burst: dict[str, Any]) -> str:
    if not any("unknown_tenant" in tenant["refused"] for tenant in burst["tenants"].values()):
        return ""
    return ": the service lacks the tenants that `aps serve` has by default"


def _burst_title(plan: Plan) -> str:
    return f"Burst: {plan.per_tenant} VIP (bid 10) and {plan.per_tenant} free (bid 1) requests at once, weights 85:15"


def _trace_title(plan: Plan) -> str:
    begin, end = plan.trace_start_s, plan.trace_start_s + plan.trace_s
    return f"Trace: Azure code 2023, {begin:g} to {end:g} s, synthetic tenants that obey Retry-After"
