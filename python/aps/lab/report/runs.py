"""The report of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab import fairness
from aps.lab.definitions import DEFINITIONS
from aps.lab.figures import times, window_length
from aps.lab.report.csvs import rounded, table
from aps.lab.report.files import write
from aps.lab.report.flatten import by_name, flat, transposed
from aps.lab.report.html import Plot, Report, Section
from aps.lab.report.tenants import Group, groups
from aps.lab.run import Run, Series

FEWEST_WINDOWS = 2  # of a plot of fairness over time
TENANT = ["sent", "finished", "still_waiting", "still_running"]
TIMES = [
    f"{what}_{p}_s" for what in ("queue_wait", "ttft", "tpot", "e2e") for p in ("p50", "p95", "p99", "mean", "max")
]
SHARES = ["slo_share", "goodput_per_s", "output_tokens_per_s", "tokens_per_s", "dollars", "starvation_s"]
WHOLE = [
    *TENANT,
    *TIMES,
    *SHARES,
    *("makespan_s", "busy", "occupancy", "mfu", "kv_use", "idle_slot_share", "dollars_per_million_tokens"),
    *("preemptions", "recomputed_tokens", "swapped_tokens", "batch_size_mean", "batch_size_max", "steps"),
]


def write_run(run: Run, figures: Mapping[str, Any], directory: str | Path, *, command: str = "") -> None:
    """Write the report of one run.

    figures: what `aps simulate --json` prints: {"workload", "setup", "slo", "policy", "figures": `figures(run, slo)`}.
    ValueError when `directory` may not be written.
    """
    found, policy, setup = figures["figures"], figures["policy"], figures["setup"]
    whole = found["whole"]
    weights = [tenant["weight"] for tenant in figures["workload"]["tenants"]]
    window_s = found["fairness"]["windows"]["window_s"]
    report = Report(
        kind="simulate",
        title=f"{run.workload.name} under {policy['name']}",
        summary=(
            f"{whole['finished']:,} of {whole['sent']:,} requests finished in {rounded(whole['makespan_s'])} virtual "
            f"seconds on {setup['gpus']} x {setup['profile']}, {setup['slots']} slots each.",
            f"Policy: {policy['says']}.",
        ),
        sections=(
            Section("Who waited how long?", plots=waits(run, figures["slo"]), tables=(_tenants(found), _loads(found))),
            Section("What happened when?", plots=over_time(run)),
            Section("How fairly was it shared?", plots=shares(run, weights, window_s), tables=(_fairness(found),)),
            Section("All together", tables=(transposed("whole", "All requests, all GPUs", {"all": whole}, WHOLE),)),
        ),
        definitions=DEFINITIONS,
        notes=tuple(run.workload.notes),
        command=command,
        data=figures,
    )
    write(report, directory)


def waits(run: Run, slo: Mapping[str, Any] | None = None) -> tuple[Plot, ...]:
    """The distributions of queue wait and TTFT by tenant."""
    from aps.lab.report.plots import style
    from aps.lab.report.plots import waits as plots

    took = times(run)
    tenants = groups(run.workload, style.MOST)
    panels = {
        title: {group.name: took[key][group.rows] for group in tenants}
        for title, key in (("queue wait", "queue_wait_s"), ("time to first token", "ttft_s"))
    }
    return (plots.tails("waits", "How long did each tenant's requests wait?", panels, "duration"),)


def over_time(run: Run) -> tuple[Plot, ...]:
    """Queue, slots and KV blocks."""
    from aps.lab.report.plots import timeline

    series, devices, bins = run.series, run.setup.devices, active(run)
    quantities = [
        timeline.Level("requests\nwaiting", series.waiting[:bins]),
        timeline.Level("requests\nrunning", series.running[:bins], sum(device.slots for device in devices)),
        timeline.Level("KV blocks\nin use", series.held_blocks[:bins], sum(device.kv_blocks for device in devices)),
    ]
    title = "How long was the queue, and how full were the GPUs?"
    return (timeline.levels("over_time", title, series.edges_s[: bins + 1], quantities),)


def service(run: Run, tenants: Sequence[Group]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Edges of the bins, and the tokens computed in each for each group, until nothing is left."""
    bins = active(run)
    tokens = _spread(run.series, bins)
    return run.series.edges_s[: bins + 1], {group.name: tokens[:, group.tenants].sum(axis=1) for group in tenants}


def _spread(series: Series, bins: int) -> NDArray[np.float64]:
    """(bins, tenants) tokens, those of a step that takes several bins over all of them.

    The series counts them where the step ends: the bins before it have none, although something runs.
    """
    tokens: NDArray[np.float64] = series.served[:bins].sum(axis=1).astype(np.float64)
    if not bins:
        return tokens
    ends = tokens.any(axis=1) | (series.running[:bins, 0] == 0)
    step = np.append(0, ends[:-1].cumsum())
    widths = np.diff(series.edges_s[: bins + 1])
    part = widths / np.bincount(step, widths)[step]
    first = np.flatnonzero(np.append(True, step[1:] > step[:-1]))
    spread: NDArray[np.float64] = np.add.reduceat(tokens, first, axis=0)[step] * part[:, None]
    return spread


def active(run: Run) -> int:
    """Bins of the series until the last in which any request was there."""
    there = np.flatnonzero((run.series.waiting[:, 2] > 0) | (run.series.running[:, 2] > 0))
    return int(there[-1]) + 1 if len(there) else 0


def shares(run: Run, weights: Sequence[float] | None = None, window_s: float | None = None) -> tuple[Plot, ...]:
    """Tokens/s by tenant, and Jain's index in windows when there are some.

    weights: of the tenants; None: the run's own, which a policy may have set to 1. window_s: None: as in the figures.
    """
    from aps.lab.report.plots import style, timeline

    edges_s, served = service(run, groups(run.workload, style.MOST))
    what = "tokens/s computed\n(prompt + output)"
    plots = [timeline.rates("service", "Who was served when?", {"": (edges_s, served)}, what)]
    by = np.array([tenant.weight for tenant in run.workload.tenants] if weights is None else weights, dtype=np.float64)
    windows = fairness.windows(run.series, by, window_length(run) if window_s is None else window_s)
    if len(windows.jain) >= FEWEST_WINDOWS:
        title = "How evenly were the waiting tenants served?"
        indices = {"raw": windows.jain, "by weight": windows.weighted_jain}
        until_s = float(edges_s[-1])
        plots.append(timeline.index_in_windows("fairness", title, windows.middles_s, indices, "Jain's index", until_s))
    return tuple(plots)


def _tenants(found: Mapping[str, Any]) -> Any:
    return by_name("tenants", "By tenant", found["tenants"], "tenant", ["weight", *TENANT, *TIMES, *SHARES])


def _loads(found: Mapping[str, Any]) -> Any:
    rows = [{"load": part["level"], **flat(part)} for part in found["by_load"]]
    return table("by_load", "By the load at arrival", rows, ["load", "sent", "finished", *TIMES])


def _fairness(found: Mapping[str, Any]) -> Any:
    rows = [{"figure": name, "value": value} for name, value in flat(found["fairness"]).items()]
    return table("fairness", "Fairness", rows, ["figure", "value"])
