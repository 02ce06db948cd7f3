"""Whether the store does what is asked of it again and again: take a save, be read."""

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Literal, NamedTuple

LOG = logging.getLogger("aps.store")


class Standing(NamedTuple):
    """status: of the last try; since: when it became so (Unix time). error: why it fails. errors: tries that failed."""

    status: Literal["ok", "failing"]
    since: float
    error: str | None = None
    errors: int = 0


class Condition:
    """How something does that one thread tries again and again. Any thread may ask.

    fails, works: what the log says when it begins to fail (%s: why), and when it works again (%.0f: wall seconds after
    that). late_s: wall seconds after which a try that has not ended counts as failing, once `look` finds it.
    now: how it stands.
    """

    def __init__(self, fails: str, works: str, late_s: float, wall: Callable[[], float] = time.time) -> None:
        self._fails, self._works, self._late_s, self._wall = fails, works, late_s, wall
        self.now = Standing("ok", wall())
        self._lock = Lock()
        self._began: float | None = None

    def begin(self) -> None:
        """A try begins."""
        self._began = time.monotonic()

    def end(self, error: str | None = None) -> None:
        """It has ended; error: it failed."""
        with self._lock:
            self._began = None
            if error is None:
                self._worked()
            else:
                self._failed(error)
                self.now = self.now._replace(errors=self.now.errors + 1)

    def look(self) -> None:
        """A try that has been under way for too long means that it fails: nobody hears of one that never ends."""
        with self._lock:
            if self._began is not None and (took_s := time.monotonic() - self._began) > self._late_s:
                self._failed(f"no answer for {took_s:.0f} s")

    def _worked(self) -> None:
        now = self._wall()
        if self.now.status == "failing":
            LOG.warning(self._works, now - self.now.since)
            self.now = self.now._replace(status="ok", since=now, error=None)

    def _failed(self, error: str) -> None:
        if self.now.status == "ok":
            LOG.error(self._fails, error)
            self.now = self.now._replace(status="failing", since=self._wall())
        self.now = self.now._replace(error=error)
