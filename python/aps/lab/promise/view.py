"""The promised figures for people: tables on a terminal, and a report."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps.lab.promise import open_loop as w2
from aps.lab.promise.burst import PROMISED, SCENARIO, flat
from aps.lab.promise.definitions import FIGURES
from aps.lab.promise.promised import BURST_SEEDS
from aps.lab.report import Section, table, write_promise
from aps.lab.run import Setup, simulate
from aps.lab.tables import NOTHING, grid
from aps.models import LLAMA2_7B
from aps.profiles import A100_FLOPS, profile_named

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 110  # where stdout is no terminal
TITLES = {figure.name: figure.title for figure in FIGURES}
FORMS = {figure.name: figure.form for figure in FIGURES}
RUNS = {
    "burst": "W1: the burst on reference",
    "physics": "W1 on physics",
    "open_loop": "W2: the open loop",
}


def print_promised(data: Mapping[str, Any]) -> None:
    """To stdout: the figures, what was run and how the GPU was used, the burst under other policies, what made the
    shares, what each figure is."""
    out = _console()
    out.print("\n[bold]The promised figures[/bold], simulated in virtual time")
    print_figures(data)
    for name, title in RUNS.items():
        found = data[name]
        out.print(f"[bold]{title}[/bold] ({len(found['seeds'])} seeds): {found['knobs']}")
    columns = ("", *RUNS.values())
    out.print()
    out.print(grid(columns, use_rows(data)))
    for sentence in use_words(data):
        out.print(sentence)
    seeds = len(data["policies"]["seeds"])
    out.print(f"\n[bold]The same burst under other policies[/bold], means over {seeds} seeds")
    out.print(grid(POLICY_COLUMNS, (_policy(row) for row in data["policies"]["rows"])))
    for row in data["policies"]["rows"]:
        out.print(f"* {row['policy']}: {row['says']}")
    out.print("\n[bold]What made the shares[/bold]")
    for sentence in words(data):
        out.print(f"* {sentence}")
    out.print("\n[bold]What the figures are[/bold]")
    for row in data["figures"]:
        out.print(f"* {TITLES[row['figure']]}: {row['definition']}.")
    style, word = ("green", "MET") if data["met"] else ("red", "NOT MET")
    met = sum(row["met"] for row in data["figures"])
    judged = f"{met} of {len(data['figures'])} promised figures"
    out.print(f"\n[bold {style}]{word}[/]: {judged}")
    if data["seeds"] < BURST_SEEDS:
        out.print(f"on {data['seeds']} of W1's seeds; the promise is the mean over {BURST_SEEDS}")


def print_figures(data: Mapping[str, Any]) -> None:
    """Their table alone."""
    columns = ("", "promised", "measured", "lowest to highest", "workload", "met")
    _console().print(grid(columns, (_figure(row) for row in data["figures"]), text=(0, 4)))


def _console() -> "Console":
    from rich.console import Console

    out = Console(highlight=False)
    return out if out.is_terminal else Console(width=WIDTH, highlight=False)


def _figure(row: Mapping[str, Any]) -> tuple[str, ...]:
    form = FORMS[row["figure"]]
    workload = next(figure.workload for figure in FIGURES if figure.name == row["figure"])
    return (
        TITLES[row["figure"]],
        format(row["promised"], form),
        format(row["measured"], form),
        f"{row['low']:{form}} to {row['high']:{form}}",
        workload,
        "yes" if row["met"] else "NO",
    )


# How the GPU was used


def use_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Busy, occupancy and MFU together, and what came of it, of each run."""
    of = {name: flat(data[name]["figures"], *_tenants(name)) for name in RUNS}
    for heading, key, form in (
        ("busy", "busy", ".1%"),
        ("occupancy", "occupancy", ".1%"),
        ("MFU", "mfu", ".1%"),
        ("output tokens/s", "output_tokens_per_s", ",.1f"),
        ("prompt + output tokens/s", "tokens_per_s", ",.0f"),
        ("dollars per million tokens", "dollars_per_million_tokens", ".3f"),
        ("Jain while both wait", "jain", ".3f"),
    ):
        yield heading, *(_number(of[name][key], form) for name in RUNS)
    for who in ("vip", "free"):
        for time, title in (("queue_wait", "queue wait"), ("ttft", "TTFT")):
            keys = [f"{who}_{time}_{which}_s" for which in ("mean", "p99")]
            cells = ("; ".join(_number(of[name][key], ".3f") for key in keys) for name in RUNS)
            yield f"{'VIP' if who == 'vip' else who} {title} mean; p99, s", *cells
    yield "preemptions", *(_number(of[name]["preemptions"], ",.0f") for name in RUNS)


