"""Which format a trace has, by its first bytes."""

from collections.abc import Callable
from typing import NamedTuple

from aps.lab.traces import azure
from aps.lab.traces.options import TraceOptions
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.source import TraceError
from aps.lab.traces.table import Table

HEAD = 1 << 16  # bytes looked at


class CsvFormat(NamedTuple):
    """A csv told by its header: `columns` must be there, others may be."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Table, Rows, TraceOptions], Recorded]


CSV = (CsvFormat(azure.NAME, azure.COLUMNS, azure.read),)
FORMATS = ", ".join(f"{known.name} ({','.join(known.columns)})" for known in CSV)


def csv_format(table: Table, name: str) -> CsvFormat:
    """Raises TraceError: of no known format, or a column is missing."""
    header = set(table.header)
    for known in CSV:
        if header.issuperset(known.columns):
            return known
    nearest = max(CSV, key=lambda known: len(header.intersection(known.columns)))
    missing = [column for column in nearest.columns if column not in header]
    if len(missing) < len(nearest.columns):
        needed = ",".join(nearest.columns)
        raise TraceError(name, f"{nearest.name} needs the columns {needed}; missing: {','.join(missing)}", table.line)
    raise TraceError(name, f"is of no known format; expected {FORMATS}")
