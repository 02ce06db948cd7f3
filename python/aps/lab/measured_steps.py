"""Measured engine steps: what a step computed and how long it took, read from CSV."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

REQUIRED = ("batch", "context", "prefill_tokens", "seconds")
OPTIONAL = ("cached",)
MOST_TOKENS = 2**31 - 1
LONGEST_S = 1e6


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step.

    batch: sequences that decode in it, each a token; context: tokens cached of each of them before it;
    prefill_tokens: tokens prefilled in it, as one chunk that ends its prompt and so emits a token; cached: tokens of
    that prompt cached before it. line: where it stands in its file.
    """

    line: int
    batch: int
    context: int
    prefill_tokens: int
    cached: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """The steps of a file, in its order, and the columns that mean nothing here."""

    file: str
    steps: tuple[MeasuredStep, ...]
    ignored_columns: tuple[str, ...] = ()


def read_steps(path: str | Path) -> MeasuredSteps:
    """Read a CSV file with the columns batch, context, prefill_tokens, seconds and, if there, cached (else 0).

    UTF-8, with or without a byte-order mark; any line ends; blank lines are skipped; other columns are ignored and
    named in the result. ValueError names the file, the line and what was expected; OSError when it cannot be read.
    """
    name = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected a CSV file in UTF-8, byte {error.start} is none") from None
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    steps = []
    try:
        for cells in rows:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if columns is None:
                columns = cells
                _check_columns(name, rows.line_num, columns)
            else:
                steps.append(_step(name, rows.line_num, columns, cells))
    except csv.Error as error:
        raise ValueError(f"{name}, line {rows.line_num}: expected CSV: {error}") from None
    if columns is None:
        raise ValueError(f"{name}: expected a line with the columns {', '.join(REQUIRED)}, found an empty file")
    if not steps:
        raise ValueError(f"{name}: expected measured rows below the line of columns, found none")
    ignored = [column for column in columns if column not in REQUIRED + OPTIONAL]
    return MeasuredSteps(name, tuple(steps), tuple(ignored))


def _check_columns(name: str, line: int, columns: list[str]) -> None:
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise ValueError(
            f"{name}, line {line}: expected the columns {', '.join(REQUIRED)} and, if there, {', '.join(OPTIONAL)}; "
            f"missing: {', '.join(missing)}; found: {', '.join(columns)}"
        )
    for column in REQUIRED + OPTIONAL:
        if columns.count(column) > 1:
            raise ValueError(f"{name}, line {line}: expected the column {column} once, found it twice")


def _step(name: str, line: int, columns: list[str], cells: list[str]) -> MeasuredStep:
    where = f"{name}, line {line}"
    if len(cells) != len(columns):
        raise ValueError(f"{where}: expected {len(columns)} values, found {len(cells)}")
    row = dict(zip(columns, cells, strict=True))
    batch, context, prefill = (_count(where, column, row[column]) for column in REQUIRED[:3])
    cached = _count(where, "cached", row["cached"]) if "cached" in row else 0
    if not batch and not prefill:
        raise ValueError(f"{where}: expected batch or prefill_tokens above 0: the step computes nothing")
    if context and not batch:
        raise ValueError(
            f"{where}: expected context 0 where batch is 0, found {context}: "
            "tokens cached before a chunk stand in the column cached"
        )
    if cached and not prefill:
        raise ValueError(f"{where}: expected cached 0 where prefill_tokens is 0, found {cached}")
    return MeasuredStep(line, batch, context, prefill, cached, _seconds(where, row["seconds"]))


def _count(where: str, column: str, text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else MOST_TOKENS + 1
    if value > MOST_TOKENS:
        raise ValueError(f"{where}: expected an integer from 0 to {MOST_TOKENS} in {column}, found {text!r}")
    return value


def _seconds(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= LONGEST_S:
        raise ValueError(f"{where}: expected seconds above 0, at most {LONGEST_S:g}, found {text!r}")
    return value
