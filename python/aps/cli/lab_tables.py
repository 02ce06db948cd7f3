"""Results of the laboratory for people: tables that fit 100 columns. All times are virtual seconds."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
MOST_NAME = 20  # characters of a tenant's or policy's name on one line
LEVELS = ("low: < 0.5", "medium: < 0.9", "high: >= 0.9")
TIMES = (("queue wait", "queue_wait_s", 1), ("TTFT", "ttft_s", 1), ("TPOT, ms", "tpot_s", 1000), ("E2E", "e2e_s", 1))

Tree = Mapping[str, Any]


def print_run(data: Tree) -> None:
    """What `aps simulate` found."""
    out = _console()
    figures = data["figures"]
    whole, fairness = figures["whole"], figures["fairness"]
    judged = _judged(data)
    _head(out, data)
    _say(out, f"Policy {data['policy']['name']}: {data['policy']['says']}")
    shown = [*list(figures["tenants"].items())[:MOST_ROWS], ("all together", whole)]
    _say(out, "\n[bold]Times[/bold], p50/p95/p99 in virtual seconds", markup=True)
    out.print(_times("", shown, judged))
    _say(out, "[bold]Work[/bold]", markup=True)
    columns = ("", "sent", "done", "refused", "waiting", "output/s", "tokens/s", "$/M tokens", "starved, s")
    out.print(_table(columns, (_work(name, group) for name, group in shown)))
    if len(figures["tenants"]) > MOST_ROWS:
        _say(out, f"And {len(figures['tenants']) - MOST_ROWS} more tenants: --json, --out.\n")
    _say(out, "[bold]By load[/bold]: requests there (waiting or running) when they came, over slots", markup=True)
    levels = zip(LEVELS, figures["by_load"], strict=True)
    out.print(_times("", [(f"{name} ({level['sent']:,})", level) for name, level in levels], judged))
    _say(out, "[bold]All together[/bold]", markup=True)
    out.print(_table(("", ""), _whole(whole, fairness, judged)))
    _say(out, _lower_bounds(whole))
    found = data["simulated"]
    _say(
        out,
        f"Simulated {_span(found['virtual_s'])} of virtual time, {found['steps']:,} steps, in {found['wall_s']:.2f} s "
        f"of wall time: {_three(found['virtual_s_per_s'])} virtual seconds and {_three(found['steps_per_s'])} steps "
        "a second. What each figure is: docs/laboratory.md.",
    )


def print_comparison(data: Tree) -> None:
    """What `aps compare` found."""
    out = _console()
    _head(out, data)
    seeds = len(data["seeds"])
    for policy in data["policies"]:
        _say(out, f"  {policy['name']}: {policy['says']}")
    means = f"means over {seeds} seeds" if seeds > 1 else "one run each"
    figures = data["figures"]
    names = list(next(iter(figures.values()))["tenants"])
    for name in names[:MOST_TENANTS]:
        _say(out, f"\n[bold]{escape(name)}[/bold]: p50/p95/p99 in virtual seconds, {means}", markup=True)
        rows = [(policy, _means(tree["tenants"][name])) for policy, tree in figures.items()]
        out.print(_times("policy", rows, _judged(data)))
    if len(names) > MOST_TENANTS:
        _say(out, f"And {len(names) - MOST_TENANTS} more tenants: --json, --out.\n")
    _say(out, "[bold]By load[/bold]: TTFT by requests there (waiting or running) at arrival, over slots", markup=True)
    out.print(_table(("policy", *LEVELS), (_loads(name, tree["by_load"]) for name, tree in figures.items())))
    interval = "; ± half of the 95 % interval" if seeds > 1 else ""
    _say(out, f"[bold]All together[/bold], {means}{interval}", markup=True)
    for columns in (_YIELD, _LOSSES):
        headings = ("policy", *(heading for heading, _, _ in columns))
        out.print(_table(headings, (_row(name, columns, data) for name in figures)))
    _say(out, "[bold]Fairness[/bold]: Jain's index while all wait; by weights in windows", markup=True)
    out.print(_table(_FAIR, (_fair(name, tree["fairness"]) for name, tree in figures.items())))
    _verdict(out, data)


def print_batching(data: Tree) -> None:
    """What `aps compare --batching` found."""
    out = _console()
    _head(out, data)
    for note in data["notes"]:
        _say(out, f"Note: {note}.")
    _say(out, f"Policy {data['policy']['name']}: {data['policy']['says']}")
    loads = (f"{load['level']} {_three(load['offered_per_s'])} ({load['fraction']:.0%})" for load in data["loads"])
    capacity = f"capacity {_three(data['capacity_per_s']['mean'])} requests/s, all at once in continuous mode"
    _say(out, f"Offered requests/s: {', '.join(loads)}; {capacity}.\n")
    columns = ("load", "mode", "batch\np50/p95/max", "window | fill", "tokens/s", "occupancy", "queue wait, s")
    out.print(_table(columns, (_mode(load, mode) for load in data["loads"] for mode in data["modes"])))
    _verdict(out, data)


def _mode(load: Tree, mode: str) -> tuple[str, ...]:
    whole = _means(load["comparison"]["figures"][mode]["whole"])
    size = whole["batch_size"]
    released = [whole["released"].get(reason, 0) for reason in ("window", "fill")]
    return (
        load["level"],
        mode,
        NOTHING if size is None else "/".join(f"{size[name]:.0f}" for name in ("p50", "p95", "max")),
        " | ".join(f"{number:,.0f}" for number in released) if mode == "micro" else NOTHING,
        _number(whole["tokens_per_s"], ",.0f"),
        _number(whole["occupancy"], ".1%"),
        _triple(whole["queue_wait_s"]),
    )


# Parts


def _verdict(out: Console, data: Tree) -> None:
    _say(out, "[bold]Verdict[/bold]", markup=True)
    for sentence in data["verdict"]:
        _say(out, f"* {sentence}")
    _say(out, f"\nAll times are virtual; this took {data['wall_s']:.1f} s. What each figure is: docs/laboratory.md.")


def _judged(data: Tree) -> bool:
    return any(bound is not None for bound in data["slo"].values())


def _head(out: Console, data: Tree) -> None:
    workload, setup, stats = data["workload"], data["setup"], data["workload"]["stats"]
    given, following = stats["requests"] - stats["following"], stats["following"]
    name = escape(workload["name"])
    loops = f", and closed loops of up to {following:,} that follow others" if following else ""
    out.print(f"[bold]{name}[/bold]: {given:,} arrivals{loops}", highlight=False)
    if workload["description"]:
        _say(out, workload["description"])
    means = (f"mean {kind} {stats[f'{kind}_tokens']['mean']:,.0f} tokens" for kind in ("prompt", "output"))
    rate = f"{_three(stats['rate_per_s'])} arrivals/s, " if stats["rate_per_s"] else ""
    _say(out, f"Load: {rate}{', '.join(means)}.")
    for note in workload["notes"]:
        _say(out, f"Note: {note}.")
    budget = "whole prompts" if setup["token_budget"] is None else f"{setup['token_budget']} tokens a step"
    _say(
        out,
        f"{setup['gpus']} x {setup['profile']}, simulated: {setup['slots']} slots, {setup['kv_tokens']:,} KV tokens, "
        f"{budget}, ${setup['gpu_hour_dollars']:.2f} a GPU-hour ({setup['price_source']}).",
    )
    limits = [f"{name} {most:,}" for name, most in setup["limits"].items() if most is not None]
    if limits:
        _say(out, f"Limits over all tenants: {', '.join(limits)}.")


def _times(what: str, groups: Iterable[tuple[str, Tree]], judged: bool) -> Table:
    columns = (what, *(name for name, _, _ in TIMES), *(("SLO met",) if judged else ()))
    rows = (
        (
            name,
            *(_triple(group[key], scale) for _, key, scale in TIMES),
            *((_number(group["slo_share"], ".1%"),) if judged else ()),
        )
        for name, group in groups
    )
    return _table(columns, rows)


def _loads(name: str, levels: Sequence[Tree]) -> tuple[str, ...]:
    return name, *(_triple(_means(level)["ttft_s"]) for level in levels)


def _work(name: str, group: Tree) -> tuple[str, ...]:
    return (
        name,
        f"{group['sent']:,}",
        f"{group['finished']:,}",
        f"{sum(group['refused'].values()):,}",
        f"{group['still_waiting']:,}",
        _number(group["output_tokens_per_s"], ",.1f"),
        _number(group["tokens_per_s"], ",.0f"),
        _number(group["dollars_per_million_tokens"], ".3f"),
        _three(group["starvation_s"]),
    )


def _whole(whole: Tree, fairness: Tree, judged: bool) -> Iterator[tuple[str, str]]:
    yield "makespan", _span(whole["makespan_s"])
    used = ("busy", "occupancy", "mfu", "kv_use")
    yield "busy; occupancy; MFU; KV in use", "; ".join(_number(whole[name], ".1%") for name in used)
    for reason, number in whole["refused"].items():
        yield f"refused: {reason}", f"{number:,}"
    if judged:
        goodput = _number(whole["goodput_per_s"], ".3f"), _number(whole["goodput_tokens_per_s"], ",.0f")
        yield "goodput: requests/s; tokens/s", "; ".join(goodput)
    yield "dollars; a million tokens", f"{whole['dollars']:.4f}; {_number(whole['dollars_per_million_tokens'], '.3f')}"
    lost = (f"{whole[name]:,}" for name in ("preemptions", "recomputed_tokens", "swapped_tokens"))
    yield "preemptions; tokens recomputed; swapped", "; ".join(lost)
    yield "slot time idle behind what does not fit", _number(whole["idle_slot_share"], ".2%")
    bound = "no bound" if fairness["gap_bound"] is None else f"{fairness['gap_bound']:,.0f}"
    yield "widest service gap; its bound, cost units", f"{fairness['widest_gap']:,.0f}; {bound}"
    index = (_number(fairness[name], ".3f") for name in ("jain_all_wait", "weighted_jain_all_wait"))
    yield f"Jain while all wait ({_three(fairness['all_wait_s'])} s): raw; by weights", "; ".join(index)
    windows = fairness["windows"]
    if windows["number"]:
        fair = windows["weighted_jain"]
        yield (
            f"Jain by weights, {windows['number']} windows of {_three(windows['window_s'])} s: mean; 5 %; worst",
            "; ".join(f"{fair[name]:.3f}" for name in ("mean", "p5", "worst")),
        )


_Columns = tuple[tuple[str, str, Callable[[float], str]], ...]  # heading, figure of the whole, how it is shown
_YIELD: _Columns = (
    ("tokens/s", "tokens_per_s", lambda x: f"{x:,.0f}"),
    ("lost to FIFO", "throughput_lost", lambda x: f"{x:.1%}"),
    ("goodput/s", "goodput_per_s", lambda x: f"{x:.2f}"),
    ("$/M tokens", "dollars_per_million_tokens", lambda x: f"{x:.3f}"),
    ("occupancy", "occupancy", lambda x: f"{x:.1%}"),
    ("busy", "busy", lambda x: f"{x:.1%}"),
)
_LOSSES: _Columns = (
    ("slots idle\nbehind a head", "idle_slot_share", lambda x: f"{x:.2%}"),
    ("preemptions", "preemptions", lambda x: f"{x:,.0f}"),
    ("tokens\nrecomputed", "recomputed_tokens", lambda x: f"{x:,.0f}"),
    ("longest\nstarvation, s", "starvation_s", lambda x: _three(x)),
)
_FAIR = ("policy", "all wait, s", "raw", "by weights", "windows", "mean", "worst", "widest gap\nof bound")


def _row(name: str, columns: _Columns, data: Tree) -> tuple[str, ...]:
    lost = data["throughput_lost"]
    whole = {**data["figures"][name]["whole"], "throughput_lost": None if lost is None else lost[name]}
    return name, *(_mean(whole[key], show) for _, key, show in columns)


def _fair(name: str, tree: Tree) -> tuple[str, ...]:
    fairness = _means(tree)
    windows = fairness["windows"]
    inside = windows["weighted_jain"] or {}
    return (
        name,
        _three(fairness["all_wait_s"]),
        _number(fairness["jain_all_wait"], ".3f"),
        _number(fairness["weighted_jain_all_wait"], ".3f"),
        f"{_three(windows['number'])} of {_three(windows['window_s'])} s",
        _number(inside.get("mean"), ".3f"),
        _number(inside.get("worst"), ".3f"),
        "no bound" if fairness["gap_part"] is None else f"{fairness['gap_part']:.0%}",
    )


def _lower_bounds(whole: Tree) -> str:
    still = whole["still_waiting"] + whole["still_running"]
    if not still:
        return "Everything had ended when the run stopped."
    return (
        f"{still:,} requests were still there when the run stopped ({whole['still_waiting']:,} waiting); they count "
        "with their time so far, so the percentiles are lower bounds."
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
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.{max(0, 2 - floor(log10(abs(rounded))))}f}" if rounded else "0"


def _mean(found: Tree | None, show: Callable[[float], str]) -> str:
    if found is None:
        return NOTHING
    interval = found["ci95"]
    if interval is None or found["low"] == found["high"]:
        return show(found["mean"])
    return f"{show(found['mean'])} ±{show((interval[1] - interval[0]) / 2)}"


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
    rows = list(rows)
    named = min(MOST_NAME, max(map(len, (*columns[:1], *(row[0] for row in rows)))))
    for at, heading in enumerate(columns):
        width = named if at == 0 and len(columns) > 2 else None
        table.add_column(heading, justify="right" if at else "left", overflow="fold", min_width=width, max_width=width)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    table.add_row()
    return table
