"""JSON lines, one object a line; errors name the line and the key."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from aps.lab.traces.source import Lines, TraceError
from aps.lab.traces.table import INT32_MAX, LATEST_S, shortened

Json = dict[str, Any]


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


_DECODE = json.JSONDecoder(parse_constant=_no_number).decode


def whole(value: object) -> int | None:
    """A number of tokens, 0..2**31 - 1, or None."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= INT32_MAX else None


def instant(value: Any) -> float | None:
    """A number 0..1e12, or None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= LATEST_S else None


@dataclass(frozen=True, slots=True)
class Objects:
    """Some lines. name: the file; lines: (n,) their numbers; objects: n."""

    name: str
    lines: Sequence[int]
    objects: Sequence[Json]

    def wrong(self, row: int, key: str, expected: str) -> TraceError:
        found = self.objects[row]
        got = f"got {shortened(json.dumps(found[key]))}" if key in found else "and it is missing"
        return TraceError(self.name, f"{key} must be {expected}, {got}", self.lines[row])

    def texts(self, key: str) -> list[str]:
        """Values as text; empty where a line has none. Raises TraceError when none has."""
        if not any(key in found for found in self.objects):
            raise TraceError(self.name, f"has no key {key!r}; it has: {', '.join(self.objects[0])}", self.lines[0])
        return [str(found.get(key, "")) for found in self.objects]

    def tokens(self, key: str) -> NDArray[np.int64]:
        found = [whole(one.get(key)) for one in self.objects]
        if None in found:
            raise self.wrong(found.index(None), key, "a whole number from 0 to 2147483647")
        return np.array(found, dtype=np.int64)

    def instants(self, key: str) -> NDArray[np.float64]:
        found = [instant(one.get(key)) for one in self.objects]
        if None in found:
            raise self.wrong(found.index(None), key, "a number from 0 to 1e12")
        return np.array(found, dtype=np.float64)


def objects(lines: Lines) -> Iterator[Objects]:
    """All of a file, in order. Blank lines are passed over. Raises TraceError."""
    while texts := lines.take():
        first = lines.next - len(texts)
        numbers: list[int] = []
        found: list[Json] = []
        for number, text in enumerate(texts, first):
            if text.isspace():
                continue
            try:
                one = _DECODE(text)
            except (ValueError, RecursionError) as error:
                says = getattr(error, "msg", None) or str(error)
                raise TraceError(lines.name, f"expected a JSON object, {says}", number) from None
            if type(one) is not dict:
                raise TraceError(lines.name, f"expected a JSON object, got {shortened(text.strip())}", number)
            numbers.append(number)
            found.append(one)
        if found:
            yield Objects(lines.name, numbers, found)