def use_words(data: Mapping[str, Any]) -> list[str]:
    """What the MFU would be, and where the honest A100 stands."""
    burst, physics = (flat(data[name]["figures"]) for name in ("burst", "physics"))
    tokens_per_s, dollars = burst["tokens_per_s"], burst["dollars_per_million_tokens"]
    assert tokens_per_s is not None and dollars is not None and physics["dollars_per_million_tokens"] is not None
    mfu = tokens_per_s * LLAMA2_7B.flops_per_token / A100_FLOPS
    return [
        f"The reference profile is no model of a GPU and has no MFU; a Llama-2-7B at its rate would use {mfu:.1%} of "
        "an A100. Means over the seeds.",
        f"On physics the same burst costs {dollars / physics['dollars_per_million_tokens']:.1f} times less a token: "
        "the reference profile is stylised, and slower than the A100 it is priced as.",
    ]


def _tenants(run: str) -> tuple[str, ...]:
    return (w2.VIP, w2.FREE) if run == "open_loop" else ()


# Other policies, and what made the shares

POLICY_COLUMNS = (
    "policy",
    "VIP share",
    "Jain",
    "VIP wait\nmean; p99, s",
    "free wait\nmean; p99, s",
    "makespan, s",
    "occupancy",
    "output/s",
)


def _policy(row: Mapping[str, Any]) -> tuple[str, ...]:
    waits = (
        "; ".join(_number(row[f"{who}_queue_wait_{which}_s"], ".1f") for which in ("mean", "p99"))
        for who in ("vip", "free")
    )
    return (
        row["policy"],
        _number(row["vip_share"], ".1%"),
        _number(row["jain"], ".3f"),
        *waits,
        _number(row["makespan_s"], ".1f"),
        _number(row["occupancy"], ".1%"),
        _number(row["output_tokens_per_s"], ".1f"),
    )


def words(data: Mapping[str, Any]) -> list[str]:
    """What made the shares, and what did not."""
    found = [cause["words"] for cause in data["causes"]["found"]]
    by = {row["policy"]: row for row in data["policies"]["rows"]}
    makespans = [row["makespan_s"] for row in by.values()]
    return [
        *found,
        "How far the bid reaches is the window's doing: with D = 32768 the VIP gets "
        f"{by['wide-window']['vip_share']:.1%}, under strict priority {by['strict']['vip_share']:.1%}, under FIFO "
        f"{by['fifo']['vip_share']:.1%}.",
        f"The work is the same under all of them: makespans differ by {max(makespans) / min(makespans) - 1:.2%}.",
    ]


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


# A report


def write_report(data: Mapping[str, Any], directory: str | Path, command: str) -> None:
    """report.html with plots, tables and report.json. ValueError when `directory` may not be written."""
    from aps.lab.report.plots.bars import Promise, promises

    drawn = [
        Promise(
            TITLES[row["figure"]],
            "",
            row["promised"],
            _tolerance(row["figure"]),
            {"jain": None, "dollars_per_million_tokens": False, "vip_queue_wait_p99_s": False}.get(row["figure"], True),
            row["measured"],
            row["low"],
            row["high"],
            row["met"],
        )
        for row in data["figures"]
    ]
    reference, physics = (
        Setup(profile=profile_named(name)) for name in ("reference", data["physics"]["setup"]["profile"])
    )
    runs = {
        "W1, the burst, seed 0": simulate(SCENARIO.build(0), PROMISED.policy, reference),
        "W2, the open loop, seed 0": simulate(w2.SCENARIO.build(0), w2.PROMISED, physics),
    }
    write_promise(
        data["figures"],
        directory,
        runs=runs,
        plot=promises("promised", "Is every promised figure reached?", drawn),
        sections=_sections(data),
        definitions={TITLES[row["figure"]]: row["definition"] for row in data["figures"]},
        notes=tuple(f"{title}: {data[name]['knobs']}" for name, title in RUNS.items()),
        command=command,
        data={key: value for key, value in data.items() if key != "figures"},
    )


def _tolerance(figure: str) -> float:
    """How far beyond the promised figure it is still met: half a cent by rounding; 0.02 for the index."""
    return {"jain": 0.02, "dollars_per_million_tokens": 0.005}.get(figure, 0.0)


def _sections(data: Mapping[str, Any]) -> Sequence[Section]:
    columns = ["figure", *RUNS.values()]
    use = [dict(zip(columns, row, strict=True)) for row in use_rows(data)]
    return (
        Section(
            "How was the GPU used?",
            " ".join(use_words(data)),
            tables=(table("use", "Busy, occupancy and MFU together", use),),
        ),
        Section(
            "What made the shares?",
            " ".join(words(data)),
            tables=(table("policies", "The same burst under other policies", data["policies"]["rows"]),),
        ),
    )
