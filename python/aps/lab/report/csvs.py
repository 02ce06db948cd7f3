"""Tables: rounded for people, in full as CSV."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | bool | None
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
NOTHING = "-"
SECONDS = {"s", "ms", "us", "ns"}


@dataclass(frozen=True)
class Table:
    """Rows under named columns. Column names carry the unit, as in `queue_wait_p99_s`.

    name: of the CSV file, lower case letters, digits and `_`. None and NaN stand for no value. on_page: False for a
    long one, which the page only names. about: first columns of the CSV, the same in each row, which on the page the
    title says.
    Raises ValueError naming the table for a bad name, a column that stands twice, or a row of another length.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    on_page: bool = True
    about: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        if not NAME.fullmatch(self.name):
            raise ValueError(f"Table.name must be of a-z, 0-9 and _, got {self.name!r}")
        columns = (*self.about, *self.columns)
        if len(set(columns)) < len(columns):
            raise ValueError(f"table {self.name}: columns must differ, got {list(columns)}")
        for at, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name}: row {at} must have {len(self.columns)} cells, got {len(row)}")

    def csv(self) -> str:
        """A line of column names and a line a row; numbers in full, so that reading gives the same doubles."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow((*self.about, *self.columns))
        lines.writerows([_exact(cell) for cell in (*self.about.values(), *row)] for row in self.rows)
        return text.getvalue()


def table(name: str, title: str, records: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Table:
    """A table of mappings. columns: which keys, in which order; None: every key, in the order of first sight."""
    rows = list(records)
    keys = list(dict.fromkeys(key for row in rows for key in row)) if columns is None else list(columns)
    return Table(name, title, tuple(keys), tuple(tuple(row.get(key) for key in keys) for row in rows))


def heading(column: str) -> str:
    """A column's name to read: `queue_wait_p99_s` -> "queue wait p99, s"; `tokens_per_s` -> "tokens/s"."""
    name, per, unit = column.rpartition("_per_")
    if per:
        return f"{name}/{unit}".replace("_", " ")
    name, _, unit = column.rpartition("_")
    if name and unit in SECONDS:
        return f"{name}, {unit}".replace("_", " ")
    return column.replace("_", " ")


def rounded(cell: Cell) -> str:
    """A cell to read: four significant digits, thousands apart."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return NOTHING
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        if math.isinf(cell) or abs(cell) >= 1e15:
            return f"{cell:g}"
        if abs(cell) >= 1000:
            return f"{cell:,.0f}"
        return f"{cell:.4g}"
    return cell


def _exact(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return repr(cell) if isinstance(cell, float) else str(cell)
