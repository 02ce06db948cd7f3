"""Workloads by name: what each is for, its parameters, and how it is built from a seed."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from aps.lab import arrivals, lengths, mixture, vtc_scenarios
from aps.lab.parameters import Parameter, Scenario, count, number, tokens, yes_or_no
from aps.lab.streams import Asker, bounded
from aps.lab.workload import Workload, merge
from aps.service.tenants import STRESS_TENANTS
from aps.stress import workloads as stress
from aps.tenants import Tenant


def _burst(seed: int, given: Mapping[str, Any]) -> Workload:
    calls = stress.burst(given["per_tenant"], seed)
    tenants = tuple(
        tenant if given["buckets"] else Tenant(tenant.name, weight=tenant.weight) for tenant in STRESS_TENANTS
    )
    slots = {tenant.name: slot for slot, tenant in enumerate(tenants)}
    bids = {"stress_vip": given["vip_bid"], "stress_free": given["free_bid"]}
    output = np.array([call.max_tokens for call in calls], dtype=np.int32)
    workload = Workload(
        name="burst",
        tenants=tenants,
        tenant=np.array([slots[call.tenant] for call in calls], dtype=np.int32),
        at_s=np.array([call.at_s for call in calls]),
        prompt_tokens=np.array([call.prompt_tokens for call in calls], dtype=np.int32),
        output_tokens=output,
        max_tokens=output,
        bid=np.array([bids[call.tenant] for call in calls], dtype=np.int32),
        description=f"{given['per_tenant']} + {given['per_tenant']} requests of a VIP and a free tenant, all at 0 s: "
        f"prompts {stress.PROMPT_TOKENS} and outputs {stress.OUTPUT_TOKENS} tokens, each +-25 %; weights 85:15, "
        f"bids {given['vip_bid']} and {given['free_bid']}.",
    )
    return replace(workload, notes=tuple(_bucket_notes(workload)))


def _bucket_notes(workload: Workload) -> list[str]:
    asked = [
        int((workload.prompt_tokens + workload.max_tokens)[workload.tenant == slot].sum())
        for slot in range(len(workload.tenants))
    ]
    return [
        f"{tenant.name} asks for {tokens:,} tokens at once and its bucket holds {tenant.burst:,.0f}: "
        "what is beyond is refused, and nobody asks again"
        for tenant, tokens in zip(workload.tenants, asked, strict=True)
        if tokens > tenant.burst
    ]


BURST = Scenario(
    "burst",
    "W1, the promised test: two tenants' requests all at once, the same requests as `aps stress` sends over HTTP.",
    (
        Parameter("per_tenant", 50, "requests of each tenant", count(1, 1_000_000)),
        Parameter("vip_bid", 10, "bid of stress_vip", count(1, 10)),
        Parameter("free_bid", 1, "bid of stress_free", count(1, 10)),
        Parameter("buckets", True, "token buckets as `aps serve` gives the two tenants (100,000 tokens)", yes_or_no()),
    ),
    _burst,
)


def _vip(seed: int, given: Mapping[str, Any]) -> Workload:
    duration_s = given["duration_s"]
    vip = Asker(Tenant("vip"), 0, 10, lengths.parse(given["vip_prompt"]), lengths.parse(given["vip_output"]))
    free = Asker(Tenant("free"), 1, 1, lengths.parse(given["free_prompt"]), lengths.parse(given["free_output"]))
    return merge(
        [
            vip.open(seed, lambda rng: arrivals.poisson(given["vip_per_s"], duration_s, rng), duration_s),
            free.closed(seed, given["free_clients"], duration_s, think_s=given["think_s"]),
        ],
        "vip",
        f"VIP requests by a Poisson process ({given['vip_per_s']:g}/s, prompts {given['vip_prompt']}, outputs "
        f"{given['vip_output']} tokens, bid 10) onto a closed loop of {given['free_clients']} free clients (prompts "
        f"{given['free_prompt']}, outputs {given['free_output']}, bid 1), equal weights, for {duration_s:g} s.",
    )


VIP = Scenario(
    "vip",
    "W2: a VIP's open loop over a free tier that keeps the device full.",
    (
        Parameter("vip_per_s", 0.5, "VIP requests/s (Poisson)", number(0, 1e4, above=True)),
        Parameter("vip_prompt", "512", "prompt tokens of a VIP request", tokens()),
        Parameter("vip_output", "64-192", "output tokens of a VIP request", tokens()),
        Parameter("free_clients", 32, "free clients, each with one request at a time", count(1, 10_000)),
        Parameter("free_prompt", "256-768", "prompt tokens of a free request", tokens()),
        Parameter("free_output", "64-192", "output tokens of a free request", tokens()),
        Parameter("think_s", 0.0, "mean pause of a free client, seconds (exponential)", number(0, 1e6)),
        Parameter(
            "duration_s", 600.0, "horizon, seconds: 4 seeds give over 1,000 VIP requests", number(0, 1e7, above=True)
        ),
    ),
    _vip,
)


def _noisy(seed: int, given: Mapping[str, Any]) -> Workload:
    duration_s, capacity = given["duration_s"], given["capacity_per_s"]
    prompt, output = lengths.parse(given["prompt"]), lengths.parse(given["output"])
    rates = {"noisy": given["noisy_share"] * given["noisy_factor"] * capacity}
    rates |= {f"quiet_{k}": given["quiet_load"] * capacity for k in range(1, given["quiet_tenants"] + 1)}
    bounded(sum(rates.values()), duration_s)

    def one(place: int, name: str, rate: float) -> Workload:
        asker = Asker(Tenant(name), place, 5, prompt, output)
        until_s = inf if given["drain"] else duration_s
        return asker.open(seed, lambda rng: arrivals.poisson(rate, duration_s, rng), until_s)

    return merge(
        [one(place, name, rate) for place, (name, rate) in enumerate(rates.items())],
        "noisy",
        f"{given['quiet_tenants']} quiet tenants each offer {given['quiet_load']:.0%} of a capacity of {capacity:g} "
        f"requests/s; a noisy one, whose share is {given['noisy_share']:.0%}, offers {given['noisy_factor']:g} times "
        f"that. Poisson, equal bids and weights, prompts {given['prompt']}, outputs {given['output']}, for "
        f"{duration_s:g} s.",
    )


NOISY = Scenario(
    "noisy",
    "Noisy neighbour: one tenant sends many times its share; the others must not feel it.",
    (
        Parameter(
            "capacity_per_s",
            mixture.CAPACITY_512_128,
            "requests/s of these lengths that the device completes when saturated",
            number(0, 1e6, above=True),
        ),
        Parameter("quiet_tenants", 4, "quiet tenants", count(1, 10_000)),
        Parameter("quiet_load", 0.15, "load of each quiet tenant, part of the capacity", number(0, 100, above=True)),
        Parameter("noisy_share", 0.20, "the noisy tenant's share, part of the capacity", number(0, 100, above=True)),
        Parameter(
            "noisy_factor", 10.0, "what the noisy tenant sends over its share; 1: calm", number(0, 1e4, above=True)
        ),
        Parameter("prompt", "256-768", "prompt tokens", tokens()),
        Parameter("output", "64-192", "output tokens", tokens()),
        Parameter("duration_s", 600.0, "seconds in which requests arrive", number(0, 1e7, above=True)),
        Parameter("drain", True, "run until all have ended; no: stop at duration_s", yes_or_no()),
    ),
    _noisy,
)

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario for scenario in (BURST, VIP, NOISY, *mixture.SCENARIOS, *vtc_scenarios.SCENARIOS)
}
