"""One page that holds everything: plots inlined, no script, nothing from elsewhere."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from aps.lab.report.csvs import Table, heading, rounded


@dataclass(frozen=True)
class Plot:
    """A drawn plot. name: of the PNG file; title: the question it answers; caption: how to read it."""

    name: str
    title: str
    png: bytes = field(repr=False)
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: text, then plots, then tables."""

    title: str
    text: str = ""
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything about one result. kind: the verb that made it. summary: the answer in words, a paragraph each.

    definitions: figure -> what it means. notes: what a reader must know about the input. command: the command line
    that makes it again. data: for programs, into report.json.
    """

    kind: str
    title: str
    summary: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    definitions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Of all sections, in order."""
        return tuple(plot for section in self.sections for plot in section.plots)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Of all sections, in order."""
        return tuple(table for section in self.sections for table in section.tables)


def page(report: Report, version: str) -> str:
    """The report as HTML; whatever it holds is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"heading": heading, "rounded": rounded, "base64": _base64, "numeric": _numeric}
    template = files("aps.lab.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(report=report, version=version)


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _numeric(table: Table) -> list[bool]:
    """Of each column, whether it holds numbers alone."""
    cells = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [
        any(cell is not None for cell in column) and not any(isinstance(c, str) for c in column) for column in cells
    ]
