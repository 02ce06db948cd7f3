"""Who shares the GPUs, by which limits and under which names."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import islice
from math import inf
from operator import attrgetter, ge
from typing import Any, Literal

from aps import _checks as check
from aps.policy import Limits

NAME = 'a str of 1 to 256 printable characters without "/"'
MIN_WEIGHT, MAX_WEIGHT = 1e-9, 1e9  # within these no service, and no sum of it, overflows
MIN_RATE = 1e-6  # tokens/s, requests/s: a request is paid for in a foreseeable time
DEFAULT_BID = 5
DEFAULT_MAX_TOKENS = 256
OPTIONAL = ("max_in_flight", "max_queued", "max_queued_tokens", "max_request_tokens")  # may be None


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer, team or application, with its share and its limits. Immutable and checked when made.

    name: what it is called everywhere; 1 to 256 printable characters, no "/" (it stands in
        paths of URLs and in labels of metrics).
    weight: its share of the service against the other tenants' weights, 1e-9..1e9.
    rate, burst: its token bucket, tokens a second (at least 1e-6) and tokens (> 0); or both infinite (unlimited).
        A request takes `prompt_tokens + max_tokens` from it (times the bid premium) and gets back what it did not use.
    over_rate: "refuse" throttles a request that the bucket cannot pay now; "queue" lets it wait for the bucket.
    default_bid: the bid (1..10) of a request that names none.
    max_bid: the highest bid (1..10) it may make; a higher one is clamped.
    default_max_tokens: the most output tokens of a request that does not say.
    max_in_flight: requests started and not yet ended, at most; None: no bound.
    max_queued, max_queued_tokens: waiting requests, and their prompt + max tokens, at most; None: no bound. Whatever
        could never wait is rejected: with 0 everything.
    kv_share: the part (0, 1] of all devices' KV blocks that its running requests may hold.
    request_rate, request_burst: its request bucket, requests a second (at least 1e-6) and requests (at least 1); or
        both infinite (unlimited). An admitted request takes 1 from it and never gives it back. Over it a request is
        throttled, whatever `over_rate` says.
    max_request_tokens: the largest `prompt_tokens + max_tokens` of one request, at least 2; None: no bound.

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed. That is so too for
    limits that contradict each other: a max_request_tokens above the burst could never bind; with a default_max_tokens
    that leaves no room for a prompt in burst, max_request_tokens or max_queued_tokens every request that does not say
    would be refused (256, which is there unless it is set, is let pass: such a tenant's requests have to say); a
    default_bid above max_bid would never be made (5, which is there unless it is set, is let pass, and lowered).
    """

    name: str
    weight: float = 1.0
    rate: float = inf
    burst: float = inf
    over_rate: Literal["refuse", "queue"] = "refuse"
    default_bid: int = DEFAULT_BID
    max_bid: int = 10
    default_max_tokens: int = DEFAULT_MAX_TOKENS
    max_in_flight: int | None = None
    max_queued: int | None = None
    max_queued_tokens: int | None = None
    kv_share: float = 1.0
    request_rate: float = inf
    request_burst: float = inf
    max_request_tokens: int | None = None

    def __post_init__(self) -> None:
        check.text("Tenant.name", self.name, NAME, lambda x: len(x) <= 256 and x.isprintable() and "/" not in x)
        limits = _limits(self)
        try:
            _seen(*limits)
        except TypeError:  # also of a value that has no hash: which it is says the check itself
            pass
        else:
            return
        _check(*limits)


def _check(
    weight: float,
    rate: float,
    burst: float,
    over_rate: str,
    default_bid: int,
    max_bid: int,
    default_max_tokens: int,
    max_in_flight: int | None,
    max_queued: int | None,
    max_queued_tokens: int | None,
    kv_share: float,
    request_rate: float,
    request_burst: float,
    max_request_tokens: int | None,
) -> None:
    """All but the name."""
    check.number("Tenant.weight", weight, "a number in 1e-9..1e9", lambda x: MIN_WEIGHT <= x <= MAX_WEIGHT)
    check.number("Tenant.rate", rate, "tokens/s, at least 1e-6 (inf: unlimited)", lambda x: x >= MIN_RATE)
    allowed = "a number of tokens > 0, finite exactly when Tenant.rate is"
    check.number("Tenant.burst", burst, allowed, lambda x: x > 0 and (x == inf) == (rate == inf))
    check.choice("Tenant.over_rate", over_rate, ("refuse", "queue"))
    check.integer("Tenant.default_bid", default_bid, 1, 10)
    check.integer("Tenant.max_bid", max_bid, 1, 10)
    check.integer("Tenant.default_max_tokens", default_max_tokens, 1, check.INT32_MAX)
    check.integer("Tenant.max_in_flight", max_in_flight, 1, check.INT32_MAX, optional=True)
    check.integer("Tenant.max_queued", max_queued, 0, check.INT32_MAX, optional=True)
    check.integer("Tenant.max_queued_tokens", max_queued_tokens, 0, check.TOKENS_MAX, optional=True)
    check.number("Tenant.kv_share", kv_share, "a number in (0, 1]", lambda x: 0 < x <= 1)
    allowed = "requests/s, at least 1e-6 (inf: unlimited)"
    check.number("Tenant.request_rate", request_rate, allowed, lambda x: x >= MIN_RATE)
    allowed = "a number of requests >= 1, finite exactly when Tenant.request_rate is"
    unlimited = request_rate == inf
    check.number("Tenant.request_burst", request_burst, allowed, lambda x: x >= 1 and (x == inf) == unlimited)
    check.integer("Tenant.max_request_tokens", max_request_tokens, 2, check.TOKENS_MAX, optional=True)
    # Limits that are certainly a mistake together.
    if default_bid != DEFAULT_BID:
        allowed = f"at most Tenant.max_bid, {max_bid}"
        check.number("Tenant.default_bid", default_bid, allowed, lambda x: x <= max_bid)
    if max_request_tokens is not None:
        allowed = f"at most Tenant.burst, {burst:.10g} tokens (no larger request is ever admitted)"
        check.number("Tenant.max_request_tokens", max_request_tokens, allowed, lambda x: x <= burst)
    if default_max_tokens == DEFAULT_MAX_TOKENS:
        return
    bounds = {"burst": burst, "max_request_tokens": max_request_tokens, "max_queued_tokens": max_queued_tokens}
    for name, at_most in bounds.items():
        bound = at_most or inf  # 0 queued tokens: none at all, whatever they ask for
        allowed = f"less than Tenant.{name}, {bound:.10g} tokens, by a prompt of 1 or more"
        check.number("Tenant.default_max_tokens", default_max_tokens, allowed, partial(ge, bound - 1))


