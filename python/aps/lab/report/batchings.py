"""The report of the two batching modes at several loads."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from aps.lab.definitions import DEFINITIONS
from aps.lab.report.csvs import Table, rounded, table
from aps.lab.report.files import write
from aps.lab.report.flatten import flat
from aps.lab.report.html import Plot, Report, Section
from aps.lab.report.runs import TIMES
from aps.lab.run import Run

COLUMNS = [
    *("level", "mode", "fraction", "offered_per_s", "requests_per_s", "tokens_per_s", "occupancy"),
    *("batch_size_mean", "batch_size_p50", "batch_size_p95", "batch_size_max"),
    *("released_window", "released_fill", "released_continuous"),
    *TIMES,
]


def write_batching(
    data: Mapping[str, Any], directory: str | Path, *, runs: Mapping[str, Run], command: str = ""
) -> None:
    """Write the report of `aps.lab.batching.batching`.

    data: its data. runs: its runs, "LEVEL MODE" of the first seed. ValueError when `directory` may not be written.
    """
    capacity = data["capacity_per_s"]
    report = Report(
        kind="batching",
        title=f"{data['workload']['name']}: {' and '.join(data['modes'])} batching",
        summary=(
            *data["verdict"],
            f"Loads are fractions of the measured capacity, {rounded(capacity['mean'])} requests/s in continuous mode.",
        ),
        sections=(
            Section("What does each mode give at each load?", plots=(_bars(data),), tables=(_loads(data),)),
            Section("How large are the batches?", "The first seed.", (_sizes(data, runs),)),
        ),
        definitions=DEFINITIONS,
        notes=(*data["workload"]["notes"], *data["notes"]),
        command=command,
        data=data,
    )
    write(report, directory)


def _bars(data: Mapping[str, Any]) -> Plot:
    from aps.lab.report.plots.bars import Estimate, Panel, side_by_side

    chosen = (
        ("queue wait p50", ("queue_wait_s", "p50"), True, "lower"),
        ("queue wait p99", ("queue_wait_s", "p99"), True, "lower"),
        ("TPOT p50", ("tpot_s", "p50"), True, "lower"),
        ("tokens/s", ("tokens_per_s",), False, "higher"),
        ("batch size, mean", ("batch_size", "mean"), False, ""),
        ("occupancy", ("occupancy",), False, "higher"),
    )
    bounds = {"occupancy": 1.0}
    wholes = {
        f"{load['level']} {mode}": load["comparison"]["figures"][mode]["whole"]
        for load in data["loads"]
        for mode in data["modes"]
    }

    def estimate(whole: Mapping[str, Any], keys: tuple[str, ...]) -> Estimate:
        leaf: Any = whole
        for key in keys:
            leaf = None if leaf is None else leaf[key]
        return Estimate(None) if leaf is None else Estimate(leaf["mean"], *(leaf["ci95"] or (None, None)))

    panels = [
        Panel(
            title, [estimate(whole, keys) for whole in wholes.values()], time, better, (0.0, bounds.get(keys[0], inf))
        )
        for title, keys, time, better in chosen
    ]
    seeds = len(data["seeds"])
    interval = f"95 % confidence intervals of the mean over {seeds} seeds" if seeds > 1 else "not drawn for one seed"
    title = "What does each batching mode give at each load?"
    kinds = {name: name.split()[-1] for name in wholes}
    return side_by_side("modes", title, list(wholes), panels, interval, kinds)


def _sizes(data: Mapping[str, Any], runs: Mapping[str, Run]) -> Plot:
    from aps.lab.report.plots import bars

    panels = {}
    for load in data["loads"]:
        modes = {mode: runs[f"{load['level']} {mode}"].batch_sizes.astype(np.float64) for mode in data["modes"]}
        panels[f"{load['level']} load"] = modes
    return bars.sizes("batch_sizes", "How large are the batches?", panels, "requests that run as a batch goes")


def _loads(data: Mapping[str, Any]) -> Table:
    rows = [
        {
            "level": load["level"],
            "mode": mode,
            "fraction": load["fraction"],
            "offered_per_s": load["offered_per_s"],
            **flat(load["comparison"]["figures"][mode]["whole"]),
        }
        for load in data["loads"]
        for mode in data["modes"]
    ]
    known = [column for column in COLUMNS if any(column in row for row in rows)]
    return table("modes", "By load and mode: means over the seeds", rows, known)
