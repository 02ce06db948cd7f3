from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from typing_extensions import disjoint_base

from aps_core.tickets import Desk, Ticket

_T = TypeVar("_T", bound=Ticket)

@disjoint_base
class Stage:
    now: float
    next_at: float
    open: bool

@disjoint_base
class Asking(Generic[_T]):
    scheduler: Any
    _stage: Stage
    _desk: Desk[_T]
    _player: Any
    _read: Callable[[], float]
    draining: bool
    def _ask(
        self,
        tenant: str,
        prompt_tokens: int,
        max_tokens: int | None,
        bid: int | None,
        deadline_s: float | None,
        prompt: str | None,
        id: Hashable,
        simulated: int | None,
        trace: Mapping[str, str] | None,
    ) -> _T: ...
