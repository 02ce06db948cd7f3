"""Between the driver and a backend that may fail: whatever it does wrong becomes news that a device lost requests."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.backends.protocol import FAILED, FINISHED, Backend, Health, Job, Progress, Usage
from aps_core.tickets import Desk, Ticket

LOG = logging.getLogger(__name__)

QUIET_LOOKS = 4  # at a request of which nothing is heard, until it is held to be lost
STRIKES = 3  # requests lost in a row, none finished between them, until their device gets no more for a while
REST_S = 1.0  # for how long, at first; twice as long each time that it fails again before it has finished anything
LONGEST_REST_S = 60.0
JITTER_S = 1e-3  # that a clock may go back without anybody's fault
FAULTS = ("clock_went_back", "false_counts", "no_progress", "raised", "too_many_tokens", "unknown_request")  # kinds
HEALTH_S = 1.0  # when to look again at a device that is not healthy, if nobody says so before

Row = tuple[int, int, int, int]  # handle, computed, generated, flags


class Guard:
    """A `Backend` that keeps the protocol, around one that may not.

    * Time does not go back: when the backend's clock does, it goes on from where it stood. News are due when they are
      there.
    * A device that is not healthy, or rests after it has failed, is not `ready`.
    * News are passed on if they can be so: of a request that runs on that device, with counts that do not fall. A
      request that is said to be beyond its prefill, or to have less than before, is FAILED; one with more than its
      max_tokens is FINISHED with those. What is told of anybody else is left out.
    * An exception from what concerns one device is a failure of that device, and the jobs concerned are FAILED.

    faults: what was wrong, by kind (FAULTS).
    """

    simulated = False
    time_scale = 1.0

    def __init__(self, backend: Backend, desk: Desk[Any], faults: Counter[str]) -> None:
        self._backend = backend
        self._desk = desk
        self.faults = faults
        self.devices = backend.devices
        self.profile = backend.profile
        self._seen = -inf  # its clock, as it was last
        self._behind = 0.0  # by how much it has gone back in all
        self._stirred = False  # it has called: perhaps a device has become ready
        self._lost: dict[int, Ticket] = {}  # news of our own, by handle
        self._texts: dict[int, str] = {}  # of those that finish at this instant
        self._again_at = inf  # when devices that are not healthy are to be asked again
        self._rest_until = [-inf for _ in self.devices]
        self._rests = [0 for _ in self.devices]  # since it last finished something
        self._strikes = [0 for _ in self.devices]

    async def open(self, now: float, wake: Callable[[], None]) -> None:
        def stir() -> None:
            self._stirred = True
            wake()

        await self._backend.open(now, stir)

    async def close(self) -> None:
        await self._backend.close()

    # The clock

    def now(self) -> float:
        now = self._backend.now() + self._behind
        if now < self._seen:
            self.faults["clock_went_back"] += self._seen - now > JITTER_S
            self._behind += self._seen - now
            now = self._seen
        self._seen = now
        return now

    def slip(self, at: float) -> None:
        self._backend.slip(at)

    # Work

    def ready(self, device: int) -> bool:
        try:
            if not self._backend.ready(device):
                return False
        except Exception as error:
            self._fail(device, error)
        if self.health(device).ok:
            return True
        self._again_at = min(self._again_at, max(self._seen + HEALTH_S, self._rest_until[device]))
        return False

    def health(self, device: int) -> Health:
        left_s = self._rest_until[device] - self._seen
        if left_s > 0:
            return Health(False, f"it has failed and gets no work for another {left_s:.3g} s")
        try:
            return self._backend.health(device)
        except Exception as error:
            self._fail(device, error)
            return Health(False, repr(error))

    def start(self, device: int, jobs: Sequence[Job], now: float) -> None:
        try:
            self._backend.start(device, jobs, now - self._behind)
        except Exception as error:
            self._fail(device, error)
            for job in jobs:
                self._drop(device, job)

    def abort(self, device: int, job: Job, *, keep: bool = False) -> None:
        try:
            self._backend.abort(device, job, keep=keep)
        except Exception as error:
            self._fail(device, error)

    def look(self) -> bool:
        """To be called at even intervals: gives up what has shown no progress between the last looks. True: it did."""
        self.now()
        quiet = self._desk.look_for_quiet(QUIET_LOOKS)
        for device in {ticket.device for ticket in quiet}:
            if all(ticket in quiet for ticket in self._desk.running_on(device)):
                self._rest(device, "nothing that runs there makes progress")
        for ticket in quiet:
            self.faults["no_progress"] += 1
            self._drop(ticket.device, ticket)
        return bool(quiet)

    # News

    def next_event_at(self) -> float:
        if self._lost or self._stirred:
            return self._seen
        at = self._backend.next_event_at()
        if at < inf:
            return min(at + self._behind, self._seen)
        return self._again_at if self._desk.outstanding else inf

    def take(self) -> Progress:
        self._stirred = False
        if self._lost:
            return self._losses()
        if self._backend.next_event_at() < inf:
            return self._checked(self._backend.take())
        self._again_at = inf
        return self._progress(0, (), ())

    def _losses(self) -> Progress:
        """Of one device: those that have not ended or been displaced meanwhile."""
        device = next(iter(self._lost.values())).device
        rows: list[Row] = []
        for handle, ticket in tuple(self._lost.items()):
            if ticket.device == device:
                del self._lost[handle]
                if ticket.running:
                    rows.append((handle, ticket.computed, ticket.output, FAILED))
        return self._progress(device, (), rows)

    def _progress(self, device: int, going: Iterable[Row], ended: Sequence[Row], began_at: float = inf) -> Progress:
        handles, computed, generated, flags = np.array([*going, *ended], dtype=np.int64).reshape(-1, 4).T.copy()
        began_at = min(began_at, self._seen)
        return Progress(device, self._seen, began_at, handles, computed, generated, flags, len(ended))

    def _checked(self, news: Progress) -> Progress:
        device = news.device
        try:
            if not self._desk.truthful(device, *news[3:]):
                news = self._sifted(news)
            news = self._with_texts(news)
        except (TypeError, ValueError) as error:  # no arrays of integers, or not of one length
            self._fail(device, error)
            for ticket in self._desk.running_on(device):
                self._drop(device, ticket)
            return self._progress(device, (), ())
        return news._replace(began_at=min(news.began_at + self._behind, self._seen))

    def _sifted(self, news: Progress) -> Progress:
        """What can be so, and who is lost because something cannot."""
        rows: dict[int, Row] = {}
        columns = (column.tolist() for column in news[3:7])
        for handle, computed, generated, flags in zip(*columns, strict=True):
            ticket = self._desk.find(handle)
            if ticket is None or not ticket.running or ticket.device != news.device or handle in rows:
                self.faults["unknown_request"] += 1
                continue
            if generated > ticket.max_tokens:
                self.faults["too_many_tokens"] += 1
                if not flags & (FINISHED | FAILED):
                    self.abort(news.device, ticket)
                generated, flags = ticket.max_tokens, flags & ~FAILED | FINISHED
            if not self._desk.plausible(ticket, computed, generated):
                self.faults["false_counts"] += 1
                if not flags & (FINISHED | FAILED):
                    self.abort(news.device, ticket)
                computed, generated, flags = ticket.computed, ticket.output, FAILED
            rows[handle] = (handle, computed, generated, flags)
        ended = [row for row in rows.values() if row[3] & (FINISHED | FAILED)]
        going = [row for row in rows.values() if not row[3] & (FINISHED | FAILED)]
        return self._progress(news.device, going, ended, news.began_at)

    def _with_texts(self, news: Progress) -> Progress:
        """Those that finish have a text, or are FAILED; and the device's record."""
        device = news.device
        flags = news.flags
        for i in range(len(flags) - news.ended, len(flags)):
            ticket = self._desk.find(int(news.handles[i]))
            assert ticket is not None
            if not flags[i] & FAILED:
                try:
                    [text] = self._backend.texts([ticket], [int(news.generated[i])])
                    if not isinstance(text, str):
                        raise TypeError(f"texts must give a str for each job, got {text!r}")
                except Exception as error:
                    self._fail(device, error)
                    if flags is news.flags:
                        flags = flags.copy()
                    flags[i] = FAILED
                else:
                    self._texts[ticket.handle] = text
                    self._strikes[device] = self._rests[device] = 0
                    continue
            self._strike(device)
        return news._replace(flags=flags)

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        try:
            return self._backend.tokens(job, start, stop)
        except Exception as error:
            ticket = self._desk.find(job.handle)
            if ticket is not None:
                self._fail(ticket.device, error)
                self._drop(ticket.device, ticket)
            return ()

    def texts(self, jobs: Sequence[Job], counts: Sequence[int]) -> Sequence[str]:
        return [self._texts.pop(job.handle) for job in jobs]

    def count_tokens(self, text: str) -> int | None:
        return self._backend.count_tokens(text)

    # Looking

    def served(self, accounts: int) -> NDArray[np.int64]:
        try:
            return self._backend.served(accounts).reshape(2, accounts)
        except Exception:
            self.faults["raised"] += 1
            return np.zeros((2, accounts), dtype=np.int64)

    def usage(self, device: int) -> Usage | None:
        return self._backend.usage(device)

    # Failures

    def _drop(self, device: int, job: Job) -> None:
        """The device has lost it."""
        self.abort(device, job)
        ticket = self._desk.find(job.handle)
        if ticket is not None:
            self._lost[job.handle] = ticket

    def _fail(self, device: int, error: Exception) -> None:
        self.faults["raised"] += 1
        self._rest(device, repr(error), error)

    def _strike(self, device: int) -> None:
        self._strikes[device] += 1
        if self._strikes[device] >= STRIKES:
            self._rest(device, f"{STRIKES} requests lost in a row")

    def _rest(self, device: int, why: str, error: Exception | None = None) -> None:
        if self._rest_until[device] > self._seen:
            return
        rest_s = min(LONGEST_REST_S, REST_S * 2 ** self._rests[device])
        LOG.warning(
            "%s has failed and gets no work for %g s: %s", self.devices[device].name, rest_s, why, exc_info=error
        )
        self._rest_until[device] = self._seen + rest_s
        self._rests[device] = min(self._rests[device] + 1, 10)
