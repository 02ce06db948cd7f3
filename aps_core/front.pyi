from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from typing_extensions import disjoint_base

_V = TypeVar("_V")

@disjoint_base
class Front(Generic[_V]):
    _core_submit: Callable[..., int]
    _accounts: dict[str, tuple[int, int, int, int]]
    _handles: dict[Hashable, int]
    _ids: dict[int, Hashable]
    _verdict_type: type[_V]
    def submit(
        self,
        tenant: str,
        *,
        prompt_tokens: int,
        max_tokens: int | None = None,
        bid: int | None = None,
        now: float,
        deadline_at: float | None = None,
        expected_output: int | None = None,
        id: Hashable = None,
    ) -> _V: ...
