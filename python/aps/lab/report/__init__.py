"""Results as a directory: one self-contained page, plots, tables, and everything for programs."""

from aps.lab.report.batchings import write_batching
from aps.lab.report.comparisons import write_compare
from aps.lab.report.csvs import Table, table
from aps.lab.report.files import write
from aps.lab.report.html import Plot, Report, Section
from aps.lab.report.perfetto import write_trace
from aps.lab.report.plain import dumps, plain
from aps.lab.report.planes import write_sweep
from aps.lab.report.promised import write_promise
from aps.lab.report.runs import write_run
from aps.lab.report.writer import check_destination, check_file

__all__ = [
    "Plot",
    "Report",
    "Section",
    "Table",
    "check_destination",
    "check_file",
    "dumps",
    "plain",
    "table",
    "write",
    "write_batching",
    "write_compare",
    "write_promise",
    "write_run",
    "write_sweep",
    "write_trace",
]
