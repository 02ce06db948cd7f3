"""The reports of comparisons: policies side by side, and the two modes of batching."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aps.lab.definitions import DEFINITIONS
from aps.lab.figures import times
from aps.lab.report.csvs import Table, table
from aps.lab.report.files import write
from aps.lab.report.flatten import estimates, flat, name, transposed
from aps.lab.report.html import Plot, Report, Section
from aps.lab.report.runs import SHARES, TENANT, TIMES, WHOLE, service
from aps.lab.report.tenants import Group, groups
from aps.lab.run import Run

PANELS = 4  # tenants told apart in the plot of waits
FAIRNESS = [
    *("jain_all_wait", "weighted_jain_all_wait", "windows_jain_mean", "windows_jain_worst"),
    *("windows_weighted_jain_mean", "windows_weighted_jain_worst", "widest_gap", "gap_bound", "gap_part"),
]


def write_compare(
    comparison: Mapping[str, Any], directory: str | Path, *, runs: Mapping[str, Run], command: str = ""
) -> None:
    """Write the report of policies side by side.

    comparison: what `aps compare --json` prints. runs: by policy the run of the first seed. ValueError when
    `directory` may not be written.
    """
    figures, workload = comparison["figures"], comparison["workload"]
    some = next(iter(runs.values()))
    notes = tuple(workload["notes"])
    drawn, left_out = _drawn(list(figures))
    if left_out:
        notes += (f"Plots show the first {len(drawn)} policies; not: {', '.join(left_out)}.",)
    tenants = groups(some.workload, PANELS)
    seeds = len(comparison["seeds"])
    report = Report(
        kind="compare",
        title=f"{workload['name']} under {len(figures)} policies",
        summary=tuple(comparison["verdict"]),
        sections=(
            Section(
                "What does each policy give?",
                plots=(_bars(figures, drawn, tenants, seeds), _tradeoff(figures, drawn, tenants[0], seeds)),
                tables=(_policies(comparison), _whole(figures), estimates(figures)),
            ),
            Section(
                "Who waits how long?",
                plots=(_tails(runs, drawn, tenants), _ttft(figures, drawn, tenants)),
                tables=tuple(
                    _tenant(at, group, figures) for at, group in enumerate(tenants) if len(group.tenants) == 1
                ),
            ),
            Section("Who is served when?", "The first seed.", (_service(runs, drawn, tenants),)),
            Section("What is the difference?", _difference_text(comparison), tables=(_differences(comparison),)),
        ),
        definitions=DEFINITIONS,
        notes=notes,
        command=command,
        data=comparison,
    )
    write(report, directory)


def _drawn(policies: Sequence[str]) -> tuple[list[str], list[str]]:
    from aps.lab.report.plots import style

    return list(policies[: style.MOST]), list(policies[style.MOST :])


def _estimate(leaf: Mapping[str, Any] | None) -> Any:
    from aps.lab.report.plots.bars import Estimate

    if leaf is None:
        return Estimate(None)
    low, high = leaf["ci95"] or (None, None)
    return Estimate(leaf["mean"], low, high)


def _leaf(figures: Mapping[str, Any], *keys: str) -> Mapping[str, Any] | None:
    """A number over seeds; None where the tree does not reach it."""
    at: Any = figures
    for key in keys:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at if isinstance(at, Mapping) else None


def _interval(seeds: int) -> str:
    return f"95 % confidence intervals of the mean over {seeds} seeds" if seeds > 1 else "not drawn for one seed"


def _bars(figures: Mapping[str, Any], drawn: list[str], tenants: list[Group], seeds: int) -> Plot:
    from aps.lab.report.plots.bars import Panel, side_by_side
    from aps.lab.report.plots.style import short

    def panel(title: str, *keys: str, **settings: Any) -> Panel:
        return Panel(title, [_estimate(_leaf(figures[name], *keys)) for name in drawn], **settings)

    lower, higher = {"time": True, "better": "lower"}, {"better": "higher"}
    first = [group.name for group in tenants[:2] if len(group.tenants) == 1]
    jain = ("fairness", "windows", "weighted_jain", "mean")
    in_windows = all(_leaf(figures[name], *jain) for name in drawn)
    bounds = (1 / sum(len(group.tenants) for group in tenants), 1.0)
    panels = [
        *(panel(f"{short(who)}: queue wait p99", "tenants", who, "queue_wait_s", "p99", **lower) for who in first),
        panel("all: TTFT p99", "whole", "ttft_s", "p99", **lower),
        panel("tokens/s", "whole", "tokens_per_s", **higher),
        panel("Jain by weight, in windows", *jain, bounds=bounds, **higher)
        if in_windows
        else panel("Jain by weight, while all wait", "fairness", "weighted_jain_all_wait", bounds=bounds, **higher),
        panel("longest starvation", "whole", "starvation_s", **lower),
    ]
    return side_by_side("policies", "What does each policy give?", drawn, panels, _interval(seeds))


def _tradeoff(figures: Mapping[str, Any], drawn: list[str], first: Group, seeds: int) -> Plot:
    from aps.lab.report.plots.bars import Point, plane
    from aps.lab.report.plots.style import short

    keys = ("tenants", first.name) if len(first.tenants) == 1 else ("whole",)
    who = short(first.name) if len(first.tenants) == 1 else "all"
    points = [
        Point(
            name,
            _estimate(_leaf(figures[name], "whole", "tokens_per_s")),
            _estimate(_leaf(figures[name], *keys, "queue_wait_s", "p99")),
        )
        for name in drawn
    ]
    title = f"What does a short wait of {who} cost in throughput?"
    return plane("tradeoff", title, points, "prompt + output tokens/s", f"{who}: queue wait p99", _interval(seeds))


def _tails(runs: Mapping[str, Run], drawn: list[str], tenants: list[Group]) -> Plot:
    from aps.lab.report.plots import waits

    took = {name: times(runs[name])["queue_wait_s"] for name in drawn}
    panels = {group.name: {name: took[name][group.rows] for name in drawn} for group in tenants}
    return waits.tails("waits", "How long did each tenant's requests wait, by policy?", panels, "queue wait")


def _ttft(figures: Mapping[str, Any], drawn: list[str], tenants: list[Group]) -> Plot:
    from aps.lab.report.plots import waits

    records = [
        (group.name, name, _means(figures[name], ("tenants", group.name, "ttft_s")))
        for group in tenants
        if len(group.tenants) == 1
        for name in drawn
    ]
    return waits.percentiles("ttft", "How long until the first token, by tenant and policy?", records, "TTFT")


def _means(figures: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, float | None]:
    found = {p: _leaf(figures, *keys, p) for p in ("p50", "p95", "p99")}
    return {p: None if leaf is None else leaf["mean"] for p, leaf in found.items()}


def _service(runs: Mapping[str, Run], drawn: list[str], tenants: list[Group]) -> Plot:
    from aps.lab.report.plots import timeline

    panels = {policy: service(runs[policy], tenants) for policy in drawn}
    return timeline.rates("service", "Who is served when, by policy?", panels, "tokens/s computed (prompt + output)")


def _policies(comparison: Mapping[str, Any]) -> Table:
    lost = comparison["throughput_lost"] or {}
    rows = [
        {
            "policy": policy["name"],
            "settings": policy["says"],
            "throughput_lost": (lost.get(policy["name"]) or {}).get("mean"),
        }
        for policy in comparison["policies"]
    ]
    return table("policies", "The policies; throughput lost against fifo", rows)


def _whole(figures: Mapping[str, Any]) -> Table:
    parts = {name: {**flat(tree["whole"]), **flat(tree["fairness"])} for name, tree in figures.items()}
    return transposed("whole", "All requests: means over the seeds", parts, [*WHOLE, *FAIRNESS])


def _tenant(at: int, group: Group, figures: Mapping[str, Any]) -> Table:
    parts = {name: tree["tenants"][group.name] for name, tree in figures.items()}
    found = transposed(f"tenant_{at}", f"{group.name}: means over the seeds", parts, [*TENANT, *TIMES, *SHARES])
    return replace(found, about={"tenant": group.name})


def _difference_text(comparison: Mapping[str, Any]) -> str:
    return f"Policy minus {comparison['baseline']}, on the same requests, seed by seed; the interval is of the mean."


def _differences(comparison: Mapping[str, Any]) -> Table:
    rows = [
        {
            "policy": policy,
            "figure": name(tuple(row["keys"])),
            "baseline": row["baseline"],
            "mean": row["mean"],
            **_spread("difference", row["difference"]),
            **_spread("relative", row["relative"]),
        }
        for policy, differences in comparison["differences"].items()
        for row in differences
    ]
    return replace(table("differences", f"Every difference from {comparison['baseline']}", rows), on_page=False)


def _spread(what: str, leaf: Mapping[str, Any] | None) -> dict[str, float | None]:
    if leaf is None:
        return dict.fromkeys((what, f"{what}_ci95_low", f"{what}_ci95_high"))
    low, high = leaf["ci95"] or (None, None)
    return {what: leaf["mean"], f"{what}_ci95_low": low, f"{what}_ci95_high": high}
