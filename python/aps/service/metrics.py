"""What `GET /metrics` says: the driver's counters as metric families. Each is described in docs/metrics.md."""

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aps.driver import Driver
from aps.service.bounds import service_gap_bound
from aps.service.config import Settings
from aps.service.labels import EDGES, OTHER, OUTCOMES, REFUSALS, Labels, Row, numbers
from aps.service.machines import devices, lately
from aps.service.process import process
from aps.service.prometheus import Page
from aps.service.traffic import Traffic, traffic
from aps.service.version import VERSION
from aps.verdicts import Snapshot, TenantRows

if TYPE_CHECKING:
    from aps.record import Recorder
    from aps.service.keeper import Keeper
    from aps.service.pending import Pending

FAMILIES_OF_TIMES = (
    ("queue_wait", "queue_wait_seconds", "Arrival to first scheduled step."),
    ("ttft", "time_to_first_token_seconds", "Arrival to first output token."),
    ("tpot", "time_per_output_token_seconds", "Mean over a request's tokens after its first."),
    ("e2e", "request_seconds", "Arrival to last output token."),
)
USED = "of requests that have ended, as far as they were computed."


class Exporter:
    """Makes the scrapes of one driver; it remembers which tenants have labels."""

    def __init__(
        self,
        driver: Driver,
        recorder: "Recorder | None" = None,
        keeper: "Keeper | None" = None,
        pending: "Pending | None" = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._driver, self._recorder, self._keeper = driver, recorder, keeper
        self._pending, self._traffic = pending, traffic
        self._labels = Labels()
        self._bound = 0.0

    def page(self, settings: Settings) -> Page:
        """A scrape. Times are seconds of the service's clock."""
        driver = self._driver
        out = Page()
        recent = driver.lately()
        snapshot = driver.snapshot()  # plays time, as `lately` does; from here on everything is of one instant
        shared = driver.metrics.while_all_wait(driver.now)
        rows, rest = self._labels.rows(snapshot.tenants, driver.metrics, shared.tokens, settings.max_labels)
        tenants = _Tenants(snapshot.tenants, rows, rest)
        _service(out, driver, snapshot)
        tenants.counters(out)
        bids = [tally for tally in driver.metrics.bids.values() if tally.sent]
        _counters(out, "aps_bid_", "bid", [Row(tally.name, numbers(tally)) for tally in bids])
        out.gauge(
            "aps_bid_waiting_requests",
            "Admitted and not started, by the bid at submission.",
            [({"bid": tally.name}, tally.waiting) for tally in bids],
        )
        tenants.gauges(out)
        self._bound = max(self._bound, service_gap_bound(driver.scheduler))
        _fairness(out, snapshot, shared.seconds, self._bound)
        tenants.shares(out, {name: share.received for name, share in recent.shares.items()}, "received", "got")
        tenants.shares(
            out, {name: share.promised for name, share in recent.shares.items()}, "promised", "was due by its weight"
        )
        devices(out, driver, snapshot)
        lately(out, driver, recent, settings)
        if self._pending is not None:
            _pending(out, self._pending)
        if self._traffic is not None:
            traffic(out, self._traffic)
        process(out)
        if self._recorder is not None:
            _record(out, self._recorder)
        if self._keeper is not None:
            _store(out, self._keeper)
        return out


class _Tenants:
    """The families by tenant: a series for each label, and one for the rest."""

    def __init__(self, tenants: TenantRows, rows: list[Row], rest: Row | None) -> None:
        self._tenants = tenants
        self._rows = rows if rest is None else [*rows, rest]
        places = tenants.places
        self._there = [(row.label, places[row.label]) for row in rows if row.label in places]
        self._folded = np.ones(len(tenants), np.bool_)
        self._folded[[place for _, place in self._there]] = False
        self._folds = bool(self._folded.any())
        self._labelled = len(rows)

    def counters(self, out: Page) -> None:
        _counters(out, "aps_", "tenant", self._rows)
        out.counter(
            "aps_shared_tokens_total",
            "Prompt and output tokens computed for the tenant while all wait (aps_shared_seconds_total).",
            _each(self._rows, "tenant", lambda row: row["shared_tokens"]),
        )
        out.gauge("aps_tenants", "Tenants.", len(self._tenants))
        out.gauge("aps_labelled_tenants", "Tenants with a label of their own.", self._labelled)
        out.gauge("aps_folded_tenants", f'Tenants counted together, with the label "{OTHER}".', int(self._folded.sum()))

    def gauges(self, out: Page) -> None:
        columns = self._tenants.columns
        for field, name, text in (
            ("waiting", "aps_waiting_requests", "Admitted and not started."),
            ("waiting_tokens", "aps_waiting_tokens", "Their prompt and max tokens."),
            ("in_flight", "aps_running_requests", "Started and not ended."),
            ("held_blocks", "aps_held_kv_blocks", "KV blocks promised to running requests."),
            ("weight", "aps_tenant_weight", "The tenant's share, against the others'."),
            ("contending", "aps_tenant_contending", "1 while its first request may go by its own limits."),
            ("in_window", "aps_tenant_in_window", "1 while it contends and may be served by its share."),
        ):
            column = columns[field]
            out.gauge(name, text, self._sums(column if column.dtype != np.bool_ else column.astype(np.int64)))
        level = columns["level"]
        limited = level < inf
        out.gauge(
            "aps_bucket_level_tokens",
            "What the tenant can pay now; negative: debt. Of tenants with a limit.",
            self._sums(level, limited),
        )
        out.gauge(
            "aps_bucket_debt_tokens", "What the tenant owes its bucket.", self._sums(np.maximum(0.0, -level), limited)
        )
        level = columns["request_level"]
        out.gauge(
            "aps_request_bucket_level",
            "Requests that the tenant may send at once now. Of tenants with a request rate.",
            self._sums(level, level < inf),
        )
        service = columns["service"]
        out.gauge(
            "aps_tenant_service",
            "The tenant's virtual counter S: cost charged over weight. Of labelled tenants.",
            [({"tenant": name}, float(service[place])) for name, place in self._there],
        )

    def _sums(
        self, column: NDArray[Any], among: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[dict[str, str], float]]:
        for name, place in self._there:
            if among is None or among[place]:
                yield {"tenant": name}, column[place].item()
        folded = self._folded if among is None else self._folded & among
        if self._folds and folded.any():
            yield {"tenant": OTHER}, column[folded].sum().item()

    def shares(self, out: Page, tokens: dict[str, float], kind: str, what: str) -> None:
        labels = [name for name, _ in self._there]
        series = [({"tenant": name}, tokens.pop(name)) for name in labels if name in tokens]
        if tokens:
            series.append(({"tenant": OTHER}, sum(tokens.values())))
        out.gauge(
            f"aps_window_{kind}_tokens", f"Tokens that the tenant {what}, in the window, while it contended.", series
        )


def _each(rows: Iterable[Row], label: str, value: Callable[[Row], float]) -> Iterator[tuple[dict[str, str], float]]:
    return (({label: row.label}, value(row)) for row in rows)


def _counters(out: Page, prefix: str, label: str, rows: list[Row]) -> None:
    """What is counted of every label, for tenants and for bids."""
    by = " By the bid at submission." if label == "bid" else ""

    def each(field: str, unit: float = 1.0) -> Iterator[tuple[dict[str, str], float]]:
        return _each(rows, label, lambda row: row[field] / unit)

    out.counter(f"{prefix}admitted_total", f"Requests admitted.{by}", each("admitted"))
    out.counter(
        f"{prefix}refused_total",
        f"Requests not admitted, by reason.{by}",
        (
            ({label: row.label, "reason": reason}, count)
            for row in rows
            for reason in REFUSALS
            if (count := row[reason])
        ),
    )
    out.counter(
        f"{prefix}requests_total",
        "Admitted requests that ended; expired: deadline passed; dropped: limits changed; failed: in the backend." + by,
        (({label: row.label, "outcome": outcome}, row[outcome]) for row in rows for outcome in OUTCOMES),
    )
    out.counter(f"{prefix}prompt_tokens_total", f"Prompt tokens {USED}{by}", each("prompt_tokens"))
    out.counter(f"{prefix}output_tokens_total", f"Output tokens {USED}{by}", each("output_tokens"))
    out.counter(
        f"{prefix}charged_tokens_total",
        f"Bucket tokens that ended requests cost, bid premium included.{by}",
        each("charged_micro", 1e6),
    )
    out.counter(
        f"{prefix}gpu_seconds_total",
        f"Time of devices, shared equally by the requests on them at each instant.{by}",
        each("gpu_ns", 1e9),
    )
    out.counter(f"{prefix}preempted_total", f"Times that running requests were displaced.{by}", each("preempted"))
    out.counter(
        f"{prefix}retried_total", f"Times that a request was lost by its device and started again.{by}", each("retried")
    )
    for field, name, text in FAMILIES_OF_TIMES:
        histograms = ((row.label, *row.times(field)) for row in rows)
        out.histogram(
            f"{prefix}{name}",
            text + by,
            EDGES,
            (({label: name}, counts, total) for name, counts, total in histograms if any(counts)),
        )


def _service(out: Page, driver: Driver, snapshot: Snapshot) -> None:
    policy = driver.scheduler.policy
    about = {"version": VERSION, "profile": driver.backend.profile, "policy": policy.knobs, "batching": policy.batching}
    out.gauge("aps_info", "What runs.", [(about, 1)])
    out.gauge("aps_time_seconds", "The service's clock, since it started.", driver.now - driver.opened_at)
    out.gauge("aps_time_scale", "Seconds of the service's clock in a wall second.", driver.backend.time_scale)
    out.gauge("aps_draining", "1 while it takes no new requests.", int(driver.draining))
    out.counter(
        "aps_slipped_seconds_total",
        "Simulated time by which the clock was set back because the machine could not keep up.",
        driver.metrics.slipped_s,
    )
    out.gauge("aps_outstanding_requests", "Admitted and not ended.", driver.outstanding)
    out.gauge("aps_returning_requests", "Displaced and to be started again.", snapshot.returning)
    out.gauge(
        "aps_since_progress_seconds",
        "Since a device last finished a step or sent news; 0 while there is nothing to do.",
        driver.now - driver.progressed_at if driver.outstanding else 0,
    )
    out.gauge(
        "aps_invariant_violations",
        "By how much slots, KV blocks and tokens are not conserved: 0 unless there is a fault.",
        [({"check": check}, value) for check, value in driver.invariants(snapshot).items()],
    )


def _pending(out: Page, pending: "Pending") -> None:
    out.gauge(
        "aps_pending_bytes",
        "Held for callers: prompts until their requests have ended, and bodies that are being read.",
        pending.bytes,
    )
    out.counter(
        "aps_pending_refused_total",
        "Requests refused because limits.max_pending_bytes left no room for them.",
        pending.refused,
    )


def _record(out: Page, recorder: "Recorder") -> None:
    out.counter("aps_record_lines_total", "Lines of the record: calls of the scheduler.", recorder.lines)
    out.counter("aps_record_bytes_total", "Bytes of the record.", recorder.bytes)
    out.gauge("aps_record_stopped", "1 when recording has stopped: the log says why.", int(recorder.failed is not None))


def _store(out: Page, keeper: "Keeper") -> None:
    writer, status = keeper.writer, keeper.writer.status
    out.gauge(
        "aps_store_up",
        "1 unless the last try to save usage and state failed or does not end.",
        int(status.status == "ok"),
    )
    out.gauge(
        "aps_store_unsaved_seconds",
        "Of your clock, since everything was saved: what is lost if the process is killed now.",
        keeper.unsaved_s,
    )
    out.gauge(
        "aps_store_pending_rows",
        "Rows of usage that are being saved, or wait because that failed.",
        writer.pending_rows,
    )
    out.counter("aps_store_saves_total", "Saves that did.", status.saves)
    out.counter("aps_store_errors_total", "Saves that failed.", status.errors)
    if keeper.reading is not None:
        reading = keeper.reading.now
        out.gauge(
            "aps_store_readable",
            "1 unless the last look for changes of tenants failed or does not end.",
            int(reading.status == "ok"),
        )
        out.counter("aps_store_read_errors_total", "Looks for changes of tenants that failed.", reading.errors)
    took = writer.seconds
    counts = took.counts(EDGES)
    out.histogram(
        "aps_store_save_seconds", "Seconds of your clock that a save took.", EDGES, [({}, counts, took.total)]
    )


def _fairness(out: Page, snapshot: Snapshot, shared_s: float, bound: float) -> None:
    out.counter(
        "aps_shared_seconds_total",
        "Time in which at least two tenants had requests, and each that had any had one waiting.",
        shared_s,
    )
    out.gauge("aps_contending_tenants", "Tenants whose first request may go by their own limits.", snapshot.contending)
    out.gauge("aps_virtual_time", "V, in the units of aps_tenant_service.", snapshot.virtual_time)
    out.gauge(
        "aps_service_gap_max",
        "The most that a contending tenant was ahead of V since the start, in its own cost units.",
        snapshot.widest_gap,
    )
    out.gauge(
        "aps_service_gap_bound",
        "What aps_service_gap_max may be: D and the largest charge that the tenants' limits allow or have allowed.",
        bound,
    )
