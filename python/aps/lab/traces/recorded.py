"""What a trace says, before anything is made of it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab.traces.source import TraceError
from aps.lab.traces.table import Chunk
from aps.tenants import Tenant

NAMELESS = "(none)"  # the tenant of rows with an empty cell


@dataclass(frozen=True, slots=True)
class Recorded:
    """n rows in the order of the file.

    name: the file; format: what it is called to people. at_s: (n,) seconds, from the first row on unless `generated`;
    prompt_tokens, output_tokens: (n,) at least 0. lines: (n,) line numbers, for errors.
    tenants, tenant: who is there, and (n,) whose the row is; None: the trace does not say. own: they are real tenants,
    not another column. max_tokens, bid: (n,), or None.
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
    generated: bool = False
    notes: tuple[str, ...] = field(default=())


class Rows:
    """Collects a file's rows, chunk by chunk. column: the csv column whose values are tenants; empty: none."""

    def __init__(self, name: str, column: str = "") -> None:
        self.name = name
        self._column = column
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._names: dict[str, int] = {}

    def add(self, chunk: Chunk, **columns: NDArray[Any]) -> None:
        """at_s, prompt_tokens, output_tokens of the chunk's rows."""
        if self._column:
            if self._column not in chunk.columns:
                held = ", ".join(chunk.columns)
                raise TraceError(self.name, f"tenants by column {self._column!r}, but the columns are {held}")
            names = self._names
            found = [names.setdefault(text.strip() or NAMELESS, len(names)) for text in chunk.columns[self._column]]
            columns["tenant"] = np.array(found, dtype=np.int32)
        columns["lines"] = np.asarray(chunk.lines, dtype=np.int64)
        for key, column in columns.items():
            self._parts.setdefault(key, []).append(column)

    def recorded(self, format: str, **more: Any) -> Recorded:
        """Everything added. Raises TraceError when that is nothing, or when a tenant's name is impossible."""
        if not self._parts:
            raise TraceError(self.name, f"has no rows; expected {format} with at least one")
        whole: dict[str, Any] = {key: np.concatenate(parts) for key, parts in self._parts.items()}
        tenants = []
        for name, index in self._names.items():
            try:
                tenants.append(Tenant(name))
            except ValueError as error:
                line = int(whole["lines"][np.argmax(whole["tenant"] == index)])
                raise TraceError(self.name, f"{self._column} is to name a tenant: {error}", line) from None
        return Recorded(name=self.name, format=format, tenants=tuple(tenants), **whole, **more)
