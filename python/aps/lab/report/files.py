"""A report as files: one page, a PNG a plot, a CSV a table, and report.json."""

from pathlib import Path

from aps.lab.report.html import Report, page
from aps.lab.report.plain import dumps
from aps.lab.report.writer import FORMAT, MANIFEST, whole_directory
from aps.service.version import VERSION

PAGE = "report.html"


def write(report: Report, directory: str | Path) -> None:
    """Write the report to `directory`, whole or not at all; an earlier report there is replaced at the end.

    ValueError when something else is there (`check_destination`), or two plots or tables have one name.
    """
    files: dict[str, bytes] = {}
    for name, content in [
        *((f"{plot.name}.png", plot.png) for plot in report.plots),
        *((f"{table.name}.csv", table.csv().encode()) for table in report.tables),
    ]:
        if name in files:
            raise ValueError(f"a report must have one {name}, got two")
        files[name] = content
    files[PAGE] = page(report, VERSION).encode()
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "kind": report.kind,
        "title": report.title,
        "command": report.command,
        "summary": report.summary,
        "notes": report.notes,
        "definitions": report.definitions,
        "files": sorted([*files, MANIFEST]),
        "data": report.data,
    }
    with whole_directory(directory) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_text(dumps(manifest), encoding="utf-8")
