"""Readers of traces: what was asked of real services, as workloads. Formats and options: docs/traces.md."""

from pathlib import Path

from aps.lab.traces.assemble import assemble
from aps.lab.traces.detect import FORMATS, csv_format
from aps.lab.traces.options import TraceOptions, described
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.source import Lines, TraceError, opened
from aps.lab.traces.table import Table
from aps.lab.workload import Workload

__all__ = ["FORMATS", "TraceError", "TraceOptions", "described", "read"]


def read(path: str | Path, options: TraceOptions | None = None) -> Workload:
    """The workload of a trace in any of `FORMATS`, plain or gzip; its format is told by the content.

    Its notes say what was left out, assumed or drawn. The same file and options give the same workload.
    Raises TraceError (a ValueError) naming file, line and what was expected; ValueError for options that do not go
    with the trace.
    """
    options = options or TraceOptions()
    return assemble(_recorded(Path(path), options), options)


def _recorded(path: Path, options: TraceOptions) -> Recorded:
    name = str(path)
    with opened(path) as stream:
        lines = Lines(stream, name)
        table = Table(lines)
        found = csv_format(table, name).read(table, Rows(name, options.tenancy().column), options)
        lines.close()
        return found
