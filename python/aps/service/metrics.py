"""What `GET /metrics` says: the driver's counters as metric families."""

from collections.abc import Callable, Iterator
from typing import Any

from aps.backends.protocol import Usage
from aps.driver import Driver
from aps.metrics import Histogram, TenantMetrics
from aps.service.prometheus import Page
from aps.service.version import VERSION
from aps.verdicts import Snapshot

# Upper edges in seconds: 1 ms to 500 s, three to a decade.
EDGES = tuple(round(mantissa * 10.0**power, 6) for power in range(-3, 3) for mantissa in (1, 2.5, 5))
OUTCOMES = ("finished", "cancelled", "expired", "dropped", "failed")


def page(driver: Driver, gpu_hour_dollars: float) -> str:
    """The text of a scrape. Times are seconds of the service's clock."""
    out = Page()
    snapshot = driver.snapshot()
    tenants = [_tenant(driver, name) for name in dict.fromkeys([*snapshot.tenants, *driver.metrics.tenants])]
    _service(out, driver, gpu_hour_dollars)
    _requests(out, tenants)
    _times(out, tenants)
    _queues(out, snapshot)
    _shares(out, driver, snapshot)
    _devices(out, driver, snapshot)
    _money(out, driver, gpu_hour_dollars)
    return out.render()


def _tenant(driver: Driver, name: str) -> TenantMetrics:
    """The tenant's counters; all 0 when it has asked for nothing."""
    return driver.metrics.tenants.get(name) or TenantMetrics(name, -1)


def _service(out: Page, driver: Driver, gpu_hour_dollars: float) -> None:
    policy = driver.scheduler.policy
    about = {"version": VERSION, "profile": driver.backend.profile, "policy": policy.knobs, "batching": policy.batching}
    out.family("aps_info", "gauge", "What runs.", [(about, 1)])
    out.family(
        "aps_time_seconds", "gauge", "The service's clock, since it started.", [({}, driver.now - driver.opened_at)]
    )
    out.family(
        "aps_time_scale", "gauge", "Seconds of the service's clock in a wall second.", [({}, driver.backend.time_scale)]
    )
    out.family("aps_draining", "gauge", "1 while it takes no new requests.", [({}, driver.draining)])
    out.family(
        "aps_slipped_seconds_total",
        "counter",
        "Simulated time by which the clock was set back because the machine could not keep up.",
        [({}, driver.metrics.slipped_s)],
    )


def _requests(out: Page, tenants: list[TenantMetrics]) -> None:
    def each(value: Callable[[TenantMetrics], float]) -> Iterator[tuple[dict[str, str], float]]:
        return (({"tenant": tenant.name}, value(tenant)) for tenant in tenants)

    out.family("aps_admitted_total", "counter", "Requests admitted.", each(lambda t: t.admitted))
    out.family(
        "aps_refused_total",
        "counter",
        "Requests not admitted, by reason.",
        (
            ({"tenant": tenant.name, "reason": reason}, count)
            for tenant in tenants
            for reason, count in sorted(tenant.refused.items())
        ),
    )
    out.family(
        "aps_requests_total",
        "counter",
        "Admitted requests that ended; expired: deadline passed; dropped: limits changed; failed: in the backend.",
        (({"tenant": tenant.name, "outcome": name}, getattr(tenant, name)) for tenant in tenants for name in OUTCOMES),
    )
    used = "of requests that have ended, as far as they were computed."
    out.family("aps_prompt_tokens_total", "counter", f"Prompt tokens {used}", each(lambda t: t.prompt_tokens))
    out.family("aps_output_tokens_total", "counter", f"Output tokens {used}", each(lambda t: t.output_tokens))
    out.family(
        "aps_charged_tokens_total",
        "counter",
        "Bucket tokens that ended requests cost, bid premium included.",
        each(lambda t: t.charged),
    )


def _times(out: Page, tenants: list[TenantMetrics]) -> None:
    families: tuple[tuple[str, str, Callable[[TenantMetrics], Histogram]], ...] = (
        ("aps_queue_wait_seconds", "Arrival to first scheduled step.", lambda t: t.queue_wait),
        ("aps_time_to_first_token_seconds", "Arrival to first output token.", lambda t: t.ttft),
        ("aps_time_per_output_token_seconds", "Mean over a request's tokens after its first.", lambda t: t.tpot),
        ("aps_request_seconds", "Arrival to last output token.", lambda t: t.e2e),
    )
    for name, text, of in families:
        histograms = [(tenant.name, of(tenant)) for tenant in tenants]
        out.histogram(
            name, text, EDGES, (({"tenant": tenant}, h.counts(EDGES), h.total) for tenant, h in histograms if h.count)
        )


