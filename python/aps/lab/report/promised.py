"""The report of the promised figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aps.lab.report.csvs import table
from aps.lab.report.files import write
from aps.lab.report.html import Plot, Report, Section
from aps.lab.report.runs import over_time, shares, waits
from aps.lab.run import Run

COLUMNS = ["figure", "promised", "measured", "low", "high", "met", "definition", "how"]


def write_promise(
    rows: Sequence[Mapping[str, Any]],
    directory: str | Path,
    *,
    runs: Mapping[str, Run],
    plot: Plot | None = None,
    sections: Sequence[Section] = (),
    definitions: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    command: str = "",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of the promised figures.

    rows: {"figure", "promised", "measured", "low", "high", "definition", "how", "met"}. runs: of one seed each, by the
    name of the workload; drawn over time. plot: of the figures against their targets (`aps.lab.report.plots.bars`).
    sections: what else belongs in, after the figures. data: what else report.json is to hold. ValueError when
    `directory` may not be written.
    """
    met = sum(bool(row["met"]) for row in rows)
    report = Report(
        kind="stress",
        title="The promised figures",
        summary=(f"{met} of {len(rows)} promised figures are met.",),
        sections=(
            Section(
                "Is every promised figure reached?",
                plots=() if plot is None else (plot,),
                tables=(table("promised", "The promised figures", rows, COLUMNS),),
            ),
            *sections,
            *(_run(at, name, run) for at, (name, run) in enumerate(runs.items(), start=1)),
        ),
        definitions=definitions or {},
        notes=tuple(notes),
        command=command,
        data={"figures": list(rows), **(data or {})},
    )
    write(report, directory)


def _run(at: int, name: str, run: Run) -> Section:
    plots = (*waits(run), *over_time(run), *shares(run))
    named = tuple(Plot(f"workload_{at}_{plot.name}", plot.title, plot.png, plot.caption) for plot in plots)
    return Section(name, run.workload.description, named)
