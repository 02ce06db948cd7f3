"""The validation for people: tables on a terminal, and a report."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from aps.lab.report import Plot, Report, Section
from aps.lab.report import table as report_table
from aps.lab.tables import NOTHING, grid, percent
from aps.lab.validate import DEFINITIONS, BatchRow, Check, Errors, Level, Table, Validation

Array = NDArray[np.float64]

NO_ROOM = "KV"
FEW = 10  # rows of a check that are always printed


def print_validation(validation: Validation, *, every_row: bool = False) -> None:
    """To stdout, 80 columns wide or more. every_row: each row of the attention kernels too, not their errors alone."""
    from rich.console import Console

    out = Console(highlight=False)
    for table in validation.tables:
        out.print(f"\n[bold]{table.profile}[/bold] against {table.source}")
        out.print(grid(*_batch_table(table)))
        out.print("Mean error, largest, and bias, %")
        out.print(grid(*_level_table(table)))
        for sentence in _sentences(table):
            out.print(sentence)
    out.print("\n[bold]Further checks, not judged[/bold]")
    out.print(grid(("", "rows", "mean error %", "max", "bias"), [_check_row(check) for check in validation.checks]))
    for check in validation.checks:
        if every_row or len(check.rows) < FEW:
            out.print(f"{check.what}, ms")
            out.print(grid(*_single_table(check)))
    out.print("[bold]What the figures are[/bold]")
    for name, meaning in DEFINITIONS.items():
        out.print(f"* {name}: {meaning}")
    style, word = ("green", "MET") if validation.met else ("red", "NOT MET")
    out.print(f"\n[bold {style}]{word}[/]: {verdict(validation)}")


def verdict(validation: Validation) -> str:
    """The judged means beside their limits."""
    return "; ".join(
        f"{table.profile}: mean error of throughput {percent(table.fitting.static.mean)} %, of token latency "
        f"{percent(table.fitting.token_latency.mean)} %, each at most {100 * table.limit:.0f} %"
        for table in validation.tables
        if table.limit is not None
    )


def report_of(validation: Validation, command: str) -> Report:
    """The same as a report, with plots of predicted against measured."""
    from aps.lab.report.plots.errors import agreement, by_load

    sections = []
    for table in validation.tables:
        name = f"{table.profile}_{table.source.split()[0]}".lower().replace("-", "_")
        plots: tuple[Plot, ...] = (
            agreement(
                f"{name}_throughput",
                f"{table.profile} against {table.source}: does it predict throughput?",
                _pairs(table),
                "throughput, output tokens/s",
            ),
            by_load(
                f"{name}_by_load",
                f"{table.profile} against {table.source}: where does it err?",
                {
                    "static": _loads_and(table, "static_error"),
                    "engine": _loads_and(table, "engine_error"),
                },
                "batch",
            ),
        )
        records = [asdict(row) for row in table.rows]
        levels = [_level_record(*named) for named in _levels(table)]
        sections.append(
            Section(
                f"{table.profile} against {table.source}",
                " ".join(_sentences(table)),
                plots,
                (
                    report_table(f"{name}_rows", "Row by row", records),
                    report_table(f"{name}_loads", "Errors by load", levels),
                ),
            )
        )
    singles = [{"check": check.what, **asdict(row)} for check in validation.checks for row in check.rows]
    checks = [{"check": check.what, **asdict(check.errors)} for check in validation.checks]
    sections.append(
        Section(
            "Further checks, not judged",
            tables=(
                report_table("checks", "Errors", checks),
                report_table("check_rows", "Row by row", singles),
            ),
        )
    )
    return Report(
        kind="validate",
        title="The physics against published measurements of an A100-80GB",
        summary=(f"{'Met' if validation.met else 'Not met'}: {verdict(validation)}.",),
        sections=tuple(sections),
        definitions=DEFINITIONS,
        command=command,
        data=validation.plain(),
    )


def _batch_table(table: Table) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    columns: tuple[str, ...] = ("batch", "prompt/out", "tok/s", "static", "err %", "engine", "err %")
    rows: list[tuple[str, ...]] = [
        (
            str(row.batch),
            f"{row.prompt_tokens}/{row.output_tokens}",
            f"{row.measured_tokens_per_s:.0f}",
            f"{row.static_tokens_per_s:.0f}",
            percent(row.static_error, "+"),
            f"{row.engine_tokens_per_s:.0f}",
            percent(row.engine_error, "+"),
        )
        for row in table.rows
    ]
    if _has_latency(table):
        columns += ("ms", "static", "err %")
        rows = [cells + _latency(row) for cells, row in zip(rows, table.rows, strict=True)]
    marks = [("",) if row.fits else (NO_ROOM,) for row in table.rows]
    return (*columns, ""), [cells + mark for cells, mark in zip(rows, marks, strict=True)]


def _latency(row: BatchRow) -> tuple[str, ...]:
    measured, predicted = row.measured_token_latency_s, row.static_token_latency_s
    return (
        NOTHING if measured is None else f"{measured * 1e3:.0f}",
        NOTHING if predicted is None else f"{predicted * 1e3:.1f}",
        percent(row.token_latency_error, "+"),
    )


def _level_table(table: Table) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    columns: tuple[str, ...] = ("rows of", "rows", "static", "max", "bias", "engine", "max", "bias")
    kinds = ["static", "engine"]
    if _has_latency(table):
        columns += ("ms", "max", "bias")
        kinds.append("token_latency")
    rows = [
        (name, str(level.static.rows), *(text for kind in kinds for text in _errors(_kinds(level)[kind])))
        for name, level in _levels(table)
    ]
    return columns, rows


def _has_latency(table: Table) -> bool:
    return table.everything.token_latency.rows > 0


def _levels(table: Table) -> Iterator[tuple[str, Level]]:
    for level in table.by_load:
        yield f"batch {level.batch}", level
    yield "all judged" if table.limit is not None else "all that fit", table.fitting
    yield "all rows", table.everything


def _level_record(name: str, level: Level) -> dict[str, object]:
    record: dict[str, object] = {"load": name.strip(), "rows": level.static.rows}
    for kind, errors in _kinds(level).items():
        record |= {f"{kind}_error_{part}": value for part, value in asdict(errors).items() if part != "rows"}
    return record


def _kinds(level: Level) -> dict[str, Errors]:
    return {"static": level.static, "engine": level.engine, "token_latency": level.token_latency}


def _sentences(table: Table) -> Iterator[str]:
    fits = f"KV cache of {table.kv_tokens:,} tokens"
    if not table.left_out:
        yield f"All {len(table.rows)} rows fit the {fits}."
    else:
        means = {
            kind.replace("_", " "): f"{100 * errors.mean:.1f} %"
            for kind, errors in _kinds(table.everything).items()
            if errors.mean is not None
        }
        yield (
            f"{table.left_out} of {len(table.rows)} rows ({NO_ROOM}) do not fit the {fits}; with them the mean errors "
            f"are {', '.join(f'{kind} {mean}' for kind, mean in means.items())}."
        )
    if table.limit is not None:
        yield table.near_saturation
    if table.between_sources is not None:
        yield _between(table.between_sources)


def _between(errors: Errors) -> str:
    return (
        f"On the {errors.rows} shapes that LMDeploy measured too, the two measurements differ by "
        f"{percent(errors.mean)} % on average, {percent(errors.max)} % at most."
    )


def _check_row(check: Check) -> tuple[str, ...]:
    return (check.what, str(check.errors.rows), *_errors(check.errors))


def _single_table(check: Check) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    columns = ("source", "profile", "tokens", "cached", "measured", "predicted", "err %")
    return columns, [
        (
            row.source,
            row.profile,
            str(row.tokens),
            str(row.context_tokens),
            f"{row.measured_s * 1e3:.4g}",
            f"{row.predicted_s * 1e3:.4g}",
            percent(row.error, "+"),
        )
        for row in check.rows
    ]


def _errors(errors: Errors) -> tuple[str, ...]:
    return (percent(errors.mean), percent(errors.max), percent(errors.bias, "+"))


def _pairs(table: Table) -> dict[str, tuple[Array, Array]]:
    return {
        kind: (
            np.array([row.measured_tokens_per_s for row in table.rows if row.fits]),
            np.array([getattr(row, f"{kind}_tokens_per_s") for row in table.rows if row.fits]),
        )
        for kind in ("static", "engine")
    }


def _loads_and(table: Table, error: str) -> tuple[Array, Array]:
    rows = [row for row in table.rows if row.fits]
    return np.array([float(row.batch) for row in rows]), np.array([getattr(row, error) for row in rows])
