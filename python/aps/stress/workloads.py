"""What the stress test sends: the promised burst, then a slice of a real trace dealt to the default tenants."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aps.data import azure_code_trace

PROMPT_TOKENS = 590  # of the burst, +-25 %
OUTPUT_TOKENS = 128  # of the burst, +-25 %
SPREAD = 0.25
BURST_BIDS = {"stress_vip": 10, "stress_free": 1}
TRACE_TENANTS = ("tenant_a", "tenant_b", "tenant_c")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send. `at_s`: simulated seconds after the phase began; `bid` None: the tenant's default."""

    tenant: str
    prompt_tokens: int
    max_tokens: int
    bid: int | None = None
    at_s: float = 0.0


def burst(per_tenant: int = 50, seed: int = 0) -> list[Call]:
    """The promised test (W1): `per_tenant` requests of each stress tenant, all at 0 s, the tenants taking turns.

    Prompt 590 and output 128 tokens, each +-25 %: uniform between the ends, rounded to the nearest integer;
    `max_tokens` is the output drawn. The same seed gives the same requests.
    """
    draw = random.Random(seed)
    return [
        Call(tenant, _about(PROMPT_TOKENS, draw), _about(OUTPUT_TOKENS, draw), bid)
        for _ in range(per_tenant)
        for tenant, bid in BURST_BIDS.items()
    ]


def trace_slice(start_s: float = 0.0, duration_s: float = 60.0, tenants: Sequence[str] = TRACE_TENANTS) -> list[Call]:
    """Requests of the Azure code trace of 2023 from `start_s` on, dealt to `tenants` in turn.

    Times, prompt and output tokens are the trace's; it names no tenants, so these are synthetic. `max_tokens` is the
    output that the trace recorded. `at_s` counts from `start_s`.
    """
    return [
        Call(tenants[turn % len(tenants)], arrival.prompt_tokens, arrival.output_tokens, at_s=arrival.at_s - start_s)
        for turn, arrival in enumerate(azure_code_trace(start_s, duration_s))
    ]


def _about(mean: int, draw: random.Random) -> int:
    return round(draw.uniform(mean * (1 - SPREAD), mean * (1 + SPREAD)))
