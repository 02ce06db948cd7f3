"""Which format a trace has, by its first bytes and, of a csv, by its header."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from aps.lab.traces import azure, burstgpt, lengths, mooncake, record, servegen
from aps.lab.traces.options import TraceOptions
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.source import TraceError
from aps.lab.traces.table import Table

HEAD = 1 << 16  # bytes; a longer first line is no csv header
LOOKED_AT = 1000  # letters of the first line that must be text
TAR_AT, TAR = 257, b"ustar"
UTF16 = (b"\xff\xfe", b"\xfe\xff")

Kind = Literal["csv", "mooncake", "record", "servegen"]


class CsvFormat(NamedTuple):
    """A csv told by its header: `columns` must be there, others may be."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Table, Rows, TraceOptions], Recorded]


CSV = tuple(CsvFormat(module.NAME, module.COLUMNS, module.read) for module in (azure, burstgpt, lengths))
FORMATS = "; ".join(
    [
        *(f"{known.name} ({','.join(known.columns)})" for known in CSV),
        mooncake.NAME,
        mooncake.BAILIAN,
        f"{servegen.NAME} (tar or folder)",
        record.NAME,
    ]
)


def kind(head: bytes, name: str) -> Kind:
    """Of a file that begins with `head` (its first bytes, unpacked). Raises TraceError."""
    if not head.strip():
        raise TraceError(name, "is empty; expected a trace")
    if head[TAR_AT:].startswith(TAR):
        return "servegen"
    if head.startswith(UTF16):
        raise TraceError(name, "is UTF-16 text; expected UTF-8")
    lines = head.decode("utf-8-sig", errors="replace").lstrip().splitlines()
    first = lines[0] if lines else ""
    binary = any(letter in first[:LOOKED_AT] for letter in "\0\ufffd")
    endless = len(head) == HEAD and len(lines) == 1 and not first.startswith("{")
    if binary or endless:
        raise TraceError(name, f"is of no known format; expected {FORMATS}")
    if not first.startswith("{"):
        return "csv"
    if '"aps_record"' in first:
        return "record"
    if '"input_length"' in first:
        return "mooncake"
    raise TraceError(name, f"is JSON of no known format; expected {mooncake.NAME} or a {record.NAME}")


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
