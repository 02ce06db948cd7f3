"""A study for people: tables on a terminal, and a report."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from aps.lab.report import Plot, Report, Section, Table
from aps.lab.report.csvs import heading, rounded
from aps.lab.tables import grid

JUDGED = ("", "target", "measured", "met")
WIDTH = 110  # where stdout is no terminal


def print_study(data: Mapping[str, Any]) -> None:
    """To stdout: what is judged, the tables, the sentences, what each figure is."""
    from rich.console import Console

    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(width=WIDTH, highlight=False)
    setup = data["setup"]
    out.print(f"\n[bold]{data['title']}[/bold] on {setup['profile']}, {setup['slots']} slots, {data['seeds']} seeds")
    out.print(grid(JUDGED, (_judged(row) for row in data["judged"]), text=(0, 1)))
    for found in data["tables"]:
        out.print(f"[bold]{found['title']}[/bold]")
        at = [found["columns"].index(name) for name in found["shown"]]
        text = [place for place, column in enumerate(at) if any(isinstance(row[column], str) for row in found["rows"])]
        rows = ([rounded(row[column]) for column in at] for row in found["rows"])
        out.print(grid([_heading(name) for name in found["shown"]], rows, text=text or (0,)))
    for sentence in data["words"]:
        out.print(sentence, markup=False)
    out.print("\n[bold]What the figures are[/bold]")
    for name, meaning in data["definitions"].items():
        out.print(f"* {name}: {meaning}", markup=False)
    out.print(verdict(data))


def verdict(data: Mapping[str, Any]) -> str:
    """How many of the judged rows are met, marked up."""
    met = sum(row["met"] for row in data["judged"])
    style, word = ("green", "MET") if data["met"] else ("red", "NOT MET")
    return f"\n[bold {style}]{word}[/]: {met} of {len(data['judged'])}"


def report_of(data: Mapping[str, Any], command: str) -> Report:
    """The same as a report with plots."""
    judged = Table(
        "judged",
        "What is judged",
        ("name", "target", "measured", "met"),
        tuple(tuple(row.values()) for row in data["judged"]),
    )
    tables = tuple(
        Table(t["name"], t["title"], tuple(t["columns"]), tuple(map(tuple, t["rows"]))) for t in data["tables"]
    )
    met = sum(row["met"] for row in data["judged"])
    return Report(
        kind="study",
        title=data["title"],
        summary=(f"{met} of {len(judged.rows)} are met.", *data["words"]),
        sections=(
            Section("What it must show", tables=(judged,)),
            Section("What was measured", plots=tuple(map(_plot, data["plots"])), tables=tables),
        ),
        definitions=data["definitions"],
        command=command,
        data=data,
    )


def _judged(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["name"], row["target"], rounded(row["measured"]), "yes" if row["met"] else "NO"


def _heading(column: str) -> str:
    """On lines short enough that the numbers below decide the width."""
    return fill(heading(column), 12)


def _plot(found: Mapping[str, Any]) -> Plot:
    from aps.lab.report.plots.bars import Estimate, Panel, side_by_side

    panels = []
    for panel in found["panels"]:
        ends = (panel.get(end, [None] * len(panel["values"])) for end in ("low", "high"))
        estimates = [Estimate(*estimate) for estimate in zip(panel["values"], *ends, strict=True)]
        panels.append(Panel(panel["title"], estimates, panel["time"], panel["better"]))
    kinds = dict(zip(found["names"], found["kinds"], strict=True))
    return side_by_side(found["name"], found["title"], found["names"], panels, "lowest to highest seed", kinds)
