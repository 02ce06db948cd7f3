"""Tenants and keys for people: tables."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
NONE = "-"
WIDEST = 1000


def tenants(found: Mapping[str, Row]) -> None:
    """All of them, the limits that are used most."""
    heads = ("tenant", "weight", "tokens/s", "burst", "over rate", "bid", "in flight", "queued", "KV", "keys")
    _print(heads, (_cells(name, row) for name, row in found.items()))
    print(f"{len(found)} tenant{'' if len(found) == 1 else 's'}")


def tenant(name: str, row: Row) -> None:
    """One, with all its fields and its keys."""
    _print((name, ""), ((field, _value(value)) for field, value in row.items() if field not in ("keys", "api_keys")))
    if row["api_keys"] is None:
        print(f"{row['keys']} keys of the configuration")
    else:
        keys(row["api_keys"])


def keys(found: Sequence[Row]) -> None:
    """A tenant's keys."""
    if not found:
        print("no keys; aps tenants keys issue makes one")
        return
    heads = ("key", "state", "label", "made", "expires", "last used")
    columns = ("id", "state", "label", "created_at", "expires_at", "last_used_at")
    _print(heads, ([_instant(row[column]) for column in columns] for row in found))


def audit(found: Sequence[Row]) -> None:
    """Who changed what."""
    rows = (
        [_instant(row["at"]), row["actor"], row["action"], row["subject"], _details(row["details"])] for row in found
    )
    _print(("when (UTC)", "who", "what", "tenant", ""), rows)


def _details(details: Row) -> str:
    """Of a change both values of each field; of what has come or gone nothing but a key's id and label."""
    old, new = details.get("old"), details.get("new")
    if old and new:
        return ", ".join(f"{field} {_value(old[field])} is now {_value(value)}" for field, value in new.items())
    return " ".join(str(details[name]) for name in ("key", "label") if details.get(name))


def change(name: str, before: Row, after: Row) -> None:
    """What a change did."""
    lines = [
        f"  {field}: {_value(before[field])} is now {_value(value)}"
        for field, value in after.items()
        if before[field] != value
    ]
    print("\n".join([f"tenant {name}", *lines] if lines else [f"tenant {name}: nothing has changed"]))


def _cells(name: str, row: Row) -> list[str]:
    bids = f"{row['default_bid']}, at most {row['max_bid']}"
    limits = ("max_in_flight", "max_queued", "kv_share", "keys")
    return [
        name,
        *(_value(row[field]) for field in ("weight", "rate", "burst", "over_rate")),
        bids,
        *(_value(row[field]) for field in limits),
    ]


def _value(value: Any) -> str:
    return NONE if value is None else f"{value:,.10g}" if isinstance(value, float) else str(value)


def _instant(value: Any) -> str:
    text = _value(value)
    return text[:19].replace("T", " ") if text[10:11] == "T" and text.endswith("Z") else text


def _print(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Whoever reads it through a pipe reads lines.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDEST).print(table)
