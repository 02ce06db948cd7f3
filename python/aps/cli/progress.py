"""Progress on stderr of what takes more than two seconds: a bar on a terminal, one line elsewhere."""

import sys
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LONG_S = 2.0  # expected wall seconds from which progress is worth showing
LOOK_S = 0.3  # of work, before which the rest cannot be expected


class Bar:
    """A context manager; `update` may be called from any thread, with the part done, 0..1."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = perf_counter()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._told = False
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, part: float) -> None:
        """So much is done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=part)
        elif not self._told:
            took = perf_counter() - self._began
            if took >= LOOK_S and took >= LONG_S * part:
                with self._lock:
                    if not self._told:
                        self._told = True
                        self._tell()

    def _tell(self) -> None:
        if not sys.stderr.isatty():
            print(f"{self._what} ...", file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn())
        progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = progress.add_task(self._what, total=1.0)
        progress.start()
        self._progress = progress