def _queues(out: Page, snapshot: Snapshot) -> None:
    def each(field: str) -> Iterator[tuple[dict[str, str], float]]:
        return (({"tenant": row.name}, getattr(row, field)) for row in snapshot.tenants.values())

    out.family("aps_waiting_requests", "gauge", "Admitted and not started.", each("waiting"))
    out.family("aps_waiting_tokens", "gauge", "Their prompt and max tokens.", each("waiting_tokens"))
    out.family("aps_running_requests", "gauge", "Started and not ended.", each("in_flight"))
    out.family("aps_held_kv_blocks", "gauge", "KV blocks promised to running requests.", each("held_blocks"))
    out.family("aps_preempted_total", "counter", "Times that its running requests were displaced.", each("preempted"))
    out.family("aps_bucket_level_tokens", "gauge", "What the tenant can pay now; negative: debt.", each("level"))


def _shares(out: Page, driver: Driver, snapshot: Snapshot) -> None:
    rows = snapshot.tenants.values()
    out.family(
        "aps_tenant_weight",
        "gauge",
        "The tenant's share, against the others'.",
        [({"tenant": r.name}, r.weight) for r in rows],
    )
    out.family(
        "aps_tenant_service",
        "gauge",
        "The tenant's virtual counter: cost charged over weight.",
        [({"tenant": row.name}, row.service) for row in rows],
    )
    shared = driver.metrics.while_all_wait(driver.now)
    out.family(
        "aps_shared_seconds_total",
        "counter",
        "Time in which at least two tenants had requests, and each that had any had one waiting.",
        [({}, shared.seconds)],
    )
    out.family(
        "aps_shared_tokens_total",
        "counter",
        "Prompt and output tokens computed for the tenant in that time.",
        [({"tenant": name}, shared.tokens.get(name, 0)) for name in {**snapshot.tenants, **shared.tokens}],
    )


def _devices(out: Page, driver: Driver, snapshot: Snapshot) -> None:
    devices = driver.scheduler.devices
    used = {device.name: driver.backend.usage(at) for at, device in enumerate(devices)}

    def each(value: Callable[[Usage], float]) -> Iterator[tuple[dict[str, str], float]]:
        return (({"device": name}, value(usage)) for name, usage in used.items() if usage is not None)

    def row(field: str) -> list[tuple[dict[str, Any], float]]:
        return [({"device": name}, getattr(device, field)) for name, device in snapshot.devices.items()]

    out.family("aps_devices", "gauge", "Devices.", [({}, len(devices))])
    out.family("aps_device_slots", "gauge", "Requests that may run at once.", row("slots"))
    out.family("aps_device_running", "gauge", "Requests that run.", row("running"))
    out.family("aps_device_kv_blocks", "gauge", "KV blocks that may be promised.", row("limit"))
    out.family("aps_device_held_kv_blocks", "gauge", "KV blocks in use.", row("held_blocks"))
    ended = "up to the last finished step."
    out.family("aps_device_steps_total", "counter", "Steps finished.", each(lambda u: u.steps))
    out.family("aps_device_busy_seconds_total", "counter", f"Time with any work, {ended}", each(lambda u: u.busy_s))
    out.family("aps_device_slot_seconds_total", "counter", f"Slots in use over time, {ended}", each(lambda u: u.slot_s))
    out.family(
        "aps_device_block_seconds_total", "counter", f"KV blocks in use over time, {ended}", each(lambda u: u.block_s)
    )
    out.family(
        "aps_device_prefill_tokens_total",
        "counter",
        "Prompt tokens computed, again after a preemption by recompute.",
        each(lambda u: u.prefill_tokens),
    )
    out.family(
        "aps_device_output_tokens_total", "counter", "Output tokens handed over.", each(lambda u: u.output_tokens)
    )
    metrics = driver.metrics
    released = [({"release": name or "returning"}, count) for name, count in sorted(metrics.released.items())]
    out.family("aps_batches_total", "counter", "Batches started, by what released them.", released)
    edges = tuple(2.0**power for power in range(max(device.slots for device in devices).bit_length()))
    counts = [0] * (len(edges) + 1)
    for size, count in metrics.batch_sizes.items():
        counts[next((at for at, edge in enumerate(edges) if size <= edge), len(edges))] += count
    total = sum(size * count for size, count in metrics.batch_sizes.items())
    out.histogram("aps_batch_size", "Requests on the device once a batch had joined.", edges, [({}, counts, total)])


def _money(out: Page, driver: Driver, gpu_hour_dollars: float) -> None:
    out.family("aps_gpu_hour_dollars", "gauge", "The price of a GPU-hour, as configured.", [({}, gpu_hour_dollars)])
    tokens = sum(tenant.prompt_tokens + tenant.output_tokens for tenant in driver.metrics.tenants.values())
    hours = (driver.now - driver.opened_at) / 3600.0 * len(driver.scheduler.devices)
    out.family(
        "aps_dollars_per_million_tokens",
        "gauge",
        "GPU-hours since the start, idle ones too, at that price, over prompt and output tokens of ended requests.",
        [({}, hours * gpu_hour_dollars / tokens * 1e6)] if tokens else [],
    )
