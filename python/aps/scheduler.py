"""The Python face of the compiled scheduler: names for slots, ids for handles, answers with names."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from numbers import Number
from operator import index
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from aps import _checks as check
from aps.devices import Device
from aps.policy import Limits, Policy
from aps.policy import core_options as policy_options
from aps.state import SchedulerState, core_state, state_of
from aps.tenants import Roster, Tenant
from aps.tenants import core_options as tenant_options
from aps.verdicts import (
    REASONS,
    RELEASES,
    STATUSES,
    Batch,
    Ended,
    Explanation,
    Snapshot,
    Verdict,
    snapshot_of,
)
from aps_core.front import Front
from aps_core.scheduler import Scheduler as Core

Many = Sequence[Hashable] | NDArray[np.integer[Any]]
Counts = Sequence[int] | NDArray[np.integer[Any]]

FREE = 0
FIRST_HANDLE, LAST_HANDLE = 2**53, 2**63 - 1  # what the core may call a request
NOTHING = Batch((), (), None)
DEFAULT_POLICY = Policy()
DEFAULT_LIMITS = Limits()
DEFAULT_DEVICES = (Device(),)

_new = tuple.__new__  # a NamedTuple without its Python-level constructor: half the time


class Scheduler(Front[Verdict]):
    """Who goes next: tenants submit, devices pull batches, what was used is settled.

    tenants: who is there from the start. devices: what requests run on; `next_batch` takes an index into it.
    limits: bounds over all tenants. block_tokens: tokens in a KV block. epoch: the first instant, in seconds.

    The scheduler reads no clock. Calls take `now` in float seconds, never before an earlier call's, at most 4e8 s
    after `epoch`; whatever happens between two calls (deadlines, buckets that fill) is played first, in its order.
    A refusal to serve is a value (`Verdict`). Exceptions are for mistakes, and change nothing: ValueError for a bad
    number or a request in the wrong state, TypeError for a bad type, KeyError for an unknown tenant or request,
    IndexError for an unknown device.

    A request is known by the `id` that its caller chose (anything hashable, unique among live requests), or else by
    the int in its verdict. Ids of requests that ended on their own are kept until `ended()` reports them.

    One thread owns a scheduler: nothing here locks.
    """

    __slots__ = (
        "_block_tokens",
        "_core",
        "_core_next_batch",
        "_core_progress",
        "_core_settle",
        "_devices",
        "_ended",
        "_epoch",
        "_limits",
        "_policy",
        "_roster",
    )

    def __init__(
        self,
        tenants: Iterable[Tenant],
        *,
        policy: Policy = DEFAULT_POLICY,
        devices: Iterable[Device] = DEFAULT_DEVICES,
        limits: Limits = DEFAULT_LIMITS,
        block_tokens: int = 16,
        epoch: float = 0.0,
    ) -> None:
        self._policy = policy
        self._devices = tuple(devices)
        self._limits = limits
        self._block_tokens = block_tokens
        self._epoch = epoch
        _check_devices(self._devices)
        check.integer("Scheduler.block_tokens", block_tokens, 1, check.INT32_MAX)
        check.number("Scheduler.epoch", epoch, "seconds in -1e10..1e10", lambda x: -1e10 <= x <= 1e10)
        self._core = core = Core(
            [device.slots for device in self._devices],
            [device.kv_blocks for device in self._devices],
            [device.token_budget or 0 for device in self._devices],
            block_tokens=block_tokens,
            epoch=epoch,
            **policy_options(policy, limits),
        )
        self._core_submit = core.submit
        self._core_next_batch = core.next_batch
        self._core_progress = core.progress
        self._core_settle = core.settle
        self._roster = Roster()
        self._accounts = self._roster.accounts
        self._handles = {}
        self._ids = {}
        self._verdict_type = Verdict
        self._ended: list[Ended] = []
        for tenant in tenants:
            self.add_tenant(tenant, now=epoch)

    # Requests; `submit` is in Front

    def next_batch(self, device: int = 0, *, now: float) -> Batch:
        """What starts on a device now, and what it displaces. Ask when the device has room, and at `next_wakeup`."""
        count = self._core_next_batch(device, now)
        if not count:
            return NOTHING
        core = self._core
        started = core.started[:count].tolist()
        preempted = core.preempted[: core.preempted_count].tolist() if core.preempted_count else ()
        ids = self._ids
        if ids:
            started = [ids.get(handle, handle) for handle in started]
            preempted = [ids.get(handle, handle) for handle in preempted]
        return _new(Batch, (tuple(started), tuple(preempted), RELEASES[core.release_reason]))

    def progress(self, id: Hashable, computed: int, generated: int, *, now: float) -> None:
        """Report a running request's totals: prompt tokens in the cache since this start, and output tokens."""
        self._core_progress(self._handle(id), computed, generated, now)

    def settle(self, id: Hashable, output_tokens: int, *, now: float) -> float:
        """A running request finished with that much output. Returns its final charge in bucket tokens."""
        handle = self._handle(id)
        charge = self._core_settle(handle, output_tokens, now)
        if self._ids:
            self._forget(handle)
        return charge

    def progress_many(self, ids: Many, computed: Counts, generated: Counts, *, now: float) -> None:
        """`progress` of several at one instant, in order; each at most once. Any error: none of them is reported.

        ids: a sequence of ids; or, quicker, an integer array of the scheduler's own numbers (the ids of requests that
        were given none).
        """
        self._core.progress_many(self._numbers(ids), computed, generated, now)

    def settle_many(self, ids: Many, output_tokens: Counts, *, now: float) -> NDArray[np.float64]:
        """`settle` of several at one instant, in order; see `progress_many`. Their final charges."""
        handles = self._numbers(ids)
        charges = self._core.settle_many(handles, output_tokens, now)
        if self._ids:
            for handle in handles.tolist():
                self._forget(handle)
        return charges

    def cancel(self, id: Hashable, *, now: float) -> float | None:
        """End a request, whatever it does. Returns its final charge in bucket tokens (0.0: it was waiting).

        None: there is no such live request, most likely because it has just ended.
        """
        try:
            handle = self._handle(id)
            charge = self._core.cancel(handle, now)
        except KeyError:
            return None
        self._forget(handle)
        return charge

    def preempt(self, id: Hashable, *, now: float) -> None:
        """Displace a running request; it returns in a later batch by itself. Nobody is charged."""
        self._core.preempt(self._handle(id), now)

    def restart(self, id: Hashable, *, now: float) -> None:
        """A running request's device lost it, and all its output: it returns in a later batch, from its prompt on.

        Nobody is charged for it twice: what was charged for output beyond the forecast comes back as credit.
        """
        self._core.restart(self._handle(id), now)

    def rebid(self, id: Hashable, bid: int, *, now: float) -> Verdict:
        """Give a request another bid: a waiting one moves in the order, of any other only the rank changes.

        Refused, changing nothing, when the bucket cannot pay the difference.
        """
        core = self._core
        handle = self._handle(id)
        bid = _as_bid(bid)
        code = core.rebid(handle, bid, now)
        if code:
            return self._refusal(-code, id, core.bid_of(handle), False, None)
        counts = core.bid_of(handle)
        return Verdict("admitted", "admitted", id, counts, counts < bid, 0.0, None)

    def ended(self) -> list[Ended]:
        """The requests that ended without a call of their own since the last time this was asked, in order."""
        self._collect_ended()
        ended, self._ended = self._ended, []
        return ended

    def next_wakeup(self, *, now: float, without: Iterable[int] = ()) -> float:
        """The next instant at which something changes by itself, or one before it; inf when nothing will.

        without: devices that cannot be asked for a batch, so that a batch which is due there is no reason to wake up.
        """
        return self._core.next_wakeup(now, without)

    # Looking

    def explain(self, id: Hashable, *, now: float) -> Explanation:
        """Where a request stands, and what it waits for."""
        row = self._core.explain(self._handle(id), now)
        device = row["device"]
        row |= {"id": id, "tenant": self._roster.names[row["tenant"]], "device": None if device < 0 else device}
        return Explanation(**row)

    def snapshot(self, *, now: float) -> Snapshot:
        """Everybody at this instant, by name; draining tenants too."""
        devices = [device.name for device in self._devices]
        return snapshot_of(self._core.snapshot(now), self._roster.names, devices, self._ids)

    def level(self, tenant: str) -> float:
        """What an active tenant's bucket can pay at `now`, in tokens; negative: debt, inf: it has no limit."""
        account = self._accounts.get(tenant)
        if account is None:
            raise self._roster.unknown(tenant)
        return self._core.level(account[0])

    def request_level(self, tenant: str) -> float:
        """What an active tenant's request bucket holds at `now`, in requests; inf: it has no limit."""
        account = self._accounts.get(tenant)
        if account is None:
            raise self._roster.unknown(tenant)
        return self._core.request_level(account[0])

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """The active tenants by name, read-only and live."""
        return MappingProxyType(self._roster.active)

    @property
    def policy(self) -> Policy:
        """The policy, with the knobs as they are now."""
        return self._policy

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, in the order of `next_batch`'s index."""
        return self._devices

    @property
    def limits(self) -> Limits:
        """The bounds over all tenants."""
        return self._limits

    @property
    def block_tokens(self) -> int:
        """Tokens in a KV block."""
        return self._block_tokens

    @property
    def epoch(self) -> float:
        """The first instant, in seconds."""
        return self._epoch

    @property
    def now(self) -> float:
        """The latest instant it was told, in seconds."""
        return self._core.now

    @property
    def waiting(self) -> int:
        """Requests accepted and not yet started, of all tenants."""
        return self._core.waiting

    # Changes while running

    def add_tenant(self, tenant: Tenant, *, now: float) -> None:
        """Add a tenant; one that is still draining comes back with its service and its debt. ValueError: known."""
        roster = self._roster
        if tenant.name in roster.active:
            raise ValueError(f"Tenant.name must be new, got {tenant.name!r} again: set_tenant changes a tenant")
        slot = roster.draining.get(tenant.name)
        if slot is not None:
            self._core.next_wakeup(now)  # its last request may expire on the way to now
            if self._core.tenant_state(slot) == FREE:
                slot = None
        if slot is None:
            slot = self._core.add_tenant(**tenant_options(tenant), now=now)
        else:
            self._core.readmit_tenant(slot, **tenant_options(tenant), now=now)
        roster.enter(slot, tenant)

    def set_tenant(self, tenant: Tenant, *, now: float) -> None:
        """Replace a tenant's settings; a waiting request that they make impossible ends. KeyError: unknown."""
        slot = self._roster.slot(tenant.name)
        self._core.set_tenant(slot, **tenant_options(tenant), now=now)
        self._roster.enter(slot, tenant)

    def remove_tenant(self, name: str, *, now: float) -> None:
        """Take no more requests of a tenant; what was accepted is served. KeyError: unknown."""
        freed = self._core.remove_tenant(self._roster.slot(name), now)
        self._roster.leave(name, drained=freed)

    def set_policy(
        self, aging_horizon_s: float | None = None, fairness_window: float | None = None, *, now: float
    ) -> None:
        """Turn the two knobs; the rest of a policy stays as it was made."""
        policy = self._policy
        if aging_horizon_s is not None:
            policy = replace(policy, aging_horizon_s=aging_horizon_s)
        if fairness_window is not None:
            policy = replace(policy, fairness_window=fairness_window)
        if aging_horizon_s is not None:
            self._core.set_aging_horizon(aging_horizon_s, now)
        if fairness_window is not None:
            self._core.set_fairness_window(fairness_window, now)
        self._policy = policy

    # Across restarts

    def state(self, *, now: float) -> SchedulerState:
        """What outlives the process: buckets and service of every tenant. What is outstanding stays charged in it."""
        return state_of(self._core.state(now), self._roster.names)

    def restore(self, state: SchedulerState, *, passed_s: float, now: float) -> None:
        """Go on from the state of an earlier scheduler, which was taken `passed_s` seconds before `now`.

        Buckets refill for that time, up to 4e8 s. Settings stay as they are here; what is saved is converted to them.
        Tenants that are unknown here are dropped, those that the state does not know stay new. ValueError: a request
        has been accepted, or a state restored, already; passed_s.
        """
        check.number("passed_s", passed_s, "a finite number of seconds >= 0", lambda x: 0.0 <= x < inf)
        accounts = self._accounts
        slots = [accounts[name][0] if name in accounts else 0 for name in state.tenants]
        self._core.restore(core_state(state), np.array(slots, np.int32), passed_s, now)

    # What is rare of `submit`

    def _unknown(self, tenant: str) -> KeyError:
        return self._roster.unknown(tenant)

    def _unusual(self, bid: SupportsIndex, expected_output: int | None, id: Hashable, now: float) -> int:
        bid = _as_bid(bid)
        if id is not None:
            self._check_new(id, now)
        check.integer("expected_output", expected_output, 0, check.INT32_MAX, optional=True)
        return bid

    def _keep(self, id: Hashable, handle: int) -> None:
        if id in self._handles:  # whose request has just ended
            self._collect_ended()
        self._handles[id] = handle
        self._ids[handle] = id

    def _refused(self, code: int, id: Hashable, bid: int, clamped: bool) -> Verdict:
        return self._refusal(code, id, bid, clamped, self._core.largest)

    # Inside

    def _handle(self, id: Hashable) -> int:
        handle = self._handles.get(id)
        if handle is not None:
            return handle
        if type(id) is int:
            handle = id
        else:
            try:
                handle = index(id)  # type: ignore[arg-type]
            except TypeError:
                handle = 0
        if FIRST_HANDLE <= handle <= LAST_HANDLE:
            return handle
        raise KeyError(f"no live request {id!r}")

    def _numbers(self, ids: Many) -> NDArray[np.integer[Any]]:
        if isinstance(ids, np.ndarray):
            return ids
        return np.array([self._handle(id) for id in ids], np.int64)

    def _check_new(self, id: Hashable, now: float) -> None:
        check_id(id)
        handle = self._handles.get(id)
        if handle is not None and self._core.is_live(handle, now):
            raise ValueError(f"id must be unique among live requests, got {id!r} again")

    def _collect_ended(self) -> None:
        for handle, code in self._core.ended():
            self._ended.append(Ended(self._forget(handle), REASONS[code]))

    def _forget(self, handle: int) -> Hashable:
        id = self._ids.pop(handle, handle)
        self._handles.pop(id, None)
        return id

    def _refusal(self, code: int, id: Hashable, bid: int, clamped: bool, largest: int | None) -> Verdict:
        status = STATUSES[code]
        if status == "rejected":
            return Verdict(status, REASONS[code], id, bid, clamped, 0.0, largest)
        return Verdict(status, REASONS[code], id, bid, clamped, self._core.retry_after, None)


def _as_bid(bid: SupportsIndex) -> int:
    """An int of any integer type; a bool or a float is a mistake."""
    if isinstance(bid, bool):
        raise TypeError(f"bid must be an int in 1..10, got {bid!r}")
    try:
        return index(bid)
    except TypeError:
        raise TypeError(f"bid must be an int in 1..10, got {bid!r}") from None


def check_id(id: Hashable) -> None:
    """A caller's own id must not equal one of the scheduler's numbers, of whatever type: ValueError."""
    if isinstance(id, Number) and FIRST_HANDLE <= _whole_of(id) <= LAST_HANDLE:
        raise ValueError(f"id must not equal an int in 2**53..2**63-1 (the scheduler's own), got {id!r}")


def _whole_of(number: Any) -> int:
    """The int that a number equals, and so is as a dictionary's key; 0 when it equals none."""
    try:
        whole = int(number.real)
    except (ArithmeticError, AttributeError, TypeError, ValueError):  # NaN, infinity, or no number like others
        return 0
    return whole if whole == number else 0


def _check_devices(devices: tuple[Device, ...]) -> None:
    if not devices:
        raise ValueError("Scheduler.devices must name at least one device, got ()")
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Scheduler.devices must have different names, got {name!r} twice")
