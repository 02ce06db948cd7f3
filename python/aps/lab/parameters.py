"""Parameters of scenarios: named, with a default, an explanation and what is allowed; from text too."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from aps.lab import lengths
from aps.lab.workload import Workload


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a parameter takes. allowed: in words. read: a value from text. test: whether a value will do.

    `read` raises ValueError for text of another kind.
    """

    allowed: str
    read: Callable[[str], Any]
    test: Callable[[Any], bool]


def number(low: float, high: float = inf, *, above: bool = False) -> Kind:
    """A finite number from `low` (or above it) to `high`."""
    words = f"a number {'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < inf else "")

    def test(value: Any) -> bool:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return fits and low <= value <= high and value < inf and not (above and value == low)

    return Kind(words.replace(f"from {low:g}", f"of at least {low:g}") if high == inf else words, float, test)


def count(low: int, high: int = 1_000_000) -> Kind:
    """An integer from `low` to `high`."""

    def test(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Kind(f"an integer from {low:,} to {high:,}", int, test)


def yes_or_no() -> Kind:
    """A bool; yes or no as text."""
    words = {"yes": True, "no": False}
    return Kind("yes or no", lambda text: words[text], lambda value: isinstance(value, bool))


def choice(*options: str) -> Kind:
    """One of a few words."""
    return Kind(" or ".join(options), str, lambda value: value in options)


def tokens() -> Kind:
    """A distribution of lengths, as text (see `aps.lab.lengths.parse`)."""

    def test(value: Any) -> bool:
        if not isinstance(value, str):
            return False
        lengths.parse(value)
        return True

    return Kind(f"lengths: {lengths.FORMS}", str, test)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of a scenario. says: one line for people, with the unit."""

    name: str
    default: Any
    says: str
    kind: Kind

    def check(self, value: Any, scenario: str) -> Any:
        """The value, if it will do, else ValueError that names scenario, parameter, value and what is allowed."""
        try:
            good = self.kind.test(value)
        except ValueError as error:
            raise ValueError(f"{scenario}: {self.name}: {error}") from None
        if not good:
            raise ValueError(f"{scenario}: {self.name} must be {self.kind.allowed}, got {value!r}")
        return value

    @property
    def shown(self) -> str:
        """The default as it is written in `key=value`."""
        return _written(self.default)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A workload with parameters. says: one sentence. make(seed, values) builds it from a value for each parameter."""

    name: str
    says: str
    parameters: tuple[Parameter, ...]
    make: Callable[[int, Mapping[str, Any]], Workload]

    def build(self, seed: int = 0, **parameters: Any) -> Workload:
        """The workload of a seed: the same seed and parameters give the same bytes.

        ValueError for an unknown parameter or a wrong value.
        """
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"{self.name}: seed must be an integer of at least 0, got {seed!r}")
        known = {parameter.name: parameter for parameter in self.parameters}
        values = {parameter.name: parameter.default for parameter in self.parameters}
        for name, value in parameters.items():
            values[name] = self._known(name).check(value, self.name)
        workload = self.make(seed, values)
        changed = [f"{name}={_written(value)}" for name, value in values.items() if value != known[name].default]
        if not changed:
            return workload
        return replace(workload, name=f"{workload.name}({', '.join(changed)})")

    def parse(self, texts: Iterable[str]) -> dict[str, Any]:
        """Parameters from `key=value` texts, for `build`. ValueError names what is wrong and what is allowed."""
        values: dict[str, Any] = {}
        for text in texts:
            name, equals, value = (part.strip() for part in text.partition("="))
            if not equals:
                raise ValueError(f"{self.name}: a parameter must be written key=value, got {text!r}")
            parameter = self._known(name)
            if name in values:
                raise ValueError(f"{self.name}: {name} is given twice")
            try:
                read = parameter.kind.read(value)
            except (ValueError, KeyError):
                raise ValueError(f"{self.name}: {name} must be {parameter.kind.allowed}, got {value!r}") from None
            values[name] = parameter.check(read, self.name)
        return values

    def _known(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(parameter.name for parameter in self.parameters)
        raise ValueError(f"{self.name} has no parameter {name!r}; it has: {known}")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
