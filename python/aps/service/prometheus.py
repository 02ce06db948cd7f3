"""The Prometheus text format (version 0.0.4), and nothing else."""

from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Page:
    """One scrape: metric families, in the order in which they were added."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
        """A `counter` or `gauge`: its samples by labels. A family without samples is left out."""
        lines = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
        self._add(name, kind, text, lines)

    def histogram(
        self,
        name: str,
        text: str,
        edges: Sequence[float],
        samples: Iterable[tuple[Mapping[str, str], Sequence[int], float]],
    ) -> None:
        """Counts by bucket for each set of labels: `len(edges) + 1` counts, the last above every edge; and the sum."""
        lines = []
        for labels, counts, total in samples:
            running = 0
            for edge, count in zip((*edges, float("inf")), counts, strict=True):
                running += count
                lines.append(f"{name}_bucket{_labels({**labels, 'le': _number(edge)})} {running}")
            lines += [f"{name}_sum{_labels(labels)} {_number(total)}", f"{name}_count{_labels(labels)} {running}"]
        self._add(name, "histogram", text, lines)

    def render(self) -> str:
        """The text of the scrape."""
        return "\n".join([*self._lines, ""])

    def _add(self, name: str, kind: str, text: str, lines: list[str]) -> None:
        if lines:
            self._lines += [f"# HELP {name} {_escaped(text)}", f"# TYPE {name} {kind}", *lines]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value).replace(chr(34), chr(92) + chr(34))}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    if value == float("-inf"):
        return "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
