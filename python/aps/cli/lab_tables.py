"""Results of the laboratory for people: tables that fit 100 columns. All times are virtual seconds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor, log10
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 100  # where stdout is no terminal
NOTHING = "-"
MOST_TENANTS = 6  # with tables of their own in a comparison
MOST_ROWS = 24
TIMES = (("queue wait", "queue_wait_s", 1), ("TTFT", "ttft_s", 1), ("TPOT, ms", "tpot_s", 1000), ("E2E", "e2e_s", 1))

Tree = Mapping[str, Any]


def print_run(data: Tree) -> None:
    """What `aps simulate` found."""
    out = _console()
    figures = data["figures"]
    whole, fairness = figures["whole"], figures["fairness"]
    _head(out, data)
    _say(out, f"Policy {data['policy']['name']}: {data['policy']['says']}")
    groups = {**figures["tenants"], "all": whole}
    shown = dict(list(figures["tenants"].items())[: MOST_ROWS - 1]) | {"all": whole}
    _say(out, "\n[bold]Times[/bold], p50/p95/p99 in virtual seconds", markup=True)
    out.print(_times("", shown))
    _say(out, "[bold]Work[/bold]", markup=True)
    columns = (
        "",
        "sent",
        "finished",
        "refused",
        "waiting",
        "SLO met",
        "output/s",
        "tokens/s",
        "$/M tokens",
        "starved, s",
    )
    out.print(_table(columns, (_work(name, group) for name, group in shown.items())))
    if len(shown) < len(groups):
        _say(out, f"{len(groups) - len(shown)} more tenants in --json and --out.\n")
    _say(out, "[bold]By load[/bold]: how full the system was when they came", markup=True)
    out.print(_times("", {level["level"]: level for level in figures["by_load"]}))
    _say(out, "[bold]All together[/bold]", markup=True)
    out.print(_table(("", ""), _whole(whole, fairness, data["setup"])))
    _say(out, _lower_bounds(whole))
    found = data["simulated"]
    _say(
        out,
        f"Simulated {_span(found['virtual_s'])} of virtual time, {found['steps']:,} steps, in {found['wall_s']:.2f} s of "
        f"wall time: {found['virtual_s_per_s']:,.0f} virtual seconds and {found['steps_per_s']:,.0f} steps a second.",
    )


def print_comparison(data: Tree) -> None:
    """What `aps compare` found."""
    out = _console()
    _head(out, data)
    seeds = len(data["seeds"])
    for policy in data["policies"]:
        _say(out, f"  {policy['name']}: {policy['says']}")
    means = "means over the seeds" if seeds > 1 else "one seed"
    figures = data["figures"]
    names = list(next(iter(figures.values()))["tenants"])
    for name in names[:MOST_TENANTS]:
        _say(out, f"\n[bold]{escape(name)}[/bold]: p50/p95/p99 in virtual seconds, {means}", markup=True)
        out.print(_times("policy", {policy: _means(tree["tenants"][name]) for policy, tree in figures.items()}))
    if len(names) > MOST_TENANTS:
        _say(out, f"{len(names) - MOST_TENANTS} more tenants in --json and --out.")
    _say(
        out, f"\n[bold]All together[/bold], {means}{'; ± half of the 95 % interval' if seeds > 1 else ''}", markup=True
    )
    out.print(_table(_COMPARED, (_compared(name, data) for name in figures)))
    _say(out, "[bold]Fairness[/bold]: Jain raw | by weights", markup=True)
    columns = ("policy", "all wait, s", "while all wait", "windows", "mean in windows", "worst", "widest gap of bound")
    out.print(_table(columns, (_fair(name, tree["fairness"]) for name, tree in figures.items())))
    _say(out, "[bold]Verdict[/bold]", markup=True)
    for sentence in data["verdict"]:
        _say(out, f"* {sentence}")
    _say(out, f"\nWhat each figure is: docs/laboratory.md. {data['wall_s']:.1f} s of wall time.")


def print_batching(data: Tree) -> None:
    """What `aps compare --batching` found."""
    out = _console()
    _head(out, data)
    capacity = data["capacity_per_s"]["mean"]
    _say(out, f"Policy {data['policy']['name']}: {data['policy']['says']}")
    _say(out, f"Measured capacity: {_three(capacity)} requests/s (all requests at once, continuous batching)")
    columns = (
        "load",
        "offered/s",
        "mode",
        "batch p50/p95/max",
        "released",
        "tokens/s",
        "occupancy",
        "wait p50/p95/p99, s",
    )
    rows = []
    for load in data["loads"]:
        for mode in data["modes"]:
            tree = load["comparison"]["figures"][mode]["whole"]
            whole = _means(tree)
            size = whole["batch_size"] or {}
            rows.append(
                (
                    f"{load['level']} ({load['fraction']:.0%})",
                    _three(load["offered_per_s"]),
                    mode,
                    "/".join(f"{size[name]:.0f}" for name in ("p50", "p95", "max")) if size else NOTHING,
                    " ".join(f"{name} {number:,.0f}" for name, number in whole["released"].items()) or NOTHING,
                    _number(whole["tokens_per_s"], ",.0f"),
                    _number(whole["occupancy"], ".1%"),
                    _triple(whole["queue_wait_s"]),
                )
            )
    out.print(_table(columns, rows))
    _say(out, "[bold]Verdict[/bold]", markup=True)
    for sentence in data["verdict"]:
        _say(out, f"* {sentence}")
    _say(out, f"\nWhat each figure is: docs/laboratory.md. {data['wall_s']:.1f} s of wall time.")


# Parts


def _head(out: Console, data: Tree) -> None:
    workload, setup = data["workload"], data["setup"]
    out.print(f"[bold]{escape(workload['name'])}[/bold]: {workload['requests']:,} requests", highlight=False)
    if workload["description"]:
        _say(out, workload["description"])
    for note in workload["notes"]:
        _say(out, f"Note: {note}.")
    budget = "whole prompts" if setup["token_budget"] is None else f"{setup['token_budget']} tokens a step"
    _say(
        out,
        f"{setup['gpus']} x {setup['profile']}, simulated: {setup['slots']} slots, {setup['kv_tokens']:,} KV tokens, "
        f"{budget}, ${setup['gpu_hour_dollars']:.2f} a GPU-hour ({setup['price_source']}).",
    )


def _times(what: str, groups: Mapping[str, Tree]) -> Table:
    return _table(
        (what, *(name for name, _, _ in TIMES), "SLO met"),
        (
            (
                name,
                *(_triple(group[key], scale) for _, key, scale in TIMES),
                _number(group["slo_share"], ".1%"),
            )
            for name, group in groups.items()
        ),
    )


def _work(name: str, group: Tree) -> tuple[str, ...]:
    return (
        name,
        f"{group['sent']:,}",
        f"{group['finished']:,}",
        f"{sum(group['refused'].values()):,}",
        f"{group['still_waiting']:,}",
        _number(group["slo_share"], ".1%"),
        _number(group["output_tokens_per_s"], ",.1f"),
        _number(group["tokens_per_s"], ",.0f"),
        _number(group["dollars_per_million_tokens"], ".3f"),
        _three(group["starvation_s"]),
    )


def _whole(whole: Tree, fairness: Tree, setup: Tree) -> Iterable[tuple[str, str]]:
    yield "makespan", _span(whole["makespan_s"])
    yield (
        "busy; occupancy; MFU; KV in use",
        "; ".join(_number(whole[x], ".1%") for x in ("busy", "occupancy", "mfu", "kv_use")),
    )
    for reason, number in whole["refused"].items():
        yield f"refused: {reason}", f"{number:,}"
    yield (
        "goodput, requests/s; tokens/s",
        f"{_number(whole['goodput_per_s'], '.3f')}; {_number(whole['goodput_tokens_per_s'], ',.0f')}",
    )
    yield "dollars; a million tokens", f"{whole['dollars']:.4f}; {_number(whole['dollars_per_million_tokens'], '.3f')}"
    yield (
        "preemptions; tokens recomputed; swapped",
        f"{whole['preemptions']:,}; {whole['recomputed_tokens']:,}; {whole['swapped_tokens']:,}",
    )
    yield "slot time idle behind what does not fit", _number(whole["idle_slot_share"], ".2%")
    bound = "no bound" if fairness["gap_bound"] is None else f"{fairness['gap_bound']:,.0f}"
    yield "widest service gap; its bound, cost units", f"{fairness['widest_gap']:,.0f}; {bound}"
    yield (
        f"Jain while all wait ({_three(fairness['all_wait_s'])} s): raw; by weights",
        f"{_number(fairness['jain_all_wait'], '.3f')}; {_number(fairness['weighted_jain_all_wait'], '.3f')}",
    )
    windows = fairness["windows"]
    if windows["number"]:
        fair = windows["weighted_jain"]
        yield (
            f"Jain by weights in {windows['number']} windows of {_three(windows['window_s'])} s: mean; 5 %; worst",
            "; ".join(f"{fair[name]:.3f}" for name in ("mean", "p5", "worst")),
        )


_COMPARED = (
    "policy",
    "tokens/s",
    "lost to FIFO",
    "$/M tokens",
    "occupancy",
    "idle slots",
    "recomputed",
    "starved, s",
    "goodput/s",
)


def _compared(name: str, data: Tree) -> tuple[str, ...]:
    whole = data["figures"][name]["whole"]
    lost = data["throughput_lost"]
    return (
        name,
        _mean(whole["tokens_per_s"], lambda x: f"{x:,.0f}"),
        NOTHING if lost is None else _mean(lost[name], lambda x: f"{x:.1%}"),
        _mean(whole["dollars_per_million_tokens"], lambda x: f"{x:.3f}"),
        _mean(whole["occupancy"], lambda x: f"{x:.1%}"),
        _mean(whole["idle_slot_share"], lambda x: f"{x:.2%}"),
        _mean(whole["recomputed_tokens"], lambda x: f"{x:,.0f}"),
        _mean(whole["starvation_s"], _three),
        _mean(whole["goodput_per_s"], lambda x: f"{x:.2f}"),
    )


def _fair(name: str, tree: Tree) -> tuple[str, ...]:
    fairness = _means(tree)
    windows = fairness["windows"]
    raw, fair = (windows[key] or {} for key in ("jain", "weighted_jain"))
    return (
        name,
        _three(fairness["all_wait_s"]),
        _pair(fairness["jain_all_wait"], fairness["weighted_jain_all_wait"]),
        f"{windows['number']:.0f} of {_three(windows['window_s'])} s",
        _pair(raw.get("mean"), fair.get("mean")),
        _pair(raw.get("worst"), fair.get("worst")),
        "no bound" if fairness["gap_part"] is None else f"{fairness['gap_part']:.0%}",
    )


def _lower_bounds(whole: Tree) -> str:
    still = whole["still_waiting"] + whole["still_running"]
    if not still:
        return "Everything had ended when the run stopped."
    return (
        f"{still:,} requests were still there when the run stopped ({whole['still_waiting']:,} waiting); they count with "
        "their time so far, so the percentiles are lower bounds."
    )


# Numbers


def _means(tree: Any) -> Any:
    """A tree over seeds as the tree of its means."""
    if isinstance(tree, Mapping):
        return tree["mean"] if "ci95" in tree else {name: _means(value) for name, value in tree.items()}
    return tree


def _triple(times: Mapping[str, float] | None, scale: float = 1) -> str:
    return NOTHING if times is None else "/".join(_short(times[name] * scale) for name in ("p50", "p95", "p99"))


def _short(value: float) -> str:
    """At most three decimals, and five characters up to 99,999."""
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


def _three(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.{max(0, 2 - floor(log10(abs(value))))}f}" if value else "0"


def _mean(found: Tree | None, show: Callable[[float], str]) -> str:
    if found is None:
        return NOTHING
    interval = found["ci95"]
    if interval is None or found["low"] == found["high"]:
        return show(found["mean"])
    return f"{show(found['mean'])} ±{show((interval[1] - interval[0]) / 2)}"


def _pair(raw: float | None, fair: float | None) -> str:
    return f"{_number(raw, '.3f')} | {_number(fair, '.3f')}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{_three(seconds)} s"
    return (
        f"{seconds:,.0f} s ({seconds / 60:.0f} min)" if seconds < 7200 else f"{seconds:,.0f} s ({seconds / 3600:.1f} h)"
    )


# Rich


def _console() -> Console:
    out = Console()
    return out if out.is_terminal else Console(width=WIDTH)


def _say(out: Console, text: str, markup: bool = False) -> None:
    out.print(text, highlight=False, markup=markup)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(columns))
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    table.add_row()
    return table
