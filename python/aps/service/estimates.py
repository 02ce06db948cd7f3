"""How long a request would wait: what is ahead of it, over the pace that the devices keep while requests wait.

What is ahead counts as if each used its max_tokens. A guess: who comes later with a higher bid, and a tenant's
`max_in_flight` and `kv_share`, are not in it.
"""

from math import inf, sqrt
from typing import NamedTuple

from aps.driver import Driver, Ticket
from aps.recent import Lately, Work
from aps.tenants import Tenant
from aps.verdicts import Explanation, Snapshot, TenantSnapshot

FRESH_S = 0.1  # of the service's clock: how old a look at all may be
TELLS_S = 5.0  # of it: a window tells how quick a device is when it was busy for so long, else all there was


class Outlook(NamedTuple):
    """What all waits depend on, at an instant. free: slots that a request may get now. slots: those, and what runs.

    tokens_per_s: prompt and output tokens of all devices while all those slots are used; None: nothing was computed.
    """

    snapshot: Snapshot
    free: int
    slots: int
    tokens_per_s: float | None


def outlook(snapshot: Snapshot, lately: Lately) -> Outlook:
    """At the instant of the snapshot; lately: of the same."""
    devices = snapshot.devices.values()
    # Where a request waits for KV, slots are no room.
    free = sum(device.slots - device.running for device in devices if device.reserved is None)
    slots = free + sum(device.running for device in devices)
    return Outlook(snapshot, free, slots, _tokens_per_s(lately, slots, len(devices)))


def _tokens_per_s(lately: Lately, slots: int, devices: int) -> float | None:
    """Per busy second, so that idle time does not count. What was computed in fewer slots would be quicker in all of
    them: by their number if decoding costs the same for many, not at all if it is as slow for each. The root of their
    number is off by as much in either case."""
    work = lately.work if lately.work.busy_s >= TELLS_S * devices else lately.so_far
    if _computed(work) <= 0 or work.busy_s <= 0:
        return None
    used = max(1.0, work.slot_s / work.busy_s)
    return _computed(work) / work.busy_s * devices * sqrt(max(1.0, slots / devices) / used)


def _computed(work: Work) -> float:
    return work.prefill_tokens + work.output_tokens - work.recomputed_tokens


def queue_s(look: Outlook, row: TenantSnapshot, tokens: float | None, ahead: float, *, waits: bool) -> float | None:
    """Until a request of so many tokens starts, with so many of its tenant's `ahead`; None: not known.

    Of the others' tokens as many go first as their weights say, at most all. waits: whether it is in the queue already.
    """
    snapshot = look.snapshot
    if look.free and not snapshot.waiting:
        return 0.0
    if tokens is None or look.tokens_per_s is None:
        return None
    columns = snapshot.tenants.columns
    weights = float(columns["weight"][columns["contending"]].sum()) + (0.0 if row.contending else row.weight)
    first = min(ahead * weights / row.weight, snapshot.waiting_tokens - (tokens if waits else 0.0))
    if look.free:
        first -= look.free * snapshot.waiting_tokens / snapshot.waiting  # they start now
        return 0.0 if first < 0 else (first + tokens) / look.tokens_per_s
    # A slot must get free. When is between a part of a request's time, as small as there are slots, and all of it.
    return (first + tokens * sqrt(look.slots)) / look.tokens_per_s


def bucket_s(row: TenantSnapshot, settings: Tenant, cost: float) -> float:
    """Until the tenant's bucket can pay so many tokens."""
    return 0.0 if row.level >= cost else (cost - row.level) / settings.rate


class Starts:
    """When waiting requests of a driver start. Who asks for one after the other is answered from one look at all."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._look: Outlook | None = None
        self._looked_at = -inf

    def start_in_s(self, ticket: Ticket, where: Explanation) -> float | None:
        """Seconds of the service's clock; None: not known, or it does not wait. where: what `Driver.explain` says."""
        settings = self._driver.scheduler.tenants.get(ticket.tenant)
        look = self._outlook()
        if where.state != "waiting" or settings is None or ticket.tenant not in look.snapshot.tenants.places:
            return where.start_in_s
        row = look.snapshot.tenants[ticket.tenant]
        tokens = ticket.prompt_tokens + ticket.max_tokens
        # Those ahead are as large as the others of its tenant are in the mean: exact for the last one.
        ahead = (row.waiting_tokens - tokens) * where.position / max(1, row.waiting - 1)
        wait_s = queue_s(look, row, tokens, ahead, waits=True)
        if wait_s is not None and where.waits_for == "rate":
            premium = 1.0 + self._driver.scheduler.policy.bid_premium * (where.bid - 1)
            wait_s = max(wait_s, bucket_s(row, settings, (ahead + tokens) * premium))
        return wait_s

    def _outlook(self) -> Outlook:
        now = self._driver.now
        if self._look is None or not 0 <= now - self._looked_at < FRESH_S:
            lately = self._driver.lately()
            self._look, self._looked_at = outlook(self._driver.snapshot(), lately), now
        return self._look
