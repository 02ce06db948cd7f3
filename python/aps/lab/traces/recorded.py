"""What a trace says, before anything is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aps.lab.traces.source import TraceError
from aps.tenants import Tenant

NAMELESS = "(none)"  # the tenant of rows with an empty cell


@dataclass(frozen=True, slots=True)
class Recorded:
    """n rows in the order of the file.

    name: the file; format: what it is called to people. at_s: (n,) seconds, from the first row on unless `generated`;
    prompt_tokens, output_tokens: (n,) at least 0. lines: (n,) line numbers, for errors.
    tenants, tenant: who is there, and (n,) whose the row is; None: the trace does not say. own: they are real tenants,
    not another column. max_tokens, bid, deadline_s: (n,), or None.
    generated: the rows were drawn at the rate wanted, from a start at 0. notes: what was left out or assumed.
    """

    name: str
    format: str
    at_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    lines: NDArray[np.int64]
    tenants: tuple[Tenant, ...] = ()
    tenant: NDArray[np.int32] | None = None
    own: bool = False
    max_tokens: NDArray[np.int64] | None = None
    bid: NDArray[np.int64] | None = None
    deadline_s: NDArray[np.float64] | None = None
    generated: bool = False
    notes: tuple[str, ...] = field(default=())


class Part(Protocol):
    """Some rows of a file."""

    @property
    def lines(self) -> Sequence[int]: ...

    def texts(self, column: str) -> Sequence[str]: ...


class Rows:
    """Collects a file's rows, part by part. column: the one whose values are tenants; empty: none."""

    def __init__(self, name: str, column: str = "") -> None:
        self.name = name
        self._column = column
        self._parts: dict[str, list[NDArray[Any]]] = {"lines": []}
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._parts["lines"]))

    def add(self, part: Part, **columns: NDArray[Any]) -> None:
        """Columns of `Recorded`, of one part."""
        if self._column:
            names = self._names
            found = [names.setdefault(text.strip() or NAMELESS, len(names)) for text in part.texts(self._column)]
            columns["tenant"] = np.array(found, dtype=np.int32)
        columns["lines"] = np.asarray(part.lines, dtype=np.int64)
        for key, column in columns.items():
            self._parts.setdefault(key, []).append(column)

    def recorded(self, format: str, **more: Any) -> Recorded:
        """All that was added, and more. Raises TraceError: no rows; a value that cannot name a tenant."""
        if not len(self):
            raise TraceError(self.name, f"has no rows; expected {format} with at least one")
        whole: dict[str, Any] = {key: np.concatenate(parts) for key, parts in self._parts.items()}
        return Recorded(name=self.name, format=format, tenants=self._tenants(whole), **whole, **more)

    def _tenants(self, whole: Mapping[str, NDArray[Any]]) -> tuple[Tenant, ...]:
        tenants = []
        for name, index in self._names.items():
            try:
                tenants.append(Tenant(name))
            except ValueError as error:
                line = int(whole["lines"][np.argmax(whole["tenant"] == index)])
                raise TraceError(self.name, f"{self._column} is to name a tenant: {error}", line) from None
        return tuple(tenants)
