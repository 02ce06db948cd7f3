"""A calibration for people: tables on a terminal, and a report."""

from dataclasses import asdict
from typing import Any

import numpy as np

from aps.lab.calibrate import Calibration, FittedConstant, LoadErrors, RowError
from aps.lab.report import Report, Section
from aps.lab.report import table as report_table
from aps.lab.tables import NOTHING, grid, percent

WORST = 10  # rows that are always printed
DEFINITIONS = {
    "error": "predicted / measured - 1; a mean error is the mean of its absolute values, a bias the mean with signs",
    "base": "the same with the base profile's constants",
    "scatter": "relative standard deviation of the rows about the fit, outliers aside",
    "+- %": "standard error of a constant when all that the rows depend on may differ from the base; where it is large "
    "the rows tell the constant only together with others, and it should not be read on its own",
}


def print_calibration(calibration: Calibration, *, every_row: bool = False) -> None:
    """To stdout, 80 columns wide or more. every_row: each row, not the ten worst alone."""
    from rich.console import Console

    out = Console(highlight=False)
    rows = calibration.rows if every_row else calibration.rows[:WORST]
    out.print(
        grid(
            ("constant", "", "unit", "base", "fitted", "+- %"),
            (_constant_row(constant) for constant in calibration.constants),
            text=(0, 1, 2),
        )
    )
    for reason, names in _kept(calibration).items():
        out.print(f"* kept: {', '.join(names)}: {reason}")
    out.print()
    out.print("Errors by load, %")
    out.print(
        grid(
            ("load", "rows", "mean", "max", "bias", "base mean"),
            (_load_row(load) for load in calibration.loads),
        )
    )
    out.print("Every row, worst first, ms" if len(rows) == len(calibration.rows) else f"The {WORST} worst rows, ms")
    out.print(
        grid(
            ("line", "batch", "context", "prefill", "cached", "measured", "predicted", "err %", "base %"),
            (_row(row) for row in rows),
        )
    )
    for name, meaning in DEFINITIONS.items():
        out.print(f"* {name}: {meaning}")
    out.print(f"\nScatter of the rows: {100 * calibration.noise:.2g} %.")
    for note in calibration.notes:
        out.print(note, style="bold", markup=False)


def plain(calibration: Calibration, file: str, base: str) -> dict[str, Any]:
    """The same for JSON, with what it is of."""
    return {"file": file, "base": base, **calibration.plain(), "definitions": DEFINITIONS}


def report_of(calibration: Calibration, file: str, base: str, command: str) -> Report:
    """The same as a report, with plots of predicted against measured step times."""
    from aps.lab.report.plots.errors import agreement, by_load

    groups = {
        "decodes": [row for row in calibration.rows if not row.prefill_tokens],
        "prefill alone": [row for row in calibration.rows if row.prefill_tokens and not row.batch],
        "prefill beside decodes": [row for row in calibration.rows if row.prefill_tokens and row.batch],
    }
    drawn = {name: rows for name, rows in groups.items() if rows}
    decoding = [row for row in calibration.rows if row.batch]
    plots = [
        agreement(
            "step_times",
            "Does the fit say how long a step takes?",
            {
                name: (
                    np.array([1e3 * row.measured_s for row in rows]),
                    np.array([1e3 * row.predicted_s for row in rows]),
                )
                for name, rows in drawn.items()
            },
            "step time, ms",
        )
    ]
    if decoding:
        batches = np.array([float(row.batch) for row in decoding])
        plots.append(
            by_load(
                "errors_by_batch",
                "Where does it err?",
                {
                    "base": (batches, np.array([row.base_error for row in decoding])),
                    "fitted": (batches, np.array([row.error for row in decoding])),
                },
                "sequences that decode in the step",
            )
        )
    everything = calibration.loads[-1]
    return Report(
        kind="calibrate",
        title=f"{base} fitted to {file}",
        summary=(
            f"{everything.rows} measured steps: mean error {percent(everything.mean)} %, at most "
            f"{percent(everything.max)} %; {percent(everything.base_mean)} % with the constants of {base}.",
        ),
        sections=(
            Section(
                "Constants",
                tables=(report_table("constants", "Fitted and kept", map(asdict, calibration.constants)),),
            ),
            Section(
                "Errors",
                "",
                tuple(plots),
                (
                    report_table("loads", "By load", map(asdict, calibration.loads)),
                    report_table("rows", "By row, worst first", map(asdict, calibration.rows)),
                ),
            ),
        ),
        definitions=DEFINITIONS,
        notes=tuple(calibration.notes),
        command=command,
        data=plain(calibration, file, base),
    )


def _constant_row(constant: FittedConstant) -> tuple[str, ...]:
    uncertainty = NOTHING if constant.uncertainty is None else f"{100 * constant.uncertainty:.2g}"
    value = "kept" if constant.kept else f"{constant.value:.4g}"
    return (constant.name, constant.symbol, constant.unit, f"{constant.base:.4g}", value, uncertainty)


def _kept(calibration: Calibration) -> dict[str, list[str]]:
    """Reason -> the constants kept for it."""
    names: dict[str, list[str]] = {}
    for constant in calibration.constants:
        if constant.kept:
            names.setdefault(constant.kept, []).append(constant.name)
    return names


def _load_row(load: LoadErrors) -> tuple[str, ...]:
    return (
        load.load,
        str(load.rows),
        percent(load.mean),
        percent(load.max),
        percent(load.bias, "+"),
        percent(load.base_mean),
    )


def _row(row: RowError) -> tuple[str, ...]:
    return (
        str(row.line),
        str(row.batch),
        str(row.context),
        str(row.prefill_tokens),
        str(row.cached),
        f"{1e3 * row.measured_s:.4g}",
        f"{1e3 * row.predicted_s:.4g}",
        percent(row.error, "+"),
        percent(row.base_error, "+"),
    )
