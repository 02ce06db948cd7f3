"""What the scheduler answers."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

REASONS = (  # by the codes of aps_core/types.pxd
    "admitted",
    "exceeds_context",
    "exceeds_kv_cache",
    "exceeds_max_request",
    "exceeds_kv_share",
    "exceeds_burst",
    "exceeds_queue",
    "exceeds_tenant_queue",
    "queue_full",
    "queue_tokens_full",
    "tenant_queue_full",
    "tenant_queue_tokens_full",
    "over_request_rate",
    "over_rate",
    "deadline_expired",
)

Status = Literal["admitted", "throttled", "rejected"]
STATUSES: tuple[Status, ...] = (  # of the same codes: what can never fit is rejected, what may do later throttled
    "admitted",
    *("rejected",) * 7,
    *("throttled",) * 7,
)

Released = Literal["continuous", "window", "fill"]
STATES: tuple[Literal["", "active", "draining"], ...] = ("", "active", "draining")  # of a tenant's slot

RELEASES: tuple[Released | None, ...] = (None, "continuous", "window", "fill")


class Verdict(NamedTuple):
    """The answer to a submission or a new bid.

    status: "admitted"; "throttled" (now is a bad time); "rejected" (this request can never go).
    reason: "admitted", or the first test that failed: "exceeds_context", "exceeds_kv_cache", "exceeds_max_request",
        "exceeds_kv_share", "exceeds_burst", "exceeds_queue", "exceeds_tenant_queue" (rejected); "queue_full",
        "queue_tokens_full", "tenant_queue_full", "tenant_queue_tokens_full", "over_request_rate", "over_rate",
        "deadline_expired" (throttled).
    id: the caller's own, or else the number by which an admitted request is known; None when there is none.
    bid: the bid that counts, after clamping; of a refused new bid, the one the request keeps.
    clamped: whether the bid asked for was lowered to the tenant's max_bid.
    retry_after_s: of a throttled request, after how many seconds to try again; else 0.0 (also when its deadline has
        passed: what it needs is another deadline).
    largest: of a rejected submission, the largest max_tokens that passes that test with the same prompt and bid
        (0: none does); else None.
    """

    status: Status
    reason: str
    id: Hashable
    bid: int
    clamped: bool
    retry_after_s: float
    largest: int | None

    @property
    def admitted(self) -> bool:
        """Whether the answer is yes."""
        return self.status == "admitted"


class Batch(NamedTuple):
    """What a device is to do next: begin `started`, put away `preempted`.

    started, preempted: ids, in the order of the decisions. A preempted request returns in a later batch by itself.
    released: why now: "continuous", "window" (the batch window closed), "fill" (full enough); None: nothing to start.
    """

    started: tuple[Hashable, ...]
    preempted: tuple[Hashable, ...]
    released: Released | None


class Ended(NamedTuple):
    """A request that ended without a call of its own: its deadline passed, or new limits made it impossible.

    id: as in its verdict. reason: as in `Verdict.reason`.
    """

    id: Hashable
    reason: str


class Explanation(NamedTuple):
    """Where one request stands.

    state: "waiting", "running" or "returning" (preempted, to run again).
    bid, effective_bid: what was bid, and what that has grown to by waiting.
    position: earlier requests of its own tenant in policy order; 0 when not waiting.
    waits_for: the first thing in its way: "rate", "in_flight", "kv_share" (the tenant's own limits), "share" (its
        tenant is ahead of the others), "kv", "slot" (the devices), "batch_window", "turn" (better requests);
        "" when running.
    start_in_s: an estimate of the seconds to its start, None when there is none.
    computed, generated: prompt tokens in the cache since this start, output tokens so far.
    prefill: tokens still to compute before output goes on, at the next start if it does not run.
    device: the index of the device it runs on, or None.
    preemptions, passes: how often it was displaced, and passed by a backfill.
    """

    id: Hashable
    tenant: str
    state: Literal["waiting", "running", "returning"]
    bid: int
    effective_bid: float
    position: int
    waits_for: str
    start_in_s: float | None
    computed: int
    generated: int
    prefill: int
    device: int | None
    preemptions: int
    passes: int


class TenantSnapshot(NamedTuple):
    """One tenant at an instant.

    state: "active", or "draining" (removed, its accepted requests are still being served).
    service: S, cost units divided by weight. credit: cost units charged and not used. threshold: S - D / weight.
    contending: its first request may go by its own limits. in_window: and threshold <= virtual time.
    level: tokens in its bucket (negative: debt; inf: unlimited). request_level: requests in its request bucket.
    waiting, waiting_tokens, in_flight, held_blocks: what it has in the queue and on the devices.
    The rest counts since it was added: requests by outcome, tokens used, bucket tokens charged for ended requests.
    """

    name: str
    state: Literal["active", "draining"]
    weight: float
    service: float
    credit: float
    threshold: float
    contending: bool
    in_window: bool
    level: float
    request_level: float
    waiting: int
    waiting_tokens: int
    in_flight: int
    held_blocks: int
    admitted: int
    rejected: int
    throttled: int
    started: int
    finished: int
    cancelled: int
    expired: int
    preempted: int
    prompt_tokens: int
    output_tokens: int
    charged_tokens: float


class DeviceSnapshot(NamedTuple):
    """One device at an instant.

    slots, running: requests that may run, and do. held_blocks: KV blocks in use now. max_blocks: the sum of the
    largest sizes of what runs. limit: blocks that may be reserved. reserved: the id of the request that does not fit
    yet and has its start reserved here, or None.
    """

    name: str
    slots: int
    running: int
    held_blocks: int
    max_blocks: int
    limit: int
    reserved: Hashable


class Snapshot(NamedTuple):
    """Everybody at one instant.

    virtual_time: V, in the units of `TenantSnapshot.service`. widest_gap: the largest S - V of a contending tenant that
    there has been, in its own cost units; docs/promises.md bounds it by D + c_max. waiting, waiting_tokens, returning:
    requests and tokens over all tenants. contending: tenants whose first request may go. tenants, devices: rows by
    name; `tenants` makes a row when it is asked for, and has all of them as columns too (`TenantRows`).
    """

    virtual_time: float
    widest_gap: float
    waiting: int
    waiting_tokens: int
    contending: int
    returning: int
    tenants: "TenantRows"
    devices: Mapping[str, DeviceSnapshot]


class TenantRows(Mapping[str, TenantSnapshot]):
    """Every tenant at an instant, by name, in the order of the core's slots. Read only.

    columns: the fields of `TenantSnapshot` after `state` as arrays (n,), in that order of tenants; names: theirs.
    """

    __slots__ = ("_places", "_states", "columns", "names")

    def __init__(self, view: Mapping[str, NDArray[Any]], names: Mapping[int, str]) -> None:
        self.names = [names[slot] for slot in view["slot"].tolist()]
        self.columns = {name: view[name] for name in TenantSnapshot._fields[2:]}
        self._states = view["state"]
        self._places: dict[str, int] = {}

    def __getitem__(self, name: str) -> TenantSnapshot:
        place = self.places[name]
        values = (column[place].item() for column in self.columns.values())
        return TenantSnapshot._make((name, STATES[self._states[place]], *values))

    @property
    def places(self) -> Mapping[str, int]:
        """The index of each tenant in `names` and `columns`."""
        if not self._places:
            self._places = {name: place for place, name in enumerate(self.names)}
        return self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return repr(dict(self))


def snapshot_of(
    view: Mapping[str, Any], tenants: Mapping[int, str], devices: Sequence[str], ids: Mapping[int, Hashable]
) -> Snapshot:
    """The core's snapshot with names: of tenants by slot, of devices in order, of requests by handle."""
    device_rows = {}
    for name, (*rest, reserved) in zip(devices, _rows(view["devices"], DeviceSnapshot._fields[1:]), strict=True):
        device_rows[name] = DeviceSnapshot._make((name, *rest, ids.get(reserved, reserved) if reserved else None))
    totals = [view[name] for name in Snapshot._fields[:-2]]
    return Snapshot._make((*totals, TenantRows(view["tenants"], tenants), MappingProxyType(device_rows)))


def _rows(columns: Mapping[str, Any], names: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Columns (arrays of one length) as rows of Python numbers, in the order of `names`."""
    return zip(*(columns[name].tolist() for name in names), strict=True)
