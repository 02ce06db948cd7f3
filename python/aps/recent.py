"""The last minute: what the devices did, and who got it while several tenants contended. Memory is bounded.

Time is cut into pieces where batches start or somebody looks, each about a twelfth of the window: no timer, nothing a
request. Shorter ones would say less: who waits for a moment gets nothing while it waits, and its tokens afterwards.
A piece in which the window begins counts for the part of it that lies within, as if what was done in it had been done
evenly. So one may be longer than the window: an idle one, or one in which nothing starts.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.backends.protocol import Backend
from aps.metrics import Metrics
from aps.scheduler import Scheduler
from aps.verdicts import TenantRows

PIECES = 12  # in a window
SHORTEST_S = 0.2  # wall seconds of a piece at least: under a large time_scale pieces are longer
WINDOW_S = 60.0

USED = ("busy_s", "slot_s", "block_s", "prefill_tokens", "output_tokens")

Numbers = NDArray[np.float64]


class Work(NamedTuple):
    """What all devices have done. busy_s, slot_s, block_s: as in `Usage`, summed; 0 where a backend cannot know.

    first_tokens: of them, those that came with a prefill. recomputed_tokens: prefilled again after a preemption.
    """

    busy_s: float
    slot_s: float
    block_s: float
    prefill_tokens: float
    output_tokens: float
    first_tokens: float
    recomputed_tokens: float


class Share(NamedTuple):
    """Of one tenant, while it and another contended: tokens that it got, and that it would have got by the weights of
    those who contended then (`promised`), or had all got the same (`equal`); `pool`: that they all got."""

    received: float
    promised: float
    equal: float
    pool: float


class Verdicts(NamedTuple):
    """What the scheduler had said to each tenant at an instant."""

    names: Sequence[str]
    counts: Sequence[NDArray[np.int64]]  # admitted, throttled, rejected

    @classmethod
    def of(cls, rows: TenantRows) -> "Verdicts":
        return cls(rows.names, [rows.columns[kind] for kind in ("admitted", "throttled", "rejected")])

    def told(self, name: str) -> list[int]:
        """What it had said to one of them; nothing to somebody else."""
        try:
            place = self.names.index(name)
        except ValueError:
            return [0] * len(self.counts)
        return [int(column[place]) for column in self.counts]


class Lately(NamedTuple):
    """seconds: how long the window was: `window_s`, or since the driver began. work: what was done in it; so_far: since
    the driver began. contended_s: of the window, the time in which at least two tenants contended throughout a piece.
    shares: of those tenants, by name.

    jain: Jain's index of received / equal, raw. weighted_jain: of received / promised. 1: everybody got its part;
    1/n: one of n had all. None: nobody contended. `verdicts` are `part` of what was said from `before` to `then`, the
    piece that the window begins in, and all that was said from then to `after`.
    """

    seconds: float
    work: Work
    so_far: Work
    contended_s: float
    shares: Mapping[str, Share]
    jain: float | None
    weighted_jain: float | None
    before: Verdicts
    then: Verdicts
    part: float
    after: TenantRows

    def verdicts(self, name: str) -> tuple[int, int, int]:
        """Requests of a tenant admitted, throttled and rejected in the window. KeyError: no such tenant."""
        if name not in self.after.places:
            raise KeyError(name)
        told = [0, 0, 0]
        had = self.before.told(name)
        for part, verdicts in ((self.part, self.then), (1.0, Verdicts.of(self.after))):
            has = verdicts.told(name)
            if any(now < then for now, then in zip(has, had, strict=True)):  # it was away, and starts anew
                told, had = [0, 0, 0], [0, 0, 0]
            told = [n + round(part * (now - then)) for n, now, then in zip(told, has, had, strict=True)]
            had = has
        admitted, throttled, rejected = told
        return admitted, throttled, rejected


class _Piece(NamedTuple):
    began_at: float
    ended_at: float
    work: Numbers
    accounts: NDArray[np.intp]  # who contended throughout; fewer than two: nobody
    shares: Numbers  # (4, accounts): received, promised, equal, pool
    verdicts: Verdicts  # at its beginning

    def part(self, since: float) -> float:
        """How much of it lies after an instant."""
        if self.began_at >= since:
            return 1.0
        return max(0.0, self.ended_at - since) / (self.ended_at - self.began_at)


class Recent:
    """The sliding window of one driver, which alone may call it: `now` is an instant that it has played up to.

    due_at: when a batch starts from this instant on, `roll` is to be called. window_s: its length in seconds of the
    scheduler's clock; it may be changed. A tenant *contends throughout* a piece when it had a request waiting all the
    time and its own limits held it back neither when the piece began nor when it ended.
    """

    def __init__(self, scheduler: Scheduler, backend: Backend, metrics: Metrics) -> None:
        self.due_at = -inf
        self.window_s = WINDOW_S
        self._scheduler, self._backend, self._metrics = scheduler, backend, metrics
        self._pieces: deque[_Piece] = deque()
        self._began_at = inf
        self._work = np.zeros(0)
        self._tokens = np.zeros(0, np.int64)
        self._contending: dict[str, float] = {}  # their weights, when the piece began
        self._verdicts = Verdicts((), ())

    def roll(self, now: float) -> None:
        """End the piece that runs, and begin the next."""
        rows = self._scheduler.snapshot(now=now).tenants
        weights = _weights(rows)
        tokens, work = self._served(), np.array(self._work_so_far())
        if self._began_at <= now:
            self._pieces.append(self._piece(now, weights, tokens, work))
        self._drop(now)
        self._began_at, self._work, self._tokens, self._contending = now, work, tokens, weights
        self._verdicts = Verdicts.of(rows)
        self.due_at = now + self._piece_s()

    def look(self, now: float) -> Lately:
        """The window up to now."""
        if now >= self.due_at:
            self.roll(now)
        self._drop(now)
        pieces = [*self._pieces]
        rows = self._scheduler.snapshot(now=now).tenants
        if now > self._began_at:
            pieces.append(self._piece(now, _weights(rows), self._served(), np.array(self._work_so_far())))
        parts = [piece.part(now - self.window_s) for piece in pieces]
        totals = np.zeros((4, len(self._metrics.tenants)))
        contended_s, work = 0.0, np.zeros(len(Work._fields))
        for part, piece in zip(parts, pieces, strict=True):
            work += part * piece.work
            if len(piece.accounts):
                contended_s += part * (piece.ended_at - piece.began_at)
                totals[:, piece.accounts] += part * piece.shares
        among = totals[1].nonzero()[0]
        received, promised, equal, _ = totals[:, among]
        names = list(self._metrics.tenants)
        shares = (Share._make(share) for share in totals[:, among].T.tolist())
        told = [*(piece.verdicts for piece in pieces), Verdicts.of(rows) if now > self._began_at else self._verdicts]
        return Lately(
            min(self.window_s, now - pieces[0].began_at) if pieces else 0.0,
            Work._make(work.tolist()),
            self._work_so_far(),
            contended_s,
            dict(zip([names[account] for account in among], shares, strict=True)),
            _jain(received, equal),
            _jain(received, promised),
            told[0],
            told[:2][-1],
            parts[0] if parts else 0.0,
            rows,
        )

    def _piece(self, now: float, weights: Mapping[str, float], tokens: NDArray[np.int64], work: Numbers) -> _Piece:
        """From where the piece began until now."""
        tenants = [self._metrics.tenants[name] for name in self._contending if name in weights]
        stayed = [tenant for tenant in tenants if tenant.waiting and tenant.waits_since <= self._began_at]
        done = work - self._work
        if len(stayed) < 2:
            return _Piece(self._began_at, now, done, np.zeros(0, np.intp), np.zeros((4, 0)), self._verdicts)
        accounts = np.array([tenant.account for tenant in stayed])
        given = tokens.copy()
        given[: len(self._tokens)] -= self._tokens
        received = given[accounts]
        weight = np.array([self._contending[tenant.name] for tenant in stayed])
        pool = received.sum()
        everybody = np.ones(len(stayed))
        shares = np.array((received, pool * weight / weight.sum(), everybody * pool / len(stayed), everybody * pool))
        return _Piece(self._began_at, now, done, accounts, shares, self._verdicts)

    def _served(self) -> NDArray[np.int64]:
        return np.asarray(self._backend.served(len(self._metrics.tenants)).sum(axis=0))

    def _work_so_far(self) -> Work:
        used = [usage for device in range(len(self._backend.devices)) if (usage := self._backend.usage(device))]
        counted = self._metrics
        first = sum(tally.ttft.count for tally in counted.bids.values())
        return Work._make(
            (*(sum(getattr(usage, name) for usage in used) for name in USED), first, counted.recomputed_tokens)
        )

    def _piece_s(self) -> float:
        return max(self.window_s / PIECES, SHORTEST_S * self._backend.time_scale)

    def _drop(self, now: float) -> None:
        while self._pieces and self._pieces[0].ended_at <= now - self.window_s:
            self._pieces.popleft()


def _weights(rows: TenantRows) -> dict[str, float]:
    """Of the tenants that contend."""
    places = rows.columns["contending"].nonzero()[0].tolist()
    weights: list[float] = rows.columns["weight"][places].tolist()
    return dict(zip([rows.names[place] for place in places], weights, strict=True))


def _jain(received: Numbers, part: Numbers) -> float | None:
    if not len(received) or not received.any():
        return None
    x = received / part
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))
