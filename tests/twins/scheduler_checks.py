"""Argument checks of the slow scheduler: an error names the field, the value and what is allowed."""

from __future__ import annotations

import math
import operator
from typing import Any

MAX_TOKENS = 2**31 - 1
MAX_SECONDS = 4e8


def whole(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {number}")
    return number


def real(
    name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False, finite: bool = False
) -> float:
    """A float in [low, high], or in (low, high] with `above`; NaN never, infinity unless `finite`."""
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a double holds, not {value}") from None
    good = (number > low if above else number >= low) and number <= high
    if not good or (finite and math.isinf(number)):
        raise ValueError(
            f"{name} must be {'above' if above else 'at least'} {low}, at most {high}"
            f"{' and finite' if finite else ''}, not {number}"
        )
    return number


def tenant_keywords(
    *,
    weight: Any = 1.0,
    rate: Any = math.inf,
    burst: Any = math.inf,
    queue_over_rate: bool = False,
    max_bid: Any = 10,
    max_in_flight: Any = 2**31 - 1,
    max_queued: Any = 2**31 - 1,
    max_queued_tokens: Any = 2**62,
    kv_share: Any = 1.0,
    request_rate: Any = math.inf,
    request_burst: Any = math.inf,
    max_request_tokens: Any = 2**62,
) -> dict[str, Any]:
    checked: dict[str, Any] = {
        "weight": real("weight", weight, 1e-9, 1e9),
        "rate": real("rate", rate, 1e-6),
        "burst": real("burst", burst, 0.0, above=True),
        "queue_over_rate": bool(queue_over_rate),
        "max_bid": whole("max_bid", max_bid, 1, 10),
        "max_in_flight": whole("max_in_flight", max_in_flight, 1, 2**31 - 1),
        "max_queued": whole("max_queued", max_queued, 0, 2**31 - 1),
        "max_queued_tokens": whole("max_queued_tokens", max_queued_tokens, 0, 2**62),
        "kv_share": real("kv_share", kv_share, 0.0, 1.0, above=True),
        "request_rate": real("request_rate", request_rate, 1e-6),
        "request_burst": real("request_burst", request_burst, 1.0),
        "max_request_tokens": whole("max_request_tokens", max_request_tokens, 2, 2**62),
    }
    if math.isinf(checked["rate"]) != math.isinf(checked["burst"]):
        raise ValueError(f"rate and burst must be both finite or both infinite, not {rate} and {burst}")
    if math.isinf(checked["request_rate"]) != math.isinf(checked["request_burst"]):
        raise ValueError(
            "request_rate and request_burst must be both finite or both infinite, "
            f"not {request_rate} and {request_burst}"
        )
    return checked
