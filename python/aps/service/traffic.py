"""What the service sees of its clients beside requests that the scheduler is asked about: refusals, connections."""

from collections import Counter

from aps.service.errors import OWN
from aps.service.prometheus import Page


class Traffic:
    """connections: those that are open, of a server that is ours; at most max_connections and those that are refused.
    refused: answers in the one error shape to what the scheduler was not asked about, or does not count, by reason:
    those of `errors.OWN`."""

    def __init__(self, max_connections: int) -> None:
        self.connections, self.max_connections = 0, max_connections
        self.refused = Counter(dict.fromkeys(OWN, 0))  # from the start: rates need the 0


def traffic(out: Page, seen: Traffic) -> None:
    """Its families."""
    out.counter(
        "aps_http_refused_total",
        "Requests and connections refused before the scheduler was asked, and failures of the service, by reason.",
        [({"reason": reason}, count) for reason, count in seen.refused.items()],
    )
    out.gauge("aps_connections", "Connections that are open.", seen.connections)
    out.gauge("aps_max_connections", "Connections that may be open at once.", seen.max_connections)
