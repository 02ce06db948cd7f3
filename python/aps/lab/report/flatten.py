"""Nested figures as rows: one name for each number, its unit at the end."""

from collections.abc import Iterator, Mapping
from typing import Any

from aps.lab.report.csvs import Cell, Table, table

SPREAD = {"mean", "low", "high", "ci95", "n"}  # what a number is over several seeds


def flat(figures: Mapping[str, Any]) -> dict[str, Cell]:
    """{"queue_wait_s": {"p99": 1.0}} -> {"queue_wait_p99_s": 1.0}; of a number over seeds the mean."""
    return {name(keys): value for keys, value in _leaves(figures, ()) if not isinstance(value, Mapping)}


def estimates(policies: Mapping[str, Mapping[str, Any]]) -> Table:
    """Figures over seeds in full: a row for each policy and number, with its spread."""
    rows = [
        (policy, name(keys), leaf["mean"], leaf["low"], leaf["high"], *(leaf["ci95"] or (None, None)), leaf["n"])
        for policy, tree in policies.items()
        for keys, leaf in _leaves(tree, (), spread=True)
        if isinstance(leaf, Mapping)
    ]
    columns = ("policy", "figure", "mean", "low", "high", "ci95_low", "ci95_high", "seeds")
    return Table("figures", "Every figure over the seeds", columns, tuple(rows), on_page=False)


def by_name(name: str, title: str, parts: Mapping[str, Mapping[str, Any]], key: str, columns: list[str]) -> Table:
    """A row for each part (a tenant, a policy), under `key`, with these of its flattened figures."""
    flattened = {part: flat(figures) for part, figures in parts.items()}
    known = [column for column in columns if any(column in row for row in flattened.values())]
    return table(name, title, [{key: part, **row} for part, row in flattened.items()], [key, *known])


def transposed(name: str, title: str, parts: Mapping[str, Mapping[str, Any]], rows: list[str]) -> Table:
    """A row for each of these flattened figures, a column for each part: for a page, where figures are many."""
    flattened = {part: flat(figures) for part, figures in parts.items()}
    known = [row for row in rows if any(row in found for found in flattened.values())]
    return Table(
        name,
        title,
        ("figure", *parts),
        tuple((row, *(found.get(row) for found in flattened.values())) for row in known),
    )


def name(keys: tuple[str, ...]) -> str:
    """("queue_wait_s", "p99") -> "queue_wait_p99_s"."""
    units = [key.endswith("_s") and not key.endswith("_per_s") for key in keys]
    parts = [key.removesuffix("_s") if unit else key for key, unit in zip(keys, units, strict=True)]
    return "_".join(parts) + ("_s" if any(units) else "")


def _leaves(tree: Any, keys: tuple[str, ...], spread: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        if tree.keys() == SPREAD:
            yield keys, tree if spread else tree["mean"]
        else:
            for key, value in tree.items():
                yield from _leaves(value, (*keys, str(key)), spread)
    elif isinstance(tree, list):
        for at, value in enumerate(tree):
            yield from _leaves(value, (*keys, str(at)), spread)
    else:
        yield keys, tree
