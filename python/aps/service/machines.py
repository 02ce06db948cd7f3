"""The families of `GET /metrics` about devices, work and money."""

from collections.abc import Callable, Iterator
from typing import Any

from aps.backends.guard import FAULTS
from aps.backends.protocol import Usage
from aps.driver import Driver
from aps.profile import Profile
from aps.recent import Lately, Work
from aps.service.config import Settings
from aps.service.prometheus import Page
from aps.verdicts import Snapshot


def devices(out: Page, driver: Driver, snapshot: Snapshot) -> None:
    """Each device, and the batches that they got."""
    known = driver.scheduler.devices
    used = {device.name: driver.backend.usage(at) for at, device in enumerate(known)}

    def each(value: Callable[[Usage], float]) -> Iterator[tuple[dict[str, str], float]]:
        return (({"device": name}, value(usage)) for name, usage in used.items() if usage is not None)

    def row(field: str) -> list[tuple[dict[str, Any], float]]:
        return [({"device": name}, getattr(device, field)) for name, device in snapshot.devices.items()]

    out.gauge("aps_devices", "Devices.", len(known))
    out.gauge(
        "aps_device_healthy",
        "1 while the device takes requests.",
        [({"device": device.name}, int(driver.health(at).ok)) for at, device in enumerate(known)],
    )
    out.gauge("aps_device_slots", "Requests that may run at once.", row("slots"))
    out.gauge("aps_device_running", "Requests that run.", row("running"))
    out.gauge("aps_device_kv_blocks", "KV blocks that may be promised.", row("limit"))
    out.gauge("aps_device_held_kv_blocks", "KV blocks in use.", row("held_blocks"))
    ended = "up to the last finished step."
    out.counter("aps_device_steps_total", "Steps finished.", each(lambda u: u.steps))
    out.counter("aps_device_busy_seconds_total", f"Time with any work, {ended}", each(lambda u: u.busy_s))
    out.counter("aps_device_slot_seconds_total", f"Slots in use over time, {ended}", each(lambda u: u.slot_s))
    out.counter("aps_device_block_seconds_total", f"KV blocks in use over time, {ended}", each(lambda u: u.block_s))
    out.counter(
        "aps_device_prefill_tokens_total",
        "Prompt tokens computed, again after a preemption by recompute.",
        each(lambda u: u.prefill_tokens),
    )
    out.counter("aps_device_output_tokens_total", "Output tokens handed over.", each(lambda u: u.output_tokens))
    out.counter(
        "aps_device_swapped_tokens_total",
        "Tokens moved out of the KV cache and in again, after preemptions by swap.",
        each(lambda u: u.swapped_tokens),
    )
    metrics = driver.metrics
    out.counter(
        "aps_recomputed_tokens_total",
        "Tokens to prefill that had been computed before: of requests displaced by recompute, or lost.",
        metrics.recomputed_tokens,
    )
    out.counter(
        "aps_backend_faults_total",
        "What the backend did and may not do, by kind.",
        [({"kind": kind}, metrics.faults[kind]) for kind in FAULTS],  # from the start: rates need the 0
    )
    out.counter(
        "aps_batches_total",
        "Batches started, by what released them.",
        [({"release": name}, count) for name, count in sorted(metrics.released.items())],
    )
    edges = tuple(2.0**power for power in range(max(device.slots for device in known).bit_length()))
    counts = [0] * (len(edges) + 1)
    for size, count in metrics.batch_sizes.items():
        counts[next((at for at, edge in enumerate(edges) if size <= edge), len(edges))] += count
    total = sum(size * count for size, count in metrics.batch_sizes.items())
    out.histogram("aps_batch_size", "Requests on the device once a batch had joined.", edges, [({}, counts, total)])


def lately(out: Page, driver: Driver, recent: Lately, settings: Settings) -> None:
    """The sliding window, and money."""
    seconds, work = recent.seconds, recent.work
    out.gauge("aps_window_seconds", "The length of the sliding window, now.", seconds)
    out.gauge(
        "aps_window_contended_seconds",
        "Of it, the time in which at least two tenants contended: Jain's indices are over that.",
        recent.contended_s,
    )
    out.gauge("aps_jain_index", "Jain's index of tokens, raw, over aps_window_contended_seconds.", recent.jain)
    out.gauge(
        "aps_weighted_jain_index",
        "Jain's index of tokens over what the weights promise, over aps_window_contended_seconds.",
        recent.weighted_jain,
    )
    known = driver.scheduler.devices
    slots, blocks = (sum(getattr(device, field) for device in known) for field in ("slots", "kv_blocks"))
    tokens = work.prefill_tokens + work.output_tokens - work.recomputed_tokens
    for name, value, whole, text in (
        ("aps_busy_ratio", work.busy_s, len(known), "Time with any work over time, the mean over devices."),
        ("aps_occupancy_ratio", work.slot_s, slots, "Slots in use over slots, weighted by time."),
        ("aps_kv_use_ratio", work.block_s, blocks, "KV blocks in use over blocks, weighted by time."),
        ("aps_mfu_ratio", *_flops(driver, work), "FLOPs of tokens, recomputed ones not, over the devices' peak."),
        ("aps_tokens_per_second", tokens, 1, "Prompt tokens, recomputed ones not, and output tokens computed."),
        ("aps_output_tokens_per_second", work.output_tokens, 1, "Output tokens handed over."),
    ):
        out.gauge(name, f"{text} In the window.", value / (whole * seconds) if whole and seconds > 0 else None)
    _money(out, driver, seconds, tokens, settings)


def _flops(driver: Driver, work: Work) -> tuple[float, float]:
    """What the tokens took, and what all devices can do in a second; 0 where the profile does not say."""
    profile = getattr(driver.backend, "spec", None)
    if not isinstance(profile, Profile) or profile.peak_flops is None or profile.flops_per_token is None:
        return 0.0, 0.0
    tokens = work.prefill_tokens + work.output_tokens - work.first_tokens - work.recomputed_tokens
    return max(0.0, tokens) * profile.flops_per_token, profile.peak_flops * len(driver.scheduler.devices)


def _money(out: Page, driver: Driver, seconds: float, tokens: float, settings: Settings) -> None:
    price, devices = settings.gpu_hour_dollars, len(driver.scheduler.devices)
    out.gauge("aps_gpu_hour_dollars", "The price of a GPU-hour, as configured.", price)
    out.gauge("aps_price_info", "Where and when that price was seen.", [({"source": settings.price_source}, 1)])
    ended = sum(tally.prompt_tokens + tally.output_tokens for tally in driver.metrics.bids.values())
    idle = "GPU-hours, idle ones too, at that price,"
    for name, hours, of, text in (
        (
            "aps_dollars_per_million_tokens",
            (driver.now - driver.opened_at) / 3600.0 * devices,
            ended,
            f"{idle} over prompt and output tokens of ended requests, since the start.",
        ),
        (
            "aps_window_dollars_per_million_tokens",
            seconds / 3600.0 * devices,
            tokens,
            f"{idle} over prompt tokens, recomputed ones not, and output tokens computed, in the window.",
        ),
    ):
        out.gauge(name, text, hours * price / of * 1e6 if of > 0 else None)
