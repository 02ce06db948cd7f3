"""The stress report for people: tables on a terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from aps.stress.report import DEFINITIONS

WIDTH = 118  # where the output is no terminal


def console() -> Console:
    """A console on stdout, wide enough for the tables when stdout is a pipe or a file."""
    out = Console()
    return out if out.is_terminal else Console(width=WIDTH)


def print_report(report: dict[str, Any], out: Console) -> None:
    """The tables of each phase, then the definition of every figure and the verdict."""
    for phase in report["phases"]:
        out.print()
        out.print(_tenants(phase))
        out.print(_whole(phase), soft_wrap=True)
    out.print("\n[bold]Definitions[/bold]", highlight=False)
    for name, meaning in DEFINITIONS.items():
        out.print(f"  [bold]{name}[/bold]: {meaning}", highlight=False, soft_wrap=True)
    out.print()
    style, word = ("green", "PASSED") if report["passed"] else ("red", "FAILED")
    out.print(f"[{style}]{word}[/{style}] {report['verdict']}", highlight=False, soft_wrap=True)


def _tenants(phase: dict[str, Any]) -> Table:
    table = Table(title=phase["title"], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tenant", no_wrap=True)
    for name in ("sent", "attempts", "done", "queue wait", "TTFT", "E2E", "with retries", "tok/s", "share", "promised"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, tenant in phase["tenants"].items():
        table.add_row(
            name,
            *(str(tenant[key]) for key in ("sent", "attempts", "completed")),
            *(_percentiles(tenant[key]) for key in ("queue_wait_s", "ttft_s", "e2e_s", "with_retries_s")),
            _number(tenant["tokens_per_s"], "{:.0f}"),
            *(_number(tenant[key], "{:.1%}") for key in ("share", "promised_share")),
        )
    table.caption = "times: p50/p95/p99 in simulated seconds"
    table.caption_justify = "left"
    return table


def _whole(phase: dict[str, Any]) -> str:
    lines = [
        f"  {name} refused {count} x {reason}"
        for name, tenant in phase["tenants"].items()
        for reason, count in tenant["refused"].items()
    ]
    lines += [f"  {count} ended without an answer: {failure}" for failure, count in phase["failures"].items()]
    if phase["jain"] is None:
        fairness = "the tenants never all waited at once"
    else:
        fairness = f"Jain {phase['jain']:.3f} over the {phase['all_wait_s']:.1f} s in which all waited"
    return "\n".join(
        [
            *lines,
            f"  completed {phase['completed']} of {phase['sent']} in {phase['makespan_s']:.1f} s; "
            f"arrivals within {_number(phase['arrivals_spread_s'], '{:.2f}')} s; {fairness}",
            f"  {_number(phase['output_tokens_per_s'], '{:.1f}')} output tokens/s, "
            f"{_number(phase['tokens_per_s'], '{:.0f}')} prompt + output tokens/s; "
            f"busy {_number(phase['busy'], '{:.1%}')}, occupancy {_number(phase['occupancy'], '{:.1%}')}; "
            f"${_number(phase['dollars_per_million_tokens'], '{:.3f}')} per million tokens "
            f"at ${phase['gpu_hour_dollars']:.2f} a GPU-hour",
        ]
    )


def _percentiles(values: dict[str, float] | None) -> str:
    return "-" if values is None else "/".join(f"{value:.1f}" for value in values.values())


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
