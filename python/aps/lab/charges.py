"""c_max of docs/promises.md: the largest charge that given requests and a policy allow."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aps.devices import Device
from aps.lab.workload import Workload
from aps.policy import Policy

BIDS = 10
CHUNK = 1 << 18  # requests at once: there may be many


def largest_charge(
    workload: Workload, policy: Policy, devices: Sequence[Device], block_tokens: int, charged: NDArray[np.bool_]
) -> float:
    """Of any tenant, in cost units: its largest charge at a dispatch, what a preemption adds to it, and the surplus
    that it can have in flight. charged: (n,) which requests count, those that were not refused."""
    dispatch, heaviest = _dispatches(workload, policy, charged, sum(device.slots for device in devices))
    if policy.preemption != "off":
        for bid in range(1, BIDS + 1):
            weaker = heaviest[: max(0, bid - policy.preempt_margin + 1)]
            dispatch[:, bid] += policy.input_weight * _most_held(weaker, policy, devices, block_tokens)
    return max(0.0, float((dispatch.max(axis=1) + _surplus(workload, policy, devices, charged)).max()))


def _dispatches(
    workload: Workload, policy: Policy, charged: NDArray[np.bool_], slots: int
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """(tenants, 11) the largest charge by bid, -inf for none; and the most tokens in a cache of `slots` requests by
    bid, each (slots,) at most."""
    largest = np.full((len(workload.tenants), BIDS + 1), -np.inf)
    heaviest = [np.zeros(0) for _ in range(BIDS + 1)]
    for start in range(0, len(workload), CHUNK):
        part = np.flatnonzero(charged[start : start + CHUNK]) + start
        tenant, most, bid = workload.tenant[part], workload.max_tokens[part], _bids(workload, part)
        forecast = most if policy.expected_output is None else np.minimum(most, policy.expected_output)
        cost = policy.input_weight * workload.prompt_tokens[part] + policy.output_weight * forecast
        np.maximum.at(largest, (tenant, bid), cost * (1.0 + policy.bid_premium * (bid - 1)))
        if policy.preemption != "off":
            tokens = workload.prompt_tokens[part].astype(np.float64) + np.minimum(workload.output_tokens[part], most)
            for value in np.unique(bid):
                found = np.concatenate((heaviest[value], tokens[bid == value]))
                heaviest[value] = np.sort(found)[-slots:]
    return largest, heaviest


def _most_held(
    weaker: Sequence[NDArray[np.float64]], policy: Policy, devices: Sequence[Device], block_tokens: int
) -> float:
    """Tokens computed for as many victims as one preemption can take, at most what a device may hold."""
    tokens = np.sort(np.concatenate((np.zeros(0), *weaker)))
    return max(
        min(float(tokens[-device.slots :].sum()), int(device.kv_blocks * policy.kv_high_watermark) * block_tokens)
        for device in devices
    )


def _surplus(
    workload: Workload, policy: Policy, devices: Sequence[Device], charged: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(tenants,) of those in flight at one time, what their output beyond the forecast costs."""
    tenants = len(workload.tenants)
    if policy.expected_output is None or not charged.any():
        return np.zeros(tenants)
    tenant, most = workload.tenant[charged], workload.max_tokens[charged]
    bid = _bids(workload, np.flatnonzero(charged))
    beyond = np.maximum(np.minimum(workload.output_tokens[charged], most) - policy.expected_output, 0)
    surplus = policy.output_weight * beyond * (1.0 + policy.bid_premium * (bid - 1))
    order = np.lexsort((-surplus, tenant))  # of each tenant, the largest first
    sent = np.bincount(tenant, minlength=tenants)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sent) - sent, sent)
    at_once = [np.inf if limits.max_in_flight is None else limits.max_in_flight for limits in workload.tenants]
    if policy.preemption == "off":  # only what runs is in flight
        at_once = np.minimum(at_once, sum(device.slots for device in devices)).tolist()
    counts = place < np.array(at_once)[tenant[order]]
    return np.bincount(tenant[order][counts], weights=surplus[order][counts], minlength=tenants).astype(np.float64)


def _bids(workload: Workload, part: NDArray[np.intp]) -> NDArray[np.int64]:
    """Of some requests, after clamping."""
    highest = np.array([tenant.max_bid for tenant in workload.tenants])
    clamped: NDArray[np.int64] = np.minimum(workload.bid[part], highest[workload.tenant[part]])
    return clamped
