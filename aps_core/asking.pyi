from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from typing_extensions import disjoint_base

from aps_core.stage import Stage
from aps_core.tickets import Desk, Ticket

_T = TypeVar("_T", bound=Ticket)
_R = TypeVar("_R")

@disjoint_base
class Asking(Generic[_T, _R]):
    scheduler: Any
    _stage: Stage
    _desk: Desk[_T]
    _player: Any
    _read: Callable[[], float]
    _new_future: Callable[[], Any]
    draining: bool
    def submit(
        self,
        tenant: str,
        *,
        prompt_tokens: int,
        max_tokens: int | None = None,
        bid: int | None = None,
        deadline_s: float | None = None,
        prompt: str | None = None,
        id: Hashable = None,
        simulated_output_tokens: int | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> _T: ...
    async def infer(
        self,
        tenant: str,
        *,
        prompt_tokens: int,
        max_tokens: int | None = None,
        bid: int | None = None,
        deadline_s: float | None = None,
        prompt: str | None = None,
        id: Hashable = None,
        simulated_output_tokens: int | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> _R: ...
