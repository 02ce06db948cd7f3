"""Progress of the stress test on stderr: a bar on a terminal, a line for each phase elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A context manager that shows a bar for each phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<5}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._current: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, name: str, calls: int) -> None:
        """A phase of so many calls begins."""
        self._current = self._bars.add_task(name, total=calls)
        if not self._console.is_terminal:
            self._console.print(f"{name}: {calls} requests")

    def advance(self) -> None:
        """One call of the phase has ended."""
        if self._current is not None:
            self._bars.advance(self._current)
