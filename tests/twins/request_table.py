"""A table of requests as a list of rows and a stack of free ones. A handle is (table, row, generation)."""

from dataclasses import dataclass

Handle = tuple[int, int, int]


@dataclass
class Row:
    generation: int = 0
    used: bool = False
    tenant: int = 0
    number: int = 0


class RequestTable:
    def __init__(self, tag: int, generation_limit: int = 2**25) -> None:
        self.tag = tag
        self.generation_limit = generation_limit
        self.rows: list[Row] = []
        self.spare: list[int] = []

    @property
    def count(self) -> int:
        return sum(row.used for row in self.rows)

    def allocate(self, tenant: int = 0, number: int = 0) -> Handle:
        if self.spare:
            row = self.spare.pop()
        else:
            self.rows.append(Row())
            row = len(self.rows) - 1
        self.rows[row] = Row(self.rows[row].generation, True, tenant, number)
        return self.tag, row, self.rows[row].generation

    def row_of(self, handle: Handle) -> int:
        tag, row, generation = handle
        if tag != self.tag or not self.rows[row].used or self.rows[row].generation != generation:
            raise KeyError("stale or foreign")
        return row

    def free(self, handle: Handle) -> None:
        row = self.row_of(handle)
        self.rows[row].used = False
        self.rows[row].generation += 1
        if self.rows[row].generation < self.generation_limit:
            self.spare.append(row)
