"""Results as a directory: one self-contained page, plots, tables, and everything for programs."""

from aps.lab.report.csvs import Table, table
from aps.lab.report.files import write
from aps.lab.report.html import Plot, Report, Section
from aps.lab.report.plain import dumps, plain
from aps.lab.report.writer import check_destination

__all__ = ["Plot", "Report", "Section", "Table", "check_destination", "dumps", "plain", "table", "write"]
