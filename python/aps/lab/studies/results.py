"""What a study gives: plain data with judged rows, tables, plots and sentences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aps.lab.parallel import Parallel

Cell = str | int | float | bool | None
HERE = Parallel(1)  # in this process


def judged(name: str, target: str, measured: float, met: bool) -> dict[str, Any]:
    """One thing that the study must show. name carries the unit of `measured`; target: what it must be, in words."""
    return {"name": name, "target": target, "measured": float(measured), "met": bool(met)}


def table(
    name: str, title: str, records: Iterable[Mapping[str, Cell]], shown: Sequence[str] | None = None
) -> dict[str, Any]:
    """{"name", "title", "columns", "rows", "shown"}: columns are the keys of the first record; shown: those that a
    terminal has room for, all when None."""
    found = list(records)
    columns = list(found[0])
    rows = [[row[key] for key in columns] for row in found]
    return {"name": name, "title": title, "columns": columns, "rows": rows, "shown": list(shown or columns)}


def plot(
    name: str, title: str, names: Sequence[str], panels: Sequence[dict[str, Any]], kinds: Sequence[str] | None = None
) -> dict[str, Any]:
    """Things side by side: a row each, a panel a figure. {"name", "title", "names", "kinds", "panels"}.

    kinds: those of one kind look alike; None: each is one of its own.
    """
    return {"name": name, "title": title, "names": list(names), "kinds": list(kinds or names), "panels": list(panels)}


def panel(
    title: str, values: Iterable[float | None], *, time: bool = False, better: str = "", **ends: Iterable[float]
) -> dict[str, Any]:
    """A figure of each thing. time: seconds. better: "lower" or "higher". low, high: ends of an interval each."""
    given = {name: list(end) for name, end in ends.items()}
    return {"title": title, "values": list(values), "time": time, "better": better, **given}


def result(
    name: str,
    title: str,
    rows: Sequence[dict[str, Any]],
    tables: Sequence[dict[str, Any]],
    plots: Sequence[dict[str, Any]],
    words: Sequence[str],
    definitions: Mapping[str, str],
    **data: Any,
) -> dict[str, Any]:
    """A study's plain data: "study", "title", "judged", "met" (all that is judged), "tables", "plots", "words",
    "definitions", and what else is given."""
    return {
        "study": name,
        "title": title,
        "judged": list(rows),
        "met": all(row["met"] for row in rows),
        "tables": list(tables),
        "plots": list(plots),
        "words": list(words),
        "definitions": dict(definitions),
        **data,
    }
