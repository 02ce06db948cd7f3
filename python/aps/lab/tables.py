"""Tables on a terminal: figures to the right, names to the left, narrow enough for 80 columns."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

NOTHING = "-"


def grid(columns: Iterable[str], rows: Iterable[Sequence[str]], *, text: Sequence[int] = (0,)) -> Table:
    """A table for `rich` to print, a blank line below it. text: the columns that hold words, not figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for at, name in enumerate(columns):
        table.add_column(name, justify="left" if at in text else "right", no_wrap=at not in text or not at)
    for row in rows:
        table.add_row(*row)
    table.add_row()
    return table


def percent(value: float | None, sign: str = "") -> str:
    """A part as percents with one decimal, without the sign for it; `sign="+"` for errors with signs."""
    return NOTHING if value is None else f"{100 * value:{sign}.1f}"
