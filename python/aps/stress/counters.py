"""Reads the service's own counters from its `GET /metrics` (the Prometheus text format)."""

import re

_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class Counters:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self._samples: list[tuple[str, dict[str, str], float]] = []
        for line in text.split("\n"):  # splitlines() would also split inside a label
            if line and not line.startswith("#") and (match := _SAMPLE.match(line)):
                name, labels, value = match.groups()
                self._samples.append((name, _labels(labels or ""), float(value)))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that carry these labels. KeyError when there is none of this name."""
        values = [(own, value) for sample, own, value in self._samples if sample == name]
        if not values:
            raise KeyError(f"the service's metrics have no {name}")
        return sum(value for own, value in values if labels.items() <= own.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of the samples of this name by the value of a label; empty when there are none."""
        sums: dict[str, float] = {}
        for sample, own, value in self._samples:
            if sample == name and label in own:
                sums[own[label]] = sums.get(own[label], 0.0) + value
        return sums

    def has(self, name: str, **labels: str) -> bool:
        """Whether there is a sample of this name that carries these labels."""
        return any(sample == name and labels.items() <= own.items() for sample, own, _ in self._samples)


def _labels(text: str) -> dict[str, str]:
    return {name: re.sub(r'\\[\\"n]', lambda m: _UNESCAPED[m[0]], value) for name, value in _LABEL.findall(text)}
