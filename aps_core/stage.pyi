from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import disjoint_base

from aps_core.tickets import Desk

MISSED_S: float

@disjoint_base
class Stage:
    now: float
    next_at: float
    never: float
    progressed_at: float
    open: bool
    desk: Desk[Any]
    scheduler: Any
    backend: Any
    guard: Any
    metrics: Any
    recent: Any
    _wake: Callable[[Iterable[Any]], object]
    _range: range
    _wakeup: float
    _micro: bool
    _watch: bool
    def play(self, now: float, clock: Callable[[], float], until: float) -> None: ...
    def fill(self) -> None: ...
