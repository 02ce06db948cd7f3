from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from aps_core.books import Books
from aps_core.tally import Tally

_Ints = NDArray[np.int64]
_T = TypeVar("_T", bound=Ticket)

@disjoint_base
class Ticket:
    handle: int
    id: Hashable
    verdict: Any
    metrics: Tally
    by_bid: Tally
    prompt: str | None
    prompt_tokens: int
    max_tokens: int
    bid: int
    arrived_at: float
    generated: int
    device: int
    batch_size: int
    released: Any
    running: bool
    retries: int
    computed: int
    output: int
    trace: Any
    own: Any
    delivered: int
    listening: bool
    mail: list[str] | None
    waiter: Any
    answer: Any
    error: Exception | None
    desk: Any
    @property
    def tenant(self) -> str: ...
    @property
    def account(self) -> int: ...
    @property
    def prefill(self) -> int | None: ...
    @property
    def simulated_output_tokens(self) -> int | None: ...
    @property
    def scheduled_at(self) -> float | None: ...
    @property
    def first_token_at(self) -> float | None: ...

@final
class Desk(Generic[_T]):
    books: Books
    named: dict[Hashable, _T]
    outstanding: int
    listeners: int
    listen: Callable[[_T], None]
    def __new__(cls, books: Books, ticket: type[_T], result: type, devices: int, epoch: float = 0.0) -> Desk[_T]: ...
    def enter(
        self,
        verdict: Any,
        tenant: str,
        prompt: str | None,
        prompt_tokens: int,
        max_tokens: int,
        simulated: int | None,
        id: Hashable,
        now: float,
    ) -> _T: ...
    def find(self, handle: int) -> _T | None: ...
    def tickets(self) -> list[_T]: ...
    def start(self, handles: Sequence[int], device: int, released: Any, now: float) -> tuple[list[_T], int]: ...
    def displace(self, ticket: _T, generated: int, prefill: int, now: float) -> int: ...
    def lose(self, ticket: _T, now: float) -> int: ...
    def running(self, device: int) -> int: ...
    def running_on(self, device: int) -> list[_T]: ...
    def look_for_quiet(self, looks: int) -> list[_T]: ...
    def census(self, block_tokens: int) -> dict[str, Any]: ...
    def truthful(
        self, device: int, handles: _Ints, computed: _Ints, generated: _Ints, flags: _Ints, ended: int
    ) -> bool: ...
    def plausible(self, ticket: _T, computed: int, generated: int) -> bool: ...
    def note(
        self,
        handles: _Ints,
        computed: _Ints,
        generated: _Ints,
        flags: _Ints,
        ended: int,
        began_at: float,
        now: float,
        watch: bool,
    ) -> tuple[bool, list[tuple[_T, int]], list[_T]]: ...
    def hear(self, ticket: _T, delivered: int) -> None: ...
    def finish(
        self, tickets: list[_T], outputs: _Ints, charges: NDArray[np.float64], texts: Sequence[str], now: float
    ) -> list[Any]: ...
    def end(
        self,
        ticket: _T,
        status: str,
        reason: str,
        now: float,
        prompt_tokens: int = 0,
        tokens: int = 0,
        charge: float = 0.0,
        error: Exception | None = None,
    ) -> list[Any]: ...
