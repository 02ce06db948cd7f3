"""The stress report for people: tables on a terminal of 80 columns or more."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from aps.stress.report import DEFINITIONS

TIMES = {"queue wait": "queue_wait_s", "TTFT": "ttft_s", "E2E": "e2e_s", "with retries": "with_retries_s"}
NOTHING = "-"


def print_report(report: dict[str, Any]) -> None:
    """To stdout: the tables of each phase, then the definition of every figure and the verdict."""
    out = Console()
    service = report["service"]
    for phase in report["phases"]:
        out.print(f"\n[bold]{phase['title']}[/bold]", highlight=False)
        out.print(_table(["", *phase["tenants"]], _tenant_rows(phase["tenants"])))
        out.print(_table(["all together", ""], _whole_rows(phase)))
        if phase["name"] == "burst" and (limits := report["limits"]) is not None:
            out.print(f"[bold]{limits['title']}[/bold]", highlight=False)
            out.print(_table(["", *limits["tenants"]], _limit_rows(limits["tenants"])))
    for part, why in report["skipped"].items():
        out.print(f"{part}: not sent, {why}", highlight=False)
    out.print("[bold]What the figures are[/bold]", highlight=False)
    definitions = Table.grid(padding=(0, 2))
    for name, meaning in DEFINITIONS.items():
        definitions.add_row(name, meaning)
    out.print(definitions)
    out.print(
        f"\nService: {service['devices']} x simulated GPU, profile {service['profile']}, {service['slots']} slots; "
        f"{service['policy']}; {service['time_scale']:g} simulated seconds a second.",
        highlight=False,
    )
    style, word = ("green", "PASSED") if report["passed"] else ("red", "FAILED")
    out.print(f"[bold {style}]{word}[/]: {report['verdict']}", highlight=False)


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at else "left", no_wrap=at == 0)
    for row in rows:
        table.add_row(*row)
    table.add_row()
    return table


def _tenant_rows(tenants: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    every = list(tenants.values())
    yield ("sent (attempts)", *(f"{tenant['sent']} ({tenant['attempts']})" for tenant in every))
    yield ("completed", *(str(tenant["completed"]) for tenant in every))
    for reason in sorted({reason for tenant in every for reason in tenant["refused"]}):
        yield (f"refused: {reason}", *(str(tenant["refused"].get(reason, 0)) for tenant in every))
    if any(tenant["gave_up"] for tenant in every):
        yield ("gave up retrying", *(str(tenant["gave_up"]) for tenant in every))
    for name, key in TIMES.items():
        if all(tenant[key] is None for tenant in every):
            continue
        yield (f"{name} p50/p95/p99, s", *(_percentiles(tenant[key]) for tenant in every))
    yield ("output tokens/s", *(_number(tenant["output_tokens_per_s"], ".1f") for tenant in every))
    yield ("prompt + output tokens/s", *(_number(tenant["tokens_per_s"], ".0f") for tenant in every))
    yield (
        "share (promised)",
        *(f"{_number(tenant['share'], '.1%')} ({_number(tenant['promised_share'], '.1%')})" for tenant in every),
    )


def _limit_rows(tenants: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    every = list(tenants.values())
    for size in ("small", "large"):
        yield (f"{size}: in the bucket before", *(_number(tenant[size]["level_before"], ".0f") for tenant in every))
        yield (f"{size}: sent", *(str(tenant[size]["sent"]) for tenant in every))
        yield (f"{size}: admitted and completed", *(str(tenant[size]["admitted"]) for tenant in every))
        yield (f"{size}: 429, over its rate", *(str(tenant[size]["throttled"]) for tenant in every))
        if any(tenant[size]["failed"] for tenant in every):
            yield (f"{size}: otherwise without an answer", *(str(tenant[size]["failed"]) for tenant in every))
        if any(tenant[size]["throttled"] for tenant in every):
            yield (f"{size}: Retry-After, your s", *(_range(tenant[size]["retry_after"], ".0f") for tenant in every))
            yield (f"{size}: retry_after_s", *(_range(tenant[size]["retry_after_s"], ".2f") for tenant in every))


def _range(values: list[float] | None, form: str) -> str:
    return NOTHING if values is None else " to ".join(format(value, form) for value in values)


def _whole_rows(phase: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("completed", f"{phase['completed']} of {phase['sent']}")
    for failure, count in phase["failures"].items():
        yield (f"without an answer: {failure}", str(count))
    yield ("makespan; arrivals within, s", f"{phase['makespan_s']:.1f}; {_number(phase['arrivals_spread_s'], '.2f')}")
    yield ("output tokens/s", _number(phase["output_tokens_per_s"], ".1f"))
    yield ("prompt + output tokens/s", _number(phase["tokens_per_s"], ".0f"))
    yield ("busy; occupancy", f"{_number(phase['busy'], '.1%')}; {_number(phase['occupancy'], '.1%')}")
    yield ("Jain of what started while all waited; for, s", _for(phase["jain"], phase["all_wait_s"]))
    yield ("Jain of what was computed meanwhile; for, s", _for(phase["jain_computed"], phase["shared_s"]))
    yield (
        f"dollars per million tokens at ${phase['gpu_hour_dollars']:.2f} a GPU-hour",
        _number(phase["dollars_per_million_tokens"], ".3f"),
    )


def _for(jain: float | None, seconds: float) -> str:
    return f"{_number(jain, '.3f')}; {seconds:.1f}"


def _percentiles(values: dict[str, float] | None) -> str:
    return NOTHING if values is None else "/".join(f"{value:.1f}" for value in values.values())


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)
