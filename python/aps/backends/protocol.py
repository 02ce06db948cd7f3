"""What the driver needs of whatever runs the requests: a simulated GPU, or a real engine behind a network."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

# Flags of one request's progress.
FIRST_STEP = 1  # the first step it took part in since it was started
FIRST_TOKEN = 2  # its first output token of all
FINISHED = 4
FAILED = 8  # the backend lost it; what it has so far is what it gets


class Job(Protocol):
    """A request as a backend sees it."""

    @property
    def handle(self) -> int: ...  # the scheduler's, in `Progress.handles`
    @property
    def id(self) -> Hashable: ...
    @property
    def prompt(self) -> str | None: ...  # None: only its length is known
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def bid(self) -> int: ...
    @property
    def generated(self) -> int: ...  # output tokens before this start: more than 0 after a preemption
    @property
    def prefill(self) -> int | None: ...  # tokens to prefill; None: prompt and generated; 0: its cache was swapped out and back
    @property
    def simulated_output_tokens(self) -> int | None: ...  # what a simulation should generate; None: max_tokens


class Progress(NamedTuple):
    """What happened on one device at one instant. The arrays may be views that the next `take` overwrites."""

    device: int
    at: float  # seconds, the backend's clock
    began_at: float  # when the step that ends here began; `at` where there are no steps
    handles: NDArray[np.int64]  # (n,): first those that go on, then those that ended
    computed: NDArray[np.int64]  # (n,) prefill tokens since the start
    generated: NDArray[np.int64]  # (n,) output tokens in all
    flags: NDArray[np.int64]  # (n,)
    ended: int  # how many of them, at the end of the arrays, are FINISHED or FAILED


class Health(NamedTuple):
    """Whether a device takes requests, and if not, why."""

    ok: bool
    detail: str = ""


class Capacity(Protocol):
    """One device's room, as `aps.Device` states it."""

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def kv_blocks(self) -> int: ...
    @property
    def token_budget(self) -> int | None: ...  # tokens in a step; None: whole prompts


class Backend(Protocol):
    """Devices, their clock and their news. Every method is called on the driver's loop thread and returns at once.

    The driver asks `next_event_at`, sleeps until then, calls `take` until nothing is due, and after each `take` gives the
    device that is `ready` new jobs: `start` for each, then `run`. A backend whose news come by themselves (a network)
    keeps them until `take` and calls `wake` (from the loop's thread) when there are some.
    """

    @property
    def devices(self) -> Sequence[Capacity]: ...

    @property
    def time_scale(self) -> float:
        """Seconds of the backend's clock in one wall second; anything but a simulation has 1."""

    async def open(self, now: float, wake: Callable[[], None]) -> None:
        """Start the clock at `now`."""

    async def close(self) -> None:
        """Stop whatever still runs."""

    def now(self) -> float:
        """The backend's clock, seconds; never backwards."""

    def slip(self, at: float) -> None:
        """The driver cannot keep up and stands at `at`: a simulated clock is set back to it, a real one ignores this."""

    def ready(self, device: int) -> bool:
        """Whether jobs may join the device now; an iteration-level engine says no in the middle of a step."""

    def start(self, device: int, job: Job) -> None:
        """Put the job on the device. The scheduler has seen to it that it fits."""

    def run(self, device: int, now: float) -> None:
        """All that start on the device now have been started: go on."""

    def abort(self, device: int, job: Job) -> None:
        """Drop a started job; no more progress of it may be reported."""

    def next_event_at(self) -> float:
        """The instant of the earliest news; infinity when none is known."""

    def take(self) -> Progress:
        """The earliest news (ties by device), called when `next_event_at` is not infinite."""

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        """The text of the job's output tokens start..stop-1, to be joined without a separator. Callable until the job's end was taken and handled."""

    def count_tokens(self, text: str) -> int | None:
        """Tokens in a prompt; None when the backend has no tokenizer."""

    def health(self, device: int) -> Health: ...
