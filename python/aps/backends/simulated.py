"""Simulated GPUs in scaled real time: the compiled engine behind the Backend protocol."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from aps import _checks as check
from aps.backends.protocol import HEALTHY, Health, Job, Progress, Usage
from aps.devices import Device
from aps.profiles import Profile, profile_named
from aps_core.gpu import Engine

# The text of simulated tokens: this, over and over, from a place that the prompt (or else its length) decides.
WORDS = tuple(
    f"{word} "
    for word in (
        "the scheduler gives every tenant its share and lets the urgent go first while older requests gain rank as "
        "they wait so that nobody is forgotten and the memory of the device is promised once and returned in full"
    ).split()
)
_TOKENS = WORDS * 16
_TEXT = "".join(_TOKENS)
_ENDS = tuple(accumulate(map(len, _TOKENS), initial=0))  # of its tokens, in characters


def _place(job: Job) -> int:
    """Where a job's text begins; kept with the job."""
    at: int | None = job.own
    if at is None:
        seed = job.prompt_tokens if job.prompt is None else _seed(job.prompt)
        at = job.own = seed % len(WORDS)
    return at


def _seed(prompt: str) -> int:
    return crc32(prompt.encode() if prompt.isascii() else prompt.encode("utf-8", "surrogatepass"))


TIME_SCALES = 1e-4, 1e4  # the scheduler's clock lasts 4e8 s: eleven hours at the fastest


class SimulatedBackend:
    """`gpus` equal devices of a profile. now = start + time_scale * wall time; steps end at their computed instants.

    time_scale: 1e-4 to 1e4 simulated seconds in a wall second. The scheduler's clock lasts 4e8 s: 463 days at 10.
    profile: a name or a Profile. slots, kv_tokens, token_budget: instead of the profile's (token_budget 0: whole
    prompts). clock: monotonic wall seconds. A request generates its max_tokens, or what it asks to be simulated.
    ValueError names what is out of range, TypeError what is no number.
    """

    simulated = True

    def __init__(
        self,
        profile: str | Profile = "reference",
        *,
        gpus: int = 1,
        time_scale: float = 1.0,
        slots: int | None = None,
        kv_tokens: int | None = None,
        token_budget: int | None = None,
        block_tokens: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(gpus, int) or gpus < 1:
            raise ValueError(f"gpus must be an int, at least 1, got {gpus!r}")
        slowest, fastest = TIME_SCALES
        allowed = f"a number from {slowest:g} to {fastest:g}"
        check.number("time_scale", time_scale, allowed, lambda x: slowest <= x <= fastest)
        check.integer("kv_tokens", kv_tokens, 1, check.INT32_MAX, optional=True)
        check.integer("block_tokens", block_tokens, 1, check.INT32_MAX)
        self.spec = profile_named(profile) if isinstance(profile, str) else profile
        self.profile = self.spec.name
        self.time_scale = time_scale
        budget = self.spec.token_budget if token_budget is None else token_budget or None
        self.devices = tuple(
            Device(
                slots=self.spec.slots if slots is None else slots,
                kv_blocks=(self.spec.kv_tokens if kv_tokens is None else kv_tokens) // block_tokens,
                token_budget=budget,
                name=f"gpu{i}",
            )
            for i in range(gpus)
        )
        self.engines = tuple(
            Engine(
                self.spec.step_time,
                device.slots,
                device.kv_blocks,
                block_tokens=block_tokens,
                token_budget=device.token_budget or 0,
            )
            for device in self.devices
        )
        self._ends = [inf] * gpus  # of the steps that run, in seconds
        self._clock = clock
        self._opened_at = 0.0  # the engines count from here, so any epoch will do
        self._start = 0.0
        self._zero = clock()

    # The clock

    async def open(self, now: float, wake: Callable[[], None]) -> None:
        self._opened_at = self._start = now
        self._zero = self._clock()

    async def close(self) -> None:
        self._ends = [inf] * len(self.engines)

    def now(self) -> float:
        return self._start + self.time_scale * (self._clock() - self._zero)

    def slip(self, at: float) -> None:
        self._start = at
        self._zero = self._clock()

    # Work

    def ready(self, device: int) -> bool:
        return self._ends[device] == inf

    def start(self, device: int, jobs: Sequence[Job], now: float) -> None:
        engine = self.engines[device]
        if jobs:
            engine.start_many(jobs)
        end_ns = engine.begin_step(max(round((now - self._opened_at) * 1e9), engine.end_ns))
        self._ends[device] = self._seconds(end_ns) if end_ns >= 0 else inf

    def abort(self, device: int, job: Job, *, keep: bool = False) -> None:
        self.engines[device].abort(job.handle, keep=keep)

    # News

    def next_event_at(self) -> float:
        return min(self._ends)

    def take(self) -> Progress:
        at = min(self._ends)
        device = self._ends.index(at)
        self._ends[device] = inf
        engine = self.engines[device]
        n = engine.end_step()
        return Progress(
            device,
            at,
            self._seconds(engine.began_ns),
            engine.request_ids[:n],
            engine.computed[:n],
            engine.generated[:n],
            engine.flags[:n],
            engine.ended,
        )

    def _seconds(self, ns: int) -> float:
        return self._opened_at + ns / 1e9

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        first = (_place(job) + start) % len(WORDS)
        count = stop - start
        text = _TOKENS if first + count <= len(_TOKENS) else WORDS * (2 + count // len(WORDS))
        return text[first : first + count]

    def texts(self, jobs: Sequence[Job], counts: Sequence[int]) -> Sequence[str]:
        text, ends, words, most = _TEXT, _ENDS, len(WORDS), len(_TOKENS) - len(WORDS)
        said = []
        for job, count in zip(jobs, counts, strict=True):
            if count >= most:
                said.append("".join(self.tokens(job, 0, count)))
                continue
            prompt = job.prompt
            at = (job.prompt_tokens if prompt is None else _seed(prompt)) % words
            said.append(text[ends[at] : ends[at + count]])
        return said

    def count_tokens(self, text: str) -> int | None:
        return None

    # Looking

    def served(self, accounts: int) -> NDArray[np.int64]:
        for engine in self.engines:
            engine.reserve_accounts(accounts)
        total = self.engines[0].served[:, :accounts].copy()
        for engine in self.engines[1:]:
            total += engine.served[:, :accounts]
        return total

    def usage(self, device: int) -> Usage | None:
        engine = self.engines[device]
        return Usage(
            engine.steps,
            engine.busy_ns / 1e9,
            engine.slot_ns / 1e9,
            engine.block_ns / 1e9,
            engine.prefill_tokens,
            engine.output_tokens,
            engine.held_blocks,
            engine.running,
            engine.swapped_tokens,
        )

    def health(self, device: int) -> Health:
        return HEALTHY
