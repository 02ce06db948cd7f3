"""A backend around an async generator of the user's."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from math import inf

import numpy as np
from numpy.typing import NDArray

from aps.backends.protocol import FAILED, FINISHED, FIRST_STEP, FIRST_TOKEN, HEALTHY, Backend, Health, Job, Progress
from aps.devices import Device

LOG = logging.getLogger(__name__)
ENDED = FINISHED | FAILED


class _Run:
    """One start of a job: its output, and what has happened to it that nobody has been told."""

    __slots__ = ("device", "flags", "handle", "job", "task", "tokens")

    def __init__(self, device: int, job: Job, tokens: list[str]) -> None:
        self.device = device
        self.job = job
        self.handle = job.handle
        self.tokens = tokens
        self.flags = 0
        self.task: asyncio.Task[None] | None = None

    @property
    def computed(self) -> int:
        """Tokens of its prefill: all, once it has given one; before, nobody knows."""
        job = self.job
        return (job.prompt_tokens if job.prefill is None else job.prefill) if len(self.tokens) > job.generated else 0


class GeneratorBackend(Backend):
    """Subclass it and write `generate`; it keeps the rest of the protocol. Override `count_tokens` if you have a
    tokenizer.

    devices: what there is, and how many jobs each takes at once. profile: what it is, for people. clock: seconds.
    When `generate` raises an exception, CancelledError included, that is logged, and the device has lost the job.
    """

    simulated = False
    time_scale = 1.0

    def __init__(
        self,
        devices: Sequence[Device] = (Device(token_budget=None),),
        *,
        profile: str = "generator",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = tuple(devices)
        self._profile = profile
        self._clock = clock
        self._wake: Callable[[], None] = lambda: None
        self._zero = 0.0
        self._running: tuple[dict[int, _Run], ...] = tuple({} for _ in self._devices)
        self._leaving: set[asyncio.Task[None]] = set()  # of jobs that were aborted
        self._news: list[dict[int, _Run]] = [{} for _ in self._devices]
        self._health = [HEALTHY for _ in self._devices]
        self._served: NDArray[np.int64] = np.zeros((2, 1), dtype=np.int64)  # at least as many columns as accounts

    def generate(self, device: int, job: Job) -> AsyncGenerator[str, None]:
        """An async generator of the job's output tokens. It is closed after max_tokens, and when the job is aborted.

        With preemption in the policy `job.generated` may be above 0: so many tokens, `self.tokens(job, 0,
        job.generated)`, are there, and only those after them are wanted.
        """
        raise NotImplementedError

    def set_health(self, device: int, health: Health) -> None:
        """Say that a device is to get no more work, or that it may again."""
        self._health[device] = health
        self._wake()

    # The protocol

    @property
    def devices(self) -> Sequence[Device]:
        return self._devices

    @property
    def profile(self) -> str:
        return self._profile

    async def open(self, now: float, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._zero = self._clock() - now

    async def close(self) -> None:
        self._wake = lambda: None
        for runs in self._running:
            for run in runs.values():
                self._cancel(run)
            runs.clear()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def now(self) -> float:
        return self._clock() - self._zero

    def slip(self, at: float) -> None:
        pass

    def ready(self, device: int) -> bool:
        return True

    def start(self, device: int, jobs: Sequence[Job], now: float) -> None:
        for job in jobs:
            run = job.own = _Run(device, job, list(self.tokens(job, 0, job.generated)))
            self._running[device][job.handle] = run
            run.task = asyncio.get_running_loop().create_task(self._follow(run))

    def abort(self, device: int, job: Job, *, keep: bool = False) -> None:
        self._news[device].pop(job.handle, None)
        run = self._running[device].pop(job.handle, None)
        if run is not None:
            self._cancel(run)

    def next_event_at(self) -> float:
        return self.now() if any(self._news) else inf

    def take(self) -> Progress:
        device = next(at for at, news in enumerate(self._news) if news)
        runs = sorted(self._news[device].values(), key=lambda run: run.flags & ENDED > 0)
        self._news[device] = {}
        rows = [(run.handle, run.computed, len(run.tokens), run.flags) for run in runs]
        for run in runs:
            run.flags = 0
        handles, computed, generated, flags = np.array(rows, dtype=np.int64).T.copy()
        now = self.now()
        return Progress(device, now, now, handles, computed, generated, flags, int((flags & ENDED > 0).sum()))

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        run: _Run | None = job.own
        return run.tokens[start:stop] if run is not None else ()

    def served(self, accounts: int) -> NDArray[np.int64]:
        self._reserve(accounts)
        return self._served[:, :accounts].copy()

    def health(self, device: int) -> Health:
        return self._health[device]

    # What happens to a job

    async def _follow(self, run: _Run) -> None:
        job = run.job
        self._tell(run, FIRST_STEP)
        try:
            async with aclosing(self.generate(run.device, job)) as output:
                async for token in output:
                    if not isinstance(token, str):
                        raise TypeError(f"generate must yield a str for each token, got {token!r}")
                    run.tokens.append(token)
                    first = len(run.tokens) == job.generated + 1
                    self._reserve(job.account + 1)
                    self._served[:, job.account] += (run.computed * first, 1)
                    if len(run.tokens) >= job.max_tokens:
                        break
                    self._tell(run, FIRST_TOKEN * (len(run.tokens) == 1))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not self._runs(run):
                raise  # aborted; else something that it waited for was cancelled, and not by us
            LOG.warning("%s has lost request %s: %r", self.devices[run.device].name, job.id, error, exc_info=error)
            self._tell(run, FAILED)
        else:
            self._tell(run, FINISHED | FIRST_TOKEN * (len(run.tokens) == 1))

    def _cancel(self, run: _Run) -> None:
        if run.task is not None:
            run.task.cancel()
            self._leaving.add(run.task)
            run.task.add_done_callback(self._leaving.discard)

    def _runs(self, run: _Run) -> bool:
        """Whether it has neither ended nor been aborted."""
        return self._running[run.device].get(run.handle) is run

    def _tell(self, run: _Run, flags: int) -> None:
        if not self._runs(run):
            return  # aborted, and it goes on all the same
        if flags & ENDED:
            del self._running[run.device][run.handle]
        run.flags |= flags
        self._news[run.device][run.handle] = run
        self._wake()

    def _reserve(self, accounts: int) -> None:
        missing = accounts - self._served.shape[1]
        if missing > 0:
            self._served = np.pad(self._served, ((0, 0), (0, missing)))
