"""A warning about what clients may bring about as often as they like."""

import logging
import time
from math import inf

LOG = logging.getLogger("aps.serve")
EVERY_S = 60.0


class Seldom:
    """Says it at most once a minute, and how often it happened since it was last said. For one thread.

    text: of the log's line.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._next, self._unsaid = -inf, 0

    def say(self, now: float | None = None) -> None:
        """It has happened; now: the monotonic clock's seconds."""
        now = time.monotonic() if now is None else now
        self._unsaid += 1
        if now < self._next:
            return
        often = f" ({self._unsaid} times since the last such line)" if self._unsaid > 1 else ""
        LOG.warning("%s%s", self._text, often)
        self._next, self._unsaid = now + EVERY_S, 0
