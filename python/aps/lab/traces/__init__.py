"""Readers of traces: what was asked of real services, as workloads. Formats and options: docs/traces.md."""

import os
from pathlib import Path
from typing import BinaryIO

from aps.lab.traces import mooncake, record, servegen
from aps.lab.traces.assemble import assemble
from aps.lab.traces.detect import FORMATS, HEAD, csv_format, kind
from aps.lab.traces.options import TraceOptions, described
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.servegen_files import clients_of_archive, clients_of_folder
from aps.lab.traces.source import Lines, TraceError, beginning, opened
from aps.lab.traces.table import Table
from aps.lab.workload import Workload

__all__ = ["FORMATS", "TraceError", "TraceOptions", "described", "read"]


def read(path: str | Path, options: TraceOptions | None = None) -> Workload:
    """The workload of a trace in any of `FORMATS`, plain or gzip. The format is told by the content.

    Its notes say what was left out, assumed or drawn. The same file and options give the same workload.
    Raises TraceError (a ValueError) naming file, line and what was expected; ValueError for options that do not go
    with the trace.
    """
    options = options or TraceOptions()
    path = Path(path)
    if os.path.isdir(path):
        return assemble(servegen.generate(clients_of_folder(path), str(path), options), options)
    with opened(path) as stream:
        return assemble(_recorded(stream, beginning(path, HEAD), str(path), options), options)


def _recorded(stream: BinaryIO, head: bytes, name: str, options: TraceOptions) -> Recorded:
    found = kind(head, name)
    if found == "servegen":
        return servegen.generate(clients_of_archive(stream, name), name, options)
    lines = Lines(stream, name)
    rows = Rows(name, options.tenancy().column)
    try:
        if found == "record":
            return record.read(lines, head)
        if found == "mooncake":
            return mooncake.read(lines, rows)
        table = Table(lines)
        return csv_format(table, name).read(table, rows, options)
    finally:
        lines.close()
