"""A strict reader of scrapes: whatever the text format or its conventions forbid is an AssertionError."""

import re
from collections.abc import Iterator
from math import inf

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]

NAME = r"[a-z_:][a-z0-9_:]*"
SAMPLE = re.compile(
    rf'({NAME})(?:\{{((?:{NAME}="(?:[^"\\\n]|\\[\\"n])*",?)+)\}})? (-?(?:[0-9.]+(?:e[+-]?[0-9]+)?|Inf)|\+Inf)'
)
HEAD = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")


class Scrape:
    """One text. types, texts: by family. series: values by name and labels."""

    def __init__(self, text: str) -> None:
        assert text.endswith("\n") and not text.endswith("\n\n")
        self.types: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.series: dict[Series, float] = {}
        self.lines = text[:-1].split("\n")
        self._check_order()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.series, f"twice: {key}"
                self.series[key] = sample.value
        assert len(self.series) == len(self.lines) - 2 * len(self.types), "the parser saw other samples"
        for name, kind in self.types.items():
            assert name.endswith("_total") == (kind == "counter"), name
            if kind == "histogram":
                self._check_histogram(name)
            if kind == "counter":
                assert all(0 <= value < inf for value in self.of(name).values()), name

    def _check_order(self) -> None:
        """HELP, TYPE, then at least one sample, all of one family together, each family once."""
        family, expected = "", "HELP"
        for line in self.lines:
            if head := HEAD.fullmatch(line):
                kind, name, rest = head.groups()
                assert kind == expected or (kind, expected) == ("HELP", "sample or HELP"), line
                if kind == "HELP":
                    assert name not in self.texts, f"declared twice: {name}"
                    family, self.texts[name], expected = name, rest, "TYPE"
                else:
                    assert name == family and rest in ("counter", "gauge", "histogram"), line
                    self.types[name], expected = rest, "sample"
                continue
            sample = SAMPLE.fullmatch(line)
            assert sample is not None and expected in ("sample", "sample or HELP"), line
            of = re.sub("_(bucket|sum|count)$", "", sample[1]) if self.types[family] == "histogram" else sample[1]
            assert of == family, line
            expected = "sample or HELP"
        assert expected == "sample or HELP"

    def _check_histogram(self, name: str) -> None:
        buckets: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for labels, value in self.of(f"{name}_bucket").items():
            edge = float(dict(labels)["le"])
            buckets.setdefault(frozenset(pair for pair in labels if pair[0] != "le"), []).append((edge, value))
        assert buckets.keys() == self.of(f"{name}_sum").keys() == self.of(f"{name}_count").keys()
        for labels, found in buckets.items():
            counts = [value for _, value in found]
            assert [edge for edge, _ in found] == sorted({edge for edge, _ in found}) and found[-1][0] == inf
            assert counts == sorted(counts) and all(count == int(count) >= 0 for count in counts)
            assert counts[-1] == self.series[f"{name}_count", labels]

    def of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """Its samples by labels."""
        return {labels: value for (sample, labels), value in self.series.items() if sample == name}

    def total(self, name: str, **labels: str) -> float:
        """The sum of its samples that carry these labels."""
        return sum(value for own, value in self.of(name).items() if labels.items() <= dict(own).items())

    def one(self, name: str, **labels: str) -> float:
        return self.series[name, frozenset(labels.items())]

    def labels(self, name: str) -> set[str]:
        """The names of its labels."""
        return {label for labels in self.of(name) or self.of(f"{name}_count") for label, _ in labels}

    def monotone(self) -> Iterator[tuple[Series, float]]:
        """The series that may not fall from one scrape to the next."""
        for (name, labels), value in self.series.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                yield (name, labels), value


def assert_nothing_fell(before: Scrape, after: Scrape) -> None:
    then = dict(before.monotone())
    for series, value in after.monotone():
        assert value >= then.get(series, 0.0), series
