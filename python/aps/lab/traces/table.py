"""A csv file with a header, as columns of numbers; errors name the line and the column."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aps.lab.traces.source import Lines, TraceError

INT32_MAX = 2**31 - 1
LATEST_S = 1e12  # any instant a trace may name; far beyond Unix time
WHOLE = re.compile(r"\s*[+-]?[0-9]+(\.0*)?\s*")
SHOWN = 40  # characters of a wrong value


def shortened(text: str) -> str:
    """As much of a wrong value as a message needs."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


Value = TypeVar("Value", int, float)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows. name: the file; lines: (n,) their line numbers; columns: the texts by column, n each."""

    name: str
    lines: Sequence[int]
    columns: Mapping[str, Sequence[str]]

    def wrong(self, row: int, column: str, expected: str) -> TraceError:
        got = repr(shortened(self.columns[column][row]))
        return TraceError(self.name, f"{column} must be {expected}, got {got}", self.lines[row])

    def texts(self, column: str) -> Sequence[str]:
        """Raises TraceError when there is no such column."""
        if column not in self.columns:
            raise TraceError(self.name, f"has no column {column!r}; it has: {', '.join(self.columns)}")
        return self.columns[column]

    def tokens(self, column: str) -> NDArray[np.int64]:
        """Whole numbers 0..2**31 - 1; `12.0` counts as 12."""
        return self._numbers(column, int, np.int64, INT32_MAX, "a whole number from 0 to 2147483647")

    def seconds(self, column: str) -> NDArray[np.float64]:
        """Finite numbers, at least 0."""
        return self._numbers(column, float, np.float64, LATEST_S, "a number of seconds from 0 to 1e12")

    def _numbers(
        self, column: str, kind: Callable[[str], Value], dtype: type[np.generic], most: float, expected: str
    ) -> NDArray[Any]:
        texts = self.columns[column]
        try:
            whole = "".join(texts)
            if "_" in whole or not whole.isascii():  # Python would read 1_000, and digits of any script
                raise ValueError
            found = np.array(list(map(kind, texts)), dtype=dtype)
        except (ValueError, OverflowError):
            found = np.array([self._number(row, column, kind, most, expected) for row in range(len(texts))], dtype)
        bad = np.flatnonzero(~((found >= 0) & (found <= most)))
        if len(bad):
            raise self.wrong(int(bad[0]), column, expected)
        return found

    def _number(self, row: int, column: str, kind: Callable[[str], Value], most: float, expected: str) -> Value:
        text = self.columns[column][row]
        try:
            if "_" in text or not text.isascii():
                raise ValueError
            value = kind(text.partition(".")[0] if kind is int and WHOLE.fullmatch(text) else text)
        except ValueError:
            raise self.wrong(row, column, expected) from None
        if not 0 <= value <= most:
            raise self.wrong(row, column, expected)
        return value


class Table:
    """The rows below a header. Blank lines are passed over. Raises TraceError."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        while True:
            first = lines.take(1)
            if not first:
                raise TraceError(lines.name, "is empty; expected a csv header")
            if first[0].strip():
                break
        self.line = lines.next - 1  # the header's number
        self.header = [name.strip() for name in self._split(first, self.line)[0]]
        twice = {name for name in self.header if self.header.count(name) > 1}
        if twice:
            raise TraceError(lines.name, f"columns must have different names, got {sorted(twice)} twice", self.line)

    def chunks(self) -> Iterator[Chunk]:
        while lines := self._lines.take():
            first = self._lines.next - len(lines)
            rows = self._split(lines, first)
            numbers: Sequence[int] = range(first, first + len(lines))
            if set(map(len, rows)) != {len(self.header)}:
                numbers = [number for number, line in zip(numbers, lines, strict=True) if line.strip()]
                rows = [row for row, line in zip(rows, lines, strict=True) if line.strip()]
                for number, row in zip(numbers, rows, strict=True):
                    if len(row) != len(self.header):
                        expected = f"expected {len(self.header)} columns ({', '.join(self.header)}), got {len(row)}"
                        raise TraceError(self._lines.name, expected, number)
            if rows:
                columns = dict(zip(self.header, zip(*rows, strict=True), strict=True))
                yield Chunk(self._lines.name, numbers, columns)

    def _split(self, lines: list[str], first: int) -> list[list[str]]:
        """One row a line."""
        try:
            rows = list(csv.reader(lines, strict=True))
            if len(rows) == len(lines):
                return rows
        except csv.Error:
            pass
        for at, line in enumerate(lines):
            try:
                if len(list(csv.reader([line], strict=True))) == 1:
                    continue
                says = "one row a line"
            except csv.Error as error:
                says = str(error)
            raise TraceError(self._lines.name, f"expected csv, {says}", first + at)
        raise TraceError(self._lines.name, "expected csv, one row a line", first)