_limits = attrgetter(*[field.name for field in fields(Tenant) if field.name != "name"])  # in the order of `_check`
_seen = lru_cache(maxsize=1024, typed=True)(_check)  # many tenants have the limits of a few plans


def as_kept(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a tenant that an earlier APS has written down, as they are to be now.

    A default_bid above max_bid was let pass then, and counted as max_bid.
    """
    bid, most = fields.get("default_bid"), fields.get("max_bid")
    if isinstance(bid, int) and isinstance(most, int) and bid > most and bid != DEFAULT_BID:
        return {**fields, "default_bid": most}
    return fields


def queue_tokens(limits: Tenant | Limits) -> float:
    """The largest `prompt_tokens + max_tokens` that an empty queue takes; inf: no bound."""
    if limits.max_queued == 0:
        return 0
    return inf if limits.max_queued_tokens is None else limits.max_queued_tokens


class Roster:
    """Names and the core's slots. A removed tenant keeps its slot until its requests have drained.

    The core reuses slots without a word: a draining name is dropped when its slot is given to another.
    """

    __slots__ = ("accounts", "active", "draining", "names")

    def __init__(self) -> None:
        self.active: dict[str, Tenant] = {}
        self.accounts: dict[str, tuple[int, int, int, int]] = {}  # slot, default bid, default max_tokens, max_bid
        self.draining: dict[str, int] = {}  # slots
        self.names: dict[int, str] = {}  # by slot, draining ones too

    def enter(self, slot: int, tenant: Tenant) -> None:
        """A tenant is new, back or changed."""
        self.draining.pop(self.names.get(slot, ""), None)  # who had the slot has drained
        self.names.pop(self.draining.pop(tenant.name, slot), None)
        self.names[slot] = tenant.name
        self.active[tenant.name] = tenant
        bid = min(tenant.default_bid, tenant.max_bid)
        self.accounts[tenant.name] = (slot, bid, tenant.default_max_tokens, tenant.max_bid)

    def leave(self, name: str, *, drained: bool) -> None:
        """A tenant is removed."""
        slot = self.accounts.pop(name)[0]
        del self.active[name]
        if drained:
            del self.names[slot]
        else:
            self.draining[name] = slot

    def slot(self, name: str) -> int:
        """Of an active tenant, else KeyError."""
        account = self.accounts.get(name)
        if account is None:
            raise self.unknown(name)
        return account[0]

    def unknown(self, name: str) -> KeyError:
        """The error for a name that is not active."""
        if name in self.draining:
            return KeyError(f"tenant {name!r} was removed; add_tenant brings it back")
        known = [repr(other) for other in islice(self.active, 5)]
        more = f", ... ({len(self.active)} in all)" if len(self.active) > len(known) else ""
        return KeyError(f"unknown tenant {name!r}; known: {', '.join(known) or 'none'}{more}")


def core_options(tenant: Tenant) -> dict[str, Any]:
    """A tenant as the keywords of the core. What is None there is left out: the core's own bound is the largest."""
    options: dict[str, Any] = {
        "weight": tenant.weight,
        "rate": tenant.rate,
        "burst": tenant.burst,
        "queue_over_rate": tenant.over_rate == "queue",
        "max_bid": tenant.max_bid,
        "kv_share": tenant.kv_share,
        "request_rate": tenant.request_rate,
        "request_burst": tenant.request_burst,
    }
    for name in OPTIONAL:
        value = getattr(tenant, name)
        if value is not None:
            options[name] = value
    return options
