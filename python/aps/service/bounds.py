"""The bound on the service gap that the configured limits give: D + c_max of docs/promises.md, section 1."""

from math import floor, inf

from aps.policy import Policy
from aps.scheduler import Scheduler


def service_gap_bound(scheduler: Scheduler) -> float:
    """In cost units; infinite with an infinite fairness window. The largest over all tenants."""
    policy = scheduler.policy
    if policy.fairness_window == inf:
        return inf
    largest: dict[tuple[int, float, int | None], float] = {}  # bursts: what a tenant of a larger one may is more
    for tenant in scheduler.tenants.values():
        of = (tenant.max_bid, tenant.kv_share, tenant.max_in_flight)
        if tenant.burst > largest.get(of, 0.0):
            largest[of] = tenant.burst
    charges = (_largest_charge(scheduler, burst, *of) for of, burst in largest.items())
    return policy.fairness_window + max(charges, default=0.0)


def _largest_charge(
    scheduler: Scheduler, burst: float, max_bid: int, kv_share: float, max_in_flight: int | None
) -> float:
    policy, devices = scheduler.policy, scheduler.devices
    promised = [floor(policy.kv_high_watermark * device.kv_blocks) for device in devices]
    blocks = min(max(promised), floor(kv_share * sum(device.kv_blocks for device in devices)))
    fits = min(blocks * scheduler.block_tokens, scheduler.limits.max_context or inf)
    at_once = sum(device.slots for device in devices) if policy.preemption == "off" else inf
    if max_in_flight is not None:
        at_once = min(at_once, max_in_flight)
    victims = 0.0
    if policy.preemption != "off":
        most = zip(devices, promised, strict=True)
        victims = policy.input_weight * max(
            min(device.slots * fits, limit * scheduler.block_tokens) for device, limit in most
        )
    charges = (
        _of_bid(policy, int(min(fits, burst / premium)), premium, at_once)
        for premium in (
            1.0 + policy.bid_premium * (bid - 1) for bid in range(1, max_bid + 1 if policy.bid_premium else 2)
        )
    )
    return victims + max(charges)


def _of_bid(policy: Policy, tokens: int, premium: float, at_once: float) -> float:
    """The largest dispatch of up to so many prompt and max tokens, and the surplus that goes with it."""
    if tokens < 2:
        return 0.0
    forecast = tokens - 1 if policy.expected_output is None else min(policy.expected_output, tokens - 1)
    dispatch = max(
        policy.input_weight * (tokens - output) + policy.output_weight * min(output, forecast)
        for output in {1, max(1, forecast), tokens - 1}
    )
    surplus = policy.output_weight * (tokens - 1 - forecast)
    return premium * (dispatch + (at_once * surplus if surplus else 0.0))
