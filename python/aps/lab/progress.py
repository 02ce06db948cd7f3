"""Progress of work in parts, as one number from 0 to 1."""

from collections.abc import Callable, Mapping

Progress = Callable[[float], None]  # is told the part done, 0..1


class Parts:
    """One progress out of those of several parts, by weight."""

    def __init__(self, report: Progress | None, weights: Mapping[str, float]) -> None:
        self._report, self._weights = report, dict(weights)
        self._done = dict.fromkeys(weights, 0.0)

    def of(self, part: str) -> Progress:
        """What that part is to call with its own 0..1."""

        def report(done: float) -> None:
            self._done[part] = max(self._done[part], done)
            if self._report is not None:
                total = sum(self._weights.values())
                self._report(min(1.0, sum(self._weights[name] * share for name, share in self._done.items()) / total))

        return report
