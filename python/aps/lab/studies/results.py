"""What a study gives: plain data with judged rows, tables and sentences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Cell = str | int | float | bool | None


def judged(name: str, target: str, measured: float, met: bool) -> dict[str, Any]:
    """One thing that the study must show. name carries the unit of `measured`; target: what it must be, in words."""
    return {"name": name, "target": target, "measured": float(measured), "met": bool(met)}


def table(name: str, title: str, records: Iterable[Mapping[str, Cell]]) -> dict[str, Any]:
    """{"name", "title", "columns", "rows"}: columns are the keys of the first record."""
    found = list(records)
    columns = list(found[0]) if found else []
    return {"name": name, "title": title, "columns": columns, "rows": [[row[key] for key in columns] for row in found]}


def result(
    name: str,
    title: str,
    rows: Sequence[dict[str, Any]],
    tables: Sequence[dict[str, Any]],
    words: Sequence[str],
    definitions: Mapping[str, str],
    **data: Any,
) -> dict[str, Any]:
    """A study's plain data: "study", "title", "judged", "met" (all judged rows are), "tables", "words", "definitions"."""
    return {
        "study": name,
        "title": title,
        "judged": list(rows),
        "met": all(row["met"] for row in rows),
        "tables": list(tables),
        "words": list(words),
        "definitions": dict(definitions),
        **data,
    }

