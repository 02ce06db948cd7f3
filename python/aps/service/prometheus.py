"""Metric families, as the Prometheus text format (version 0.0.4) and as plain data for JSON. Nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Kind = Literal["counter", "gauge", "histogram"]


class Sample(NamedTuple):
    """One series. A histogram's value is its sum, and has cumulative counts, the last above every edge."""

    labels: Labels
    value: float
    counts: Sequence[int] = ()


class Family(NamedTuple):
    """A metric: its series, by labels. edges: of a histogram, ascending, without the last one (infinity)."""

    name: str
    kind: Kind
    text: str
    samples: list[Sample]
    edges: Sequence[float] = ()


class Page:
    """One scrape: metric families, in the order in which they were added."""

    def __init__(self) -> None:
        self.families: list[Family] = []

    def counter(self, name: str, text: str, samples: Iterable[tuple[Labels, float]] | float) -> None:
        """Its samples by labels, or its one value. A family without samples is left out."""
        self._family(name, "counter", text, samples)

    def gauge(self, name: str, text: str, samples: Iterable[tuple[Labels, float]] | float | None) -> None:
        """As a counter; None: it has no value now."""
        self._family(name, "gauge", text, samples)

    def histogram(
        self,
        name: str,
        text: str,
        edges: Sequence[float],
        samples: Iterable[tuple[Labels, Sequence[int], float]],
    ) -> None:
        """Counts by bucket for each set of labels: `len(edges) + 1` counts, the last above every edge; and the sum."""
        found = [Sample(labels, total, tuple(accumulate(counts))) for labels, counts, total in samples]
        if found:
            self.families.append(Family(name, "histogram", text, found, tuple(edges)))

    def _family(self, name: str, kind: Kind, text: str, samples: Iterable[tuple[Labels, float]] | float | None) -> None:
        if samples is None:
            return
        found = [Sample({}, samples)] if isinstance(samples, int | float) else [Sample(*each) for each in samples]
        if found:
            self.families.append(Family(name, kind, text, found))

    def render(self) -> str:
        """The text of the scrape."""
        lines: list[str] = []
        for family in self.families:
            lines += (f"# HELP {family.name} {_escaped(family.text)}", f"# TYPE {family.name} {family.kind}")
            if family.kind == "histogram":
                _histogram(lines, family)
            else:
                lines += [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value, _ in family.samples]
        lines.append("")
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """{name: {"type", "help", "samples": [{"labels", "value"}]}}; a histogram's samples have "count", "sum" and
        "buckets", cumulative counts by upper edge."""
        return {
            family.name: {
                "type": family.kind,
                "help": family.text,
                "samples": [_sample(sample, family) for sample in family.samples],
            }
            for family in self.families
        }


def _histogram(lines: list[str], family: Family) -> None:
    name = family.name
    ends = [f'le="{_number(edge)}"}} ' for edge in (*family.edges, float("inf"))]
    for labels, total, counts in family.samples:
        own = _labels(labels)
        start = f"{name}_bucket{own[:-1]}," if own else f"{name}_bucket{{"
        lines += [f"{start}{end}{count}" for end, count in zip(ends, counts, strict=True)]
        lines += (f"{name}_sum{own} {_number(total)}", f"{name}_count{own} {counts[-1]}")


def _sample(sample: Sample, family: Family) -> dict[str, Any]:
    labels, value, counts = sample
    if family.kind != "histogram":
        return {"labels": labels, "value": value}
    edges = (_number(edge) for edge in (*family.edges, float("inf")))
    return {"labels": labels, "count": counts[-1], "sum": value, "buckets": dict(zip(edges, counts, strict=True))}


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_quoted(value)}"' for name, value in labels.items()]) + "}"


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value == float("inf"):
        return "+Inf"
    if value == float("-inf"):
        return "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
