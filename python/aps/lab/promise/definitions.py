"""The five promised figures: what each is, what was promised, and when it is met."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """name carries the unit. workload: "W1" or "W2", on which it is measured. rule: `meets` in words."""

    name: str
    title: str
    promised: float
    workload: str
    definition: str
    rule: str
    meets: Callable[[float], bool]
    form: str  # how a value is printed


FIGURES = (
    Figure(
        "occupancy",
        "GPU utilisation, by slots",
        0.95,
        "W1",
        "slots in use over slots, weighted by time from the first arrival to the last token. The promise said GPU "
        "utilisation: busy (any work at all) is 100 % in any backlog, and MFU is a few per cent",
        "mean at least 0.95",
        lambda measured: measured >= 0.95,
        ".1%",
    ),
    Figure(
        "dollars_per_million_tokens",
        "dollars per million tokens",
        0.53,
        "W1",
        "GPU-hour price times the makespan, over prompt + output tokens in millions",
        "mean, rounded to cents, at most 0.53",
        lambda measured: round(measured, 2) <= 0.53,
        ".3f",
    ),
    Figure(
        "jain",
        "Jain's index, VIP and free",
        0.67,
        "W1",
        "(sum x)^2 / (2 sum x^2), x the prompt + output tokens computed for a tenant while both have a request that "
        "waits; raw: x is not divided by weights. Equal shares give 1, one tenant alone gives 0.5, 85:15 gives 0.671",
        "mean within 0.67 +- 0.02",
        lambda measured: 0.65 <= measured <= 0.69,
        ".3f",
    ),
    Figure(
        "output_tokens_per_s",
        "output tokens/s",
        128.0,
        "W1",
        "output tokens of both tenants over the makespan",
        "mean at least 128",
        lambda measured: measured >= 128.0,
        ".1f",
    ),
    Figure(
        "vip_queue_wait_p99_s",
        "VIP queue wait p99, s",
        0.050,
        "W2",
        "99th percentile over the VIP requests of all seeds: arrival to the beginning of the first step that computes "
        "for the request. One that has not started by the horizon counts with the time until then",
        "below 0.050",
        lambda measured: measured < 0.050,
        ".4f",
    ),
)
